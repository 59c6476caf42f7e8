"""all tables → the way of one event, stop by stop."""

from __future__ import annotations

from evkit.errors import UnknownEvent
from evkit.postgres import address
from evkit.sql import named
from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.frame import Frame, Frames, frame, groups_of, view


@view("journey")
def journey(system: System, event_id: str, *, frames: Frames = "polars") -> Frame:
    """Everything evkit's tables know about one event: one row a stop, in the order in which it happened.

    Written, published, each failed attempt, processed (per group), parked, redriven or replayed, and what became of its
    dead letter. All times are the database's, so their order is real. Kafka is not asked.

    Columns: see columns/

    Sorted by time. Rows of different groups interleave; filter on `group` to follow one.

    Raises:
        UnknownEvent: no table knows the id; ids like it are in `suggestions`.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    queries = named("journey")
    with system.reading() as connection:
        groups = groups_of(system, connection)
        cursor = connection.execute(queries["journey"], {"event_id": event_id, "groups": groups})
        assert cursor.description is not None
        place = {column.name: index for index, column in enumerate(cursor.description)}
        rows = [[row[place[c.name]] for c in COLUMNS["journey"]] for row in cursor.fetchall()]
        if not rows:
            near = [r[0] for r in connection.execute(queries["like_event"], {"event_id": event_id}).fetchall()]
            raise UnknownEvent(event_id, near, where=f"to evkit's tables at {address(system.settings.postgres_dsn)}")
    return frame("journey", rows, frames)
