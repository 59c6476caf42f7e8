"""inbox, outbox and publication → every event with the times of its way, and how long each part of the way took."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.columns.column import Column, text
from evkit.views.copied import framed
from evkit.views.errors import ROWS_MAX
from evkit.views.frame import (
    POLARS,
    Frame,
    Frames,
    WindowLike,
    frame_of_chunks,
    groups_of,
    handed,
    view,
    window_of,
)
from evkit.views.latency import LOOKBACK, PERCENTILES, By, by_written, percentile
from evkit.views.reading import reading
from evkit.window import Window

log = logging.getLogger(__name__)


@view("latency_events")
def latency_events(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    by: By = "processed",
    replays: bool = False,
    rows_max: int = ROWS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """Every handled or waiting event with all its times, one row for each group that reads it.

    Waiting events are rows too (`censored`), with their age as `total_seconds`; without them a consumer that stands still
    looks fast. Only `relay_seconds` and `total_seconds` begin and end on one clock, the database's.

    Args:
        window    a `Window`, or a length that ends now ("2h"); default: the last hour
        group     one consumer group; default: all that the inbox knows from the last seven days
        by        "processed": events handled in the window, and waiting ones of it and the hour before it (when it showed);
                  "written": events written in it, as they stood at its end (who was hurt)
        replays   also what replays and redrives handled
        rows_max  most rows; when there are more, those written last are kept and a warning is logged

    Columns: see columns/

    Sorted by the time of the write, the newest first.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: window or `by` cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    given = {"by_written": by_written(by), "replays": replays}
    made = _both(system, seen, group, "latency_events", COLUMNS["latency_events"], given, rows_max + 1)
    at = pl.coalesce("created_at", "processed_at")
    made = made.sort(at, "event_id", "group", descending=[True, True, False], nulls_last=True)
    if made.height > rows_max:
        log.warning("latency_events: only the newest %s events of this window are shown", f"{rows_max:,}")
    return handed(made.head(rows_max), frames)


@view("latency_segments")
def latency_segments(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    by: By = "processed",
    by_event_type: bool = False,
    replays: bool = False,
    frames: Frames = "polars",
) -> Frame:
    """Where the time goes: relay, topic, consumer, per group; and how far apart the clocks are that measured it.

    Computed from every event, whatever their number. A segment between two clocks holds their difference: `min_seconds` and
    `negative_ratio` show it, and nothing is clipped. Waiting events that are older than the p99 of the handled ones are in
    the percentiles of `total` with their age.

    Args:
        window         a `Window`, or a length that ends now ("2h"); default: the last hour
        group          one consumer group; default: all that the inbox knows from the last seven days
        by             "processed" or "written": see `latency_events`
        by_event_type  rows for each event type
        replays        also what replays and redrives handled, in rows of their own

    Columns: see columns/

    Sorted by group, event type, live before replayed, then in the order of travel. A segment that nothing measured has no
    row.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: window or `by` cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    given = {"by_written": by_written(by), "by_event_type": by_event_type, "replays": replays}
    events = _both(system, seen, group, "latency_segments", _SEGMENTS, given)
    chunks = [_segment(events, *of) for of in _TRAVEL]
    made = pl.concat(chunks).sort("group", "event_type", "replay", maintain_order=True)
    return frame_of_chunks("latency_segments", [made], frames)


_TRAVEL = (
    ("relay", "database", "database"), ("append", "database", "record"), ("queue", "record", "client"),
    ("transit", "database", "client"), ("handle", "client", "database"), ("total", "database", "database"),
)  # fmt: skip
_SEGMENTS = (
    text("group", ""), text("event_type", ""), Column("replay", "bool", "", ""), Column("censored", "bool", "", ""),
    *(Column(f"{segment}_seconds", "float64", "", "") for segment, *_ in _TRAVEL),
)  # fmt: skip
_PLACE = ["group", "event_type", "replay"]


def _segment(events: pl.DataFrame, segment: str, from_clock: str, to_clock: str) -> pl.DataFrame:
    """One row for each group. Of `total`, those that wait count where they wait longer than the p99 of the handled ones."""
    # Of the other segments, an event that waits has what it has come through: that is measured, and not censored.
    censored = pl.col("censored") if segment == "total" else pl.lit(value=False)
    seconds = pl.col(f"{segment}_seconds").alias("seconds")
    piece = events.select(*_PLACE, censored.alias("censored"), seconds).filter(pl.col("seconds").is_not_null())
    cut = piece.filter(~pl.col("censored")).group_by(_PLACE).agg(cut=percentile(0.99))
    piece = piece.join(cut, on=_PLACE, how="left", nulls_equal=True)
    counts = ~pl.col("censored") | (pl.col("seconds") > pl.col("cut").fill_null(-1.0))
    measured = pl.col("seconds").filter(~pl.col("censored"))
    tallied = piece.group_by(_PLACE).agg(
        n=measured.len(), pending_n=pl.col("censored").sum(), min_seconds=measured.min(), negative=(measured < 0).sum()
    )
    spread = (
        piece.filter(counts)
        .group_by(_PLACE)
        .agg(*PERCENTILES, pending_least=pl.col("seconds").filter("censored").min())
    )
    made = tallied.join(spread, on=_PLACE, how="left", nulls_equal=True).with_columns(
        segment=pl.lit(segment),
        from_clock=pl.lit(from_clock),
        to_clock=pl.lit(to_clock),
        p99_is_lower_bound=(pl.col("p99_seconds") >= pl.col("pending_least")).fill_null(value=False),
        negative_ratio=pl.when(pl.col("n") > 0).then(pl.col("negative") / pl.col("n")),
    )
    return made.select(pl.col(c.name).cast(POLARS[c.dtype]) for c in COLUMNS["latency_segments"])


def _both(
    system: System,
    seen: Window,
    group: str | None,
    query: str,
    columns: Sequence[Column],
    given: Mapping[str, Any],
    rows_max: int | None = None,
) -> pl.DataFrame:
    """Handled events, then those that wait, the newest of each; one that is handled meanwhile is not there twice."""
    with system.reading() as connection:
        groups = groups_of(system, connection, group)
        asked = {**given, "since": seen.start, "groups": groups}
        asked |= reading(system, connection, seen.start, seen.end, groups)
        parts = []
        for pending in (False, True):
            start = seen.start - LOOKBACK if pending and not given["by_written"] else seen.start
            how: Any = {"newest_first": True, "rows_max": rows_max}
            asked["pending"] = pending
            parts.append(framed(system, connection, "events", query, columns, start, asked["until"], asked, **how))
    return pl.concat(parts)
