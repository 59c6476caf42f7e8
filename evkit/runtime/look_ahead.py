"""records in line → deliveries: decode what comes next while PostgreSQL works on what is in hand.

To make an event of a record takes a client longer than PostgreSQL needs to claim it (20 and 7 us an event, measured, the
records being spread over the memory), and most of a handler's time is waiting for its statements. So one record after the
other is decoded in these waits, until the answer is there. Nothing is taken out of its line for it: what turns out not to
come next is decoded again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from evkit import postgres
from evkit.kafka import Record
from evkit.runtime.assignment import Assignment, Work
from evkit.runtime.delivery import Delivery
from evkit.runtime.handler import Handlers


class LookAhead:
    """For one thread.

    Attributes:
        upcoming  what a next batch is likely to be made of; None: nobody knows, and nothing is decoded ahead
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        # By the record's identity; a delivery holds its record, so that no other one has it.
        self._decoded: dict[int, Delivery] = {}
        self._left: list[Work] | None = None  # what is still to be decoded, the next one last; None: nobody has asked
        self.upcoming: Callable[[], Sequence[Work]] | None = None

    def look_at_one(self) -> bool:
        """Decode one more of what is likely to come next; whether there was one.

        At the first look after `deliveries`, what was decoded before and does not come next is forgotten.
        """
        if self._left is None:
            before, self._decoded, self._left = self._decoded, {}, []
            for work in reversed(self.upcoming() if self.upcoming is not None else ()):
                if (delivery := before.get(id(work.source))) is not None:
                    self._decoded[id(work.source)] = delivery
                else:
                    self._left.append(work)
        if not self._left:
            return False
        record = self._left.pop().record
        self._decoded[id(record)] = Delivery.of(record, self._handlers)
        return True

    @contextmanager
    def waiting(self, connection: postgres.Connection) -> Iterator[None]:
        """While this connection waits for an answer in here, decode what comes next."""
        connection.meanwhile = self.look_at_one
        try:
            yield
        finally:
            connection.meanwhile = None

    def deliveries(self, records: Sequence[Record]) -> list[Delivery]:
        """Each record on its way to a handler; none is handed out twice, for a handler may change what it is given."""
        decoded, handlers = self._decoded, self._handlers
        self._left = None
        return [
            ahead if (ahead := decoded.pop(id(record), None)) is not None else Delivery.of(record, handlers)
            for record in records
        ]


def in_line(assignment: Assignment, changed: threading.Condition, records_max: int, lanes: int) -> list[Work]:
    """What a lane may handle next; not known where several share the work. `changed` guards the assignment."""
    if lanes > 1:
        return []
    with changed:
        return assignment.upcoming(records_max)
