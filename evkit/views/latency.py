"""inbox and outbox → time from the database write to the commit of the handler."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

import polars as pl

from evkit.errors import InvalidParameter
from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.columns.column import Column, text
from evkit.views.copied import framed
from evkit.views.frame import (
    POLARS,
    Frame,
    Frames,
    WindowLike,
    bucket_of,
    frame_of_chunks,
    groups_of,
    view,
    window_of,
)
from evkit.views.reading import reading
from evkit.window import Window, present

# Waiting events are looked for so long before the window.
LOOKBACK = timedelta(hours=1)

By = Literal["processed", "written"]


@view("latency")
def latency(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    by: By = "processed",
    by_event_type: bool = False,
    replays: bool = False,
    frames: Frames = "polars",
) -> Frame:
    """How long events took from the database write to the end of their handler, per group.

    Events that are still waiting are counted in `pending_n`; those that wait longer already than the p99 of the handled
    ones are in the percentiles with their age, else a consumer that stands still would look fast. Both ends are times of
    the database, so clock skew is not in them.

    Args:
        window         a `Window`, "2h", "FROM/TO"; default: the last hour
        group          one consumer group; default: all that the inbox knows from the last seven days
        by             "processed": events handled in the window, and waiting ones of it and the hour before it (when it
                       showed); "written": events that their services wrote in it, as they stood at its end (who was hurt)
        by_event_type  a row for each event type instead of one a group
        replays        also what replays and redrives handled, in rows of their own; by default they are left out, for
                       their latency is the time until somebody came

    Columns: see columns/

    Sorted by group, event type. A group that handled nothing and waits for nothing has no row.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: window or `by` cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    given = {"by_written": by_written(by), "by_event_type": by_event_type, "bucket": None, "replays": replays}
    handled, pending = _read(system, seen, group, given)
    counted = handled.group_by(_PLACE).agg(
        n=pl.col("seconds").count(), unmeasured_n=pl.col("seconds").null_count(), cut=percentile(0.99)
    )
    waiting = pending.join(counted.select(*_PLACE, "cut"), on=_PLACE, how="left", nulls_equal=True)
    waiting = waiting.with_columns(overdue=pl.col("seconds") > pl.col("cut").fill_null(-1.0))
    late = waiting.filter("overdue")
    spread = pl.concat([handled, late.select(handled.columns)]).filter(pl.col("seconds").is_not_null())
    made = (
        pl.concat([counted.select(_PLACE), pending.select(_PLACE)])
        .unique()
        .join(counted, on=_PLACE, how="left", nulls_equal=True)
        .join(
            waiting.group_by(_PLACE).agg(
                pending_n=pl.len(),
                oldest_pending_seconds=pl.col("seconds").max(),
                overdue_n=pl.col("overdue").sum(),
                overdue_least=pl.col("seconds").filter("overdue").min(),
            ),
            on=_PLACE,
            how="left",
            nulls_equal=True,
        )
        .join(spread.group_by(_PLACE).agg(*PERCENTILES), on=_PLACE, how="left", nulls_equal=True)
        .with_columns(p99_is_lower_bound=(pl.col("p99_seconds") >= pl.col("overdue_least")).fill_null(value=False))
        .with_columns(pl.col("n", "unmeasured_n", "pending_n", "overdue_n").fill_null(0))
        .sort("group", "event_type", "replay")
    )
    return frame_of_chunks("latency", [_cast("latency", made)], frames)


@view("latency_over_time")
def latency_over_time(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    by: By = "written",
    bucket: str | timedelta | None = None,
    replays: bool = False,
    frames: Frames = "polars",
) -> Frame:
    """The same per bucket of time: by when the events were written (who was hurt), or by when they were handled (when it
    showed).

    Every event is in one bucket. Pending events are in the percentiles with their age; `p99_is_lower_bound` says where that
    matters.

    Args:
        window   a `Window`, "2h", "FROM/TO"; default: the last hour
        group    one consumer group; default: all
        by       "written": events written in the window, each in the bucket in which its service wrote it, pending ones
                 too; "processed": events handled in it, each in the bucket in which it was handled. Then pending ones, of
                 the window and the hour before it, are in the last bucket, and in its percentiles where they wait longer
                 than the p99 of those that were handled in it
        bucket   length of a bucket ("30s"); default: a round one that makes at most 120
        replays  also what replays and redrives handled, in rows of their own

    Columns: see columns/

    Sorted by group, then bucket. A bucket without an event has no row: it has no latency.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: window, bucket or `by` cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    length = bucket_of(bucket, seen)
    given = {"by_written": by_written(by), "by_event_type": False, "bucket": length, "replays": replays}
    handled, pending = _read(system, seen, group, given)
    place = ["group", "replay", "bucket_at"]
    if by == "processed":
        handled = handled.filter(pl.col("seconds").is_not_null())
        pending = _overdue(pending, handled, place)
    event = pl.concat(
        [handled.with_columns(pending=pl.lit(value=False)), pending.with_columns(pending=pl.lit(value=True))]
    )
    until = min(seen.end, present())
    made = bucketed(event, place, length, seen.start, until).with_columns(by=pl.lit(by)).sort(place)
    return frame_of_chunks("latency_over_time", [_cast("latency_over_time", made)], frames)


def bucketed(
    event: pl.DataFrame, place: list[str], length: timedelta, start: datetime, until: datetime
) -> pl.DataFrame:
    """Percentiles of the `seconds` of events in buckets of time, those that are `pending` with their age."""
    begins, ends = pl.col("bucket_at"), pl.col("bucket_at") + length
    return (
        event.group_by(place)
        .agg(
            *PERCENTILES,
            n=(~pl.col("pending")).sum().cast(pl.Int64),
            pending_n=pl.col("pending").sum().cast(pl.Int64),
            pending_least=pl.col("seconds").filter("pending").min(),
        )
        .with_columns(
            bucket_seconds=(
                pl.min_horizontal(ends, pl.lit(until)) - pl.max_horizontal(begins, pl.lit(start))
            ).dt.total_microseconds()
            / 1e6,
            p99_is_lower_bound=(pl.col("p99_seconds") >= pl.col("pending_least")).fill_null(value=False),
            partial=(begins < start) | (ends > until),
        )
    )


def percentile(q: float) -> pl.Expr:
    """PostgreSQL's percentile_disc: a value that was measured, no mean of two."""
    return pl.col("seconds").quantile(q, interpolation="equiprobable")


PERCENTILES = (
    percentile(0.5).alias("p50_seconds"),
    percentile(0.95).alias("p95_seconds"),
    percentile(0.99).alias("p99_seconds"),
    pl.col("seconds").max().alias("max_seconds"),
)
_PLACE = ["group", "event_type", "replay"]
_EVENT = (
    text("group", ""), text("event_type", ""), Column("replay", "bool", "", ""), Column("bucket_at", "time", "", ""),
    Column("seconds", "float64", "", ""),
)  # fmt: skip


def by_written(by: str) -> bool:
    if by not in ("processed", "written"):
        raise InvalidParameter(f"by '{by}' is no time of an event: take processed or written", name="by", value=by)
    return by == "written"


def _overdue(pending: pl.DataFrame, handled: pl.DataFrame, place: list[str]) -> pl.DataFrame:
    """Waiting events of which those have no seconds that could still be as quick as the handled ones."""
    cut = handled.group_by(place).agg(cut=percentile(0.99))
    waiting = pending.join(cut, on=place, how="left", nulls_equal=True)
    late = pl.col("seconds") > pl.col("cut").fill_null(-1.0)
    return waiting.select(
        pl.when(late).then("seconds").alias("seconds") if c == "seconds" else c for c in pending.columns
    )


def _read(
    system: System, seen: Window, group: str | None, given: Mapping[str, Any]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Handled events and, after them, those that wait, a row each: what is handled meanwhile is not counted twice."""
    with system.reading() as connection:
        groups = groups_of(system, connection, group)
        asked = {**given, "since": seen.start, "groups": groups}
        asked |= reading(system, connection, seen.start, seen.end, groups)
        until = asked["until"]
        handled = framed(system, connection, "latency", "handled", _EVENT, seen.start, until, asked)
        earlier = seen.start if asked["by_written"] else seen.start - LOOKBACK
        return handled, framed(system, connection, "latency", "pending", _EVENT, earlier, until, asked)


def _cast(view: str, made: pl.DataFrame) -> pl.DataFrame:
    return made.select(pl.col(c.name).cast(POLARS[c.dtype]) for c in COLUMNS[view])
