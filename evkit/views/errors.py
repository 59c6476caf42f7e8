"""attempts and inbox → failures, and what part of all attempts they are."""

from __future__ import annotations

import logging
from datetime import timedelta

from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.copied import copied
from evkit.views.frame import Frame, Frames, WindowLike, bucket_of, fetch, frame, handed, view, window_of

log = logging.getLogger(__name__)

# As many rows as a notebook can hold and a person can look through; more is said, not cut in silence.
ROWS_MAX = 100_000


@view("error_rate")
def error_rate(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    bucket: str | timedelta | None = None,
    replays: bool = False,
    frames: Frames = "polars",
) -> Frame:
    """What part of the attempts failed and what part of the events died, per group and event type.

    Two ratios, because one poison event that is retried for ever is one bad event and a thousand bad attempts. What a
    later redrive, archive or purge settled stays counted as failed, and is counted again in `failures_dealt_with`.

    Args:
        window   a `Window`, "2h", "FROM/TO"; default: the last hour
        group    one consumer group; default: all
        bucket   cut the window into buckets ("1m"); default: the whole window is one row
        replays  also count what replays and redrives did, in rows of their own

    Columns: see columns/

    Sorted by bucket, group, event type. Without an attempt there is no row. A ratio without attempts is null, never 0.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: window or bucket cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    rows = fetch(
        system,
        "errors",
        "error_rate",
        COLUMNS["error_rate"],
        since=seen.start,
        until=seen.end,
        bucket=None if bucket is None else bucket_of(bucket, seen),
        group=group,
        replays=replays,
    )
    return frame("error_rate", rows, frames)


@view("errors")
def errors(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    rows_max: int = ROWS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """Every failed attempt in the window, live ones and those of replays (`replay` tells).

    Args:
        window    a `Window`, "2h", "FROM/TO"; default: the last hour
        group     one consumer group; default: all
        rows_max  most rows; when there are more, the newest are kept and a warning is logged

    Columns: see columns/

    Sorted by time, the newest first.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    made = copied(
        system,
        "errors",
        "errors",
        "errors",
        since=seen.start,
        until=seen.end,
        group=group,
        rows_max=rows_max + 1,
    )
    if made.height > rows_max:
        log.warning("errors: only the newest %s failed attempts of this window are shown", f"{rows_max:,}")
    return handed(made.head(rows_max), frames)
