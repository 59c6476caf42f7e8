"""audit and replay runs → who did what, when and why."""

from __future__ import annotations

import logging

from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.copied import copied
from evkit.views.errors import ROWS_MAX
from evkit.views.frame import Frame, Frames, WindowLike, fetch, frame, handed, view, window_of

log = logging.getLogger(__name__)


@view("acts")
def acts(system: System, window: WindowLike = None, *, rows_max: int = ROWS_MAX, frames: Frames = "polars") -> Frame:
    """Every act that changed what happens to events (redrive, archive, purge, replay, skip) in the window.

    Args:
        window    a `Window`, "2h", "FROM/TO"; default: the last hour
        rows_max  most rows; when there are more, the newest are kept and a warning is logged

    Columns: see columns/

    Sorted by time, the newest first.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    made = copied(system, "acts", "journey", "acts", since=seen.start, until=seen.end, rows_max=rows_max + 1)
    if made.height > rows_max:
        log.warning("acts: only the newest %s acts of this window are shown", f"{rows_max:,}")
    return handed(made.head(rows_max), frames)


@view("replays")
def replays(system: System, *, group: str | None = None, frames: Frames = "polars") -> Frame:
    """Every replay that was planned, and how far it came.

    Columns: see columns/

    Sorted by the time of the plan, the newest first.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    return frame("replays", fetch(system, "journey", "replays", COLUMNS["replays"], group=group), frames)
