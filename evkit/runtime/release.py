"""parked table → handler: run what waited behind a letter, in order, until the key is free.

The handlers' writes, the inbox rows and the events' leaving of the parked table commit together, so a release that is
killed goes on where it was. Meanwhile the consumer goes on parking what comes of the key. The key is freed in a transaction
that holds its row's lock and finds nothing behind it: from then on the consumer handles its events itself.

The first event goes by itself; after that as many together as about a second takes. One transaction an event would come
out behind a key of which much comes, for ever: the consumer's batches and the release take turns at the key's row.

At the first event that fails it stops: that event becomes the letter which the others wait behind. What was taken together
with it is rolled back, and what comes before it is taken again.
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
from evkit.postgres import integer_array
from evkit.runtime import together
from evkit.runtime.attempt import attempt_values, letter_values
from evkit.runtime.delivery import Delivery
from evkit.runtime.failure import Failure
from evkit.runtime.inbox import FailedAt, Inbox
from evkit.runtime.letters import require_group
from evkit.runtime.outcome import Counts
from evkit.sql import named
from evkit.system import System

_SQL = named("parking")
_INBOX = named("inbox")
_LETTERS = named("dead_letters")

# A deadlock with the consumer, which may be parking behind the same key, is nobody's fault and is repeated.
TRANSIENT_REPEATS_MAX = 20

# Most events in one transaction, as in a consumer's batch; how long it may take, for so long nobody can cancel it; and how
# much of payloads it may have in memory.
EVENTS_MAX = 500
SECONDS_MAX = 1.0
BYTES_MAX = 16 * 1024 * 1024

Noted = Callable[[postgres.Connection, int, int | None], None]


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
    """Keys whose events wait behind a dead letter, the longest parked first. Changes nothing.

    Raises:
        UnknownGroup: evkit's tables do not know the group; near matches are in `suggestions`.
    """
    with system.reading() as connection:
        if group is not None and letters is None:
            require_group(connection, group)
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

    Does nothing while a letter of the key is open: its event comes first. `ends` is asked before each transaction. `noted`
    is called in each with the connection, how many events are through and, of one that failed, the id of its letter;
    `alone` is entered around each of them.
    """
    inbox.generation = 0
    tail = _Tail(connection, key, inbox, noted)
    if connection.execute(_SQL["open_letter"], key.parameters).fetchone() is not None:
        return tail.result
    while ends is None or not ends():
        started = time.monotonic()
        with nullcontext() if alone is None else alone:
            events = tail.step(EVENTS_MAX if per_second_max is None else max(1, int(per_second_max)))
        if events is None:
            break
        if per_second_max:
            time.sleep(max(0.0, events / per_second_max - (time.monotonic() - started)))
    return tail.result


class _Tail:
    """What waits behind a key's letter, on its way through the handlers.

    Attributes:
        result  how far it has come
    """

    def __init__(self, connection: postgres.Connection, key: ParkedKey, inbox: Inbox, noted: Noted | None) -> None:
        self.result = Released()
        self._connection = connection
        self._key = key
        self._inbox = inbox
        self._noted = noted
        self._most = 1
        self._transient = 0
        # The event that failed among others, and its failure, until what comes before it is done.
        self._met: tuple[int, FailedAt] | None = None

    def step(self, events_max: int) -> int | None:
        """Take the next few together; how many are through now. None: nothing waits any more, or one has failed."""
        started = time.monotonic()
        waiting: list[tuple[int, Delivery]] = []
        try:
            with self._connection.transaction():
                values = self._key.parameters | {"events_max": min(self._most, events_max), "bytes_max": BYTES_MAX}
                for row in self._connection.execute(_SQL["next"], values).fetchall():
                    waiting.append((row[0], Delivery.of(_record(row), self._inbox.handlers)))
                if not waiting:
                    self.result.freed = _free(self._connection, self._key)
                    return None if self.result.freed else 0
                if self._met is not None and self._met[0] == waiting[0][0]:
                    raise self._met[1]
                handled = self._handle(waiting)
        except Exception as error:
            return self._failed(waiting, error, time.monotonic() - started)
        self._transient = 0
        each = (time.monotonic() - started) / len(waiting)
        self._most = max(1, min(2 * self._most, EVENTS_MAX, int(SECONDS_MAX / each)))
        self._count(handled, len(waiting) - handled)
        return len(waiting)

    def _handle(self, waiting: list[tuple[int, Delivery]]) -> int:
        """Bring these to their end in the open transaction; how many were handled, and not skipped."""
        connection, inbox = self._connection, self._inbox
        wanted = [d for _, d in waiting if d.handler is not None or d.problem is not None]
        try:
            together.handle(connection, inbox, wanted, [1] * len(wanted))
        except FailedAt as failure:
            failed = wanted[failure.index]
            failure.index = next(i for i, (_, delivery) in enumerate(waiting) if delivery is failed)
            raise
        for _, delivery in waiting:
            if delivery.handler is None:
                _settle(connection, delivery, inbox, "skipped")
        ids = integer_array(parked_id for parked_id, _ in waiting)
        connection.execute(_SQL["remove"], self._key.parameters | {"parked_ids": ids})
        if self._noted is not None:
            self._noted(connection, len(waiting), None)
        return len(wanted)

    def _count(self, handled: int, skipped: int) -> None:
        self.result.handled += handled
        self.result.skipped += skipped
        self._inbox.metrics.ended(Counts(handled=handled, skipped=skipped), replay=True)

    def _failed(self, waiting: list[tuple[int, Delivery]], raised: Exception, seconds: float) -> int | None:
        """What an error means for the next step: once more, fewer together, or (None) the end, with a letter."""
        error = raised.__cause__ if isinstance(raised, FailedAt) else raised
        if not waiting or not isinstance(error, Exception) or isinstance(error, MemoryError):
            raise raised
        if postgres.is_lost(self._connection, error):
            raise error
        if postgres.is_transient(error) and self._transient < TRANSIENT_REPEATS_MAX:
            self._transient += 1
            time.sleep(0.01 * self._transient)
            return 0
        if isinstance(raised, FailedAt):
            if raised.index:
                self._most, self._met = raised.index, (waiting[raised.index][0], raised)
                raised.index = 0  # of what it will be among then
                return 0
            seconds = raised.seconds
        elif len(waiting) > 1:
            self._most = len(waiting) // 2
            return 0
        parked_id, delivery = waiting[0]
        failure = Failure.of(error)
        self.result.failed_id = _bury(
            self._connection, self._key, self._inbox, delivery, parked_id, failure, seconds, self._noted
        )
        return None


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
        connection.execute(_SQL["remove"], key.parameters | {"parked_ids": integer_array([parked_id])})
        connection.execute(_SQL["park"], key.parameters | {"key": key.key, "letter_id": letter[0]})
        if noted is not None:
            noted(connection, 0, letter[0])
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
