"""breaker → handlers that are held, or were, because their events all fail alike."""

from __future__ import annotations

from evkit.error_texts import message_of
from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.frame import Frame, Frames, fetch, frame, view


@view("breakers")
def breakers(system: System, *, group: str | None = None, frames: Frames = "polars") -> Frame:
    """Handlers that are held now, and the last time of those that were: a row for each handler that ever was.

    Args:
        group  one consumer group; default: all

    Columns: see columns/

    The open ones first, the longest open first.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    rows = fetch(system, "breaker", "breakers_now", COLUMNS["breakers"], group=group)
    # Which event it was is not known: it is under every policy.
    message = [c.name for c in COLUMNS["breakers"]].index("error_message")
    for row in rows:
        row[message] = message_of(row[message], system.settings.masking, None, None)
    return frame("breakers", rows, frames)
