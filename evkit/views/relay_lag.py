"""outbox, publication and relay → how late events reach the broker."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl
from psycopg.rows import dict_row

from evkit.sql import named
from evkit.system import System
from evkit.views.columns.column import flag, seconds, time
from evkit.views.copied import framed
from evkit.views.frame import Frame, Frames, WindowLike, bucket_of, frame, frame_of_chunks, view, window_of
from evkit.views.latency import PERCENTILES, bucketed, percentile
from evkit.views.reading import frozen_end


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
        row: dict[str, Any] = cursor.execute(named("relay_lag")["state"]).fetchone() or {}
        if row["hole_since"] is not None:
            row |= cursor.execute(named("holes")["hole_holder"], {"since": row["hole_since"]}).fetchone() or {}
        now, settled, newest = row["measured_at"], row["settled_position"] or 0, row["newest_position"] or 0
        until = min(seen.end, now)
        published = framed(system, connection, "relay_lag", "published", (_SECONDS,), seen.start, until, {})
        asked = {"now": now, "until": seen.end}
        waiting = framed(system, connection, "relay_lag", "waiting", _WAITING, settled + 1, newest + 1, asked)
    cut = published.select(percentile(0.99)).item()
    late = waiting.filter("is_of_window", pl.col("seconds") > (-1.0 if cut is None else cut)).select("seconds")
    row |= pl.concat([published, late]).select(*PERCENTILES).row(0, named=True)
    least = late["seconds"].min()
    row |= {
        "published": published.height,
        "p99_is_lower_bound": least is not None and row["p99_seconds"] >= least,
        "pending": waiting.height,
        "oldest_pending_seconds": max(waiting["seconds"].max() or 0.0, 0.0),
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
    length = bucket_of(bucket, seen)
    with system.reading() as connection:
        until = frozen_end(connection, seen.end)
        given = {"bucket": length, "until": until}
        event = framed(system, connection, "relay_lag", "relay_lag_over_time", _EVENT, seen.start, until, given)
    made = bucketed(event, ["bucket_at"], length, seen.start, until).sort("bucket_at")
    return frame_of_chunks("relay_lag_over_time", [made], frames)


_SECONDS = seconds("seconds", "from the write to the confirmation, or until now")
_WAITING = (_SECONDS, flag("is_of_window", "written before the window's end"))
_EVENT = (time("bucket_at", "start of the bucket"), flag("pending", "not published"), _SECONDS)
