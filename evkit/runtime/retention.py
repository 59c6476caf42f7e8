"""outbox partitions → nothing: make ranges of positions in time, and drop those whose every event is published and old.

Nothing is deleted row by row: evkit.outbox and evkit.publication are cut at the same positions (partitions.py), and a range
of both is dropped in one transaction, with the row in evkit.audit that tells of it. Killed in the middle, all is as before.

A range goes only when the relay has settled everything in it, no event of it is parked, held or to be tried again, every
row of it is published or skipped, its newest event is older than the setting, and writers are past it. All this is looked
at again under the lock that keeps it true.

Making a range shuts out no writer. Dropping one, and taking what went into a default partition out of it, shuts everybody
out for milliseconds, and to get there it waits at most LOCK_SECONDS while others wait behind it: when a long transaction is
in the way it gives up, says so, and tries again later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql as compose

from evkit import partitions, postgres
from evkit.partitions import PARENTS, Layout, Range
from evkit.runtime import audit
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_SQL = named("retention")

# How long it waits for a lock, and so how long a writer may have to wait behind it. Below PostgreSQL's deadlock_timeout of
# 1 s: whoever waits for us crosswise never has to be cancelled for it.
LOCK_SECONDS = 0.2
# One statement under a lock that shuts others out: a drop takes milliseconds, so this is for what nobody has thought of.
STATEMENT_SECONDS = 2.0
# Between two tries of somebody who waits for it (a command); the relay tries again with its next round.
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Partition:
    """A range of the outbox with its publications, and whether it may go.

    Attributes:
        lower, upper       positions from lower up to, and without, upper
        rows               the planner's estimate; None before the first ANALYZE
        bytes              of both tables with their indexes and TOAST
        newest_created_at  of its highest position; None for an empty range
        cutoff             events from then on are kept; None keeps all
        droppable          every condition that can be looked at without reading all rows holds
        reason             why it stays, or what was done
        dropped            it is gone
    """

    lower: int
    upper: int
    rows: int | None = None
    bytes: int = 0
    newest_created_at: datetime | None = None
    cutoff: datetime | None = None
    droppable: bool = False
    reason: str = ""
    dropped: bool = False


@dataclass(slots=True)
class Kept:
    """What one round of looking after the outbox has done: ranges made and adopted, ranges dropped, what was in the way."""

    made: list[Range] = field(default_factory=list)
    adopted: list[Range] = field(default_factory=list)
    dropped: list[Partition] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)


class Keeper:
    """Looks after the outbox's partitions: `keep(connection)` once a minute, by whoever leads.

    A role that may not change the tables, a lock that cannot be had, a range that may not go: each is one sentence in
    `Kept.obstacles`, logged when it is new. Errors of the connection itself are raised.

    Args:
        older_than  events younger than this are kept; None drops nothing
        drops_max   most ranges dropped in one round: looking through a range takes a second
        actor       who it is in the audit table
    """

    def __init__(self, older_than: timedelta | None, *, drops_max: int = 2, actor: str = "evkit relay") -> None:
        self.older_than = older_than
        self._drops_max = drops_max
        self._actor = actor
        self._said: set[str] = set()

    def keep(self, connection: postgres.Connection) -> Kept:
        """Make ranges ahead, then drop what may go; `connection` is in autocommit mode and idle."""
        done = ahead(connection)
        if self.older_than is not None and not done.obstacles:
            cutoff = _cutoff(connection, self.older_than)
            found = partitions.layout(connection)
            settled = _settled(connection)
            for range_ in found.all_ranges():
                partition = _judge(connection, found, range_, settled, cutoff)
                if not partition.droppable:
                    # Those above are younger. An event that waits for a person holds up its own range only.
                    if partition.newest_created_at is not None and partition.newest_created_at >= cutoff:
                        break
                    continue
                result = _drop(connection, partition, self._actor, None)
                if not result.dropped:
                    done.obstacles.append(f"positions {range_} stay: {result.reason}")
                    if result.droppable:
                        break  # a lock was in the way; it would be in the way of the next one too
                    continue
                done.dropped.append(result)
                if len(done.dropped) >= self._drops_max:
                    break
        for sentence in done.obstacles:
            if sentence not in self._said:
                log.warning("outbox partitions: %s", sentence)
        self._said = set(done.obstacles)
        return done


def plan(system: System, older_than: timedelta | None) -> list[Partition]:
    """Every range of the outbox, ascending, and whether it may be dropped; `reason` says why not.

    Reads only, also as evkit_reader. Whether each row is published is looked at when it is dropped: it takes a second
    a range.
    """
    with system.reading() as connection:
        cutoff = None if older_than is None else _cutoff(connection, older_than)
        found = partitions.layout(connection)
        settled = _settled(connection)
        return [_judge(connection, found, range_, settled, cutoff) for range_ in found.all_ranges()]


def drop(
    system: System,
    chosen: Sequence[Partition],
    *,
    actor: str | None = None,
    reason: str | None = None,
    patience_seconds: float = 30.0,
    on_dropped: Callable[[Partition], None] | None = None,
) -> list[Partition]:
    """Drop ranges of a plan, each in a transaction of its own; what may not go after all stays, and `reason` says why.

    Waits up to `patience_seconds` for long transactions to get out of the way, by trying again, never by standing in the
    queue: others wait for at most LOCK_SECONDS at a time.
    """
    done = []
    with (
        postgres.translated_errors(system.settings.postgres_dsn),
        system.writing("evkit retention", autocommit=True) as c,
    ):
        for partition in chosen:
            until = time.monotonic() + patience_seconds
            while True:
                result = _drop(c, partition, actor or audit.actor(), reason)
                if result.dropped or not result.droppable or time.monotonic() > until:
                    break
                time.sleep(RETRY_SECONDS)
            if result.dropped and on_dropped is not None:
                on_dropped(result)
            done.append(result)
    return done


def ahead(connection: postgres.Connection) -> Kept:
    """Make partitions in time: two empty ranges above the one that is being written, of both tables at the same positions.

    Rows that are in a default partition, because nobody made ranges in time, are taken in first: that partition becomes a
    range itself, and an empty one takes its place. No row is moved, and no writer is refused.

    `connection` is in autocommit mode. Raises nothing for a lock that cannot be had, or a role that may not: that is a
    sentence in `Kept.obstacles`.
    """
    if not connection.autocommit:
        raise ValueError("partitions are made in transactions of their own: hand over a connection in autocommit mode")
    done = Kept()
    found = partitions.layout(connection)
    filled = partitions.rest(connection, found)
    if not (filled or partitions.leftovers(connection) or found.lacking() or found.next_ranges()):
        return done
    with _alone(connection, done) as alone:
        if not alone:
            return done
        with _obstacles(connection, found, done):
            _run(connection, found, partitions.leftovers(connection))
            if filled:
                _adopt(connection, found, filled, done)
                found = partitions.layout(connection)
                filled = partitions.rest(connection, found)
            for range_ in found.next_ranges(max((rows.upper for rows in filled.values()), default=0)):
                _run(connection, found, partitions.make(range_))
                done.made.append(range_)
                log.info("outbox partitions for positions from %s on", range_.lower)
            for parent, range_ in found.lacking():
                _run(connection, found, partitions.make(range_, [parent]))
                done.made.append(range_)
    return done


def _adopt(connection: postgres.Connection, found: Layout, filled: dict[Range, Range], done: Kept) -> None:
    """Make the default partitions a range; see partitions.adopt."""
    range_ = found.adoptable(filled)
    if range_ is None:
        done.obstacles.append(
            f"default partitions hold rows of {len(filled)} ranges that are gone, the first is position "
            f"{min(filled.values()).lower}: somebody wrote positions by hand; they stay where they are"
        )
        return
    add, validate, remove = partitions.keep_out(range_)
    try:
        _run(connection, found, add)
        for statement in validate:
            _run(connection, found, [statement], statement_seconds=0)
        _run(connection, found, partitions.adopt(connection, range_))
    except BaseException:
        # Writers would be refused when they come to its end: it goes at once, and else with the next round.
        if not connection.broken:
            _run(connection, found, remove)
        raise
    done.adopted.append(range_)
    log.warning("rows from position %s on had gone into the default partition; it is a range now", range_.lower)


def _judge(
    connection: postgres.Connection, found: Layout, range_: Range, settled: int | None, cutoff: datetime | None
) -> Partition:
    """A range as the plan shows it; the cheap questions first."""
    leaves = [name for parent in PARENTS if (name := found.leaf(parent, range_)) is not None]
    estimate = found.rows.get(found.leaf("outbox", range_) or "", -1)
    bounds = {"lower": range_.lower, "upper": range_.upper}
    newest = connection.execute(_SQL["newest"], bounds).fetchone()
    partition = Partition(
        range_.lower,
        range_.upper,
        rows=estimate if estimate >= 0 else None,
        bytes=sum(found.bytes[leaf] for leaf in leaves),
        newest_created_at=newest[0] if newest else None,
        cutoff=cutoff,
    )
    if len(leaves) < len(PARENTS):
        return replace(partition, reason="only one of the two tables has this range: `evkit migrate --check`")
    why = _why_needed(connection, partition, settled, found.last_position) or _why_young(connection, partition)
    if why is not None:
        return replace(partition, reason=why)
    return replace(partition, droppable=True, reason="all published, and older than the setting")


def _why_needed(
    connection: postgres.Connection, partition: Partition, settled: int | None, last_position: int
) -> str | None:
    """What still has to be done with a range, in words; None when nothing has. Takes a millisecond."""
    lower, upper = partition.lower, partition.upper
    if lower > last_position:
        return "empty, made ahead"
    if upper - 1 > last_position:
        return "is being written"
    if settled is None:
        return "no relay has published from this outbox"
    if settled < upper - 1:
        return f"not all of it is published or known to be void: the relay has settled positions up to {settled}"
    waiting = connection.execute(_SQL["open_unpublishable"], {"lower": lower, "upper": upper}).fetchone()
    if waiting is not None and waiting[0]:
        return (
            f"{waiting[0]} event(s) wait in it unpublished, the first at position {waiting[1]}: `evkit outbox status`"
        )
    return None


def _why_young(connection: postgres.Connection, partition: Partition) -> str | None:
    """Which event of a range is too young to go, in words; None when all are old."""
    if partition.cutoff is None:
        return "outbox_retention_days is not set: everything is kept"
    bounds = {"lower": partition.lower, "upper": partition.upper, "cutoff": partition.cutoff}
    if partition.newest_created_at is not None:
        # Almost always enough; the second question is for rows that were given a time, or a transaction that took long.
        if partition.newest_created_at >= partition.cutoff:
            return f"its newest event is of {partition.newest_created_at:%Y-%m-%d %H:%M:%S}, younger than the setting"
        if young := connection.execute(_SQL["young"], bounds).fetchone():
            return f"its newest event is of {young[0]:%Y-%m-%d %H:%M:%S}, younger than the setting"
    return None


def _drop(connection: postgres.Connection, partition: Partition, actor: str, reason: str | None) -> Partition:
    """Drop one range if it may still go. `droppable` stays true when only a lock was in the way."""
    done = Kept()
    with _alone(connection, done) as alone:
        if not alone:
            return replace(partition, reason=done.obstacles[0])
        found = partitions.layout(connection)
        range_ = Range(partition.lower, partition.upper)
        leaves = {parent: found.leaf(parent, range_) for parent in PARENTS}
        if None in leaves.values():
            return replace(partition, droppable=False, reason=f"there is no such range as {range_} any more")
        why = None
        with _obstacles(connection, found, done), connection.transaction():
            _limits(connection, LOCK_SECONDS, 0)
            _as_owner(connection, found)
            # Nobody writes to the two tables from here on, and everybody still reads them.
            connection.execute(_lock(leaves.values(), "SHARE"))
            why = (
                _why_needed(connection, partition, _settled(connection), found.last_position)
                or _why_young(connection, partition)
                or _why_unaccounted(connection, partition)
            )
            if why is None:
                _limits(connection, LOCK_SECONDS, STATEMENT_SECONDS)
                # The table that writers need comes last: while this waits for it, and only then, they wait too.
                connection.execute(_lock([*leaves.values(), "publication"], "ACCESS EXCLUSIVE"))
                connection.execute(_lock(["outbox"], "ACCESS EXCLUSIVE"))
                bounds = {"lower": partition.lower, "upper": partition.upper}
                forgotten = connection.execute(_SQL["forget_finished"], bounds).rowcount
                # The relay may have parked, or a person asked for another try, since the first look. Rows cannot have come.
                why = _why_needed(connection, partition, _settled(connection), found.last_position)
            if why is None:
                for leaf in leaves.values():
                    assert leaf is not None
                    connection.execute(compose.SQL("DROP TABLE {}").format(compose.Identifier("evkit", leaf)))
                _audit(connection, partition, forgotten, actor, reason)
            else:
                raise psycopg.Rollback
        if why is not None:
            return replace(partition, droppable=False, reason=why)
        if done.obstacles:
            return replace(partition, reason=done.obstacles[0])
    log.info("outbox positions %s dropped", range_)
    return replace(partition, dropped=True, reason="dropped")


def _why_unaccounted(connection: postgres.Connection, partition: Partition) -> str | None:
    """A row that is neither published nor skipped, in words: against everything that settled_position says."""
    bounds = {"lower": partition.lower, "upper": partition.upper}
    if row := connection.execute(_SQL["unaccounted"], bounds).fetchone():
        return (
            f"position {row[0]} is neither published nor skipped, although the relay has settled it: was it written by "
            "hand, or did it come back from a backup?"
        )
    return None


def _audit(
    connection: postgres.Connection, partition: Partition, forgotten: int, actor: str, reason: str | None
) -> None:
    """Who, what and why, in the transaction that does it: both or neither."""
    what: dict[str, Any] = {
        "lower": partition.lower,
        "upper": partition.upper,
        "rows": partition.rows,
        "bytes": partition.bytes,
        "newest_created_at": partition.newest_created_at and partition.newest_created_at.isoformat(),
        "cutoff": partition.cutoff and partition.cutoff.isoformat(),
    }
    target = f"outbox positions {partition.lower} to {partition.upper - 1}"
    audit_id = audit.begin(connection, "retention.drop", target, what, reason, by=actor)
    audit.end(connection, audit_id, {"dropped": True, "unpublishable_forgotten": forgotten})


def _run(
    connection: postgres.Connection,
    found: Layout,
    statements: Sequence[partitions.Statement],
    statement_seconds: float = STATEMENT_SECONDS,
) -> None:
    """Statements in one transaction, as the tables' owner, with no patience for locks."""
    if not statements:
        return
    with connection.transaction():
        _limits(connection, LOCK_SECONDS, statement_seconds)
        _as_owner(connection, found)
        for statement in statements:
            connection.execute(statement)


def _limits(connection: postgres.Connection, lock_seconds: float, statement_seconds: float) -> None:
    limits = {"lock": f"{lock_seconds * 1000:.0f}ms", "statement": f"{statement_seconds * 1000:.0f}ms"}
    connection.execute(_SQL["limits"], limits)


def _as_owner(connection: postgres.Connection, found: Layout) -> None:
    """Whoever does it, a partition belongs to the owner of its table, so that the next one can drop it."""
    connection.execute(compose.SQL("SET LOCAL ROLE {}").format(compose.Identifier(found.owner)))


def _lock(tables: Any, mode: str) -> compose.Composed:
    names = compose.SQL(", ").join(compose.SQL("ONLY ") + compose.Identifier("evkit", name) for name in tables)
    return compose.SQL("LOCK TABLE {} IN {} MODE").format(names, compose.SQL(mode))


def _settled(connection: postgres.Connection) -> int | None:
    row = connection.execute(_SQL["settled_position"]).fetchone()
    return row[0] if row else None


def _cutoff(connection: postgres.Connection, older_than: timedelta) -> datetime:
    row = connection.execute(_SQL["cutoff"], (older_than,)).fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


@contextmanager
def _alone(connection: postgres.Connection, done: Kept) -> Iterator[bool]:
    """Whether nobody else makes or drops partitions while this does."""
    row = connection.execute(_SQL["reserve"]).fetchone()
    alone = bool(row and row[0])
    if not alone:
        done.obstacles.append("somebody else makes or drops partitions of this outbox just now")
    try:
        yield alone
    finally:
        if alone and not connection.broken:
            connection.execute(_SQL["release"])


@contextmanager
def _obstacles(connection: postgres.Connection, found: Layout, done: Kept) -> Iterator[None]:
    """Turn what may be in the way into a sentence; other errors pass."""
    try:
        yield
    except psycopg.errors.LockNotAvailable:
        done.obstacles.append(
            f"a transaction holds evkit.outbox or evkit.publication for longer than {LOCK_SECONDS} s (a long query, an "
            "open transaction, autovacuum): it is tried again later"
        )
    except psycopg.errors.QueryCanceled as error:
        done.obstacles.append(
            f"changing the partitions took longer than {STATEMENT_SECONDS} s and was given up ({error})"
        )
    except psycopg.errors.InsufficientPrivilege:
        user, owner = connection.info.user, found.owner
        done.obstacles.append(
            f"partitions have to be made or dropped, and user {user} may not act as {owner}, who owns evkit.outbox: run "
            f"`evkit outbox retention` as {owner} now and then, or GRANT {owner} TO {user}"
        )
    except psycopg.errors.CheckViolation as error:
        done.obstacles.append(
            f"rows in a default partition belong to the range that was to be made "
            f"({str(error).splitlines()[0]}): `evkit migrate --check` says more"
        )
