"""relay's counters and outbox status → Prometheus and OpenTelemetry: export, from one list of metrics.

`METRICS` says each metric once: its name as OpenTelemetry spells it, kind, unit, meaning, and where its number comes from,
which is a counter that the relay keeps itself (`RelayMetrics`, one addition a batch) or a key of `outbox.status`, asked
when somebody scrapes. Prometheus' spelling follows: `evkit.outbox.oldest.age` in s is `evkit_outbox_oldest_age_seconds`.

Neither library is imported before somebody exports.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from evkit import postgres
from evkit.errors import EvkitError
from evkit.runtime import outbox
from evkit.system import System

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from prometheus_client import Metric as Family

log = logging.getLogger(__name__)

# A status is used again for so long: it costs a query, and several may scrape.
STATUS_SECONDS = 5.0

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_EVENTS = (1, 10, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)


# Of an event that was not published: see publisher.py.
ERROR_CLASSES = ("retriable", "poison", "fatal")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name       as OpenTelemetry spells it
        kind       counter (only grows), gauge or histogram
        unit       in UCUM: "s", "By", "1", or "{event}" for a plain count
        meaning    one line
        source     "relay": attribute `key` of RelayMetrics; "status": that key of `outbox.status`
        key        see source
        attribute  what a counter or gauge is split by; None: by nothing
        none       what is exported where the status says None: 0 for ages of what is not there; None: nothing
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    source: Literal["relay", "status"]
    key: str
    attribute: str | None = None
    none: float | None = 0

    @property
    def prometheus_name(self) -> str:
        """Dots as underscores and the unit in full; a counter's `_total` is added by the library."""
        suffix = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        return self.name.replace(".", "_") + suffix


class Count:
    """A number that only grows, split by one attribute if it has one. Threads may add at the same time."""

    __slots__ = ("_lock", "values")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.values: dict[str, float] = {}

    def add(self, n: float = 1, attribute: str = "") -> None:
        with self._lock:
            self.values[attribute] = self.values.get(attribute, 0) + n

    @property
    def value(self) -> float:
        """The sum over all values of the attribute."""
        return sum(list(self.values.values()))


class Level:
    """A number that goes up and down: what was set last, for each value of the attribute."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def set(self, value: float, attribute: str = "") -> None:
        self.values[attribute] = value


class Spread:
    """How often values were how large. `listeners` are told each value too: OpenTelemetry collects its own spread."""

    __slots__ = ("_lock", "bounds", "counts", "listeners", "sum")

    def __init__(self, bounds: Iterable[float]) -> None:
        self._lock = threading.Lock()
        self.bounds = tuple(float(b) for b in bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0
        self.listeners: list[Callable[[float], None]] = []

    def observe(self, value: float) -> None:
        with self._lock:
            self.counts[bisect_left(self.bounds, value)] += 1
            self.sum += value
        for listener in self.listeners:
            listener(value)

    def read(self) -> tuple[list[tuple[float, int]], float]:
        """(upper bound, values up to it) ascending, the last bound infinite; and the sum of all values."""
        with self._lock:
            counts, total = list(self.counts), self.sum
        pairs, below = [], 0
        for bound, n in zip((*self.bounds, float("inf")), counts, strict=True):
            below += n
            pairs.append((bound, below))
        return pairs, total


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
        self.batch_seconds = Spread(_SECONDS)
        self.batch_events = Spread(_EVENTS)
        self.queued = Level()
        self.leading = Level()
        for count in (self.published, self.published_bytes, self.marked, self.retried, self.redelivered, self.batches):
            count.add(0)  # a counter that is missing until its first event hides that first event from rate()
        self.leads.add(0)
        for error_class in ERROR_CLASSES:
            self.failed.add(0, error_class)
        self.leading.set(0)


METRICS: tuple[Metric, ...] = (
    Metric("evkit.outbox.pending", "gauge", "{event}",
           "Events that are committed and neither published nor unpublishable.", "status", "waiting"),
    Metric("evkit.outbox.oldest.age", "gauge", "s",
           "Age of the oldest pending event; 0 when none is.", "status", "oldest_waiting_seconds"),
    Metric("evkit.outbox.scheduled", "gauge", "{event}",
           "Events that are to be published later, those that are due included.", "status", "scheduled"),
    Metric("evkit.outbox.due", "gauge", "{event}",
           "Scheduled events whose time has come and that the relay has not moved into the outbox.", "status", "due"),
    Metric("evkit.outbox.due.oldest.age", "gauge", "s",
           "For how long the oldest of them is due; 0 when none is.", "status", "oldest_due_seconds"),
    Metric("evkit.outbox.unpublishable", "gauge", "{event}",
           "Events that the broker will not take as they are: evkit outbox status, retry or skip.",
           "status", "unpublishable"),
    Metric("evkit.outbox.unpublishable.oldest.age", "gauge", "s",
           "For how long the oldest of them is parked; 0 when none is.", "status", "oldest_unpublishable_seconds"),
    Metric("evkit.outbox.held", "gauge", "{event}",
           "Later events of their keys, which wait behind them.", "status", "held"),
    Metric("evkit.outbox.hole.age", "gauge", "s",
           "For how long the relay has known the oldest position that a running transaction may still fill; 0 when "
           "there is none.", "status", "oldest_hole_seconds"),
    Metric("evkit.outbox.hole.pid", "gauge", "1",
           "Process id of the PostgreSQL backend that keeps that position open; absent when none is known.",
           "status", "hole_pid", none=None),
    Metric("evkit.outbox.readable", "gauge", "1",
           "1 when the outbox could be asked for this scrape; 0: the other evkit.outbox metrics are absent.",
           "status", "readable"),
    Metric("evkit.relay.published", "counter", "{event}",
           "Events that the broker has confirmed.", "relay", "published"),
    Metric("evkit.relay.published.size", "counter", "By",
           "Bytes of their payloads.", "relay", "published_bytes"),
    Metric("evkit.relay.marked", "counter", "{event}",
           "Events whose publication is written down in the database.", "relay", "marked"),
    Metric("evkit.relay.failed", "counter", "{failure}",
           "Failures to publish, by class: poison counts each event, retriable and fatal each time the relay broke off.",
           "relay", "failed", attribute="error_class"),
    Metric("evkit.relay.retried", "counter", "{event}",
           "Events that were tried again after they had failed or were unpublishable.", "relay", "retried"),
    Metric("evkit.relay.redelivered", "counter", "{event}",
           "Events sent again that may be in their topic already, after a crash or a lost answer.",
           "relay", "redelivered"),
    Metric("evkit.relay.batches", "counter", "{batch}",
           "Batches that were wholly answered.", "relay", "batches"),
    Metric("evkit.relay.leads", "counter", "{lead}",
           "How often this relay took the lead.", "relay", "leads"),
    Metric("evkit.relay.leading", "gauge", "1",
           "1 while this relay leads, 0 while it stands by.", "relay", "leading"),
    Metric("evkit.relay.queued", "gauge", "{batch}",
           "Batches between two stages of the relay: read, under_way to the broker, answered and not marked yet.",
           "relay", "queued", attribute="stage"),
    Metric("evkit.relay.batch.duration", "histogram", "s",
           "From a batch's first event handed to the producer to its last answer.", "relay", "batch_seconds"),
    Metric("evkit.relay.batch.size", "histogram", "{event}",
           "Events in a batch.", "relay", "batch_events"),
)  # fmt: skip


class Measured(Protocol):
    """What is asked of a relay."""

    @property
    def system(self) -> System: ...

    @property
    def metrics(self) -> RelayMetrics: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of a counter or gauge at this moment, and its attributes as OpenTelemetry names them."""

    metric: Metric
    value: float
    attributes: dict[str, str]


class Reading:
    """The numbers of one relay and its outbox, now. The outbox is asked at most every five seconds."""

    def __init__(self, relay: Measured) -> None:
        self._metrics = relay.metrics
        self._system = relay.system
        # Which outbox: host, port and database, as several relays may report to one place.
        self.outbox = postgres.address(relay.system.settings.postgres_dsn)
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._status: dict[str, Any] | None = None

    def samples(self, only: Metric | None = None) -> Iterator[Sample]:
        """Every counter and gauge that has a number, or those of one metric; not the histograms."""
        for metric in METRICS if only is None else (only,):
            if metric.kind == "histogram":
                continue
            if metric.source == "relay":
                values = dict(getattr(self._metrics, metric.key).values)
                for attribute, value in values.items():
                    more = {metric.attribute: attribute} if metric.attribute is not None else {}
                    yield Sample(metric, value, {"outbox": self.outbox} | more)
            else:
                found = self._from_status(metric)
                if found is not None:
                    yield Sample(metric, found, {"outbox": self.outbox})

    def spread(self, metric: Metric) -> Spread:
        """Of a histogram."""
        spread: Spread = getattr(self._metrics, metric.key)
        return spread

    def _from_status(self, metric: Metric) -> float | None:
        status = self._asked()
        if metric.key == "readable":
            return float(status is not None)
        if status is None:
            return None
        value = status[metric.key]
        return metric.none if value is None else float(value)

    def _asked(self) -> dict[str, Any] | None:
        with self._lock:
            if time.monotonic() - self._asked_at >= STATUS_SECONDS:
                try:
                    self._status = outbox.status(self._system, counts=False)
                except EvkitError as error:
                    # Whoever scrapes still gets the relay's own numbers, and 0 for readable.
                    log.warning("the outbox cannot be asked for its metrics: %s", error)
                    self._status = None
                self._asked_at = time.monotonic()
            return self._status


class Collector:
    """A collector for a registry of prometheus_client: `REGISTRY.register(Collector(relay))` in a service with its own
    endpoint. One for all relays of a process: a registry takes each name once."""

    def __init__(self, *relays: Measured) -> None:
        self._readings = [Reading(relay) for relay in relays]

    def collect(self) -> Iterator[Family]:
        """The metrics of this moment, as the registry asks for them."""
        from prometheus_client import core

        for metric in METRICS:
            names = ["outbox"] + ([metric.attribute] if metric.attribute is not None else [])
            if metric.kind == "histogram":
                spreads = core.HistogramMetricFamily(metric.prometheus_name, metric.meaning, labels=names)
                for reading in self._readings:
                    pairs, total = reading.spread(metric).read()
                    buckets = [(_bound(bound), n) for bound, n in pairs]
                    spreads.add_metric([reading.outbox], buckets=buckets, sum_value=total)
                yield spreads
                continue
            kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
            family = kind(metric.prometheus_name, metric.meaning, labels=names)
            for reading in self._readings:
                for sample in reading.samples(metric):
                    family.add_metric([sample.attributes[n] for n in names], sample.value)
            yield family

    def describe(self) -> list[Family]:
        """Nothing: a registry that asks for the names must not make us ask the database."""
        return []


def _bound(bound: float) -> str:
    """A bucket's bound as Prometheus writes it."""
    return "+Inf" if bound == float("inf") else repr(bound)


# Relays whose numbers go to a meter provider; the process's own is under None.
_exported: dict[MeterProvider | None, dict[int, tuple[weakref.ref[Any], Reading]]] = {}
_export_lock = threading.Lock()


def export(relay: Measured, provider: MeterProvider | None = None) -> bool:
    """Let OpenTelemetry observe a relay, when the process uses OpenTelemetry; returns whether it does.

    Called by a relay when it starts. Nothing is imported and nothing happens in a process that has not imported
    opentelemetry's metrics by then; where it has, an SDK may also be set up later. Calling twice changes nothing, and a
    relay that is gone is not observed any more.

    Args:
        relay     whose numbers
        provider  where to; default: what the process has set up
    """
    if provider is None and "opentelemetry.metrics" not in sys.modules:
        return False
    with _export_lock:
        new = provider not in _exported
        relays = _exported.setdefault(provider, {})
        if id(relay) not in relays or relays[id(relay)][0]() is not relay:
            reading = Reading(relay)
            key = id(relay)
            relays[key] = (weakref.ref(relay, lambda _: relays.pop(key, None)), reading)
            _listen(reading, provider)
        if new:
            _observe(relays, provider)
    return True


def _meter(provider: MeterProvider | None) -> Any:
    from opentelemetry import metrics

    return metrics.get_meter("evkit") if provider is None else provider.get_meter("evkit")


def _observe(relays: dict[int, tuple[weakref.ref[Any], Reading]], provider: MeterProvider | None) -> None:
    from opentelemetry.metrics import Observation

    def observer(metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for relay, reading in list(relays.values()):
                if relay() is not None:
                    for sample in reading.samples(metric):
                        yield Observation(sample.value, sample.attributes)

        return observe

    meter = _meter(provider)
    for metric in METRICS:
        if metric.kind != "histogram":
            create = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
            create(metric.name, callbacks=[observer(metric)], unit=metric.unit, description=metric.meaning)


def _listen(reading: Reading, provider: MeterProvider | None) -> None:
    """OpenTelemetry has no observable histogram: it is told each value."""
    meter = _meter(provider)
    for metric in METRICS:
        if metric.kind == "histogram":
            spread = reading.spread(metric)
            histogram = meter.create_histogram(
                metric.name,
                unit=metric.unit,
                description=metric.meaning,
                explicit_bucket_boundaries_advisory=list(spread.bounds),
            )
            attributes = {"outbox": reading.outbox}
            spread.listeners.append(lambda value, to=histogram, about=attributes: to.record(value, about))  # type: ignore[misc]
