"""dead or parked events → their handlers, after all: several in one open transaction, in order.

The letters of a redrive and the events behind them come through here. Where one fails, it is told which, the caller's
transaction is rolled back, and what comes before it is taken again without it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby

from evkit import postgres
from evkit.runtime import claims
from evkit.runtime.delivery import Delivery, required_handler
from evkit.runtime.inbox import FailedAt, Inbox


def handle(
    connection: postgres.Connection, inbox: Inbox, deliveries: Sequence[Delivery], attempts: Sequence[int]
) -> None:
    """Handle these, each with the number of its attempt; their inbox rows turn to handled, once.

    An event that was handled meanwhile in another way is left alone.

    Raises:
        FailedAt: the event (its index) that cannot be handled, or whose handler raised.
        What a handler raised, where it is not known at which event that was.
    """
    if not deliveries:
        return
    started, ahead = time.monotonic(), inbox.event_seconds * len(deliveries)
    handlers = []
    for i, delivery in enumerate(deliveries):
        try:
            handlers.append(required_handler(delivery, inbox.handlers, inbox.group))
        except Exception as problem:
            raise FailedAt(i, 0.0) from problem
    everything = range(len(deliveries))
    wanted: list[int] = []
    with inbox.observed(list(deliveries)):
        for handler, stretch in groupby(everything, key=lambda i: handlers[i]):
            indexes = list(stretch)
            waited = claims.reclaim(connection, inbox, handler.name, [deliveries[i] for i in indexes], ahead)
            for i in indexes:
                if (
                    deliveries[i].event_id in waited
                    or claims.claim(connection, inbox, [deliveries[i]], attempts=attempts[i])[0]
                ):
                    wanted.append(i)
        stale = inbox.stale(connection, [deliveries[i] for i in wanted])
        for (handler, attempt), some in groupby(wanted, key=lambda i: (handlers[i], attempts[i])):
            indexes = list(some)
            try:
                inbox.call(connection, handler, [deliveries[i] for i in indexes], attempt, stale, in_batch=True)
            except FailedAt as failure:
                failure.index = indexes[failure.index]
                raise
        inbox.processed(connection, [deliveries[i] for i in wanted], started, ahead)
        inbox.event_seconds = (time.monotonic() - started) / len(deliveries)


def handle_one(connection: postgres.Connection, inbox: Inbox, delivery: Delivery, attempt: int) -> None:
    """The same for one event.

    Raises:
        RedriveRefused: this group has no handler for the event (any more).
        Undecodable, SchemaMismatch, and whatever the handler raises.
    """
    error: BaseException | None = None
    try:
        handle(connection, inbox, [delivery], [attempt])
    except FailedAt as failed:
        error = failed.__cause__
    if error is not None:
        raise error  # out here, so that nothing is in its chain that the handler did not raise
