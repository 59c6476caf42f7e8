"""delivery → inbox row: claim it for a group, once, and say what became of it.

Each of these runs in the open transaction of the handler's own writes, and commits with them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import psycopg

from evkit import postgres
from evkit.kafka import Message
from evkit.postgres import Array, Times, micros, text_array
from evkit.runtime.assignment import Place
from evkit.runtime.delivery import Delivery, messages_of
from evkit.runtime.fetched import time_of
from evkit.sql import named

log = logging.getLogger(__name__)

_SQL = named("inbox")

# After so many batches in a row that were new as a whole, the next one is expected to be.
_NEW_BATCHES_MIN = 3


class Who(Protocol):
    """For whom: an inbox."""

    group: str
    generation: int
    replay_id: str | None
    code_version: str | None

    @property
    def name(self) -> str: ...


class Known(Exception):
    """Raised when an event was expected to be new, and is not; the transaction is broken."""


class Expectation:
    """Claims whole batches, as new ones in half the time when the last few were new as a whole.

    A batch that is not costs a rollback, and a line in PostgreSQL's log; what comes again comes in stretches, after a start
    or a rebalance, and mostly nothing does.
    """

    def __init__(self) -> None:
        self._new_batches = 0

    def claim(
        self,
        connection: postgres.Connection,
        who: Who,
        batch: list[Delivery],
        ahead_seconds: float,
    ) -> tuple[list[Delivery], int]:
        """See `claim`, for the first attempt at each.

        Raises:
            Known: an event is known already, or is in the batch twice; once more will be without an expectation.
        """
        if self._new_batches < _NEW_BATCHES_MIN:
            claimed = claim(connection, who, batch, attempts=1, ahead_seconds=ahead_seconds)
            self._new_batches = self._new_batches + 1 if len(claimed[0]) == len(batch) else 0
            return claimed
        try:
            connection.execute(_SQL["claim_new"], _values(who, batch, 1, None, ahead_seconds))
        except psycopg.errors.UniqueViolation:
            self._new_batches = 0
            raise Known from None
        return batch, 0


def claim(
    connection: postgres.Connection,
    who: Who,
    batch: list[Delivery],
    *,
    attempts: int,
    outcome: str | None = None,
    ahead_seconds: float = 0.0,
) -> tuple[list[Delivery], int]:
    """Write the inbox rows of a batch, whose handlers are expected to be through in so many seconds.

    Returns the deliveries that are new to this group, in their order, and how many of the others were no copies of what
    it knows but other events under the same id.
    """
    values = _values(who, batch, attempts, outcome, ahead_seconds)
    new_ids = {row[0] for row in connection.execute(_SQL["claim"], values).fetchall()}
    if len(new_ids) == len(batch):
        return batch, 0
    conflicts = connection.execute(_SQL["flag_conflicts"], values).fetchall()
    if conflicts:
        event_id, *place = conflicts[0]
        log.warning(
            "%s: %s records came under ids that it has dealt with, and are other events; they are not handled, and "
            "counted in evkit.id_conflict. One is '%s' at %s/%s/%s: its producer gives ids twice",
            who.name, len(conflicts), event_id, *place,
        )  # fmt: skip
    new = []
    for delivery in batch:
        if delivery.event_id in new_ids:
            new_ids.discard(delivery.event_id)  # a second copy inside the batch is a duplicate
            new.append(delivery)
    return new, len(conflicts)


def _values(
    who: Who, batch: list[Delivery], attempts: int, outcome: str | None, ahead_seconds: float
) -> dict[str, Any]:
    columns = _columns(batch)
    return {
        "group": who.group,
        "generation": who.generation,
        "attempts": attempts,
        "ahead": ahead_seconds,
        "replay_id": who.replay_id,
        "code_version": who.code_version,
        "event_id": text_array([d.event_id for d in batch]),
        "event_type": text_array([d.event_type for d in batch]),
        "topic": text_array([topic for topic, _ in columns.places]),
        "partition": Array([partition for _, partition in columns.places]),
        "offset": Array([d.source.offset for d in batch]),
        "key": text_array([d.key for d in batch]),
        "outcome": text_array([outcome or ("skipped" if d.handler is None else "handled") for d in batch]),
        "created_at": Times([_micros(d.event.created_at) if d.event is not None else None for d in batch]),
        "appended_at": columns.appended_at,
        "received_at": Times([_micros(d.source.received_at) for d in batch]),
        "payload_crc32": Array(map(crc32, columns.values)),
        "handler": text_array([d.handler.name if d.handler else None for d in batch]),
    }


@lru_cache(1000)  # events come many in a moment
def _micros(at: datetime | None) -> int | None:
    return None if at is None else micros(at)


class _Columns(NamedTuple):
    """What an inbox row has of its record."""

    places: list[Place]
    appended_at: Times
    values: list[bytes]


def _columns(batch: list[Delivery]) -> _Columns:
    messages = messages_of([d.source for d in batch])
    if messages is None:
        records = [d.record for d in batch]
        return _Columns(
            [(record.topic, record.partition) for record in records],
            Times([_micros(record.timestamp) for record in records]),
            [record.value or b"" for record in records],
        )
    values = list(map(Message.value, messages))
    return _Columns(
        [d.place for d in batch],
        Times([_micros(time_of(message)) for message in messages]),
        [value or b"" for value in values] if None in values else values,  # type: ignore[arg-type]
    )


def reclaim(
    connection: postgres.Connection, who: Who, handler: str, deliveries: Sequence[Delivery], ahead_seconds: float
) -> set[str]:
    """Ids of those of a handler's events that were waiting, dead or parked; their rows turn to handled, which they are
    expected to be in so many seconds."""
    values = {
        "group": who.group,
        "generation": who.generation,
        "event_ids": text_array([d.event_id for d in deliveries]),
        "ahead": ahead_seconds,
        "replay_id": who.replay_id,
        "handler": handler,
        "code_version": who.code_version,
    }
    return {row[0] for row in connection.execute(_SQL["reclaim"], values).fetchall()}


def processed(connection: postgres.Connection, who: Who, handled: Sequence[Delivery]) -> None:
    """Set processed_at of these to now."""
    event_ids = text_array([d.event_id for d in handled])
    connection.execute(
        _SQL["processed_now"], {"group": who.group, "generation": who.generation, "event_ids": event_ids}
    )


def before(connection: postgres.Connection, who: Who, delivery: Delivery) -> tuple[int, float, int]:
    """Attempts at this event so far, seconds since the first, and how many more failed through nobody's fault."""
    row = connection.execute(_SQL["attempts_before"], _one(who, delivery)).fetchone()
    assert row is not None
    return int(row[0]), float(row[1]), int(row[2])


def _one(who: Who, delivery: Delivery) -> dict[str, object]:
    return {"group": who.group, "event_id": delivery.event_id, "generation": who.generation}
