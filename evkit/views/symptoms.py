"""Everything that triage looks at, measured together: a frame by name, or the error that says why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evkit import offsets_log
from evkit.errors import OffsetsLogRefused
from evkit.system import System
from evkit.views.audit import audit_counts
from evkit.views.breakers import breakers
from evkit.views.code_versions import code_versions
from evkit.views.consumer_status import Offsets, consumer_status
from evkit.views.errors import errors
from evkit.views.frame import Frame, Frames, WindowLike, frame, rows_of, window_of
from evkit.views.group_log import COPY, LOG, copies_of, warn_of_copies
from evkit.views.hot_keys import hot_keys
from evkit.views.lag_history import past_window
from evkit.views.latency_events import latency_segments
from evkit.views.offset_resets import moves
from evkit.views.rebalances import changes
from evkit.views.six import measure, measured
from evkit.views.throughput import throughput
from evkit.window import Window

# More failures say nothing new of what fails; all are counted in error_rate.
_ERRORS_MAX = 20_000
# A key that is hot is among the first of its group and topic.
_KEYS_MAX = 5


def symptoms(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    audit: bool = False,
    frames: Frames = "polars",
) -> dict[str, Frame | Exception]:
    """The frames that `evkit.monitors.triage` takes, each measured or the error that says why it was not.

    Those of `measure`, and: consumer_status, throughput, errors, breakers, hot_keys (of unread events), latency_segments,
    code_versions, rebalances and offset_resets (of every group that the lag names, one below the other); audit_counts where
    it is asked for, since it reads the topics.

    Args:
        window  a `Window`, or a length that ends now ("30m"); default: the last hour
        group   one consumer group; default: all
        audit   also compare outbox, topics and inboxes event by event: seconds for each 100,000 events

    Raises:
        InvalidParameter: the window cannot be read. Nothing else: what goes wrong in a view is in the answer.
    """
    with system.standing():
        seen = window_of(window, system)
    offsets = Offsets(system, group)
    is_past = seen.is_past(system.now())
    answer = measure(system, seen, group=group, offsets=offsets, consumer_status_too=is_past, frames=frames)
    lag = answer["consumer_lag"]
    groups = [] if isinstance(lag, Exception) else sorted({row["group"] for row in rows_of(lag, "lag")})
    from_tables: dict[str, Callable[[], Frame]] = {
        "throughput": lambda: throughput(system, seen, group=group, frames=frames),
        "errors": lambda: errors(system, seen, group=group, rows_max=_ERRORS_MAX, frames=frames),
        "breakers": lambda: breakers(system, group=group, frames=frames),
        "hot_keys": lambda: hot_keys(system, seen, group=group, of="unread", keys_max=_KEYS_MAX, frames=frames),
        "latency_segments": lambda: latency_segments(system, seen, group=group, frames=frames),
        "code_versions": lambda: code_versions(system, seen, group=group, frames=frames),
    }
    if audit:
        from_tables["audit_counts"] = lambda: audit_counts(system, seen, group=group, frames=frames)
    answer |= measured(from_tables, before=answer)
    if isinstance(lag, Exception):
        return answer | dict.fromkeys(("consumer_status", "rebalances", "offset_resets"), lag)
    if not is_past:
        length = seen.end - seen.start
        status = {"consumer_status": lambda: consumer_status(system, group, length, offsets=offsets, frames=frames)}
        answer |= measured(status, from_kafka=status)
    return answer | _groups_past(system, offsets, groups, seen, frames)


def _groups_past(
    system: System, offsets: Offsets, groups: Sequence[str], window: Window, frames: Frames
) -> dict[str, Frame | Exception]:
    """What the offsets log tells of all groups, or its copy where it may not be read."""
    names = ("rebalances", "offset_resets")
    source = LOG
    try:
        past = past_window(window, system)
        parts = offsets.parts()
        by_group = {
            each: parts[0] if len(parts) == 1 else parts[offsets_log.partition_of(each, len(parts))]
            for each in (groups if parts else ())
        }
    except OffsetsLogRefused as error:
        by_group, source = copies_of(system, groups, past.start), COPY
        if not by_group:
            return dict.fromkeys(names, error)
        warn_of_copies("rebalances and offset_resets", by_group.values(), error)
    except Exception as error:  # told once, for both
        return dict.fromkeys(names, error)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for each, part in by_group.items():
        for name, rows in zip(names, (changes(part, each, source), moves(part, each, source)), strict=True):
            found[name] += [row for row in rows if past.start <= row["at"] < past.end]
    return {name: frame(name, rows, frames) for name, rows in found.items()}
