"""handler → inbox table: handle each event once for each group, or make a dead letter of it.

The inbox row and the handler's writes are one transaction: a redelivery, a second copy in the topic, a rebalance, a zombie
or a kill -9 finds the row and changes nothing (P4). Batches are optimistic: all inbox rows of a batch in one statement,
then the handlers, one commit. When one event fails the batch is rolled back and taken again in parts, without the bad one
between them: it costs its neighbours nothing but time, and the guarantee does not depend on the size of a batch.

What ends as a dead letter is marked in the inbox in the same transaction that writes the letter (P5). A PostgreSQL that
went away, or that asks to repeat, is nobody's fault: the work is done again and no attempt is counted, but a row says so
("held"). If it went away during a commit, the inbox row tells on the second try whether that commit had happened; there is
no row for that, nor for a batch that failed as a whole and is taken again in parts: no event of it is known to have failed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

import psycopg
from psycopg.pq import TransactionStatus

from evkit import postgres
from evkit.kafka import Record
from evkit.runtime import claims
from evkit.runtime.answer import Statements
from evkit.runtime.breaker import Breakers, HandlerHeld
from evkit.runtime.consumer_metrics import ConsumerMetrics
from evkit.runtime.delivery import Delivery, Source
from evkit.runtime.handler import Around, Handler, Handlers, Tx
from evkit.runtime.key_version import KeyVersions
from evkit.runtime.ledger import Ledger
from evkit.runtime.look_ahead import LookAhead
from evkit.runtime.mirror import Mirror
from evkit.runtime.outcome import Counts, HandlerRaised, Outcome
from evkit.runtime.parking import FULL_SECONDS, Parking, ParkingFull
from evkit.runtime.repeats import LOSSES_MAX, Repeats
from evkit.runtime.retry import NOBODYS_FAULT, Retry
from evkit.runtime.session import Session, Stopped
from evkit.runtime.verdict import Verdict
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_SQL = named("inbox")

# Rows are claimed before their handlers run, with the processed_at that the pace of the last batch promises. A batch that
# comes out further off writes it once more: end-to-end latency is to the effect, not to the claim.
_OFF_SECONDS_MAX = 0.05

_HANDLER = attrgetter("handler")


class FailedAt(HandlerRaised):
    """A handler raised (`__cause__`) at this event of its run, after so many seconds."""

    def __init__(self, index: int, seconds: float) -> None:
        self.index = index
        self.seconds = seconds

    def raised(self) -> Exception:
        """What the handler raised.

        Raises: that, when it ends the batch or the consumer.
        """
        error = self.__cause__
        assert isinstance(error, Exception)
        if isinstance(error, (Stopped, *NOBODYS_FAULT)):
            raise error from None
        return error


@dataclass
class Inbox:
    """Handles records for one group, on one connection of its own; for one thread.

    Attributes:
        system, group, handlers, retry   whose events, and how
        generation    0 for live handling; a replay that must handle again has one of its own
        replay_id     marks inbox rows, attempts and what handlers are given as replayed
        code_version  kept with each event and each failure
        parking       where later events of a dead one's key wait; None: they are handled, out of order
        breakers      who holds a handler whose events fail alike; None: nobody does
        versions      how far each key has come; None: nobody asked
        dedupe        False: no inbox row is written for what is handled, so it is handled at least once
        mirror        writes an event for each dead letter; None: nobody asked
        stop          when set, waiting ends and `handle` raises Stopped
        metrics       counts what comes to its end, and what fails
        calls, at     how often handlers were called, and at which event of its run the last one is: they move while it does
        event_seconds how long an event took in the last batch, from its claim to the end of its handlers
        has_parked    whether keys of the group were parked when it last handled something
        ledger        who keeps count of what came to its end, in the same transactions; a dry one rolls them back
        look_ahead    what it decodes while a batch waits for PostgreSQL
    """

    system: System
    group: str
    handlers: Handlers
    retry: Retry = field(default_factory=Retry)
    generation: int = 0
    replay_id: str | None = None
    code_version: str | None = None
    parking: Parking | None = None
    breakers: Breakers | None = None
    versions: KeyVersions | None = None
    dedupe: bool = True
    mirror: Mirror | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    metrics: ConsumerMetrics = field(default_factory=ConsumerMetrics)
    calls: int = field(default=0, init=False)
    at: int = field(default=0, init=False)
    event_seconds: float = field(default=0.0, init=False)
    has_parked: bool = field(default=False, init=False)
    ledger: Ledger = field(default_factory=Ledger)
    look_ahead: LookAhead = field(init=False)
    _session: Session = field(init=False)
    _verdict: Verdict = field(init=False)
    _expectation: claims.Expectation = field(default_factory=claims.Expectation, init=False)

    def __post_init__(self) -> None:
        self.look_ahead = LookAhead(self.handlers)
        self._session = Session(self.system, f"evkit consumer {self.group}", self.name, self.stop)
        self._verdict = Verdict(
            self, self._session, self.retry, self.parking, self.breakers, self.metrics, self.mirror, self.ledger
        )

    @property
    def name(self) -> str:
        """This inbox in log lines: a replay is never to be taken for live handling."""
        if self.replay_id is None:
            return f"group {self.group}"
        return f"group {self.group} in {self.replay_id}{' (dry)' if self.ledger.dry else ''}"

    @property
    def waits(self) -> tuple[str, float] | None:
        """Why PostgreSQL is waited for, in the words of the error, and since when; None while it answers."""
        waits_for = self._session.waits_for
        return None if waits_for is None else (waits_for, self._session.waits_since)

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

    def attempt(self, sources: Sequence[Source], attempts: Sequence[int] = ()) -> Outcome:
        """Try each record once, in the given order; what fails and may be tried again is told, not waited for.

        After a failure that is to be tried again, later records of its key are left untouched; all others go on.

        Args:
            attempts  number of each record's next attempt; 0 or missing: ask the database, if it comes to that

        Raises: see `handle`.
        """
        outcome = Outcome()
        numbers = {i: number for i, number in enumerate(attempts) if number} if any(attempts) else {}
        deliveries = self.look_ahead.deliveries(sources)
        parts: list[list[int]] = []
        alone = {i for i, delivery in enumerate(deliveries) if delivery.problem is not None} | numbers.keys()
        for by_itself, stretch in groupby(range(len(deliveries)), key=alone.__contains__):
            indexes = list(stretch)
            parts += [[i] for i in indexes] if by_itself else [indexes]
        parts.reverse()  # a stack: what is split comes next
        # Halved by each failure and doubled by each success, so that a batch of which every event fails is not claimed
        # and rolled back once for each of them.
        together_max = len(deliveries)
        failures: dict[int, FailedAt] = {}
        while parts:
            part, tried = self._next_part(parts, together_max, deliveries, outcome, numbers)
            if not part:
                continue
            done: Counts | tuple[float, int] | ParkingFull | HandlerHeld | FailedAt | int
            if len(part) == 1:
                done = self._walk(deliveries[part[0]], numbers.get(part[0], 0), tried, failures.pop(part[0], None))
            else:
                done = self._try_batch([deliveries[i] for i in part])
            if isinstance(done, Counts):
                outcome.counts += done
                self.metrics.ended(done, replay=self.replay_id is not None)
                together_max = min(2 * together_max, len(deliveries))
            elif isinstance(done, tuple):
                outcome.put_off(part[0], deliveries[part[0]].record, *done)
            elif isinstance(done, ParkingFull):
                for i in part:
                    if deliveries[i].record.key in done.keys:
                        outcome.put_off(i, deliveries[i].record, FULL_SECONDS, numbers.get(i, 0), full=str(done))
                parts.append([i for i in part if deliveries[i].record.key not in done.keys])
            elif isinstance(done, HandlerHeld):
                parts.append(part)
            else:
                deliveries = self._anew(deliveries, part)
                together_max = max(1, len(part) // 2)
                at = self._at(done, part, failures)
                parts += reversed([p for p in (part[:at], [part[at]], part[at + 1 :]) if p])
        return outcome

    @staticmethod
    def _at(done: FailedAt | int, part: list[int], failures: dict[int, FailedAt]) -> int:
        """Where a part is split; a failure that was made in it waits for what comes before it, and then is that attempt."""
        if isinstance(done, int):
            return done
        failures[part[done.index]] = done
        return done.index

    def _next_part(
        self,
        parts: list[list[int]],
        together_max: int,
        deliveries: list[Delivery],
        outcome: Outcome,
        numbers: dict[int, int],
    ) -> tuple[list[int], int]:
        """What is tried together next, taken from the stack; with a number above 0: one event of a held handler, tried to
        see whether others may follow."""
        part = parts.pop()
        if len(part) > together_max:
            parts.append(part[together_max:])
            part = part[:together_max]
        if not outcome.waiting and (self.breakers is None or not self.breakers.open):
            return part, 0
        now: list[int] = []
        for at, i in enumerate(part):
            delivery = deliveries[i]
            if outcome.waits(delivery.record):
                outcome.untouched.append(i)
                continue
            seconds = self._held_seconds(delivery)
            if seconds is None:
                now.append(i)
                continue
            if seconds == 0:
                if now:  # what comes before it is dealt with before it
                    parts.append(part[at:])
                    return now, 0
                assert self.breakers is not None
                assert delivery.handler is not None
                tried = self._session.repeated(self.breakers.may_try, delivery.handler.name, delivery.key)
                if tried is not None:
                    parts.append(part[at + 1 :])
                    return [i], tried
                seconds = self._held_seconds(delivery) or self.breakers.policy.probe_seconds
            outcome.put_off(i, delivery.record, seconds, numbers.get(i, 0))
        return now, 0

    def _held_seconds(self, delivery: Delivery) -> float | None:
        """How long its handler is held at least; 0: the database is to be asked. None: it is not held."""
        if self.breakers is None or delivery.handler is None or delivery.problem is not None:
            return None
        return self.breakers.wait_seconds(delivery.handler.name)

    def processed(
        self, connection: postgres.Connection, handled: list[Delivery], started: float, ahead: float = 0.0
    ) -> None:
        """Set processed_at to the end of the handlers, when it would else be off by more than anybody overlooks."""
        if self.dedupe and abs(time.monotonic() - started - ahead) > _OFF_SECONDS_MAX:
            claims.processed(connection, self, handled)

    def observed(self, batch: list[Delivery]) -> AbstractContextManager[None]:
        """A span around the transaction that handles these."""
        return self.metrics.processing(self.group, (d.record for d in batch), len(batch), self.replay_id)

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back by the server."""
        self._session.close()

    def _anew(self, deliveries: list[Delivery], part: Sequence[int] | None = None) -> list[Delivery]:
        """Deliveries of which these (None: all) are handed over once more: a handler may have changed what it was given."""
        again = range(len(deliveries)) if part is None else set(part)
        return [Delivery.of(d.record, self.handlers) if i in again else d for i, d in enumerate(deliveries)]

    # --- the optimistic batch -----------------------------------------------------------------------------------------

    def _try_batch(self, batch: list[Delivery]) -> Counts | ParkingFull | HandlerHeld | FailedAt | int:
        """Handle a batch in one transaction; when that fails, the event at which it did, or else where to split it."""
        losses = 0
        while True:
            failed: FailedAt | int = len(batch) // 2
            try:
                return self._batch(batch)
            except (ParkingFull, HandlerHeld) as wait:
                return wait
            except claims.Known:  # before any handler was called
                continue
            except FailedAt as failure:
                failed, error = failure, failure.raised()
            except (Stopped, *NOBODYS_FAULT):
                raise
            except Exception as raised:
                error = raised
            lost = self._session.lost(error)
            repeated = isinstance(failed, FailedAt) and (lost or postgres.is_transient(error))
            if lost:
                losses += 1
                self._session.renew(error)
            if isinstance(failed, FailedAt) and repeated:
                self._verdict.repeats(batch[failed.index], error, failed.seconds)
            if lost and losses <= LOSSES_MAX:
                batch = self._anew(batch)
                continue
            log.info("batch of %s for %s is taken again in parts: %s", len(batch), self.name, error)
            # What PostgreSQL asks to repeat is no failure of the event: it is walked, and repeated.
            return failed.index if isinstance(failed, FailedAt) and repeated else failed

    def _batch(self, batch: list[Delivery]) -> Counts:
        connection = self._session.connected()
        with (
            self.observed(batch),
            self.look_ahead.waiting(connection),
            self.ledger.transaction(connection, batch) as counts,
        ):
            started = time.monotonic()
            ahead = self.event_seconds * len(batch)
            new, conflicting = batch, 0
            if self.dedupe:
                new, conflicting = self._expectation.claim(connection, self, batch, ahead)
            wanted, skipped, parked = self._wanted(connection, new)
            stale = self.stale(connection, wanted)
            runs = [(handler, list(run)) for handler, run in groupby(wanted, key=_HANDLER)]
            for handler, run in runs:
                assert handler is not None
                try:
                    self.call(connection, handler, run, 1, stale, in_batch=True)
                except FailedAt as failure:
                    failure.index = batch.index(run[failure.index])
                    raise
            self.processed(connection, wanted, started, ahead)
            self.event_seconds = (time.monotonic() - started) / len(batch)
            counts.add(Counts(len(wanted), len(batch) - len(new), skipped, parked=parked, conflicting=conflicting))
        self._session.works()
        if self.breakers is not None:
            for handler, run in runs:
                self.breakers.count(handler.name, done=len(run))
        return counts

    def call(
        self,
        connection: postgres.Connection,
        handler: Handler,
        run: list[Delivery],
        attempt: int,
        stale: frozenset[str],
        *,
        in_batch: bool = False,
    ) -> None:
        """Hand events to a handler inside the open transaction, in order.

        Raises:
            FailedAt: in a batch, from what the handler raised, when it is known at which event that was.
        """
        replay_id = self.replay_id
        around = Around(connection, self.group, attempt, replay_id, stale, self.ledger.dry)
        self.calls, self.at, started = self.calls + 1, 0, time.monotonic()
        try:
            if handler.batch:
                events = [handler.prepared(d.event, replay_id) for d in run if d.event is not None]
                handler.function(events, Tx.of(around, events[0], run[0]))
            else:
                function, prepared, tx_of = handler.function, handler.prepared, Tx.of
                around.statements = Statements(connection)
                # Statements go out without waiting for their answers; an error shows with a later one, or at the end.
                with connection.pipeline() if handler.pipeline else self.look_ahead.in_short_waits():
                    for self.at, delivery in enumerate(run):
                        event = prepared(delivery.event, replay_id)  # type: ignore[arg-type]
                        function(event, tx_of(around, event, delivery))
        except Exception as error:
            known = not (handler.batch or (handler.pipeline and isinstance(error, psycopg.Error))) or len(run) == 1
            if in_batch and known:
                raise FailedAt(self.at, (time.monotonic() - started) / (self.at + 1)) from error
            raise
        # COMMIT of a failed transaction is a rollback without an error: the inbox row would be gone and the offset kept.
        if connection.info.transaction_status != TransactionStatus.INTRANS:
            raise RuntimeError(
                f"handler {handler.name} caught an error of PostgreSQL and went on, or ended the transaction itself: "
                "let the error pass, or use a savepoint (`with tx.connection.transaction():`)"
            )

    def _wanted(
        self, connection: postgres.Connection, new: list[Delivery], *, tried: bool = False
    ) -> tuple[list[Delivery], int, int]:
        """Newly claimed events that are to be handled now; how many are skipped, and how many were parked.

        Raises:
            HandlerHeld, ParkingFull
        """
        wanted = [d for d in new if d.handler is not None]
        if not wanted or self.generation or (self.parking is None and self.breakers is None):
            return wanted, len(new) - len(wanted), 0
        row = connection.execute(_SQL["gates"], {"group": self.group}).fetchone()
        assert row is not None
        parked, held = row
        self.has_parked = bool(parked)
        if self.breakers is not None and (held or self.breakers.open) and not tried:
            self.breakers.require_free(held, {d.handler.name for d in wanted if d.handler is not None})
        now = wanted
        if parked and self.parking is not None:
            now = self.parking.take(connection, wanted)
        return now, len(new) - len(wanted), len(wanted) - len(now)

    def stale(self, connection: postgres.Connection, wanted: list[Delivery]) -> frozenset[str]:
        """Ids of those that come after a newer event of their key."""
        return frozenset() if self.versions is None else self.versions.apply(connection, wanted)

    # --- event by event -----------------------------------------------------------------------------------------------

    def _walk(
        self, delivery: Delivery, number: int = 0, tried: int = 0, failed: FailedAt | None = None
    ) -> Counts | tuple[float, int] | ParkingFull:
        """One attempt at one event: its end, how long to wait and the next attempt's number, or that it may not be parked.

        `tried` is above 0 for an event of a held handler: how often in a row its key was the one that was tried.
        `failed` is the attempt, when it was made in a batch.
        """
        attempt = number or 1 + self._session.repeated(claims.before, self, delivery)[0]
        if failed is not None:
            assert isinstance(failed.__cause__, Exception)
            return self._verdict.of(delivery, failed.__cause__, attempt, failed.seconds, lost=False, tried=tried)
        repeats = Repeats(self._session, self._verdict)
        while True:
            started = time.monotonic()
            if repeats:
                (delivery,) = self._anew([delivery])
            try:
                counts = self._attempt(delivery, attempt, tried=tried > 0)
            except (Stopped, *NOBODYS_FAULT):
                raise
            except ParkingFull as full:
                return full
            except HandlerHeld:
                return 0.0, number  # when it comes again, it waits as the breaker says
            except FailedAt as failure:
                error, in_handler = failure.raised(), True
            except Exception as raised:
                error, in_handler = raised, False
            else:
                break
            seconds, lost = time.monotonic() - started, self._session.lost(error)
            if not repeats.again(delivery, error, seconds, attempt, lost=lost, in_handler=in_handler):
                return self._verdict.of(delivery, error, attempt, seconds, lost=lost, tried=tried)
        self._through(delivery, counts, tried)
        return counts

    def _through(self, delivery: Delivery, counts: Counts, tried: int) -> None:
        self._session.works()
        if self.breakers is not None and delivery.handler is not None and counts.handled:
            self.breakers.count(delivery.handler.name, done=1)
            if tried:
                self._session.repeated(self.breakers.succeeded, delivery.handler.name)

    def _attempt(self, delivery: Delivery, attempt: int, *, tried: bool) -> Counts:
        connection = self._session.connected()
        with self.observed([delivery]), self.ledger.transaction(connection, [delivery]) as counts:
            started = time.monotonic()
            if self.dedupe:
                new, conflicting = claims.claim(connection, self, [delivery], attempts=attempt)
            else:  # without an inbox all are new
                new, conflicting = [delivery], 0
            if not new:
                counts.add(Counts(duplicate=1, conflicting=conflicting))
                return counts
            if delivery.problem is not None:  # only now: a second copy does not fail once more
                raise delivery.problem
            wanted, skipped, parked = self._wanted(connection, new, tried=tried)
            if delivery.handler is not None and wanted:
                stale = self.stale(connection, wanted)
                self.call(connection, delivery.handler, [delivery], attempt, stale, in_batch=True)
                self.processed(connection, [delivery], started)
            counts.add(Counts(len(wanted), skipped=skipped, parked=parked))
        return counts
