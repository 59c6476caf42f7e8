"""handler's follow-up event → outbox: as it is, marked as replayed, or not at all, as a replay says.

What a handler writes in a replay is written a second time: the first one was published long ago. Whoever replays says what
becomes of it. That holds for `tx.write` and for `outbox.write` on the handler's connection, not for rows that a handler
inserts into evkit.outbox by SQL of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import psycopg

from evkit.event import REPLAY_ID, Event, marked

Emit = Literal["none", "marked", "normal"]

# Connections on which a replay's handlers run at this moment.
_replaying: WeakKeyDictionary[psycopg.Connection[Any], Emission] = WeakKeyDictionary()


@dataclass(slots=True)
class Emission:
    """What becomes of follow-up events on one connection, and how many there were since somebody last set it to 0."""

    replay_id: str
    emit: Emit
    events: int = 0

    def of(self, event: Event) -> Event | None:
        """The event to write; None: none."""
        self.events += 1
        if self.emit == "none":
            return None
        if self.emit == "marked":
            return marked(event, REPLAY_ID, self.replay_id)
        headers = {name: value for name, value in event.headers.items() if (name, value) != (REPLAY_ID, self.replay_id)}
        return replace(event, headers=headers)


@contextmanager
def emitting(connection: psycopg.Connection[Any], emission: Emission) -> Iterator[None]:
    """Inside, events that are written on this connection go through `emission`."""
    _replaying[connection] = emission
    try:
        yield
    finally:
        del _replaying[connection]


def written(connection: psycopg.Connection[Any], event: Event) -> Event | None:
    """What is to be written into the outbox on this connection for this event; None: nothing."""
    if not _replaying:
        return event
    emission = _replaying.get(connection)
    return event if emission is None else emission.of(event)
