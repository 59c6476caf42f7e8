"""outbox, publication and relay → how late events reach the broker."""

from __future__ import annotations

from datetime import timedelta

from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.frame import Frame, Frames, WindowLike, bucket_of, fetch, frame, view, window_of


@view("relay_lag")
def relay_lag(system: System, window: WindowLike = None, *, frames: Frames = "polars") -> Frame:
    """How far the relay is behind now, and how long publishing took in the window. Always one row.

    Pending rows, their age and the relay's own state are of now, whatever the window. The percentiles are over what was
    confirmed in the window, together with pending rows that are older already than its p99.

    Args:
        window  a `Window`, or a length that ends now ("2h"); default: the last hour

    Columns: see columns.py

    Rows that another connector publishes (Debezium) leave no trace in evkit's tables: they all count as pending.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window)
    rows = fetch(system, "relay_lag", "relay_lag", COLUMNS["relay_lag"], since=seen.start, until=seen.end)
    return frame("relay_lag", rows, frames)


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
        window  a `Window`, or a length that ends now ("2h"); default: the last hour
        bucket  length of a bucket ("30s"); default: a round one that makes at most 120

    Columns: see columns.py

    Sorted by bucket. A bucket in which no event was written has no row.

    Raises:
        InvalidParameter: window or bucket cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window)
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
