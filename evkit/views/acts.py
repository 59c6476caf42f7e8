"""audit and replay runs → who did what, when and why."""

from __future__ import annotations

from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.errors import ROWS_MAX
from evkit.views.frame import Frame, Frames, WindowLike, fetch, frame, view, window_of


@view("acts")
def acts(system: System, window: WindowLike = None, *, rows_max: int = ROWS_MAX, frames: Frames = "polars") -> Frame:
    """Every act that changed what happens to events (redrive, archive, purge, replay, skip) in the window.

    Args:
        window    a `Window`, "2h", "FROM/TO"; default: the last hour
        rows_max  most rows, the newest are kept

    Columns: see columns/

    Sorted by time, the newest first.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    rows = fetch(system, "journey", "acts", COLUMNS["acts"], since=seen.start, until=seen.end, rows_max=rows_max)
    return frame("acts", rows, frames)


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
