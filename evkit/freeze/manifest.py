"""manifest.json of a freeze: what is in it, since when, and what is not; and whether the files are still those."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evkit.errors import FreezeRefused
from evkit.masking import Policy
from evkit.window import Standing, Window

NAME = "manifest.json"
# Grows when an older evkit could not read what a newer one has written.
FORMAT = 1


class File(BaseModel):
    """One Parquet file.

    Attributes:
        rows, bytes, sha256
        columns  names of its columns, in order
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    bytes: int
    sha256: str
    columns: list[str]


class Missing(BaseModel):
    """Something that is not in the freeze, and why."""

    model_config = ConfigDict(frozen=True)

    what: str
    why: str


class Manifest(BaseModel):
    """What a freeze is.

    Attributes:
        format         of this file and those beside it
        evkit          version that made it
        migration      number of the last migration of the database; None without PostgreSQL
        frozen_at      the moment that is now for whoever looks at it: the database's clock, or without it this machine's
        since, until   the window that was asked for; one that ends now ends at frozen_at
        copied_since   rows from here on are there, and others that belong to them
        records_since  records of topics from here on are there; None: none are
        profile        name of the profile; postgres and kafka: where they were, without users and passwords
        cluster_id     of the Kafka cluster
        payloads       whether payloads, values and headers of records were copied
        personal       what may be about people in it, in words
        masking        policies of the profile; who looks at the freeze is under them too (the key is not in it)
        snapshots      how many database snapshots it was read in; with one it is of one moment
        read_until     when the last of them was taken
        tables, kafka_files  file by name (without .parquet)
        topics, groups  that Kafka had, internal ones left out
        missing        what is not there, and why
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    evkit: str
    migration: int | None
    frozen_at: datetime
    since: datetime
    until: datetime
    copied_since: datetime
    records_since: datetime | None = None
    profile: str
    postgres: str | None
    kafka: str | None
    cluster_id: str | None = None
    payloads: bool = False
    personal: list[str] = Field(default_factory=list)
    masking: list[Policy] = Field(default_factory=list)
    snapshots: int = 0
    read_until: datetime | None = None
    tables: dict[str, File] = Field(default_factory=dict)
    kafka_files: dict[str, File] = Field(default_factory=dict)
    topics: list[str] = Field(default_factory=list)
    groups: list[str] = Field(default_factory=list)
    missing: list[Missing] = Field(default_factory=list)

    @property
    def window(self) -> Window:
        """The window that was asked for; every view can look at any window inside it."""
        return Window(self.since, self.until)

    @property
    def standing(self) -> Standing:
        """From where a frozen system is looked at."""
        return Standing(self.frozen_at, self.window)

    def why_missing(self, what: str) -> str | None:
        """Why something is not there; None when it is."""
        return next((m.why for m in self.missing if m.what == what), None)

    def write(self, folder: Path) -> None:
        """Write it as manifest.json."""
        (folder / NAME).write_text(self.model_dump_json(indent=2) + "\n")


def path_of(folder: Path, kind: str, name: str) -> Path:
    """Where a file of a freeze is: `postgres/outbox.parquet`, `kafka/groups.parquet`."""
    return folder / kind / f"{name}.parquet"


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(folder: Path) -> Manifest:
    """The manifest of a folder; its files are not looked at.

    Raises:
        FreezeRefused: the folder is no freeze, or one of a newer evkit.
    """
    try:
        text = (folder / NAME).read_text()
    except OSError as error:
        raise FreezeRefused(
            f"{folder} is no freeze: {NAME} cannot be read ({error.strerror}); `evkit freeze --out DIR` makes one"
        ) from None
    try:
        found = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FreezeRefused(f"{folder / NAME} cannot be read: {where} {first['msg'].lower()}") from None
    if found.format > FORMAT:
        raise FreezeRefused(
            f"{folder} was made by evkit {found.evkit} in format {found.format}, and this evkit reads up to {FORMAT}: "
            "install a newer one"
        )
    return found


def verify(folder: Path, manifest: Manifest) -> str:
    """Compare every file with the manifest; returns the hash of the manifest itself, which names the freeze.

    Raises:
        FreezeRefused: a file is gone, or is not what was frozen.
    """
    for kind, files in (("postgres", manifest.tables), ("kafka", manifest.kafka_files)):
        for name, file in files.items():
            path = path_of(folder, kind, name)
            if not path.is_file():
                raise FreezeRefused(f"{path} is gone: this freeze is not what was frozen any more")
            if path.stat().st_size != file.bytes or sha256(path) != file.sha256:
                raise FreezeRefused(
                    f"{path} was changed since it was frozen at {manifest.frozen_at.isoformat(timespec='seconds')}: what "
                    "a view would show of it is no evidence; take the copy that was not changed"
                )
    return sha256(folder / NAME)
