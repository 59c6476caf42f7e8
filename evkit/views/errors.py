"""attempts and inbox → failures, and what part of all attempts they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

from evkit.errors import InvalidParameter, closest
from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.copied import copied
from evkit.views.frame import Frame, Frames, WindowLike, bucket_of, fetch, frame, handed, view, window_of
from evkit.views.masked_errors import errors_as_seen

log = logging.getLogger(__name__)

# As many rows as a notebook can hold and a person can look through; more is said, not cut in silence.
ROWS_MAX = 100_000

# What failures are told apart by, beside group and event type.
ERROR_RATE_BY = ("handler", "error_class", "fingerprint", "code_version")


@view("error_rate")
def error_rate(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    bucket: str | timedelta | None = None,
    by: str | Sequence[str] = (),
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
        by       also by "handler", "code_version", "error_class", "fingerprint"; one, several, or "handler,error_class"
        replays  also count what replays and redrives did, in rows of their own

    A handler and a code version have attempts of their own, failed and successful, and their ratios are of these; an
    event that two versions tried is an event of both. A class or fingerprint is of failures alone: its ratios are of all
    attempts and events of the group and type (and of the handler and version, if by these too), so its rows share them,
    and they are not to be added up. Where nothing failed there is one row of them, with null and 0 failures.

    Columns: see columns/

    Sorted by bucket, group, event type; `by` then has what failed most first. Without an attempt there is no row. A ratio
    without attempts is null, never 0. So it is of a handler or code version in a bucket with successes from before evkit
    wrote their handler down: nobody knows whose they were.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: window, bucket or `by` cannot be read; near matches of `by` are in the sentence.
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
        by=_told_apart(by),
        group=group,
        replays=replays,
    )
    return frame("error_rate", rows, frames)


def _told_apart(by: str | Sequence[str]) -> list[str]:
    names = [name.strip() for name in by.split(",")] if isinstance(by, str) else list(by)
    for name in names:
        if name not in ERROR_RATE_BY:
            near = closest(name, ERROR_RATE_BY)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"take {', '.join(ERROR_RATE_BY)}"
            raise InvalidParameter(
                f"by '{name}' is nothing that error_rate tells failures apart by; {hint}", name="by", value=by
            )
    return names


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

    Sorted by time, the newest first. `error_message` says that it is hidden where a masking policy may be about the event
    (`evkit.error_texts`).

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
    return handed(errors_as_seen(made.head(rows_max), system.settings.masking), frames)
