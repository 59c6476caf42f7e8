"""inbox and outbox → time from the database write to the commit of the handler."""

from __future__ import annotations

from datetime import timedelta

from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.frame import Frame, Frames, WindowLike, bucket_of, fetch, frame, view, window_of


@view("latency")
def latency(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    by_event_type: bool = False,
    replays: bool = False,
    frames: Frames = "polars",
) -> Frame:
    """How long events took from the database write to the end of their handler, per group.

    Handled events count by the time they were handled, inside the window. Events that are still waiting are counted in
    `pending_n`; those that wait longer already than the p99 of the handled ones are in the percentiles with their age,
    else a consumer that stands still would look fast. Waiting events are looked for in the window and the hour before it.
    Both ends are times of the database, so clock skew is not in them.

    Args:
        window         a `Window`, "2h", "FROM/TO"; default: the last hour
        group          one consumer group; default: all that the inbox knows from the last seven days
        by_event_type  a row for each event type instead of one a group
        replays        also what replays and redrives handled, in rows of their own; by default they are left out, for
                       their latency is the time until somebody came

    Columns: see columns/

    Sorted by group, event type. A group that handled nothing and waits for nothing has no row.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    rows = fetch(
        system,
        "latency",
        "latency",
        COLUMNS["latency"],
        since=seen.start,
        until=seen.end,
        group=group,
        by_event_type=by_event_type,
        replays=replays,
    )
    return frame("latency", rows, frames)


@view("latency_over_time")
def latency_over_time(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    bucket: str | timedelta | None = None,
    replays: bool = False,
    frames: Frames = "polars",
) -> Frame:
    """The same per bucket of time, by when the events were written: who was hurt, not when it showed.

    Pending events are in the percentiles with their age; `p99_is_lower_bound` says where that matters.

    Args:
        window   a `Window`, "2h", "FROM/TO"; default: the last hour
        group    one consumer group; default: all
        bucket   length of a bucket ("30s"); default: a round one that makes at most 120
        replays  also what replays and redrives handled, in rows of their own

    Columns: see columns/

    Sorted by group, then bucket. A bucket in which no event was written has no row: it has no latency.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: window or bucket cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    rows = fetch(
        system,
        "latency",
        "latency_over_time",
        COLUMNS["latency_over_time"],
        since=seen.start,
        until=seen.end,
        group=group,
        bucket=bucket_of(bucket, seen),
        replays=replays,
    )
    return frame("latency_over_time", rows, frames)
