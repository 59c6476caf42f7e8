"""unpublishable rows → another try, or out of the way: what people decide about events that the broker would not take.

The relay parks such a row with its error and holds later events of its key behind it. `retry` asks the relay for another
try, of the row and of what waits behind it, in order; `skip` says that the row is never to be published, and lets what
waits behind it go. Both are recorded before they begin, and act on the positions that were shown, not on a filter that
may match more by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from evkit.errors import Refused
from evkit.runtime import audit
from evkit.sql import named
from evkit.system import System

_SQL = named("unpublishable")


@dataclass(frozen=True, slots=True)
class Unpublishable:
    """An outbox row that was not published.

    Attributes:
        position          of its outbox row
        state             'parked', 'held' behind another, 'retry' asked for, 'published' after all, 'skipped'
        topic, key        where it should go
        event_id, event_type  None when its partition of the outbox is dropped
        attempts          how often it was tried; 0 for a held one
        error_class       Kafka's name of the error, or what was wrong before it was sent
        error             in words
        parked_at, state_changed_at  UTC
        held              later events of its key that wait behind it
    """

    position: int
    state: str
    topic: str
    key: str
    event_id: str | None
    event_type: str | None
    attempts: int
    error_class: str | None
    error: str | None
    parked_at: datetime
    state_changed_at: datetime
    held: int


def rows(
    system: System,
    *,
    positions: Sequence[int] | None = None,
    topic: str | None = None,
    key: str | None = None,
    error_class: str | None = None,
    states: Sequence[str] = ("parked",),
    rows_max: int | None = None,
) -> list[Unpublishable]:
    """Rows that match all that is given, by position. Changes nothing.

    Raises:
        DatabaseUnreachable, NotMigrated.
    """
    with system.reading() as connection:
        found = connection.execute(
            _SQL["rows"],
            {
                "positions": list(positions) if positions is not None else None,
                "topic": topic,
                "key": key,
                "error_class": error_class,
                "states": list(states),
                "rows_max": rows_max,
            },
        ).fetchall()
    return [Unpublishable(*row) for row in found]


def retry(system: System, positions: Sequence[int], *, reason: str | None = None) -> list[int]:
    """Ask the relay for another try at parked (or skipped) rows; returns the positions that were.

    It publishes them, and what is held behind them, in order of each key, when it looks next (100 ms at most). What fails
    again is parked again, with one more attempt. A skipped row that is tried again comes behind what was published since.

    Side effects: their state, and an audit row.

    Raises:
        Refused: one of them is not parked or skipped; nothing is changed then.
        DatabaseUnreachable, NotMigrated.
    """
    return _decide(system, "outbox.retry", "ask_for_retry", positions, reason, ("parked", "skipped"))


def skip(system: System, positions: Sequence[int], *, reason: str | None = None) -> list[int]:
    """Say that parked rows are never to be published; what is held behind them goes on. Returns their positions.

    Side effects: their state, that of the rows behind them, and an audit row.

    Raises: see `retry`.
    """
    return _decide(system, "outbox.skip", "skip", positions, reason, ("parked", "retry"))


def _decide(
    system: System, act: str, query: str, positions: Sequence[int], reason: str | None, states: tuple[str, ...]
) -> list[int]:
    wanted = sorted(set(positions))
    with system.writing(f"evkit {act}", autocommit=True) as connection:
        audit_id = audit.begin(connection, act, ", ".join(map(str, wanted[:50])), {"positions": wanted}, reason)
        with connection.transaction():
            done = sorted(row[0] for row in connection.execute(_SQL[query], (wanted,)).fetchall())
            missing = sorted(set(wanted) - set(done))
            if missing:
                raise Refused(
                    f"outbox position {missing[0]} is not {' or '.join(states)} (any more), so nothing was changed: "
                    "look again with `evkit outbox unpublishable`"
                )
            connection.execute(_SQL["decided"])
            released = connection.execute(_SQL["release_behind"], (wanted,)).fetchall() if query == "skip" else []
        audit.end(connection, audit_id, {"changed": len(done), "released": len(released)})
    return done
