"""outbox, publication and relay → how late events reach the broker."""

from __future__ import annotations

from datetime import timedelta

from psycopg.rows import dict_row

from evkit.sql import named
from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.frame import Frame, Frames, WindowLike, bucket_of, fetch, frame, view, window_of


@view("relay_lag")
def relay_lag(system: System, window: WindowLike = None, *, frames: Frames = "polars") -> Frame:
    """How far the relay is behind now, what is in its way, and how long publishing took in the window. Always one row.

    What waits, what cannot be published, the oldest hole and the relay's own state are of now, whatever the window. The
    percentiles are over what was confirmed in the window, together with pending rows that are older already than its p99.

    Args:
        window  a `Window`, "2h", "FROM/TO"; default: the last hour

    Columns: see columns/

    Rows that another connector publishes (Debezium) leave no trace in evkit's tables: they all count as pending.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    with system.reading() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        row = dict(cursor.execute(named("outbox")["status"]).fetchone() or {})
        window_row = cursor.execute(
            named("relay_lag")["relay_lag"], {"since": seen.start, "until": seen.end}
        ).fetchone()
        if row["hole_since"] is not None:
            holder = cursor.execute(named("holes")["hole_holder"], {"since": row["hole_since"]}).fetchone()
            row |= holder or {}
    row |= window_row or {}
    row |= {
        "pending": row["waiting"],
        "oldest_pending_seconds": max(row["oldest_waiting_seconds"] or 0.0, 0.0),
        "oldest_due_seconds": row["oldest_due_seconds"] or 0.0,
        "hole_position": row["oldest_hole_position"],
        "hole_seconds": row["oldest_hole_seconds"],
    }
    return frame("relay_lag", [row], frames)


@view("relay_lag_over_time")
def relay_lag_over_time(
    system: System,
    window: WindowLike = None,
    *,
    bucket: str | timedelta | None = None,
    frames: Frames = "polars",
) -> Frame:
    """How long publishing took, per bucket of time, by when the events were written.

    Pending events are in the percentiles with their age; `p99_is_lower_bound` says where that matters.

    Args:
        window  a `Window`, "2h", "FROM/TO"; default: the last hour
        bucket  length of a bucket ("30s"); default: a round one that makes at most 120

    Columns: see columns/

    Sorted by bucket. A bucket in which no event was written has no row.

    Raises:
        InvalidParameter: window or bucket cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    rows = fetch(
        system,
        "relay_lag",
        "relay_lag_over_time",
        COLUMNS["relay_lag_over_time"],
        since=seen.start,
        until=seen.end,
        bucket=bucket_of(bucket, seen),
    )
    return frame("relay_lag_over_time", rows, frames)
