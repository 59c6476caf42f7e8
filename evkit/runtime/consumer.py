"""topic → handler: poll, decode, handle, and only then store the offset.

One thread polls and never waits for a handler: it fills bounded buffers (assignment.py) from which lanes take batches, so
a slow handler keeps its partitions. All events of one key are handled one after the other, in order; a failed one that is
to be tried again keeps back its key and nobody else. An offset is stored when everything before it in its partition is
committed in PostgreSQL (inbox.py), so killing the consumer at any point loses nothing and handles nothing twice.

What happens when partitions are taken away, or lost, is in membership.py; the inbox keeps what two members would do from
happening twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from evkit import kafka
from evkit.decoding import Decode
from evkit.errors import BrokerUnreachable, UsageError
from evkit.kafka import TopicPartition
from evkit.runtime import look_ahead, metrics, polled
from evkit.runtime.assignment import Assignment, Place, Work
from evkit.runtime.breaker import Breaker, Breakers
from evkit.runtime.collector import at_ease
from evkit.runtime.consumer_health import ConsumerHealth
from evkit.runtime.consumer_metrics import ConsumerMetrics, ConsumerReading
from evkit.runtime.group_pause import PauseWatch
from evkit.runtime.handler import Function, Handlers, Where
from evkit.runtime.inbox import Inbox
from evkit.runtime.key_version import KeyVersions, Version
from evkit.runtime.lane import HUNG_SECONDS, Lane
from evkit.runtime.membership import Membership
from evkit.runtime.mirror import Mirror, make_topics
from evkit.runtime.outcome import Counts
from evkit.runtime.overflow import Overflow
from evkit.runtime.parking import GROUP_EVENTS_MAX, KEY_EVENTS_MAX, Parking
from evkit.runtime.redriver import Redriver
from evkit.runtime.retry import Retry
from evkit.runtime.standing import Memory, Standing
from evkit.runtime.watchdog import Watchdog
from evkit.system import System, connect

if TYPE_CHECKING:
    from pydantic import BaseModel

log = logging.getLogger(__name__)

# Unfinished records a partition may have: enough for the next batches while one is handled, and no more memory than that.
BUFFER_BATCHES = 4
# Bytes that the partitions together may have unfinished, so that neither large records nor many lanes fill the memory.
BUFFER_BYTES_MAX = 64 * 1024 * 1024
# What Python takes around a record's key and value: measured with six headers, most of it theirs.
RECORD_BYTES = 1_700

DEFAULT_BREAKER = Breaker()


class Consumer:
    """Handles the events of some topics for one consumer group, each once, in the order of each key.

        billing = evkit.Consumer("billing", ["order"])

        @billing.handler("order.placed")
        def bill(event, tx):
            tx.execute("INSERT INTO bill ...", ...)

        billing.run()

    Args:
        group             consumer group; also the scope of the inbox, so it must never be derived from a function's name
        topics            to subscribe to
        system            where; default: `evkit.connect()`, asked when the consumer starts
        concurrency       lanes that handle keys in parallel; 1 is the fast one for handlers that only use PostgreSQL
        batch_events_max  most events handled in one transaction; the guarantee does not depend on it
        retry             when a failed event is tried again before it becomes a dead letter
        park_key          after a dead letter later events of its key wait in evkit.parked, in order, until somebody has
                          dealt with the letter; False where events of one key have no order among them. A handler may
                          say otherwise for its types
        parked_key_events_max, parked_group_events_max
                          most events that wait in evkit.parked behind one letter, and in the whole group; see parking.py
        breaker           when a handler is held because its events fail alike over many keys, instead of making dead
                          letters of them all; None: never
        version           what makes one event of a key newer than another: "offset", "sequence" (the CloudEvents extension)
                          or a function of the event that gives a whole number or None. With it a handler is told by
                          `tx.stale` that a newer event of the key was applied before; costs two statements a batch, so None
                          (never stale) is the default. Which one is right when: key_version.py
        inbox             False: no inbox rows, so events are handled at least once; for handlers whose effect may happen
                          twice. Keys are not parked, and views know only the failures of such a group
        mirror            also write an event for each dead letter to topic `dlq.<group>.<topic>`, through the outbox; the
                          topics are made at the start where they are missing (mirror.py)
        hung_seconds      how long a handler may take for an event, one with batch=True for its run, until health is red and
                          its stack is in the log; it is not interrupted
        code_version      kept with each failure, to tell releases apart
        decode            record → Event, or None for a record to pass over; default: the formats of evkit.decoding
        unknown           events of a type without a handler: "skip" them (counted), or "dead" to make dead letters of them
        protocol          Kafka's group protocol: "consumer" (KIP-848, Kafka 4.0 on) or "classic"; None: the first one the
                          broker knows

    Attributes:
        metrics  what it has counted: see consumer_metrics.py
    """

    def __init__(
        self,
        group: str,
        topics: Sequence[str],
        *,
        system: System | None = None,
        concurrency: int = 1,
        batch_events_max: int = 500,
        retry: Retry | None = None,
        park_key: bool | None = None,
        parked_key_events_max: int = KEY_EVENTS_MAX,
        parked_group_events_max: int = GROUP_EVENTS_MAX,
        breaker: Breaker | None = DEFAULT_BREAKER,
        version: Version | None = None,
        inbox: bool = True,
        mirror: bool = False,
        hung_seconds: float = HUNG_SECONDS,
        code_version: str | None = None,
        decode: Decode | None = None,
        unknown: Literal["skip", "dead"] = "skip",
        protocol: Literal["consumer", "classic"] | None = None,
    ) -> None:
        if not group:
            raise UsageError("a consumer needs the name of its group")
        if isinstance(topics, str) or not topics:
            raise UsageError(f"consumer '{group}' needs a list of topics, not {topics!r}")
        if concurrency < 1 or batch_events_max < 1:
            raise UsageError(
                f"consumer '{group}' needs concurrency and batch_events_max of at least 1, "
                f"not {concurrency} and {batch_events_max}"
            )
        if parked_key_events_max < 1 or parked_group_events_max < 1:
            raise UsageError(
                f"consumer '{group}' needs parked_key_events_max and parked_group_events_max of at least 1, not "
                f"{parked_key_events_max} and {parked_group_events_max}; park_key=False parks nothing"
            )
        if not hung_seconds > 0:
            raise UsageError(f"consumer '{group}' needs hung_seconds above 0, not {hung_seconds}; math.inf: never")
        self.group = group
        self.topics = list(topics)
        self.system = system
        self.concurrency = concurrency
        self.batch_events_max = batch_events_max
        self.retry = retry or Retry()
        if version is not None and not callable(version) and version not in ("offset", "sequence"):
            raise UsageError(f"consumer '{group}': a version is 'offset', 'sequence' or a function, not {version!r}")
        if park_key and not inbox:
            raise UsageError(f"consumer '{group}' cannot park keys without an inbox: it would not know what waits")
        self.park_key = inbox if park_key is None else park_key
        self.parked_key_events_max = parked_key_events_max
        self.parked_group_events_max = parked_group_events_max
        self.hung_seconds = hung_seconds
        self.breaker = breaker
        self.version = version
        self.dedupe = inbox
        self.mirror = mirror
        self.code_version = code_version
        self.protocol = protocol
        self.handlers = Handlers(decode, unknown, group)
        self.counts = Counts()
        self.breakers = None if breaker is None else Breakers(group, breaker)
        self.metrics = ConsumerMetrics()
        self._memory = Memory()
        self.assigned = threading.Event()
        self._stop = threading.Event()
        self._client: Any = None
        self._redriver = Redriver(self, concurrency)
        self._begin()

    def _begin(self) -> None:
        high = self.batch_events_max * BUFFER_BATCHES * self.concurrency
        self._assignment = Assignment(high, BUFFER_BYTES_MAX, RECORD_BYTES)
        # Guards the assignment and the counts; told whenever work comes, is finished, or everybody is to end.
        self._changed = threading.Condition()
        self._ending = False
        self._free = 0  # lanes that wait for a batch
        self._lanes: list[Lane] = []
        self._error: BaseException | None = None
        self._membership = Membership(self)
        self._overflow = Overflow(self.group)
        self._paused: set[Place] = set()
        self._watchdog: Watchdog | None = None
        self._pause_watch = PauseWatch(self)

    def handler(
        self,
        *types: str,
        model: type[BaseModel] | None = None,
        batch: bool = False,
        pipeline: bool = False,
        where: Where | None = None,
        park_key: bool | None = None,
    ) -> Callable[[Function], Function]:
        """Register the decorated function for event types; without types, for all that have no handler of their own.

        The function is called as `f(event, tx)`, with `batch=True` as `f(events, tx)` for a run of events in order. With
        `model`, a pydantic class, `event.payload` is an instance of it, also for events of older and newer versions.
        What becomes of types without a handler, `Consumer(unknown=...)` says.

        `where` is a filter, `f(event) -> bool` on the event with its payload as a dict: a type may have several handlers,
        and the first whose filter lets an event pass gets it, the one without a filter last. An event that none lets pass
        is skipped, with a row in the inbox. A filter that raises is a failure of the event like a handler that raises.

        With `pipeline=True` statements are sent without waiting for their answers: several times as fast, for handlers
        that write and do not read. An error then shows at a later statement or at the end of the batch, which is taken
        again in halves until the event is found.

        `park_key`: whether a dead event of these types parks its key, and they wait behind one; None: as the consumer says.
        """
        if batch and pipeline:
            raise UsageError("a handler takes its events in a batch or pipelines its statements, not both")
        if park_key and not self.dedupe:
            raise UsageError(f"consumer '{self.group}' cannot park keys without an inbox: it would not know what waits")

        def registered(function: Function) -> Function:
            self.handlers.add(types, function, model, batch, pipeline, where, park_key)
            return function

        return registered

    def run(self) -> None:
        """Consume until `stop()`; then finish what is in hand, commit its offsets and leave the group.

        While Kafka or PostgreSQL is away it waits, from the start on, and goes on when they are back. Meanwhile Python's
        garbage collector looks less often (collector.py).

        Raises:
            UsageError: there is no handler. MemoryError: as it comes.
        """
        with self._memory.running(), at_ease():
            try:
                while not self._stop.is_set():
                    try:
                        self._look(self._started(), 0.25)
                        self._redriver.take_up(self.system)
                    except BrokerUnreachable as error:  # at the start; later the client itself waits for its broker
                        self._memory.no_broker(self.group, error)
                        self._stop.wait(1.0)
            finally:
                self.close()

    def stop(self) -> None:
        """Ask `run` to end; may be called from any thread or a signal handler."""
        self._stop.set()

    def standing(self) -> Standing:
        """How it stands at this moment: at once, and without asking anybody."""
        return self._memory.standing(self)

    def health(self) -> ConsumerHealth:
        """Whether it does its work, judged from how it stands."""
        return ConsumerHealth.of(self.group, self.standing())

    def reading(self) -> ConsumerReading:
        """Its numbers and its group's, for `metrics.Collector` and `metrics.export`."""
        return ConsumerReading(self)

    def step(self, timeout_seconds: float = 1.0) -> int:
        """Poll once, bring what came to its end, and return how many records that was. For scripts and tests.

        Raises:
            UsageError: there is no handler. BrokerUnreachable: at the first call, when no broker answers.
        """
        client = self._started()
        came = self._take_in(client, self._poll(client, timeout_seconds))
        until = time.monotonic() + 1.0
        while True:
            with self._changed:
                while self._assignment.unfinished and self._error is None and time.monotonic() < until:
                    self._changed.wait(0.1)
                unfinished = self._assignment.unfinished
            self._check()
            self._store(client)
            if not unfinished or self._pause_watch.held:
                break
            # It takes longer: poll on, so that the group knows we are alive, but take nothing more in.
            self._pause(client, set(self._assignment.places))
            came += self._take_in(client, self._poll(client, 0.1))
            until = time.monotonic() + 0.1
        self._pause(client, set())
        return came

    def close(self) -> None:
        """Finish what is in hand, leave the group with what is stored committed, and close all connections.

        It stays in its group meanwhile, `membership.DRAIN_SECONDS_MAX` at most; a handler that takes longer is waited for,
        but its event comes again, to another member too, and is found in the inbox.
        """
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._stop.set()  # also for a lane that waits for PostgreSQL
        self._redriver.end()
        if self._client is not None:
            client, self._client = self._client, None
            self._membership.leave(client, self._is_at_work)
            self._memory.closed()
        for lane in self._lanes:
            lane.join()
        self._redriver.join()
        self._pause_watch.close()
        self._stop.clear()
        self._begin()

    # --- polling ------------------------------------------------------------------------------------------------------

    def _started(self) -> Any:
        if self._client is not None:
            return self._client
        self.handlers.require_any(self.group)
        self.system = self.system or connect()
        kafka.require_broker(self.system.settings, self.system.admin)
        if self.mirror:
            make_topics(self.system, self.group, self.topics)
        inboxes = [self.inbox(self.system, breakers=self.breakers) for _ in range(self.concurrency)]
        self._lanes = [
            Lane(self, n, inbox, self.hung_seconds, lambda: self._redriver.at_it) for n, inbox in enumerate(inboxes)
        ]
        self._pause_watch.begin(self.system)
        for lane in self._lanes:
            lane.start()
        self._watchdog = Watchdog(self.group, self.system.admin)
        self._memory.started(self.system, self.topics[0])
        self._client = self._membership.begin(self.system.settings, self.protocol or "consumer")
        return self._client

    def inbox(self, system: System, **more: Any) -> Inbox:
        """An inbox for this group and these handlers; replay and redrive take theirs from here too."""
        metrics.export(self)
        parks = self.park_key or self.handlers.any_parks_key
        most = self.parked_key_events_max, self.parked_group_events_max
        ours = {
            "code_version": self.code_version,
            "stop": self._stop,
            "parking": Parking(self.group, *most, by_default=self.park_key) if parks else None,
            "versions": KeyVersions(self.group, self.version) if self.version is not None else None,
            "dedupe": self.dedupe,
            "metrics": self.metrics,
            "mirror": Mirror(self.group, system.settings.event_bytes_max) if self.mirror else None,
        }
        return Inbox(system, self.group, self.handlers, self.retry, **(ours | more))

    @property
    def parking_full(self) -> list[str]:
        """Why partitions are paused whose events can neither be handled nor parked; [] when that is not so."""
        with self._changed:
            return self._overflow.sentences()

    @property
    def stuck(self) -> list[str]:
        """Partitions that have records, are not paused, and do not move although they were pushed; as sentences."""
        return [] if self._watchdog is None else self._watchdog.sentences()

    def _look(self, client: Any, timeout_seconds: float) -> None:
        """One turn of the poll loop: pause what takes nothing more, take in what came, store what is done."""
        full = polled.full(self._assignment, self._changed, self._paused, self._is_busy)
        self._pause(client, full | self._overflow.places)
        self._take_in(client, self._poll(client, timeout_seconds))
        self._check()
        self._store(client)
        with self._changed:
            idle = self._assignment.idle()
            ended_at = self._assignment.ended_at
        if self._watchdog is not None:
            self._watchdog.look(client, [place for place in idle if place not in self._paused], ended_at)
        self._memory.look(client, self._assignment, self._changed)
        for lane in self._lanes:
            lane.report_if_hung()

    def _poll(self, client: Any, timeout_seconds: float) -> list[Any]:
        with self._changed:
            idle = not self._assignment.unfinished
        return polled.poll(client, self._assignment, self.batch_events_max, timeout_seconds, idle=idle)

    def _take_in(self, client: Any, messages: list[Any]) -> int:
        stretches, ends, errors = polled.read(messages)
        for topic, error in errors:
            if self.protocol is None and polled.is_without_kip_848(error):
                log.warning("group %s: the broker does not know KIP-848 groups, so it joins a classic one", self.group)
                self.protocol = "classic"
                client.close()
                self._client = self._membership.begin(self.system.settings, "classic")  # type: ignore[union-attr]
                return 0
            if polled.is_fatal(error):
                raise kafka.failed(self.system.settings, kafka.KafkaException(error))  # type: ignore[union-attr]
            self._memory.told(self.group, topic, error)
        self._memory.heard(stretches, ends)
        with self._changed:
            anew = self._assignment.add(stretches)
            for place, offset in ends:
                self._assignment.pass_over(place, offset)
            if stretches:
                self._changed.notify_all()
        polled.tell_anew(self.group, anew)
        return sum(len(stretch.offsets) for stretch in stretches)

    def _pause(self, client: Any, full: set[Place]) -> None:
        """Fetch nothing more of full partitions (of any while a replay has the group pause); go on with others of ours."""
        full = set(self._assignment.places) if self._pause_watch.holds(client) else full
        self._paused = polled.paused(client, full, self._paused)

    def _store(self, client: Any) -> None:
        """Store the offsets up to which everything is done; the client commits them once a second."""
        with self._changed:
            offsets = self._assignment.to_store()
        if offsets:
            try:
                client.store_offsets(offsets=[TopicPartition(*place, offset) for place, offset in offsets.items()])
            except kafka.KafkaException as error:
                # Not ours any more; whoever has them now finds our inbox rows.
                log.info("group %s: offsets not stored: %s", self.group, error)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _is_busy(self) -> bool:
        return not self._free and not self._ending and not self._stop.is_set()

    def _is_at_work(self) -> bool:
        return self._redriver.is_alive or any(lane.is_alive() for lane in self._lanes)

    # --- lanes --------------------------------------------------------------------------------------------------------

    def _next_batch(self) -> list[Work] | None:
        """For a lane: what it may handle now; waits for it. None at the end."""
        with self._changed:
            self._free += 1
            try:
                while not self._ending:
                    # With several lanes each takes its share, so that all of them have something to do.
                    share = -(-self._assignment.unfinished // self.concurrency)
                    records_max = 0 if self._pause_watch.held else min(self.batch_events_max, max(share, 1))
                    if batch := self._assignment.take(records_max, time.monotonic(), self._free):
                        return batch
                    at = self._assignment.next_at
                    self._changed.wait(None if at is None else max(at - time.monotonic(), 0.001))
            finally:
                self._free -= 1
        return None

    def _upcoming(self) -> list[Work]:
        """For a lane: what it may handle next."""
        return look_ahead.in_line(self._assignment, self._changed, self.batch_events_max, self.concurrency)

    def _handle(self, batch: list[Work], inbox: Inbox) -> None:
        """For a lane: handle a batch, and tell what became of it."""
        with self._redriver.turn:
            outcome = inbox.attempt(batch, [work.attempt for work in batch])
        now = time.monotonic()
        again = []
        for index, (seconds, number) in outcome.again.items():
            batch[index].attempt = number
            again.append((batch[index], now + seconds))
        left = {*outcome.again, *outcome.untouched}
        done = [work for index, work in enumerate(batch) if index not in left] if left else batch
        with self._changed:
            self._overflow.note(batch, outcome)
            self._assignment.finish(done, again, [batch[index] for index in sorted(outcome.untouched)])
            self.counts += outcome.counts
            self._changed.notify_all()

    def _break(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._ending = True
            self._changed.notify_all()
