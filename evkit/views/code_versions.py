"""inbox and attempts → which versions of its code a group ran, from when to when."""

from __future__ import annotations

from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.frame import Frame, Frames, WindowLike, fetch, frame, view, window_of


@view("code_versions")
def code_versions(
    system: System, window: WindowLike = None, *, group: str | None = None, frames: Frames = "polars"
) -> Frame:
    """Every version of each group's code that handled or failed an event in the window, live ones alone.

    Only consumers that say their `code_version` are seen. Versions overlap while a deploy rolls over several members.

    Args:
        window  a `Window`, or a length that ends now ("2h"); default: the last hour
        group   one consumer group; default: all

    Columns: see columns/

    Sorted by group, then by the first event.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    columns = COLUMNS["code_versions"]
    rows = fetch(system, "code_versions", "code_versions", columns, group=group, since=seen.start, until=seen.end)
    return frame("code_versions", rows, frames)
