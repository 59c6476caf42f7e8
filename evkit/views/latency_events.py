"""inbox, outbox and publication → every event with the times of its way, and how long each part of the way took."""

from __future__ import annotations

import logging
from typing import Literal

from evkit.errors import InvalidParameter
from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.errors import ROWS_MAX
from evkit.views.frame import Frame, Frames, WindowLike, fetch, frame, view, window_of

log = logging.getLogger(__name__)

By = Literal["processed", "written"]


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
    rows = fetch(
        system,
        "events",
        "latency_events",
        COLUMNS["latency_events"],
        since=seen.start,
        until=seen.end,
        group=group,
        by_written=_by_written(by),
        replays=replays,
        rows_max=rows_max + 1,
    )
    if len(rows) > rows_max:
        log.warning("latency_events: only the newest %s events of this window are shown", f"{rows_max:,}")
    return frame("latency_events", rows[:rows_max], frames)


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
    rows = fetch(
        system,
        "events",
        "latency_segments",
        COLUMNS["latency_segments"],
        since=seen.start,
        until=seen.end,
        group=group,
        by_written=_by_written(by),
        by_event_type=by_event_type,
        replays=replays,
    )
    return frame("latency_segments", rows, frames)


def _by_written(by: str) -> bool:
    if by not in ("processed", "written"):
        raise InvalidParameter(f"by '{by}' is no time of an event: take processed or written", name="by", value=by)
    return by == "written"
