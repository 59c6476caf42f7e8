"""handler → inbox table: handle each event once for each group, or make a dead letter of it.

The inbox row and the handler's writes are one transaction: a redelivery, a second copy in the topic, a rebalance, a zombie
or a kill -9 finds the row and changes nothing (P4). Batches are optimistic: all inbox rows of a batch in one statement,
then the handlers, one commit. When one event fails the batch is rolled back and taken again in parts, without the bad one
between them: it costs its neighbours nothing but time, and the guarantee does not depend on the size of a batch.

What ends as a dead letter is marked in the inbox in the same transaction that writes the letter (P5). A PostgreSQL that
went away is nobody's fault: the work is done again on a new connection and no attempt is counted. If it went away during
a commit, the inbox row tells on the second try whether that commit had happened.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from zlib import crc32

import psycopg
from psycopg.pq import TransactionStatus

from evkit import postgres
from evkit.errors import RedriveRefused
from evkit.kafka import Record
from evkit.runtime.attempt import attempt_values, letter_values
from evkit.runtime.delivery import Delivery
from evkit.runtime.failure import Failure
from evkit.runtime.handler import Handler, Handlers, Tx
from evkit.runtime.parking import FULL_SECONDS, Parking, ParkingFull, parks
from evkit.runtime.retry import NOBODYS_FAULT, Retry
from evkit.runtime.session import Session, Stopped
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_SQL = named("inbox")
_LETTERS = named("dead_letters")

# Serialization failures and deadlocks are repeated at once, without counting, up to here: a handler that deadlocks with
# itself must not do so for ever.
_TRANSIENT_REPEATS_MAX = 20
# A batch that takes longer than this writes processed_at once more: end-to-end latency is to the effect, not to the claim.
_CLAIM_SECONDS_MAX = 0.05


class _FailedAt(Exception):
    """A handler raised (`__cause__`) at this event of its run."""

    def __init__(self, index: int) -> None:
        self.index = index


@dataclass(slots=True)
class Counts:
    """How many events of a stretch ended in which way."""

    handled: int = 0
    duplicate: int = 0  # the inbox had seen them
    skipped: int = 0  # no handler for their type, or passed over by the decode function
    dead: int = 0
    parked: int = 0  # wait behind a dead letter of their key
    conflicting: int = 0  # of the duplicates: no copies, but other events under a known id (evkit.id_conflict)

    def __iadd__(self, other: Counts) -> Counts:
        self.handled += other.handled
        self.duplicate += other.duplicate
        self.skipped += other.skipped
        self.dead += other.dead
        self.parked += other.parked
        self.conflicting += other.conflicting
        return self

    @property
    def total(self) -> int:
        return self.handled + self.duplicate + self.skipped + self.dead + self.parked


@dataclass(slots=True)
class Outcome:
    """What became of records that were handed in together.

    Attributes:
        counts     those that came to their end
        again      index → (seconds to wait, next attempt's number) of those that failed and are to be tried again
        untouched  indexes of those behind such a one that share its key
    """

    counts: Counts = field(default_factory=Counts)
    again: dict[int, tuple[float, int]] = field(default_factory=dict)
    untouched: list[int] = field(default_factory=list)


@dataclass
class Inbox:
    """Handles records for one group, on one connection of its own; for one thread.

    Attributes:
        system, group, handlers, retry   whose events, and how
        generation    0 for live handling; a replay that must handle again has one of its own
        replay_id     marks inbox rows, attempts and what handlers are given as replayed
        code_version  kept with each failure
        parking       where later events of a dead one's key wait; None: they are handled, out of order
        stop          when set, waiting ends and `handle` raises Stopped
    """

    system: System
    group: str
    handlers: Handlers
    retry: Retry = field(default_factory=Retry)
    generation: int = 0
    replay_id: str | None = None
    code_version: str | None = None
    parking: Parking | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    _session: Session = field(init=False)

    def __post_init__(self) -> None:
        self._session = Session(self.system, f"evkit consumer {self.group}", self._who, self.stop)

    @property
    def _who(self) -> str:
        """This inbox in log lines: a replay is never to be taken for live handling."""
        return f"group {self.group}" if self.replay_id is None else f"group {self.group} in {self.replay_id}"

    def handle(self, records: Sequence[Record]) -> Counts:
        """Bring each record to its end, in the given order: handled, known already, skipped, or a dead letter.

        When it returns, all of it is committed. When it raises, what was committed stays, and the same records may be
        handed in again. Waits in here for whatever is to be tried again; a consumer uses `attempt`, which does not.

        Raises:
            Stopped: `stop` was set meanwhile.
            MemoryError, KeyboardInterrupt: as they come; no dead letter is made of them.
        """
        counts = Counts()
        work = [(record, 0) for record in records]
        while work:
            outcome = self.attempt([record for record, _ in work], [attempt for _, attempt in work])
            counts += outcome.counts
            if outcome.again:
                self._session.wait(max(seconds for seconds, _ in outcome.again.values()))
            rest = sorted([*outcome.again, *outcome.untouched])
            work = [(work[i][0], outcome.again[i][1] if i in outcome.again else 0) for i in rest]
        return counts

    def attempt(self, records: Sequence[Record], attempts: Sequence[int] = ()) -> Outcome:
        """Try each record once, in the given order; what fails and may be tried again is told, not waited for.

        After a failure that is to be tried again, later records of its key are left untouched; all others go on.

        Args:
            attempts  number of each record's next attempt; 0 or missing: ask the database, if it comes to that

        Raises: see `handle`.
        """
        outcome = Outcome()
        failed: set[bytes] = set()
        numbers = dict(enumerate(attempts))
        deliveries = [Delivery.of(record, self.handlers) for record in records]
        parts: list[list[int]] = []
        for together, stretch in groupby(
            range(len(deliveries)), key=lambda i: deliveries[i].problem is None and not numbers.get(i)
        ):
            indexes = list(stretch)
            parts += [indexes] if together else [[i] for i in indexes]
        parts.reverse()  # a stack: what is split comes next
        while parts:
            part = []
            for i in parts.pop():
                if records[i].key in failed:
                    outcome.untouched.append(i)
                else:
                    part.append(i)
            if len(part) == 1:
                (i,) = part
                result = self._walk(deliveries[i], numbers.get(i, 0))
                if isinstance(result, Counts):
                    outcome.counts += result
                    continue
                outcome.again[i] = result
                if records[i].key is not None:
                    failed.add(records[i].key)  # type: ignore[arg-type]
            elif part:
                done = self._try_batch([deliveries[i] for i in part])
                if isinstance(done, Counts):
                    outcome.counts += done
                elif isinstance(done, ParkingFull):
                    parts.append(self._stay(part, records, numbers, done.keys, outcome))
                    failed |= done.keys  # type: ignore[arg-type]
                else:
                    parts += reversed([p for p in (part[:done], [part[done]], part[done + 1 :]) if p])
        return outcome

    @staticmethod
    def _stay(
        part: list[int], records: Sequence[Record], numbers: dict[int, int], keys: set[bytes | None], outcome: Outcome
    ) -> list[int]:
        """Events of these keys cannot be parked and wait in memory, nobody's attempt counted; returns the others."""
        first: set[bytes | None] = set()
        for i in part:
            if (key := records[i].key) in first:
                outcome.untouched.append(i)
            elif key in keys:
                outcome.again[i] = (FULL_SECONDS, numbers.get(i, 0))
                first.add(key)
        return [i for i in part if records[i].key not in keys]

    def redrive(self, connection: postgres.Connection, delivery: Delivery, *, attempt: int) -> None:
        """Handle a dead or parked event after all, inside the caller's open transaction; its inbox row turns to handled.

        An event that was handled meanwhile in another way is left alone.

        Raises:
            RedriveRefused: this group has no handler for the event's type (any more).
            Undecodable, SchemaMismatch, and whatever the handler raises.
        """
        if delivery.problem is not None:
            raise delivery.problem
        if delivery.handler is None:
            raise RedriveRefused(
                f"group '{self.group}' has no handler for '{delivery.event_type}': give the application that has one"
            )
        values = {"group": self.group, "event_id": delivery.event_id, "generation": self.generation}
        waited = connection.execute(_SQL["reclaim"], values | {"replay_id": self.replay_id}).rowcount == 1
        if not waited and not self._claim(connection, [delivery], attempts=attempt)[0]:
            return
        self._call(connection, delivery.handler, [delivery], attempt)

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back by the server."""
        self._session.close()

    # --- the optimistic batch -----------------------------------------------------------------------------------------

    def _try_batch(self, batch: list[Delivery]) -> Counts | ParkingFull | int:
        """Handle a batch in one transaction; when that fails, the index of the event to take out of it."""
        at = len(batch) // 2  # where it is split when nobody knows which one it was
        try:
            connection = self._session.connected()
            with connection.transaction():
                started = time.monotonic()
                new, conflicting = self._claim(connection, batch, attempts=1)
                wanted, skipped, parked = self._wanted(connection, new)
                for handler, run in groupby(wanted, key=lambda d: d.handler):
                    assert handler is not None
                    deliveries = list(run)
                    try:
                        self._call(connection, handler, deliveries, attempt=1)
                    except _FailedAt as failure:
                        at = batch.index(deliveries[failure.index])
                        raise
                self._processed(connection, wanted, started)
            return Counts(len(wanted), len(batch) - len(new), skipped, parked=parked, conflicting=conflicting)
        except ParkingFull as full:
            return full
        except _FailedAt as failure:
            cause = failure.__cause__
            if isinstance(cause, (Stopped, *NOBODYS_FAULT)):
                raise cause from None
            log.info("batch of %s for %s is taken again in parts: %s", len(batch), self._who, cause)
        except (Stopped, *NOBODYS_FAULT):
            raise
        except Exception as error:
            log.info("batch of %s for %s is taken again in parts: %s", len(batch), self._who, error)
        return at

    def _call(self, connection: postgres.Connection, handler: Handler, run: list[Delivery], attempt: int) -> None:
        """Hand events to a handler inside the open transaction, in order.

        Raises:
            _FailedAt: from what the handler raised, when it is known at which event that was.
        """
        group, replay_id = self.group, self.replay_id
        at = 0
        try:
            if handler.batch:
                events = [handler.prepared(d.event, replay_id) for d in run if d.event is not None]
                handler.function(events, Tx(connection, group, events[0], run[0].record, attempt, replay_id))
            else:
                function, prepared = handler.function, handler.prepared
                # Statements go out without waiting for their answers; an error shows with a later one, or at the end.
                with connection.pipeline() if handler.pipeline else nullcontext():
                    for at, delivery in enumerate(run):  # noqa: B007 - which one it was
                        event = prepared(delivery.event, replay_id)  # type: ignore[arg-type]
                        function(event, Tx(connection, group, event, delivery.record, attempt, replay_id))
        except BaseException as error:
            if len(run) > 1 and not handler.batch and not (handler.pipeline and isinstance(error, psycopg.Error)):
                raise _FailedAt(at) from error
            raise
        # COMMIT of a failed transaction is a rollback without an error: the inbox row would be gone and the offset kept.
        if connection.info.transaction_status != TransactionStatus.INTRANS:
            raise RuntimeError(
                f"handler {handler.name} caught an error of PostgreSQL and went on, or ended the transaction itself: "
                "let the error pass, or use a savepoint (`with tx.connection.transaction():`)"
            )

    def _claim(
        self, connection: postgres.Connection, batch: list[Delivery], *, attempts: int, outcome: str | None = None
    ) -> tuple[list[Delivery], int]:
        """Write the inbox rows of a batch.

        Returns the deliveries that are new to this group, in their order, and how many of the others were no copies of what
        it knows but other events under the same id.
        """
        values = {
            "group": self.group,
            "generation": self.generation,
            "attempts": attempts,
            "replay_id": self.replay_id,
            "event_id": [d.event_id for d in batch],
            "event_type": [d.event_type for d in batch],
            "topic": [d.record.topic for d in batch],
            "partition": [d.record.partition for d in batch],
            "offset": [d.record.offset for d in batch],
            "key": [d.key for d in batch],
            "outcome": [outcome or ("skipped" if d.handler is None else "handled") for d in batch],
            "created_at": [d.event.created_at if d.event else None for d in batch],
            "appended_at": [d.record.timestamp for d in batch],
            "received_at": [d.record.received_at for d in batch],
            "payload_crc32": [crc32(d.record.value or b"") for d in batch],
        }
        new_ids = {row[0] for row in connection.execute(_SQL["claim"], values).fetchall()}
        if len(new_ids) == len(batch):
            return batch, 0
        conflicts = connection.execute(_SQL["flag_conflicts"], values).fetchall()
        if conflicts:
            event_id, *place = conflicts[0]
            log.warning(
                "%s: %s records came under ids that it has dealt with, and are other events; they are not handled, and "
                "counted in evkit.id_conflict. One is '%s' at %s/%s/%s: its producer gives ids twice",
                self._who, len(conflicts), event_id, *place,
            )  # fmt: skip
        new = []
        for delivery in batch:
            if delivery.event_id in new_ids:
                new_ids.discard(delivery.event_id)  # a second copy inside the batch is a duplicate
                new.append(delivery)
        return new, len(conflicts)

    # --- event by event -----------------------------------------------------------------------------------------------

    def _walk(self, delivery: Delivery, number: int = 0) -> Counts | tuple[float, int]:
        """One attempt at one event: its end, or how long to wait and the next attempt's number."""
        attempt = number or 1 + self._session.repeated(self._before, delivery)[0]
        transient = 0
        while True:
            started = time.monotonic()
            try:
                return self._session.repeated(self._attempt, delivery, attempt)
            except (Stopped, *NOBODYS_FAULT):
                raise
            except ParkingFull:
                return FULL_SECONDS, number
            except Exception as error:
                if postgres.is_transient(error) and transient < _TRANSIENT_REPEATS_MAX:
                    transient += 1
                    self._session.wait(0.01 * transient)
                    continue
                seconds = time.monotonic() - started
                failure = Failure.of(error)
                failing = 0.0
                if attempt > 1 and self.retry.of(error).seconds_max is not None:
                    failing = self._session.repeated(self._before, delivery)[1]
                again = self.retry.again(error, attempt, failing_seconds=failing)
                try:
                    known = self._session.repeated(self._record, delivery, failure, attempt, seconds, again)
                except ParkingFull:
                    return FULL_SECONDS, attempt
                if known is not None:
                    return known
                if again:
                    return self.retry.wait_seconds(attempt, error), attempt + 1
                log.warning(
                    "event %s ('%s') is a dead letter of %s after %s attempts: %s: %s",
                    delivery.event_id, delivery.event_type, self._who, attempt,
                    failure.error_class, failure.error_message,
                )  # fmt: skip
                return Counts(dead=1)

    def _attempt(self, delivery: Delivery, attempt: int) -> Counts:
        connection = self._session.connected()
        with connection.transaction():
            started = time.monotonic()
            if delivery.problem is not None:
                raise delivery.problem
            new, conflicting = self._claim(connection, [delivery], attempts=attempt)
            if not new:
                return Counts(duplicate=1, conflicting=conflicting)
            wanted, skipped, parked = self._wanted(connection, new)
            if delivery.handler is not None and wanted:
                self._call(connection, delivery.handler, [delivery], attempt)
                self._processed(connection, [delivery], started)
        return Counts(len(wanted), skipped=skipped, parked=parked)

    def _wanted(self, connection: postgres.Connection, new: list[Delivery]) -> tuple[list[Delivery], int, int]:
        """Newly claimed events that are to be handled now; how many are skipped, and how many were parked."""
        wanted = [d for d in new if d.handler is not None]
        if self.parking is None or self.generation:
            return wanted, len(new) - len(wanted), 0
        now = self.parking.take(connection, wanted)
        return now, len(new) - len(wanted), len(wanted) - len(now)

    def _processed(self, connection: postgres.Connection, handled: list[Delivery], started: float) -> None:
        """Set processed_at to the end of the handlers, when it would else be off by more than anybody overlooks."""
        if time.monotonic() - started > _CLAIM_SECONDS_MAX:
            connection.execute(
                _SQL["processed_now"],
                {"group": self.group, "generation": self.generation, "event_ids": [d.event_id for d in handled]},
            )

    def _before(self, delivery: Delivery) -> tuple[int, float]:
        """Attempts at this event so far, and seconds since the first."""
        row = (
            self._session.connected()
            .execute(
                _SQL["attempts_before"],
                {"group": self.group, "event_id": delivery.event_id, "generation": self.generation},
            )
            .fetchone()
        )
        assert row is not None
        return int(row[0]), float(row[1])

    def _record(self, delivery: Delivery, failure: Failure, attempt: int, seconds: float, again: bool) -> Counts | None:
        """Write down a failed attempt; after the last one also the dead letter and its inbox mark, in one transaction.

        Returns what else became of it, when its id was dealt with already: then nothing is written down here.
        """
        connection = self._session.connected()
        parking = self.parking if parks(delivery) and not self.generation else None
        with connection.transaction():
            if not again:
                new, conflicting = self._claim(connection, [delivery], attempts=attempt, outcome="dead")
                if not new:
                    return Counts(duplicate=1, conflicting=conflicting)
                if parking is not None and not parking.take(connection, new):
                    return Counts(parked=1)  # it waits behind another letter of its key, whatever it is
            values = attempt_values(self, delivery, failure, attempt=attempt, seconds=seconds, again=again)
            connection.execute(_SQL["attempt"], values)
            if not again:
                values = letter_values(self, delivery, failure, attempt=attempt)
                letter = connection.execute(_LETTERS["park"], values).fetchone()
                if parking is not None and self.replay_id is None and letter is not None:
                    parking.park(connection, delivery, letter[0])
        return None
