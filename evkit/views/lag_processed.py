"""evkit's inbox and publications → how far a group of evkit's was at moments of the past: handled, and not committed.

Where a group stood at t is the first event that it had not dealt with by then, whatever it had handled beyond; where the
topic ended is what the relay had published by then. Both on the database's clock, so neither compaction, nor retention of
the topic, nor timestamps of records touch them.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple

import polars as pl
from psycopg.rows import dict_row

from evkit import postgres
from evkit.sql import named
from evkit.system import System
from evkit.views.columns.column import OFFSET, PARTITION, TOPIC, count, time
from evkit.views.copied import paged
from evkit.views.end_offsets import UNKNOWN, End
from evkit.views.offsets import Place
from evkit.views.pages import gathered
from evkit.views.track import Track

SOURCE = "inbox"

_SQL = named("lag_processed")

# How far before the window published events are looked at: a group that stood further back is not covered.
LOOKBACK = timedelta(days=1)
# How long after the window too: the relay may write down late what a group has dealt with already.
LATE = timedelta(minutes=1)
# How many positions of the outbox before that are looked through for what a group had made of the events before.
BEFORE_POSITIONS = 100_000
# Later than any moment, and above any offset.
_NEVER = 2**63
_EVENT = (
    TOPIC, PARTITION, OFFSET, count("position", "in the outbox"), time("published_at", "when the relay wrote that down"),
    time("dealt_with_at", "when the group was done with it; null when it is not"),
    time("tried_at", "when the group tried it first; null when it failed never, or nobody looked"),
)  # fmt: skip


def processed(
    system: System, group: str, topic: str | None, instants: list[datetime], step: timedelta
) -> dict[Place, Track]:
    """Of each partition with events of the window or the day before it. A topic that others write to as well, or of which
    the relay does not know every offset, is not exact and has no number.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    start, until = instants[0], instants[-1]
    earlier, late = start - LOOKBACK, until + LATE
    asked: dict[str, Any] = {"group": group}
    made: dict[Place, Track] = {}
    with system.reading() as connection:
        pages = functools.partial(gathered, system, connection, "lag_processed")
        newest = [row[0] for row in connection.execute(_SQL["newest_topics"], asked).fetchall()]
        lately = [row["topic"] for row in pages("topics", start=earlier, end=until, parameters=asked)]
        asked["topics"] = topics = sorted({t for t in [*newest, *lately] if topic in (None, t)})
        if not topics:
            return {}
        found: dict[Place, _Partition] = {}
        for page in paged(system, connection, ("lag_processed", "events"), _EVENT, (earlier, late), asked):
            for row in _alike(pl.concat(page), start, step, len(instants)):
                found.setdefault((row["topic"], row["partition"]), _Partition()).add(row)
        unsure = {row["topic"] for row in pages("foreign_topics", start=earlier, end=until, parameters=asked)}
        # Where the broker has put these is not known.
        unsure |= {topic for topic, partition in found if partition < 0}
        known = {place: partition for place, partition in found.items() if place[1] >= 0}
        before = _before(connection, group, {place: partition.position for place, partition in known.items()})
        for place, partition in known.items():
            known_from = partition.begin(before.get(place), earlier)
            if known_from is not None:
                made[place] = partition.track(instants, known_from, is_exact=place[0] not in unsure)
    return made


def _alike(events: pl.DataFrame, start: datetime, step: timedelta, moments: int) -> Iterator[dict[str, Any]]:
    """The events of a page; those of a partition that are alike are one row.

    Columns: topic, partition; published_n, dealt_with_n: number of the first moment by which they were, or past them all
    (dealt_with_n: null when they never were); is_before: before the first event of the page that the group had seen; first,
    last: offsets; previous: offset before the first one in the page; position: the least; seen_at.

    What was published after the last moment is left out, unless the group had dealt with it by then.
    """
    place, length = ["topic", "partition"], step // timedelta(microseconds=1)

    def number(name: str) -> pl.Expr:
        """Steps from the start, rounded up: floor division goes down, so it is asked for what is left to go."""
        return (-((start - pl.col(name)).dt.total_microseconds() // length)).clip(0, moments)

    numbered = (
        events.sort(*place, "offset")
        .with_columns(
            number("published_at").alias("published_n"),
            number("dealt_with_at").alias("dealt_with_n"),
            pl.min_horizontal("dealt_with_at", "tried_at").alias("seen_at"),
            pl.col("offset").shift(1).over(place).alias("previous"),
        )
        .with_columns(
            (pl.col("offset") < pl.col("offset").filter(pl.col("seen_at").is_not_null()).min().over(place))
            .fill_null(value=True)
            .alias("is_before")
        )
    )
    return (
        numbered.filter((pl.col("published_n") < moments) | (pl.col("dealt_with_n") < moments))
        .group_by(*place, "published_n", "dealt_with_n", "is_before")
        .agg(
            pl.col("offset").min().alias("first"),
            pl.col("offset").max().alias("last"),
            pl.col("previous", "position", "seen_at").min(),
        )
        .iter_rows(named=True)
    )


def _before(
    connection: postgres.Connection, group: str, positions: Mapping[Place, int]
) -> dict[Place, Mapping[str, Any]]:
    """What the group had made of the events just before a position of each partition; those without any are missing.

    Partitions whose positions are close together are asked in one scan of the outbox, each scan in its own transaction.
    """
    left = sorted(positions.items(), key=itemgetter(1))
    found: dict[Place, Mapping[str, Any]] = {}
    while left:
        first = left[0][1]
        near = [entry for entry in left if entry[1] <= first + BEFORE_POSITIONS]
        left = left[len(near) :]
        asked = {
            "group": group, "first": first - BEFORE_POSITIONS, "last": near[-1][1],
            "topics": [place[0] for place, _ in near], "partitions": [place[1] for place, _ in near],
            "positions": [position for _, position in near],
        }  # fmt: skip
        connection.rollback()
        for row in connection.cursor(row_factory=dict_row).execute(_SQL["before"], asked):
            found[row["topic"], row["partition"]] = row
    connection.rollback()
    return found


class _Partition:
    """What was published to one partition, some alike events a row, and how far the group had come.

    Attributes:
        position  of the oldest event in the outbox
    """

    def __init__(self) -> None:
        self._rows: list[_Alike] = []
        self._seen: list[datetime] = []
        self._from = self._first_seen = _NEVER
        self.position = _NEVER

    def add(self, row: Mapping[str, Any]) -> None:
        """One row of `_alike`; pages come in the order of time."""
        # It was the page's first event when the least of the others' is no earlier one.
        previous = row["previous"] if row["previous"] is not None and row["previous"] < row["first"] else None
        n = _NEVER if row["dealt_with_n"] is None else row["dealt_with_n"]
        self._rows.append(_Alike(row["first"], row["last"], previous, row["published_n"], n))
        self.position = min(self.position, row["position"])
        if row["seen_at"] is not None:
            self._seen.append(row["seen_at"])
        if not row["is_before"]:
            self._first_seen = min(self._first_seen, row["first"])

    def begin(self, before: Mapping[str, Any] | None, earliest: datetime) -> datetime | None:
        """Since when it is known how far the group was; None when it is not known at all.

        The group had dealt with all before, from where it began: it stands at the first one. Where it has left one of
        them behind, it stands further back than anybody looks. Else it began at the first that it dealt with or tried,
        and is known to be there since then.
        """
        if before is not None:
            done, left = before["dealt_with_offset"], before["left_offset"]
            if before["has_tried"] or (None not in (done, left) and left > done):
                return None
            if done is not None:
                self._from = min(row.first for row in self._rows)
                dealt_with_at: datetime = before["dealt_with_at"]
                return max(dealt_with_at, earliest)
        if not self._seen:
            return None
        self._from = self._first_seen
        self._rows = [row for row in self._rows if row.first >= self._from]
        return min(self._seen)

    def track(self, instants: list[datetime], known_from: datetime, *, is_exact: bool) -> Track:
        count = len(instants)
        ends, waiting = [self._from] * (count + 1), [_NEVER] * (count + 1)
        previous: dict[int, int] = {}
        for row in self._rows:
            ends[row.published_n] = max(ends[row.published_n], row.last + 1)
            n = min(row.dealt_with_n, count)
            waiting[n] = min(waiting[n], row.first)
            if row.previous is not None:
                previous[row.first] = row.previous
        lasts = sorted(row.last for row in self._rows)
        positions = [0] * count
        first_waiting = _NEVER
        for n in range(count - 1, -1, -1):
            # The first event that was dealt with after this moment, or not at all; the group stands behind the one before.
            first_waiting = min(first_waiting, waiting[n + 1])
            done = bisect_left(lasts, first_waiting)
            behind = max(lasts[done - 1] if done else -1, previous.get(first_waiting, -1))
            positions[n] = max(behind + 1, self._from)
        for n in range(1, count):
            ends[n] = max(ends[n], ends[n - 1])
        covered = [at >= known_from for at in instants]
        unsure = End(None, is_exact=False)
        return Track(
            SOURCE,
            [position if is_known else None for position, is_known in zip(positions, covered, strict=True)],
            [
                (End(end) if is_exact else unsure) if is_known else UNKNOWN
                for end, is_known in zip(ends[:count], covered, strict=True)
            ],
            covered,
        )


class _Alike(NamedTuple):
    """Events of a partition that were published between the same two moments, and dealt with between the same two."""

    first: int
    last: int
    previous: int | None
    published_n: int
    dealt_with_n: int
