"""records in line → deliveries: decode what comes next while PostgreSQL works on what is in hand.

To make an event of a record takes a client as long as PostgreSQL needs to claim it, and most of a handler's time is waiting
for its statements. So a few records after the other are decoded in these waits, until the answer is there. Nothing is taken
out of its line for it: what turns out not to come next is decoded again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from evkit import postgres
from evkit.runtime.assignment import Assignment, Work
from evkit.runtime.delivery import Delivery, Source
from evkit.runtime.handler import Handlers

# Records, and bytes, decoded in one go: enough of them for it to be done a column at a time, and few enough not to keep an
# answer waiting. The answer to a handler's own small statement is there after `A_FEW`.
SOME, SOME_BYTES, A_FEW = 32, 256 * 1024, 4


class LookAhead:
    """For one thread.

    Attributes:
        upcoming  what a next batch is likely to be made of; None: nobody knows, and nothing is decoded ahead
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self._decoded: dict[Source, Delivery] = {}
        self._left: list[Work] | None = None  # what is still to be decoded, the next one last; None: nobody has asked
        self.upcoming: Callable[[], Sequence[Work]] | None = None
        self._most = SOME

    def look_at_some(self) -> bool:
        """Decode a few more of what is likely to come next; whether there were any.

        At the first look after `deliveries`, what was decoded before and does not come next is forgotten.
        """
        if self._left is None:
            before, self._decoded, self._left = self._decoded, {}, []
            for work in reversed(self.upcoming() if self.upcoming is not None else ()):
                if (delivery := before.get(work)) is not None:
                    self._decoded[work] = delivery
                else:
                    self._left.append(work)
        if not self._left:
            return False
        some: list[Work] = []
        size = 0
        while self._left and len(some) < self._most and size < SOME_BYTES:
            some.append(self._left.pop())
            size += some[-1].size
        self._decoded.update(zip(some, Delivery.of_all(some, self._handlers), strict=True))
        return True

    @contextmanager
    def waiting(self, connection: postgres.Connection) -> Iterator[None]:
        """While this connection waits for an answer in here, decode what comes next."""
        connection.meanwhile = self.look_at_some
        try:
            yield
        finally:
            connection.meanwhile = None

    @contextmanager
    def in_short_waits(self) -> Iterator[None]:
        """In here answers are there at once."""
        self._most = A_FEW
        try:
            yield
        finally:
            self._most = SOME

    def deliveries(self, sources: Sequence[Source]) -> list[Delivery]:
        """Each record on its way to a handler; none is handed out twice, for a handler may change what it is given."""
        decoded, self._left = self._decoded, None
        ahead = [decoded.pop(source, None) if type(source) is Work else None for source in sources]
        rest = [source for source, delivery in zip(sources, ahead, strict=True) if delivery is None]
        if not rest:
            return ahead  # type: ignore[return-value]
        others = iter(Delivery.of_all(rest, self._handlers))
        return [delivery if delivery is not None else next(others) for delivery in ahead]


def in_line(assignment: Assignment, changed: threading.Condition, records_max: int, lanes: int) -> list[Work]:
    """What a lane may handle next; not known where several share the work. `changed` guards the assignment."""
    if lanes > 1:
        return []
    with changed:
        return assignment.upcoming(records_max)
