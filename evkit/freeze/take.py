"""a running system → a folder: first the plan, then everything of a window, and the folder appears when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import psycopg

from evkit import postgres
from evkit.errors import BrokerRefused, EvkitError, FreezeRefused, NotMigrated, Unreachable
from evkit.freeze import answers, records, tables
from evkit.freeze.manifest import Manifest, Missing
from evkit.runtime import audit
from evkit.system import System
from evkit.window import Window

# Called with what is being copied, how much of it is, and how much there is; 0 when that is not known.
Progress = Callable[[str, int, int], None]

# Before zstd, of what evkit's tables and Kafka's records are: a guess for the plan, on the safe side.
_COMPRESSED = 0.25


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a plan: what, how many rows or records of it, and about how many bytes in the folder."""

    what: str
    rows: int
    bytes: int


@dataclass(slots=True)
class Plan:
    """What a freeze would copy; rows and bytes are estimates.

    Attributes:
        window    that is asked for
        out       folder to be made
        payloads  whether payloads are copied
        parts     what there is
        missing   what there is not, and why
    """

    window: Window
    out: Path
    payloads: bool
    parts: list[Part] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


def plan(system: System, window: Window, out: Path | str, *, payloads: bool = False) -> Plan:
    """What a freeze of this window would copy. Looks only.

    Raises:
        FreezeRefused: the folder is there already, its parent is not, or the window begins in the future.
    """
    found = Plan(window, Path(out).expanduser().absolute(), payloads)
    _require_free(found.out)
    if window.start >= datetime.now(UTC):
        raise FreezeRefused(
            f"the window begins at {window.start.isoformat()}, which is to come: there is nothing to freeze"
        )
    try:
        for name, (rows, size) in tables.estimated(system, window).items():
            found.parts.append(Part(f"evkit.{name}", rows, round(size * _COMPRESSED)))
    except (Unreachable, NotMigrated) as error:
        found.missing.append(Missing(what="PostgreSQL", why=str(error)))
    try:
        for name, (count, size) in answers.estimated(system, window, payloads=payloads).items():
            found.parts.append(Part(name, count, size))
    except (Unreachable, BrokerRefused) as error:
        found.missing.append(Missing(what="Kafka", why=str(error)))
    return found


def run(system: System, plan: Plan, *, reason: str | None = None, progress: Progress = lambda *_: None) -> Manifest:
    """Copy what is planned; the folder is there when all of it is.

    A server that does not answer is missing in the freeze, and the manifest says why; what the other has is copied.
    Side effects: the folder; with payloads, an audit row.

    Raises:
        FreezeRefused: the folder is there meanwhile, cannot be written, or neither server has anything to give.
    """
    _require_free(plan.out)
    _sweep(plan.out)
    growing = plan.out.with_name(f".{plan.out.name}.freezing-{os.getpid()}")
    try:
        growing.mkdir()
    except OSError as error:
        raise FreezeRefused(f"{plan.out} cannot be made: {error.strerror}") from None
    act = _begin(system, plan, reason) if plan.payloads else None
    try:
        manifest = _copied(system, plan, growing, progress)
        manifest.write(growing)
        _require_free(plan.out)
        growing.rename(plan.out)
    except BaseException as error:
        shutil.rmtree(growing, ignore_errors=True)
        if act is not None:
            _end(system, act, {"error": str(error) or type(error).__name__})
        if isinstance(error, OSError):
            raise FreezeRefused(f"{plan.out} cannot be written: {error.strerror}") from error
        raise
    if act is not None:
        _end(system, act, {"rows": sum(file.rows for file in manifest.tables.values())})
    return manifest


def _copied(system: System, plan: Plan, folder: Path, progress: Progress) -> Manifest:
    missing: list[Missing] = []
    copied = None
    kafka = answers.Answers(system, progress)
    try:
        copied = tables.copy(system, plan.window, folder, payloads=plan.payloads, progress=progress)
    except (Unreachable, NotMigrated) as error:
        shutil.rmtree(folder / "postgres", ignore_errors=True)
        missing.append(Missing(what="PostgreSQL", why=str(error)))
    at = copied.at if copied else datetime.now(UTC)
    files = kafka.write(folder, plan.window, at, payloads=plan.payloads)
    missing += kafka.missing
    if copied is None and not files:
        raise FreezeRefused("there is nothing to freeze: " + "; ".join(m.why for m in missing))
    return Manifest(
        evkit=version("evkit"),
        migration=copied.migration if copied else None,
        frozen_at=at,
        since=plan.window.start,
        until=tables.end_of(plan.window, at),
        copied_since=plan.window.start - tables.LOOKBACK,
        records_since=plan.window.start - records.LOOKBACK if "records" in files else None,
        profile=system.settings.profile,
        postgres=postgres.address(system.settings.postgres_dsn),
        kafka=system.settings.bootstrap_servers,
        cluster_id=kafka.cluster_id,
        payloads=plan.payloads,
        personal=tables.personal(payloads=plan.payloads),
        masking=list(system.settings.masking),
        snapshots=copied.snapshots if copied else 0,
        read_until=copied.read_until if copied else None,
        tables=copied.files if copied else {},
        kafka_files=files,
        topics=kafka.topics,
        groups=sorted({*kafka.groups, *(copied.groups if copied else ())}),
        missing=missing + (copied.missing if copied else []),
    )


# --- the folder -------------------------------------------------------------------------------------------------------


def _require_free(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise FreezeRefused(f"{out} is there already: a freeze is never written over; give another --out")
    if not out.parent.is_dir():
        raise FreezeRefused(f"there is no folder {out.parent} to make {out.name} in")


def _sweep(out: Path) -> None:
    """Take away what a killed freeze into the same folder has left."""
    for left in out.parent.glob(f".{out.name}.freezing-*"):
        pid = left.name.rpartition("-")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


# --- audit ------------------------------------------------------------------------------------------------------------


def _begin(system: System, plan: Plan, reason: str | None) -> int | None:
    """Write down that payloads leave the database; who may not write that may not have them.

    Raises:
        FreezeRefused: the audit row cannot be written.
    """
    told = {"since": plan.window.start.isoformat(), "until": plan.window.end.isoformat(), "rows": plan.rows}
    try:
        with system.writing("evkit freeze", autocommit=True) as connection:
            return audit.begin(connection, "freeze.payloads", str(plan.out), told, reason)
    except (EvkitError, psycopg.Error) as error:
        raise FreezeRefused(
            "payloads are copied only where an audit row says so, and it cannot be written "
            f"({str(error).splitlines()[0]}): freeze without --payloads"
        ) from error


def _end(system: System, act: int | None, result: dict[str, object]) -> None:
    if act is not None:
        with system.writing("evkit freeze", autocommit=True) as connection:
            audit.end(connection, act, result)
