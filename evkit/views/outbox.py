"""outbox, publication and unpublishable → what was written, and what became of it on the way to its topic."""

from __future__ import annotations

import logging
from typing import Any

from evkit.errors import InvalidParameter, closest
from evkit.system import System
from evkit.views.columns import COLUMNS, OUTBOX_STATES
from evkit.views.copied import copied
from evkit.views.errors import ROWS_MAX
from evkit.views.frame import Frame, Frames, WindowLike, fetch, frame, handed, view, window_of

log = logging.getLogger(__name__)

# All positions there can be: what is counted is no page.
_EVERYWHERE = {"first": 0, "last": 2**63 - 1}


@view("outbox")
def outbox(
    system: System,
    window: WindowLike = None,
    *,
    topic: str | None = None,
    state: str | None = None,
    rows_max: int = ROWS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """Every event that was written in the window, without its payload: where it is, or what keeps it.

    Args:
        window    a `Window`, "2h", "FROM/TO"; default: the last hour
        topic     one topic; default: all
        state     one state: waiting, published, unpublishable, held, retrying or skipped
        rows_max  most rows; when there are more, the newest are kept and a warning is logged

    Columns: see columns/

    Sorted by position, the newest first. Events that are scheduled for later are in `outbox_summary`.

    Raises:
        InvalidParameter: no such state; the window cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    if state is not None and state not in OUTBOX_STATES:
        near = closest(state, OUTBOX_STATES)
        hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(OUTBOX_STATES)}"
        raise InvalidParameter(f"'{state}' is no state of an outbox row{hint}", name="state", value=state)
    seen = window_of(window, system)
    asked: dict[str, Any] = {"since": seen.start, "until": seen.end, "topic": topic, "state": state}
    made = copied(system, "outbox", "outbox_rows", "outbox", bounds="bounds", rows_max=rows_max + 1, **asked)
    if made.height > rows_max:
        log.warning("outbox: only the newest %s events of this window are shown", f"{rows_max:,}")
    return handed(made.head(rows_max), frames)


@view("outbox_summary")
def outbox_summary(
    system: System, window: WindowLike = None, *, topic: str | None = None, frames: Frames = "polars"
) -> Frame:
    """How many events are in which state, per topic, and how old: those written in the window, and all that are scheduled.

    Args:
        window  a `Window`, "2h", "FROM/TO"; default: the last hour
        topic   one topic; default: all

    Columns: see columns/

    Sorted by topic, then state. A state that no event is in has no row.

    Raises:
        InvalidParameter: the window cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    columns = COLUMNS["outbox_summary"]
    asked = {"since": seen.start, "until": seen.end, "topic": topic} | _EVERYWHERE
    rows = fetch(system, "outbox_rows", "outbox_summary", columns, **asked)
    return frame("outbox_summary", rows, frames)


@view("schema_usage")
def schema_usage(
    system: System,
    window: WindowLike = None,
    *,
    topic: str | None = None,
    group: str | None = None,
    frames: Frames = "polars",
) -> Frame:
    """Which versions of each event type were written in the window, and what every group made of them.

    A version is out of use when nothing was written with it for longer than topics and letters are kept.

    Args:
        window  a `Window`, "2h", "FROM/TO"; default: the last hour
        topic   one topic; default: all
        group   one consumer group; default: all, and versions that no group has dealt with

    Columns: see columns/

    Sorted by topic, event type, version, group.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: the window cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    columns = COLUMNS["schema_usage"]
    asked = {"since": seen.start, "until": seen.end, "topic": topic, "group": group} | _EVERYWHERE
    return frame("schema_usage", fetch(system, "outbox_rows", "schema_usage", columns, **asked), frames)
