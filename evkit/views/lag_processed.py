"""evkit's inbox and publications → how far a group of evkit's was at moments of the past: handled, and not committed.

Where a group stood at t is the first event that it had not dealt with by then, whatever it had handled beyond; where the
topic ended is what the relay had published by then. Both on the database's clock, so neither compaction, nor retention of
the topic, nor timestamps of records touch them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from evkit.sql import named
from evkit.system import System
from evkit.views.end_offsets import UNKNOWN, End
from evkit.views.offsets import Place
from evkit.views.track import Track

SOURCE = "inbox"

_SQL = named("lag_processed")

# How far before the window published events are looked at: a group that stood further back is not covered.
LOOKBACK = timedelta(days=1)


def processed(
    system: System, group: str, topic: str | None, instants: list[datetime], step: timedelta
) -> dict[Place, Track]:
    """Of each partition with events of the window or the day before it. A topic that others write to as well, or of which
    the relay does not know every offset, is not exact and has no number.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    start, until = instants[0], instants[-1]
    asked = {
        "group": group,
        "start": start,
        "until": until,
        "lookback": start - LOOKBACK,
        "step": step,
    }
    with system.reading() as connection:
        topics = [row[0] for row in connection.execute(_SQL["topics"], asked).fetchall() if topic in (None, row[0])]
        if not topics:
            return {}
        rows = connection.execute(_SQL["steps"], asked | {"topics": topics}).fetchall()
        unsure = {row[0] for row in connection.execute(_SQL["foreign_topics"], asked | {"topics": topics}).fetchall()}
    steps: dict[Place, dict[str, list[tuple[int, int]]]] = {}
    known: dict[Place, tuple[int, datetime | None]] = {}
    for of_topic, partition, kind, n, offset, known_from in rows:
        place = (of_topic, partition)
        if kind == "from":
            known[place] = (offset, known_from)
        else:
            steps.setdefault(place, {}).setdefault(kind, []).append((n, offset))
    return {
        place: _track(steps.get(place, {}), first, known_from, instants, is_exact=place[0] not in unsure)
        for place, (first, known_from) in known.items()
    }


def _track(
    steps: dict[str, list[tuple[int, int]]],
    first: int,
    known_from: datetime | None,
    instants: list[datetime],
    *,
    is_exact: bool,
) -> Track:
    ends, positions = (_filled(steps.get(kind, []), first, len(instants)) for kind in ("end", "position"))
    covered = [known_from is not None and at >= known_from for at in instants]
    unsure = End(None, is_exact=False)
    return Track(
        SOURCE,
        [position if is_known else None for position, is_known in zip(positions, covered, strict=True)],
        [
            (End(end) if is_exact else unsure) if is_known else UNKNOWN
            for end, is_known in zip(ends, covered, strict=True)
        ],
        covered,
    )


def _filled(steps: list[tuple[int, int]], first: int, count: int) -> list[int]:
    """The highest offset up to each moment."""
    found = [first] * count
    highest, n = first, 0
    for at, offset in steps:
        while n < min(at, count):
            found[n] = highest
            n += 1
        highest = max(highest, offset)
    found[n:] = [highest] * (count - n)
    return found
