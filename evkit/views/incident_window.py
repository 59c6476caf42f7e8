"""annotation table → the window that an incident's name stands for: `window="incident:INC-12"`."""

from __future__ import annotations

from datetime import UTC

from evkit.errors import InvalidParameter, UnknownIncident
from evkit.sql import named
from evkit.system import System
from evkit.window import Window, present

PREFIX = "incident:"


def incident_named(window: str) -> str | None:
    """The incident that a window's text names; None when it names none."""
    text = window.strip()
    return text[len(PREFIX) :].strip() if text.lower().startswith(PREFIX) else None


def incident_window(system: System, name: str) -> Window:
    """The stretch of time of an incident; of one that is not over, until now.

    Raises:
        UnknownIncident: no incident of this name was written down; near matches are in `suggestions`.
        InvalidParameter: it begins now, and there is nothing of it to look at yet.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    with system.reading() as connection:
        rows = connection.execute(named("annotations")["incidents"]).fetchall()
    known = {row[0]: row[1:] for row in rows}
    if name not in known:
        raise UnknownIncident(name, known)
    at, until = (None if moment is None else moment.astimezone(UTC) for moment in known[name])
    assert at is not None
    end = until or present()
    if end <= at:
        raise InvalidParameter(
            f"incident '{name}' begins at {at.isoformat()}, and now it is {end.isoformat()}: there is nothing of it yet",
            name="window",
            value=PREFIX + name,
        )
    return Window(at, end)
