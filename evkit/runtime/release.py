"""parked table → handler: run what waited behind a letter, in order, until the key is free.

One event a transaction: the handler's writes, its inbox row and its leaving of the parked table commit together, so a
release that is killed goes on where it was. Meanwhile the consumer goes on parking what comes of the key. The key is freed
in a transaction that holds its row's lock and finds nothing behind it: from then on the consumer handles its events itself.

At the first event that fails it stops: that event becomes the letter which the others wait behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from evkit import postgres
from evkit.error_texts import message_of
from evkit.kafka import Record
from evkit.runtime.attempt import attempt_values, letter_values
from evkit.runtime.delivery import Delivery
from evkit.runtime.failure import Failure
from evkit.runtime.inbox import Inbox
from evkit.runtime.outcome import Counts
from evkit.sql import named
from evkit.system import System

_SQL = named("parking")
_INBOX = named("inbox")
_LETTERS = named("dead_letters")

# A deadlock with the consumer, which may be parking behind the same key, is nobody's fault and is repeated.
TRANSIENT_REPEATS_MAX = 20

Noted = Callable[[postgres.Connection, int | None], None]


@dataclass(frozen=True, slots=True)
class ParkedKey:
    """A key whose events wait, and the letter that they wait behind. `events` may be 0: none has come since."""

    consumer_group: str
    topic: str
    raw_key: bytes
    key: str | None
    letter_id: int
    letter_state: str | None
    error_class: str | None
    error_message: str | None
    events: int
    parked_at: datetime

    @property
    def parameters(self) -> dict[str, Any]:
        return {"group": self.consumer_group, "topic": self.topic, "raw_key": self.raw_key}


@dataclass(slots=True)
class Released:
    """How far the events behind a letter came.

    Attributes:
        handled    events that were handled
        skipped    events whose type has no handler
        failed_id  the letter of the event that failed; None: none did
        freed      nothing waits any more, and what comes is handled by the consumer
    """

    handled: int = 0
    skipped: int = 0
    failed_id: int | None = None
    freed: bool = False


def parked_keys(
    system: System,
    group: str | None = None,
    *,
    key: str | None = None,
    topic: str | None = None,
    letters: list[int] | None = None,
    keys_max: int | None = 1000,
) -> list[ParkedKey]:
    """Keys whose events wait behind a dead letter, the longest parked first. Changes nothing."""
    with system.reading() as connection:
        cursor = connection.cursor(row_factory=class_row(ParkedKey))
        found = cursor.execute(
            _SQL["keys"], {"group": group, "key": key, "topic": topic, "letters": letters, "keys_max": keys_max}
        ).fetchall()
    if not (policies := system.settings.masking):
        return found
    return [replace(k, error_message=message_of(k.error_message, policies, k.topic, None)) for k in found]


def lock(connection: postgres.Connection, key: ParkedKey) -> bool:
    """Whether this session may run the key's letter and what is behind it; False: another one is at it."""
    row = connection.execute(_SQL["lock"], key.parameters).fetchone()
    return row is not None and bool(row[0])


def unlock(connection: postgres.Connection, key: ParkedKey) -> None:
    """Give the key's lock back; it would else go with the session."""
    connection.execute(_SQL["unlock"], key.parameters)


def release(
    connection: postgres.Connection,
    key: ParkedKey,
    inbox: Inbox,
    *,
    ends: Callable[[], bool] | None = None,
    per_second_max: float | None = None,
    noted: Noted | None = None,
    alone: AbstractContextManager[Any] | None = None,
) -> Released:
    """Run the events that wait behind a key's letter; the caller holds the key's `lock`.

    Does nothing while a letter of the key is open: its event comes first. `ends` is asked before each event. `noted` is
    called in each event's transaction with the connection and, of an event that failed, the id of its letter; `alone` is
    entered around each of them.
    """
    result = Released()
    inbox.generation = 0
    if connection.execute(_SQL["open_letter"], key.parameters).fetchone() is not None:
        return result
    while ends is None or not ends():
        started = time.monotonic()
        with nullcontext() if alone is None else alone:
            more = _step(connection, key, inbox, result, noted)
        if not more:
            break
        if per_second_max:
            time.sleep(max(0.0, 1 / per_second_max - (time.monotonic() - started)))
    return result


def _step(connection: postgres.Connection, key: ParkedKey, inbox: Inbox, result: Released, noted: Noted | None) -> bool:
    """Handle the next event; False when there is none any more, or it failed."""
    transient = 0
    while True:
        started = time.monotonic()
        delivery: Delivery | None = None
        parked_id = 0
        try:
            with connection.transaction():
                row = connection.execute(_SQL["next"], key.parameters).fetchone()
                if row is None:
                    result.freed = _free(connection, key)
                    return not result.freed
                parked_id, delivery = row[0], Delivery.of(_record(row), inbox.handlers)
                if delivery.handler is None and delivery.problem is None:
                    _settle(connection, delivery, inbox, "skipped")
                else:
                    inbox.redrive(connection, delivery, attempt=1)
                connection.execute(_SQL["remove"], key.parameters | {"parked_id": parked_id})
                if noted is not None:
                    noted(connection, None)
            if delivery.handler is None:
                result.skipped += 1
                inbox.metrics.ended(Counts(skipped=1), replay=True)
            else:
                result.handled += 1
                inbox.metrics.ended(Counts(handled=1), replay=True)
            return True
        except Exception as error:
            if delivery is None or postgres.is_lost(connection, error) or isinstance(error, MemoryError):
                raise
            if postgres.is_transient(error) and transient < TRANSIENT_REPEATS_MAX:
                transient += 1
                time.sleep(0.01 * transient)
                continue
            result.failed_id = _bury(
                connection, key, inbox, delivery, parked_id, Failure.of(error), time.monotonic() - started, noted
            )
            return False


def _free(connection: postgres.Connection, key: ParkedKey) -> bool:
    """Whether the key is free now: only when none has been parked while we waited for its lock."""
    if connection.execute(_SQL["lock_key"], key.parameters).fetchone() is None:
        return True
    return connection.execute(_SQL["free"], key.parameters).rowcount == 1


def _settle(connection: postgres.Connection, delivery: Delivery, inbox: Inbox, outcome: str) -> None:
    connection.execute(
        _SQL["settle"],
        {"group": inbox.group, "event_id": delivery.event_id, "outcome": outcome, "replay_id": inbox.replay_id},
    )


def _bury(
    connection: postgres.Connection,
    key: ParkedKey,
    inbox: Inbox,
    delivery: Delivery,
    parked_id: int,
    failure: Failure,
    seconds: float,
    noted: Noted | None,
) -> int:
    """The event that failed is a letter now, and the others wait behind it; in one transaction."""
    with connection.transaction():
        values = attempt_values(inbox, delivery, failure, attempt=1, seconds=seconds, disposition="dead")
        connection.execute(_INBOX["attempt"], values)
        values = letter_values(inbox, delivery, failure, attempt=1)
        letter = connection.execute(_LETTERS["park"], values).fetchone()
        assert letter is not None
        if inbox.mirror is not None:
            inbox.mirror.write(connection, letter[0], values)
        _settle(connection, delivery, inbox, "dead")
        connection.execute(_SQL["remove"], key.parameters | {"parked_id": parked_id})
        connection.execute(_SQL["park"], key.parameters | {"key": key.key, "letter_id": letter[0]})
        if noted is not None:
            noted(connection, letter[0])
    inbox.metrics.failed("dead", replay=True)
    inbox.metrics.ended(Counts(dead=1), replay=True)
    return int(letter[0])


def _record(row: tuple[Any, ...]) -> Record:
    """A parked event as if it had just been polled."""
    (
        _, _, topic, partition, offset, leader_epoch, appended_at, timestamp_type, key, value, names, values, received_at,
    ) = row  # fmt: skip
    return Record(
        topic=topic, partition=partition, offset=offset, key=key, value=value,
        headers=list(zip(names, values, strict=True)), timestamp=appended_at, timestamp_type=timestamp_type,
        leader_epoch=leader_epoch, received_at=received_at,
    )  # fmt: skip
