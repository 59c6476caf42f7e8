"""evkit.commit_log → what a group committed, and who its members were, also where Kafka has compacted it away since.

The same records as in `__consumer_offsets`, so the same rules as in offsets_log.py, and one more: where the copy was
interrupted and lacks something, a group's commits are unknown until its next one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from evkit import postgres
from evkit.offsets_log import Commits, Entry, Part, partition_of
from evkit.offsets_records import Commit, Key, decode
from evkit.sql import named
from evkit.system import System
from evkit.views.offsets import Place
from evkit.window import Window

SOURCE = "commit_log"

_SQL = named("commit_log")
_NEVER = datetime.min.replace(tzinfo=UTC)
# Commits of so many partitions are read in one transaction: no snapshot is held for long.
_PLACES_AT_ONCE = 25

# Offset in the log, time, and the offset that was committed; None: the commit was deleted.
_Kept = tuple[int, datetime, int | None]


@dataclass(frozen=True, slots=True)
class _Copied:
    """One partition of the log, as far as it was copied; see the table."""

    partition: int
    complete_at: datetime | None
    first_hole: int | None
    whole_from: int
    whole_since: datetime | None


def copied_commits(
    system: System,
    cluster: str,
    group: str,
    topic: str | None,
    window: Window,
    step: timedelta | None = None,
) -> dict[Place, Commits]:
    """Commits of one group by (topic, partition), sorted: those of the window, the last one before it, and the first of
    all. With a step, of those in the window only the last before each moment. Empty when nothing was ever copied.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    with system.reading() as connection:
        copied = _copied(connection, cluster, group)
        if copied is None:
            return {}
        asked = {
            "cluster_id": cluster,
            "group": group,
            "topic": topic,
            "start": window.start,
            "until": window.end,
            "step": step,
        }
        found = _commits(connection, asked)
        places = {
            "cluster_id": cluster,
            "group": group,
            "log_partition": copied.partition,
            "until": window.end,
            "topics": [place[0] for place in found],
            "partitions": [place[1] for place in found],
        }
        unknown: dict[Place, list[tuple[datetime, datetime | None]]] = defaultdict(list)
        for offset, since, of_topic, partition, until in connection.execute(_SQL["gaps"], places).fetchall():
            # Whoever committed first after the gap is not known before anyway.
            if found[of_topic, partition][0][0] < offset:
                unknown[of_topic, partition].append((since or _NEVER, until))
    return {
        place: Commits(
            [at for _, at, _ in commits],
            [committed for *_, committed in commits],
            since=None if copied.first_hole is None or commits[0][0] <= copied.first_hole else commits[0][1],
            until=copied.complete_at or _NEVER,
            unknown=unknown[place],
        )
        for place, commits in sorted(found.items())
    }


def joined(copied: Commits, logged: Commits) -> Commits:
    """What the copy has from before the log begins, and then the log; the log alone where something may lie between."""
    if not logged.times:
        return copied
    if copied.until is None or copied.until < logged.times[0]:
        return logged
    earlier = [(at, offset) for at, offset in zip(copied.times, copied.offsets, strict=True) if at < logged.times[0]]
    return Commits(
        [at for at, _ in earlier] + logged.times,
        [offset for _, offset in earlier] + logged.offsets,
        since=copied.since,
        until=logged.until,
        unknown=copied.unknown,
    )


def copied_part(system: System, cluster: str, group: str, window: Window | None = None) -> Part | None:
    """What the log said of a group's members, as far as it was copied, and with a window what it committed in it, and last
    before it; None when nothing was copied.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    asked: dict[str, Any] = {"cluster_id": cluster, "group": group, "topic": None, "step": None}
    commits: dict[Place, list[_Kept]] = {}
    with system.reading() as connection:
        copied = _copied(connection, cluster, group)
        if copied is None or copied.complete_at is None:
            return None
        rows = connection.execute(_SQL["members"], asked).fetchall()
        (gap,) = connection.execute(_SQL["last_gap"], asked | {"log_partition": copied.partition}).fetchone() or (None,)
        if window is not None:
            commits = _commits(connection, asked | {"start": window.start, "until": window.end})
    entries = []
    for offset, at, key, value in rows:
        decoded = decode(key, value)
        assert decoded is not None  # others are not copied
        entries.append(Entry(offset, at, *decoded))
    for (topic, partition), kept in commits.items():
        for offset, at, committed in kept:
            # Across a gap two commits that stand beside each other here need not have followed one another.
            if gap is None or offset >= gap:
                value = None if committed is None else Commit(committed, None, "", at, None, None)
                entries.append(Entry(offset, at, Key("commit", group, topic, partition), value))
    holes = [hole for hole in (copied.first_hole, gap) if hole is not None]
    return Part(
        copied.partition,
        sorted(entries, key=lambda entry: entry.offset),
        min(holes, default=None),
        max(copied.whole_from, gap or 0),
        copied.whole_since,
        read_at=copied.complete_at,
        until=copied.complete_at,
    )


def merged(copied: Part, logged: Part) -> Part:
    """The records of both, as one part of the log, which is whole from where the copy is when nothing lies between them."""
    entries = {entry.offset: entry for entry in (*copied.entries, *logged.entries)}
    touch = logged.whole_since is None or (copied.until is not None and copied.until >= logged.whole_since)
    return Part(
        logged.partition,
        [entry for _, entry in sorted(entries.items())],
        copied.first_hole,
        copied.whole_from if touch else logged.whole_from,
        copied.whole_since if touch else logged.whole_since,
        read_at=logged.read_at,
        until=logged.until,
    )


def _commits(connection: postgres.Connection, asked: Mapping[str, Any]) -> dict[Place, list[_Kept]]:
    """Commits of a group by (topic, partition), in the log's order, each partition's in transactions of their own."""
    found: dict[Place, list[_Kept]] = defaultdict(list)
    every = connection.execute(_SQL["places"], asked).fetchall()
    for n in range(0, len(every), _PLACES_AT_ONCE):
        connection.rollback()
        topics, partitions = zip(*every[n : n + _PLACES_AT_ONCE], strict=True)
        of_some = {**asked, "topics": list(topics), "partitions": list(partitions)}
        rows = connection.execute(_SQL["commits"], of_some)
        connection.rollback()  # no snapshot is held while objects are made of rows
        for of_topic, partition, offset, at, committed in rows.fetchall():
            found[of_topic, partition].append((offset, at, committed))
    return found


def _copied(connection: postgres.Connection, cluster: str, group: str) -> _Copied | None:
    rows = connection.execute(_SQL["tails"], {"cluster_id": cluster}).fetchall()
    if not rows:
        return None
    wanted = partition_of(group, len(rows))
    (found,) = (row for row in rows if row[0] == wanted)
    return _Copied(wanted, *found[2:6])
