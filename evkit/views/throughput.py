"""outbox, publication and inbox → rates per bucket of time."""

from __future__ import annotations

import functools
import json
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import dict_row

from evkit import postgres
from evkit.sql import named
from evkit.system import System
from evkit.views.frame import Frame, Frames, WindowLike, bucket_of, frame, groups_of, view, window_of
from evkit.views.latency import LOOKBACK
from evkit.views.pages import gathered
from evkit.views.reading import frozen_end, reading


@view("publish_rate")
def publish_rate(
    system: System,
    window: WindowLike = None,
    *,
    bucket: str | timedelta | None = None,
    frames: Frames = "polars",
) -> Frame:
    """How many events were written and how many published, per topic and bucket of time.

    Written counts outbox rows by the time of their write, published counts the broker's confirmations by theirs; the sum
    of the difference is what waits in the outbox. Topics are those with an event in the window or in the day before it.
    Redrives and replays publish nothing, so there is nothing to mark here.

    Args:
        window  a `Window`, "2h", "FROM/TO"; default: the last hour
        bucket  length of a bucket ("30s"); default: a round one that makes at most 120

    Columns: see columns/

    Sorted by topic, then bucket. A bucket in which nothing happened is a row with 0; one that ended before the topic's
    first event is null. The first and last bucket may be partial: their rates are over the part inside the window.

    Raises:
        InvalidParameter: window or bucket cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    given: dict[str, Any] = {"bucket": bucket_of(bucket, seen), "since": seen.start}
    with system.reading() as connection:
        until = given["until"] = frozen_end(connection, seen.end)
        pages = functools.partial(gathered, system, connection, "throughput", parameters=given)
        counts = pages("written", start=seen.start, end=until) + pages("published", start=seen.start, end=until)
        earlier = seen.start - max(seen.end - seen.start, timedelta(days=1))
        topics = {row["topic"] for row in [*pages("topics", start=earlier, end=seen.start), *counts]}
        return _summed(connection, "publish_rate", counts, given | {"topics": sorted(topics)}, frames)


@view("throughput")
def throughput(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    bucket: str | timedelta | None = None,
    frames: Frames = "polars",
) -> Frame:
    """What became available to each group, what it dealt with, and what was left, per topic and bucket of time.

    Handled, skipped and parked events are dealt with. Counted are events of evkit's outbox written in the window or in
    the hour before it, none from before the group's first one. Redrives and replays do not count: a dead event was dealt
    with when it died.

    Args:
        window  a `Window`, "2h", "FROM/TO"; default: the last hour
        group   one consumer group; default: all that the inbox knows from the last seven days
        bucket  length of a bucket ("30s"); default: a round one that makes at most 120

    Columns: see columns/

    Sorted by group, topic, bucket; every bucket of the window has a row.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: window or bucket cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    given: dict[str, Any] = {"bucket": bucket_of(bucket, seen), "since": seen.start}
    with system.reading() as connection:
        given["groups"] = groups_of(system, connection, group)
        given |= reading(system, connection, seen.start, seen.end, given["groups"])
        earlier = seen.start - LOOKBACK
        counts = gathered(system, connection, "throughput", "dealt_with", earlier, given["until"], given)
        return _summed(connection, "throughput", counts, given, frames)


def _summed(
    connection: postgres.Connection, name: str, counts: list[dict[str, Any]], given: dict[str, Any], frames: Frames
) -> Frame:
    """The counts of all pages, added up and filled with zeros by the query of the view's name."""
    asked = given | {"counts": json.dumps(counts, default=datetime.isoformat)}
    rows = connection.cursor(row_factory=dict_row).execute(named("throughput")[name], asked).fetchall()
    return frame(name, rows, frames)
