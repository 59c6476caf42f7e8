"""consumer's counters and state → its metrics: what each one is called, means, and comes from.

A number is a counter that lanes and poll loop keep (`ConsumerMetrics`: one addition a batch, none an event), or is asked
when somebody scrapes: how the consumer stands (standing.py), where the broker says that its group is, and what waits in
PostgreSQL. Topic and partition are the finest that anything is split by; ids and keys never are.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from evkit import kafka
from evkit.errors import EvkitError
from evkit.kafka import Record, TopicPartition
from evkit.runtime import metrics, tracing
from evkit.runtime.assignment import Place
from evkit.runtime.failure import class_name
from evkit.runtime.metrics import EVENTS, OWN, SECONDS, Count, Metric, Reading, Sample, Spread
from evkit.runtime.outcome import HandlerRaised
from evkit.runtime.standing import Standing
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_PARKING = named("parking")

# How an event can end. Those of another kind under a known id are duplicates too, and counted apart.
OUTCOMES = ("handled", "duplicate", "skipped", "dead", "parked")
DISPOSITIONS = ("retry", "held", "dead")
REBALANCES = ("assigned", "revoked", "lost")

# Sources of metrics besides the consumer's own counters.
STANDING, PARTITION, BROKER, DATABASE = "standing", "partition", "broker", "database"


class Counted(Protocol):
    """How many events ended in which way: an attribute for each of OUTCOMES, and those under a known id."""

    conflicting: int


class ConsumerMetrics:
    """What a consumer counts while it works; every attribute is one of `METRICS`, where its meaning stands.

    What replays and redrives of the group do in this process is counted here too, told apart by `replay`.
    """

    def __init__(self) -> None:
        self.events = Count()
        self.conflicting = Count()
        self.attempts_failed = Count()
        self.rebalances = Count()
        self.process_seconds = Spread(SECONDS)
        self.batch_events = Spread(EVENTS)
        # A counter that is missing until its first event hides that first event from rate().
        for replay in (_REPLAY[False], _REPLAY[True]):
            for outcome in OUTCOMES:
                self.events.add(0, outcome, replay)
            for disposition in DISPOSITIONS:
                self.attempts_failed.add(0, disposition, replay)
            self.conflicting.add(0, replay)
        for kind in REBALANCES:
            self.rebalances.add(0, kind)
        self.process_seconds.begin("", _REPLAY[False])
        self.batch_events.begin(_REPLAY[False])

    def ended(self, counts: Counted, *, replay: bool) -> None:
        """Events came to their end, and that is committed."""
        for outcome in OUTCOMES:
            if n := getattr(counts, outcome):
                self.events.add(n, outcome, _REPLAY[replay])
        if counts.conflicting:
            self.conflicting.add(counts.conflicting, _REPLAY[replay])

    def failed(self, disposition: str, *, replay: bool) -> None:
        """An attempt at one event failed, and that is written down."""
        self.attempts_failed.add(1, disposition, _REPLAY[replay])

    @contextmanager
    def processing(self, group: str, records: Iterable[Record], events: int, replay_id: str | None) -> Iterator[None]:
        """Around one transaction: its span, its duration, and how many events it was about; an error passes through.

        The records are not looked at while no SDK for traces is set up.
        """
        started, error_type = time.monotonic(), ""
        with tracing.process_span(group, records, events, replay_id=replay_id) as span:
            try:
                yield
            except BaseException as error:
                raised = error.__cause__ if isinstance(error, HandlerRaised) and error.__cause__ is not None else error
                error_type = class_name(type(raised))
                span.end(error_type=error_type)
                raise
            finally:
                replay = _REPLAY[replay_id is not None]
                self.process_seconds.observe(time.monotonic() - started, error_type, replay)
                self.batch_events.observe(events, replay)


_REPLAY = {False: "false", True: "true"}
_OF_PARTITION = ("topic", "partition")
_PROCESS = (("messaging.system", "kafka"), ("messaging.operation.name", "process"))
_POLL = (("messaging.system", "kafka"), ("messaging.operation.name", "poll"))

METRICS: tuple[Metric, ...] = (
    Metric("evkit.consumer.events", "counter", "{event}",
           "Events that came to their end, by outcome: handled, duplicate, skipped, dead or parked. replay is true for "
           "those that a replay or redrive in this process handled on purpose.",
           OWN, "events", ("outcome", "replay")),
    Metric("evkit.consumer.conflicting", "counter", "{event}",
           "Of the duplicates those that are no copies but other events under a known id: evkit.id_conflict.",
           OWN, "conflicting", ("replay",)),
    Metric("evkit.consumer.attempts.failed", "counter", "{attempt}",
           "Attempts at one event that failed: retry is followed by another one, held too, and costs the event none of "
           "its attempts, dead by a dead letter.",
           OWN, "attempts_failed", ("disposition", "replay")),
    Metric("messaging.process.duration", "histogram", "s",
           "Of one transaction, inbox rows, handlers and commit; with error_type it was rolled back and is taken again.",
           OWN, "process_seconds", ("error_type", "replay"), constant=_PROCESS),
    Metric("evkit.consumer.batch.size", "histogram", "{event}",
           "Events in one transaction.", OWN, "batch_events", ("replay",)),
    Metric("evkit.consumer.rebalances", "counter", "{rebalance}",
           "How often partitions were assigned, revoked, or lost to another member.",
           OWN, "rebalances", ("kind",)),
    Metric("messaging.client.consumed.messages", "counter", "{message}",
           "Records that were polled from a partition since it was assigned for the first time.",
           PARTITION, "polled", _OF_PARTITION, constant=_POLL),
    Metric("evkit.consumer.running", "gauge", "1",
           "1 while the poll loop runs.", STANDING, "running"),
    Metric("evkit.consumer.waiting", "gauge", "s",
           "For how long it has been waiting for PostgreSQL or the broker; 0 when it is not.",
           STANDING, "waits_seconds"),
    Metric("evkit.consumer.partitions.assigned", "gauge", "{partition}",
           "Partitions that it has.", STANDING, "assigned"),
    Metric("evkit.consumer.partitions.paused", "gauge", "{partition}",
           "Of these, those that it fetches nothing of, because enough of them is waiting here.", STANDING, "paused"),
    Metric("evkit.consumer.partitions.stuck", "gauge", "{partition}",
           "Of these, those that have records and give none although nothing is paused.", STANDING, "stuck"),
    Metric("evkit.consumer.in_hand", "gauge", "{event}",
           "Events that handlers have in hand.", STANDING, "in_hand"),
    Metric("evkit.consumer.handlers.hung", "gauge", "{handler}",
           "Handlers that have not come back for longer than anybody should wait: their stack is in the log.",
           STANDING, "hung"),
    Metric("evkit.consumer.retry.keys", "gauge", "{key}",
           "Keys that wait for another attempt at a failed event.", STANDING, "waiting_keys"),
    Metric("evkit.consumer.breaker.open", "gauge", "{handler}",
           "Handlers whose events are held, because they fail alike on many keys.", STANDING, "held"),
    Metric("evkit.consumer.parking.full", "gauge", "1",
           "1 while events stay in Kafka although their keys are parked: too many wait.", STANDING, "parking_full"),
    Metric("evkit.consumer.buffered", "gauge", "{record}",
           "Records of a partition that are here and not done, those in hand included.",
           PARTITION, "buffered", _OF_PARTITION),
    Metric("evkit.consumer.buffered.size", "gauge", "By",
           "Bytes of their keys and values.", PARTITION, "buffered_bytes", _OF_PARTITION),
    Metric("evkit.consumer.inflight.span", "gauge", "{offset}",
           "From the first offset that is not done to the last one that is: what would come twice after a crash, "
           "without effect.", PARTITION, "span", _OF_PARTITION),
    Metric("evkit.consumer.position", "gauge", "{offset}",
           "Next offset that the consumer has to do.", PARTITION, "position", _OF_PARTITION, none=None),
    Metric("evkit.consumer.lag", "gauge", "{offset}",
           "Lag as the consumer sees it: the end offset of its last fetch minus its position, at most a second old. It "
           "stands still while a partition is paused.", PARTITION, "lag", _OF_PARTITION, none=None),
    Metric("evkit.consumer.lag.committed", "gauge", "{offset}",
           "Lag as the broker sees it: end offset minus committed offset, of the partitions that this consumer has.",
           BROKER, "lag", _OF_PARTITION),
    Metric("evkit.consumer.progress.age", "gauge", "s",
           "Since the position of a partition last moved, while there is something to do; 0 while there is nothing.",
           PARTITION, "still_seconds", _OF_PARTITION),
    Metric("evkit.consumer.broker.readable", "gauge", "1",
           "1 when the broker could be asked for this scrape; 0: lag.committed is absent.", BROKER, "readable"),
    Metric("evkit.consumer.parked", "gauge", "{event}",
           "Events of the whole group that wait behind dead letters of their keys; every member tells the same number.",
           DATABASE, "events"),
    Metric("evkit.consumer.parked.keys", "gauge", "{key}",
           "Keys of the whole group that are parked.", DATABASE, "keys"),
    Metric("evkit.consumer.database.readable", "gauge", "1",
           "1 when PostgreSQL could be asked for this scrape; 0: parked is absent.", DATABASE, "readable"),
)  # fmt: skip


_OF_CONSUMER: dict[str, Callable[[Standing], float]] = {
    "running": lambda s: s.running,
    "waits_seconds": lambda s: s.waits_seconds or 0.0,
    "assigned": lambda s: len(s.partitions),
    "paused": lambda s: sum(p.paused for p in s.partitions),
    "stuck": lambda s: len(s.stuck),
    "in_hand": lambda s: sum(p.in_hand for p in s.partitions),
    "hung": lambda s: len(s.hung),
    "waiting_keys": lambda s: s.waiting_keys,
    "held": lambda s: len(s.held),
    "parking_full": lambda s: bool(s.parking_full),
}


class Asked(Protocol):
    """What is asked of a consumer."""

    group: str
    metrics: ConsumerMetrics

    @property
    def system(self) -> System | None:
        """None until it has started."""

    def standing(self) -> Standing:
        """How it stands now."""


class ConsumerReading(Reading):
    """The numbers of one consumer, now. Broker and database are asked at most every five seconds, for what the group has
    committed and parked."""

    metrics = METRICS

    def __init__(self, consumer: Asked) -> None:
        super().__init__(consumer.metrics, {"group": consumer.group})
        self._consumer = weakref.ref(consumer)  # whoever reads keeps nobody alive
        self._group = consumer.group
        self._lags = _Answer(self._ask_broker, "the broker cannot be asked for the lag of group %s: %s")
        self._parked = _Answer(self._ask_database, "PostgreSQL cannot be asked what group %s has parked: %s")

    def asked(self, metric: Metric) -> Iterator[Sample]:
        """A number of how the consumer stands, or of what a server says."""
        consumer = self._consumer()
        if consumer is None:
            return
        if metric.source == STANDING:
            yield Sample(float(_OF_CONSUMER[metric.key](consumer.standing())), self.about)
        elif metric.key == "polled":
            for place, n in sorted(consumer.standing().polled.items()):
                yield self._of(place, n)
        elif metric.source == PARTITION:
            for p in consumer.standing().partitions:
                value = getattr(p, metric.key)
                if value is not None:
                    yield self._of((p.topic, p.partition), value)
        elif consumer.system is not None:  # has started, and knows its servers
            answer = (self._lags if metric.source == BROKER else self._parked).of(consumer, self._group)
            if metric.key == "readable":
                yield Sample(float(answer is not None), self.about)
            elif answer is not None and metric.source == BROKER:
                for place, lag in sorted(answer.items()):
                    yield self._of(place, lag)
            elif answer is not None:
                yield Sample(float(answer[metric.key]), self.about)

    def _of(self, place: Place, value: float) -> Sample:
        return Sample(float(value), self.about | {"topic": place[0], "partition": str(place[1])})

    def _ask_broker(self, consumer: Asked) -> dict[Place, int]:
        """End offset minus committed offset of the partitions that this consumer has, where something is committed."""
        assert consumer.system is not None
        settings, admin = consumer.system.settings, consumer.system.admin
        ours = [TopicPartition(p.topic, p.partition) for p in consumer.standing().partitions]
        # Committed first: the other way round a group that is faster than the question had a lag below zero.
        if not ours:
            kafka.require_broker(settings, admin)
            return {}
        committed = kafka.committed(settings, self._group, ours)
        ends = kafka.offsets(settings, [TopicPartition(*place) for place in committed], client=admin)
        return {place: ends[place] - offset for place, offset in committed.items()}

    def _ask_database(self, consumer: Asked) -> dict[str, int]:
        assert consumer.system is not None
        with consumer.system.reading() as connection:
            row = connection.execute(_PARKING["waiting"], {"group": self._group}).fetchone()
        assert row is not None
        return {"events": row[0], "keys": row[1]}


class _Answer:
    """What a server said last; asked again when that is too old."""

    def __init__(self, ask: Callable[[Asked], Any], sentence: str) -> None:
        self._ask = ask
        self._sentence = sentence
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._answer: Any = None

    def of(self, consumer: Asked, group: str) -> Any:
        """The answer; None when the server could not be asked."""
        with self._lock:
            if time.monotonic() - self._asked_at >= metrics.ASK_SECONDS:
                try:
                    self._answer = self._ask(consumer)
                except EvkitError as error:
                    # Whoever scrapes still gets the consumer's own numbers.
                    log.warning(self._sentence, group, error)
                    self._answer = None
                self._asked_at = time.monotonic()
            return self._answer
