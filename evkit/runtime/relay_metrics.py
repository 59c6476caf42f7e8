"""relay's counters and outbox status → its metrics: what each one is called, means, and comes from.

A number is a counter that the relay keeps itself (`RelayMetrics`), or a key of `outbox.status`, asked when somebody
scrapes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

from evkit import postgres
from evkit.errors import EvkitError
from evkit.runtime import metrics, outbox
from evkit.runtime.metrics import EVENTS, OWN, SECONDS, Count, Level, Metric, Reading, Sample, Spread
from evkit.system import System

log = logging.getLogger(__name__)

# Of an event that was not published: see publisher.py.
ERROR_CLASSES = ("retriable", "poison", "fatal")

# A metric's number is that key of `outbox.status`.
STATUS = "status"


class RelayMetrics:
    """What a relay counts while it works; every attribute is one of `METRICS`, where its meaning stands."""

    def __init__(self) -> None:
        self.published = Count()
        self.published_bytes = Count()
        self.marked = Count()
        self.failed = Count()
        self.retried = Count()
        self.redelivered = Count()
        self.batches = Count()
        self.leads = Count()
        self.batch_seconds = Spread(SECONDS)
        self.batch_events = Spread(EVENTS)
        self.queued = Level()
        self.leading = Level()
        for count in (self.published, self.published_bytes, self.marked, self.retried, self.redelivered, self.batches):
            count.add(0)  # a counter that is missing until its first event hides that first event from rate()
        self.leads.add(0)
        for error_class in ERROR_CLASSES:
            self.failed.add(0, error_class)
        self.batch_seconds.begin()
        self.batch_events.begin()
        self.leading.set(0)


METRICS: tuple[Metric, ...] = (
    Metric("evkit.outbox.pending", "gauge", "{event}",
           "Events that are committed and neither published nor unpublishable.", STATUS, "waiting"),
    Metric("evkit.outbox.oldest.age", "gauge", "s",
           "Age of the oldest pending event; 0 when none is.", STATUS, "oldest_waiting_seconds"),
    Metric("evkit.outbox.scheduled", "gauge", "{event}",
           "Events that are to be published later, those that are due included.", STATUS, "scheduled"),
    Metric("evkit.outbox.due", "gauge", "{event}",
           "Scheduled events whose time has come and that the relay has not moved into the outbox.", STATUS, "due"),
    Metric("evkit.outbox.due.oldest.age", "gauge", "s",
           "For how long the oldest of them is due; 0 when none is.", STATUS, "oldest_due_seconds"),
    Metric("evkit.outbox.unpublishable", "gauge", "{event}",
           "Events that the broker will not take as they are: evkit outbox status, retry or skip.",
           STATUS, "unpublishable"),
    Metric("evkit.outbox.unpublishable.oldest.age", "gauge", "s",
           "For how long the oldest of them is parked; 0 when none is.", STATUS, "oldest_unpublishable_seconds"),
    Metric("evkit.outbox.held", "gauge", "{event}",
           "Later events of their keys, which wait behind them.", STATUS, "held"),
    Metric("evkit.outbox.hole.age", "gauge", "s",
           "For how long the relay has known the oldest position that a running transaction may still fill; 0 when "
           "there is none.", STATUS, "oldest_hole_seconds"),
    Metric("evkit.outbox.hole.pid", "gauge", "1",
           "Process id of the PostgreSQL backend that keeps that position open; absent when none is known.",
           STATUS, "hole_pid", none=None),
    Metric("evkit.outbox.readable", "gauge", "1",
           "1 when the outbox could be asked for this scrape; 0: the other evkit.outbox metrics are absent.",
           STATUS, "readable"),
    Metric("evkit.relay.published", "counter", "{event}",
           "Events that the broker has confirmed.", OWN, "published"),
    Metric("evkit.relay.published.size", "counter", "By",
           "Bytes of their payloads.", OWN, "published_bytes"),
    Metric("evkit.relay.marked", "counter", "{event}",
           "Events whose publication is written down in the database.", OWN, "marked"),
    Metric("evkit.relay.failed", "counter", "{failure}",
           "Failures to publish, by class: poison counts each event, retriable and fatal each time the relay broke off.",
           OWN, "failed", attributes=("error_class",)),
    Metric("evkit.relay.retried", "counter", "{event}",
           "Events that were tried again after they had failed or were unpublishable.", OWN, "retried"),
    Metric("evkit.relay.redelivered", "counter", "{event}",
           "Events sent again that may be in their topic already, after a crash or a lost answer.",
           OWN, "redelivered"),
    Metric("evkit.relay.batches", "counter", "{batch}",
           "Batches that were wholly answered.", OWN, "batches"),
    Metric("evkit.relay.leads", "counter", "{lead}",
           "How often this relay took the lead.", OWN, "leads"),
    Metric("evkit.relay.leading", "gauge", "1",
           "1 while this relay leads, 0 while it stands by.", OWN, "leading"),
    Metric("evkit.relay.queued", "gauge", "{batch}",
           "Batches between two stages of the relay: read, under_way to the broker, answered and not marked yet.",
           OWN, "queued", attributes=("stage",)),
    Metric("evkit.relay.batch.duration", "histogram", "s",
           "From a batch's first event handed to the producer to its last answer.", OWN, "batch_seconds"),
    Metric("evkit.relay.batch.size", "histogram", "{event}",
           "Events in a batch.", OWN, "batch_events"),
)  # fmt: skip


class Asked(Protocol):
    """What is asked of a relay."""

    @property
    def system(self) -> System: ...

    @property
    def metrics(self) -> RelayMetrics: ...


class RelayReading(Reading):
    """The numbers of one relay and its outbox, now. The outbox is asked at most every five seconds."""

    metrics = METRICS

    def __init__(self, relay: Asked) -> None:
        self._system = relay.system
        # Which outbox: host, port and database, as several relays may report to one place.
        super().__init__(relay.metrics, {"outbox": postgres.address(relay.system.settings.postgres_dsn)})
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._status: dict[str, Any] | None = None

    def asked(self, metric: Metric) -> Iterator[Sample]:
        """A key of the outbox's status, when it can be asked and has a number."""
        status = self._now()
        if metric.key == "readable":
            yield Sample(float(status is not None), self.about)
        elif status is not None:
            value = metric.none if status[metric.key] is None else float(status[metric.key])
            if value is not None:
                yield Sample(value, self.about)

    def _now(self) -> dict[str, Any] | None:
        with self._lock:
            if time.monotonic() - self._asked_at >= metrics.ASK_SECONDS:
                try:
                    self._status = outbox.status(self._system, counts=False)
                except EvkitError as error:
                    # Whoever scrapes still gets the relay's own numbers, and 0 for readable.
                    log.warning("the outbox cannot be asked for its metrics: %s", error)
                    self._status = None
                self._asked_at = time.monotonic()
            return self._status
