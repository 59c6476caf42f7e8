"""records in line → deliveries: decode what comes next while PostgreSQL works on what is in hand.

Decoding a batch takes a client about as long as claiming one takes PostgreSQL (15 and 16 us an event, measured), so one of
the two costs no time. Nothing is taken out of its line for it: what turns out not to come next is decoded again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from evkit.kafka import Record
from evkit.runtime.assignment import Assignment
from evkit.runtime.delivery import Delivery
from evkit.runtime.handler import Handlers


class LookAhead:
    """For one thread.

    Attributes:
        upcoming  the records that a next batch is likely to be made of; None: nobody knows, and nothing is decoded ahead
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        # By the record's identity; a delivery holds its record, so that no other one has it.
        self._decoded: dict[int, Delivery] = {}
        self.upcoming: Callable[[], Sequence[Record]] | None = None

    def look(self) -> None:
        """Decode what is likely to come next, and forget what was decoded before and did not."""
        if self.upcoming is not None:
            self._decoded = {id(record): Delivery.of(record, self._handlers) for record in self.upcoming()}

    def deliveries(self, records: Sequence[Record]) -> list[Delivery]:
        """Each record on its way to a handler; none is handed out twice, for a handler may change what it is given."""
        decoded, handlers = self._decoded, self._handlers
        return [
            ahead if (ahead := decoded.pop(id(record), None)) is not None else Delivery.of(record, handlers)
            for record in records
        ]


def in_line(assignment: Assignment, changed: threading.Condition, records_max: int, lanes: int) -> list[Record]:
    """What a lane may handle next; not known where several share the work. `changed` guards the assignment."""
    if lanes > 1:
        return []
    with changed:
        return assignment.upcoming(records_max)
