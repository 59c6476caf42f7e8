"""A freeze that is looked at: `evkit.connect("freeze:DIR")`, `EVKIT_PROFILE=freeze:DIR`, `evkit --profile freeze:DIR`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import psycopg

from evkit import postgres, sql
from evkit.errors import FreezeRefused, NotInFreeze
from evkit.freeze import manifest as manifests
from evkit.freeze.loading import dsn_of, load
from evkit.freeze.manifest import Manifest
from evkit.freeze.private_server import PrivateServer
from evkit.freeze.recorded import Recorded
from evkit.settings import FREEZE_PREFIX, Settings
from evkit.system import System
from evkit.window import Standing, standing_at

# An address that is none (RFC 6761): whatever asks Kafka past the freeze must reach no cluster, least of all the one that
# was frozen.
_NOWHERE = "freeze.invalid:9092"


class FrozenSystem(System):
    """A freeze as a System: views look at what was copied, now is the moment of the freeze, and nothing can be changed.

    Attributes:
        manifest  what is in it
    """

    def __init__(self, settings: Settings, manifest: Manifest, server: PrivateServer | None, recorded: Any) -> None:
        super().__init__(settings)
        self.manifest = manifest
        self.recorded = recorded
        self._server = server

    def __repr__(self) -> str:
        window = self.manifest.window
        return f"<System '{self.settings.profile}' of {window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC>"

    @property
    def admin(self) -> Any:
        """There is no Kafka to ask."""
        raise NotInFreeze("what this asks of Kafka; ask the live system")

    def now(self) -> datetime:
        """The moment of the freeze."""
        return self.manifest.frozen_at

    def standing(self) -> AbstractContextManager[None]:
        """A block in which now is that moment."""
        return standing_at(self._standing)

    @property
    def _standing(self) -> Standing:
        return self.manifest.standing

    @contextmanager
    def reading(self) -> Iterator[postgres.Connection]:
        """A read-only transaction on the copied tables.

        Raises:
            NotInFreeze: PostgreSQL was away then, or what is asked for was not copied.
        """
        if self._server is None:
            raise NotInFreeze(f"evkit's tables ({self.manifest.why_missing('PostgreSQL')})")
        try:
            with super().reading() as connection:
                yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise self._not_copied(error) from error

    def _not_copied(self, error: psycopg.Error) -> NotInFreeze:
        told = str(error).splitlines()[0]
        for missing in self.manifest.missing:
            if told.endswith(f" {missing.what.removeprefix('evkit.')}"):
                return NotInFreeze(f"{missing.what} ({missing.why})")
        return NotInFreeze("payloads and headers of events (it was made without --payloads)")

    def writing(self, application_name: str = "evkit", *, autocommit: bool = False) -> NoReturn:  # noqa: ARG002
        """Nothing is written here.

        Raises:
            FreezeRefused: always.
        """
        raise FreezeRefused(
            f"{application_name} would write, and {self.settings.profile} is a freeze: evidence is not changed; use the "
            "profile of the live system"
        )

    def close(self) -> None:
        """Look no more; the private PostgreSQL ends when no other process looks at this freeze."""
        if self._server is not None:
            self._server.close()


def open_freeze(folder: Path | str) -> FrozenSystem:
    """Open a freeze: its files are compared with the manifest, and a private PostgreSQL is loaded with them once.

    Side effects: a server process that ends after the last process that looks, and its data in the user's cache folder
    (EVKIT_FREEZES_HOME), where the next opening finds it.

    Raises:
        FreezeRefused: the folder is no freeze, is one of a newer evkit, or was changed since.
        StackError, MissingExtra: the private server cannot be started.
    """
    folder = Path(folder).expanduser().absolute()
    manifest = manifests.read(folder)
    name = manifests.verify(folder, manifest)
    server, dsn = None, "host=freeze.invalid"
    if manifest.migration is not None:
        newest = sql.migrations()[-1][0]
        if manifest.migration > newest:
            raise FreezeRefused(
                f"{folder} has the tables of migration {manifest.migration} (evkit {manifest.evkit}), and this evkit knows "
                f"up to {newest}: install a newer one"
            )
        # Tables that were migrated by another evkit are loaded anew.
        server = PrivateServer(f"{name[:24]}-{newest}", lambda made, port: load(made, port, folder, manifest))
        dsn = dsn_of(server.server, server.port)
    key = os.environ.get("EVKIT_MASKING_KEY", "")
    settings = Settings(
        masking_key=key,
        masking=tuple(
            # Who has not the key sees that something is there.
            p if key or p.action != "hash" else p.model_copy(update={"action": "mask"})
            for p in manifest.masking
        ),
        profile=f"{FREEZE_PREFIX}{folder}",
        postgres_dsn=dsn,
        kafka={"bootstrap.servers": _NOWHERE},
        kafka_timeout_seconds=1.0,
    )
    return FrozenSystem(settings, manifest, server, Recorded(folder, manifest))
