"""outbox table → topic: publish what committed transactions have written, in the order of each key.

Three stages on three threads with bounded queues between them: the reader claims a batch (outbox_cursor.py), the publisher
sends it and collects the broker's answers (publisher.py, transactional_publisher.py), the marker writes down what was
confirmed (marker.py). A crash between publish and mark publishes again what had already reached the topic; the inbox makes
that harmless. With `delivery="exactly-once"` a batch and its claim's number are one Kafka transaction, and a crash repeats
nothing. No crash loses an event.

One relay leads per outbox, others stand by (leadership.py).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import psycopg

from evkit.errors import NotMigrated, RelayStopped, Unreachable, UsageError
from evkit.runtime import metrics, refusal, retention
from evkit.runtime.batch import Batch
from evkit.runtime.leadership import HEARTBEAT_SECONDS, Candidate, Lead
from evkit.runtime.marker import Deposed
from evkit.runtime.publisher import Publisher
from evkit.runtime.relay_health import RelayHealth
from evkit.runtime.relay_metrics import RelayMetrics, RelayReading
from evkit.runtime.transactional_publisher import TransactionalPublisher
from evkit.runtime.wake import Wake
from evkit.system import System, connect

log = logging.getLogger(__name__)

Delivery = Literal["at-least-once", "exactly-once"]

# Looked for again this soon while events come; a relay that finds nothing slows down to the longer one.
POLL_SECONDS_MIN = 0.01
POLL_SECONDS_MAX = 0.1
# How often a standby asks whether the leader is gone.
STANDBY_SECONDS = 0.3
# Between two tries after a failure: random up to the shorter one, doubled each time up to the longer one.
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.5, 5.0
# Batches between reader and publisher, sent but not wholly answered, and answered but not marked: what bounds the relay's
# memory.
BATCHES_READ_AHEAD, BATCHES_UNDER_WAY, BATCHES_ANSWERED = 1, 3, 3
# How often partitions are made ahead, and old ones dropped.
KEEP_SECONDS = 60.0
# A relay that was told to stop waits this long for the broker's answers.
STOP_SECONDS = 10.0

_END = object()


class Relay:
    """Moves committed outbox rows to their topics, in the order of each key.

    While PostgreSQL or Kafka is away it waits and goes on when they are back. An event that the broker will never take is
    parked (evkit.unpublishable) and later events of its key are held behind it, or it is skipped (`on_poison="skip"`).
    Stop it before a topic is made anew: a partition that opens takes any sequence number, so a later batch may come first.

    Args:
        system            where; default: `evkit.connect()`
        delivery          "at-least-once": a crash may repeat events; "exactly-once": not for who reads committed data
        batch_events_max  most events in a batch
        source            CloudEvents `source` of what is published
        on_poison         "hold" the key of an event that cannot be published, or "skip" only that event
        lease_seconds     a leader that was not heard for so long is deposed by a standby
        accept_cluster    go on although the brokers are another cluster than the one this outbox was published to so far
        on_batch          called with the number of published events after each mark (tests)

    Attributes:
        leading  set while this relay leads (threading.Event)
        metrics  what it has counted: see relay_metrics.py
    """

    def __init__(
        self,
        system: System | None = None,
        *,
        delivery: Delivery = "at-least-once",
        batch_events_max: int = 5000,
        source: str = "/evkit/outbox",
        on_poison: Literal["hold", "skip"] = "hold",
        lease_seconds: float = 10.0,
        accept_cluster: bool = False,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        if delivery not in ("at-least-once", "exactly-once"):
            raise UsageError(f"delivery '{delivery}' is not known: it is 'at-least-once' or 'exactly-once'")
        if on_poison not in ("hold", "skip"):
            raise UsageError(f"on_poison '{on_poison}' is not known: it is 'hold' or 'skip'")
        self.system = system or connect()
        self.delivery: Delivery = delivery
        self.batch_events_max = batch_events_max
        self.lease_seconds = lease_seconds
        self.leading = threading.Event()
        self._source = source
        self._on_poison = on_poison
        self._accept_cluster = accept_cluster
        self._on_batch = on_batch
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.metrics = RelayMetrics()
        self._led_before = False
        self._running = False
        self._looped_at: float | None = None
        self._waits: tuple[str, float] | None = None  # for what, and since when on the monotonic clock
        self._fatal: str | None = None
        self._candidate: Candidate | None = None
        self._lead: Lead | None = None
        self._wake = Wake()
        self._begin()

    def _begin(self) -> None:
        """A pipeline with nothing in it."""
        self._abort = threading.Event()
        self._broken: BaseException | None = None
        self._more = False
        self._tail = True  # after a start: is there a tail of events that may be tried again?
        self._to_publish: queue.Queue[Any] = queue.Queue(BATCHES_READ_AHEAD)
        self._to_mark: queue.Queue[Any] = queue.Queue(BATCHES_ANSWERED)
        self._marker_works = True
        self._unmarked = 0
        self._marked = threading.Condition()

    # --- running ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Publish until `stop()`; returns when what was in hand is marked.

        Raises:
            NotMigrated: the database has no evkit tables.
            RelayStopped: the brokers refuse this relay for good. Everything else is waited out.
        """
        self._running, self._fatal = True, None
        metrics.export(self)
        try:
            self._run()
        except Exception as error:
            self._fatal = str(error)
            raise
        finally:
            self._running = False
            self._let_go()

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            led_since = time.monotonic()
            try:
                if not self._leads():
                    continue
                if self._waits is not None:
                    log.warning("relay goes on after: %s", self._waits[0])
                    self._waits = None
                led_since = time.monotonic()
                self._pipeline()
            except Exception as error:
                fatal = isinstance(error, (NotMigrated, RelayStopped))
                if self._lead is not None and isinstance(error, (refusal.PublishFailed, RelayStopped)):
                    self.metrics.failed.add(1, "fatal" if fatal else "retriable")
                    self._lead.tell(str(error))
                if fatal:
                    raise
                if not self._is_outage(error):
                    log.error("relay failed and tries again", exc_info=error)
                elif self._waits is None:
                    log.warning("relay waits: %s", error)
                self._waits = (str(error), self._waits[1] if self._waits is not None else time.monotonic())
                failures = 0 if time.monotonic() - led_since > RETRY_SECONDS_MAX else failures + 1
                self._let_go()
                longest = min(RETRY_SECONDS_MIN * 2 ** min(failures, 10), RETRY_SECONDS_MAX)
                self._stop.wait(random.uniform(RETRY_SECONDS_MIN / 5, longest))  # noqa: S311 - jitter

    def start(self) -> threading.Thread:
        """Run in a thread of this process, beside the service that writes (see `wake`); `stop` ends it."""
        self._thread = threading.Thread(target=self.run, name="evkit relay", daemon=True)
        self._thread.start()
        return self._thread

    def stop(self) -> None:
        """Ask `run` to end after the batches in hand; may be called from any thread or a signal handler."""
        self._stop.set()
        self.wake()

    def wake(self) -> None:
        """Look now, not at the next poll: for a writer in the same process, after its commit."""
        self._wake.call()

    def health(self) -> RelayHealth:
        """Whether it does its work, judged from what it knows itself: at once, and without asking anybody."""
        now, lead = time.monotonic(), self._lead
        heard = [t for t in (self._looped_at, lead.heard_at if lead is not None else None) if t is not None]
        waits = self._waits
        if waits is None and lead is not None and (slow := lead.slow()) is not None:
            waits = slow
        return RelayHealth.of(
            alive=self._running,
            leading=self.leading.is_set(),
            last_loop_seconds=now - max(heard) if heard else None,
            lease_seconds=self.lease_seconds,
            fatal=self._fatal,
            waits_for=waits[0] if waits is not None else None,
            waits_seconds=now - waits[1] if waits is not None else None,
            held_keys=len(lead.publisher.held) if lead is not None else 0,
        )

    def reading(self) -> RelayReading:
        """Its numbers and its outbox's, for `metrics.Collector` and `metrics.export`."""
        return RelayReading(self)

    def step(self) -> int:
        """Read one batch, publish it and mark it, in this thread; returns how many events are published and marked.

        Takes the lead first, if it has not got it; returns 0 when another relay leads. For scripts and tests that drive
        the relay by hand; `run` does the same in a pipeline.

        Raises:
            RelayStopped: see `run`. PublishFailed: the brokers cannot take events now.
        """
        try:
            if not self._leads(wait=False):
                return 0
            batch = self._next_batch()
            done = [] if batch is None else self._publish_now(batch)
            return self._mark(done) if done else 0
        except BaseException:
            self._let_go()
            raise

    def close(self) -> None:
        """Give up the lead and the connections. What is unconfirmed stays unpublished and is sent again later."""
        self._let_go()

    # --- leading ------------------------------------------------------------------------------------------------------

    def _leads(self, *, wait: bool = True) -> bool:
        """Whether this relay leads; when another does, stand by for a moment."""
        self._looped_at = time.monotonic()
        if self._lead is not None:
            return True
        if self._candidate is None:
            self._candidate = Candidate(self.system)
        if not self._candidate.wins():
            self._candidate.depose(self.lease_seconds)
            if wait:
                self._stop.wait(STANDBY_SECONDS)
            return False
        self._begin()
        with refusal.judged(self.system.settings):
            self._lead = Lead(
                self._candidate.connection,
                self.system,
                self._new_publisher,
                delivery=self.delivery,
                lease_seconds=self.lease_seconds,
                accept_cluster=self._accept_cluster,
                first=not self._led_before,
            )
        self._led_before = True
        self.metrics.leads.add()
        self.metrics.leading.set(1)
        self.leading.set()
        return True

    def _new_publisher(self, relay_id: str, is_certain: Callable[[], bool], confirm: Callable[[], None]) -> Publisher:
        settings = self.system.settings
        how: dict[str, Any] = {
            "hold": self._on_poison == "hold",
            "may_publish": is_certain,
            "stop": self._abort,
            "metrics": self.metrics,
        }
        if self.delivery == "exactly-once":
            return TransactionalPublisher(settings, self._source, relay_id=relay_id, confirm=confirm, **how)
        return Publisher(settings, self._source, **how)

    def _let_go(self) -> None:
        self.leading.clear()
        self.metrics.leading.set(0)
        self._abort.set()
        if self._lead is not None:
            self._lead.close()
        if self._candidate is not None:
            self._candidate.close()
        self._lead = self._candidate = None

    @staticmethod
    def _is_outage(error: BaseException) -> bool:
        """Nobody's mistake: a server that is away, or another relay that leads."""
        ours = (refusal.PublishFailed, refusal.Fenced, Deposed, Unreachable, RelayStopped, NotMigrated)
        return isinstance(error, (*ours, psycopg.OperationalError))

    # --- the three stages -----------------------------------------------------------------------------------------------

    def _pipeline(self) -> None:
        """Read, publish and mark until `stop()`; raises what ended a stage."""
        stages = [
            threading.Thread(target=self._stage, args=(work,), name=f"evkit relay {name}", daemon=True)
            for name, work in (("publisher", self._publish_all), ("marker", self._mark_all), ("keeper", self._keep))
        ]
        for stage in stages:
            stage.start()
        try:
            self._read_all()
            self._put(_END)
            deadline = time.monotonic() + STOP_SECONDS
            while stages[0].is_alive() and time.monotonic() < deadline and self._broken is None:
                stages[0].join(0.2)
                self._term.beat()
        except BaseException as error:
            self._break(error)
        finally:
            self._abort.set()
            with contextlib.suppress(queue.Full):
                self._to_publish.put_nowait(_END)
            stages[0].join()
            self._hand_on(_END)
            for stage in stages[1:]:
                stage.join()
        if self._broken is not None:
            raise self._broken

    def _stage(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._break(error)
        finally:
            self._marker_works = self._marker_works and work != self._mark_all

    def _break(self, error: BaseException) -> None:
        if self._broken is None:
            self._broken = error
        self._abort.set()
        self.wake()
        with self._marked:
            self._marked.notify_all()

    @property
    def _term(self) -> Lead:
        assert self._lead is not None, "only a leader reads, publishes and marks"
        return self._lead

    def _read_all(self) -> None:
        pause = POLL_SECONDS_MIN
        while not self._stop.is_set():
            self._check()
            batch = self._next_batch()
            if batch is None:
                pause = min(pause * 1.3, POLL_SECONDS_MAX)
            else:
                pause = POLL_SECONDS_MIN
                self._put(batch)
                if batch.redo or self._term.one_by_one_until:
                    self._drain()
            if not self._more and not self._term.was_notified():
                self._wake.wait(self._term.connection, pause)

    def _next_batch(self) -> Batch | None:
        """Claimed rows, or news for the marker alone; None when there is nothing to do. Sets `_more`."""
        lead, batch = self._term, None
        if not self._tail:
            batch, self._more, self._tail = lead.read(self.batch_events_max, settled_all=not self._unmarked)
            if not self._tail:
                return batch
            # Somebody has decided about unpublishable rows: what is held is another set from here on.
            self._drain()
            lead.refresh_held()
            if batch is not None:
                return batch
        self._drain()
        again = lead.read_again(self.batch_events_max)
        self._tail = self._more = again is not None
        if again is None:
            batch, self._more, self._tail = lead.read(self.batch_events_max, settled_all=not self._unmarked)
        return again or batch

    def _publish_all(self) -> None:
        publisher = self._term.publisher
        ending = False
        try:
            while not (ending and not publisher.under_way):
                batch = None
                if not ending and publisher.under_way < BATCHES_UNDER_WAY:
                    # While answers are awaited they are looked for every millisecond, and so is the next batch.
                    with contextlib.suppress(queue.Empty):
                        batch = self._to_publish.get(timeout=0.001 if publisher.under_way else 0.5)
                if batch is _END:
                    ending = True
                elif batch is not None:
                    publisher.send(batch)
                for done in publisher.poll(0 if batch is not None else 0.001):
                    self._hand_on(done)
                if self._abort.is_set():
                    break
        finally:
            for done in publisher.give_up():
                self._hand_on(done)

    def _keep(self) -> None:
        """Look after the outbox's partitions, on a connection of its own: nobody waits for that."""
        days = self.system.settings.outbox_retention_days
        keeper = retention.Keeper(None if days is None else timedelta(days=days))
        while not self._abort.is_set():
            try:
                with self.system.writing("evkit relay partitions", autocommit=True) as connection:
                    keeper.keep(connection)
            except (psycopg.Error, Unreachable) as error:
                log.warning("outbox partitions were not looked after: %s", error)
            self._abort.wait(KEEP_SECONDS)

    def _mark_all(self) -> None:
        while True:
            batch = self._to_mark.get()
            batches = []
            with contextlib.suppress(queue.Empty):
                while batch is not _END:
                    batches.append(batch)
                    batch = self._to_mark.get_nowait()
            if batches:
                self._mark(batches)
                with self._marked:
                    self._unmarked -= len([b for b in batches if b.whole])
                    self._marked.notify_all()
            if batch is _END:
                return

    def _mark(self, batches: list[Batch]) -> int:
        published = self._term.marker.mark(batches)
        self.metrics.marked.add(published)
        self.metrics.queued.set(self._to_publish.qsize(), "read")
        self.metrics.queued.set(self._term.publisher.under_way, "under_way")
        self.metrics.queued.set(self._to_mark.qsize(), "answered")
        if published and self._on_batch is not None:
            self._on_batch(published)
        return published

    def _publish_now(self, batch: Batch) -> list[Batch]:
        """Send one batch and wait for all of its answers (`step`)."""
        publisher = self._term.publisher
        if not batch.rows:
            return [batch]
        try:
            publisher.send(batch)
            done: list[Batch] = []
            while not done:
                done = publisher.poll(0.1)
                if not done:
                    self._term.beat()
                    if self._stop.is_set():
                        raise refusal.PublishFailed("the relay was stopped before the broker answered")
            return done
        except BaseException:
            if rest := publisher.give_up():
                self._mark(rest)
            raise

    # --- the reader's waiting -------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _put(self, batch: Any) -> None:
        if batch is not _END:
            with self._marked:
                self._unmarked += 1
            if not batch.rows:
                self._hand_on(batch)
                return
        while True:
            self._check()
            try:
                self._to_publish.put(batch, timeout=HEARTBEAT_SECONDS / 2)
                return
            except queue.Full:
                self._term.beat()

    def _hand_on(self, batch: Any) -> None:
        """To the marker; not to one that is dead."""
        while self._marker_works:
            with contextlib.suppress(queue.Full):
                self._to_mark.put(batch, timeout=HEARTBEAT_SECONDS)
                return

    def _drain(self) -> None:
        """Wait until everything that was read is marked."""
        while self._unmarked:
            with self._marked:
                if self._unmarked and self._broken is None:
                    self._marked.wait(HEARTBEAT_SECONDS / 2)
            self._check()
            self._term.beat()
