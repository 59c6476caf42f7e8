"""a part's own counters and what it asks for → Prometheus and OpenTelemetry: export, from one list of metrics for each.

A part is a relay or a consumer. Its list (relay_metrics.py, consumer_metrics.py) says each metric once: its name as
OpenTelemetry spells it, kind, unit, meaning, and where its number comes from, which is a counter that the part keeps itself
(`Count`, `Level`, `Spread`: one addition a batch) or something that is asked when somebody scrapes. Prometheus' spelling
follows: `evkit.outbox.oldest.age` in s is `evkit_outbox_oldest_age_seconds`.

Neither library is imported before somebody exports.
"""

from __future__ import annotations

import sys
import threading
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from evkit.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from prometheus_client import Metric as Family

# A metric's number is in the counters of the part itself.
OWN = "own"

# What was asked of a server is used again for so long: it costs a query, and several may scrape.
ASK_SECONDS = 5.0

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
EVENTS = (1, 10, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)

# Attributes that OpenTelemetry's messaging conventions have a name for; as labels of Prometheus they keep the short one.
_CONVENTIONAL = {
    "group": "messaging.consumer.group.name",
    "topic": "messaging.destination.name",
    "partition": "messaging.destination.partition.id",
    "error_type": "error.type",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name        as OpenTelemetry spells it
        kind        counter (only grows), gauge or histogram
        unit        in UCUM: "s", "By", "1", or "{event}" for a plain count
        meaning     one line
        source      OWN: the attribute `key` of the part's counters; else one of the sources of its Reading
        key         see source
        attributes  what it is split by
        none        what is exported where its source says None: 0 for ages of what is not there; None: nothing
        constant    attributes with a fixed value that OpenTelemetry's conventions ask for; no labels of Prometheus
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    source: str
    key: str
    attributes: tuple[str, ...] = ()
    none: float | None = 0
    constant: tuple[tuple[str, str], ...] = ()

    @property
    def prometheus_name(self) -> str:
        """Dots as underscores and the unit in full; a counter's `_total` is added by the library."""
        suffix = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        return self.name.replace(".", "_") + suffix


class Count:
    """A number that only grows, for each combination of its attributes. Threads may add at the same time."""

    __slots__ = ("_lock", "values")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.values: dict[tuple[str, ...], float] = {}

    def add(self, n: float = 1, *attributes: str) -> None:
        with self._lock:
            self.values[attributes] = self.values.get(attributes, 0) + n

    @property
    def value(self) -> float:
        """The sum over all attributes."""
        return sum(list(self.values.values()))


class Level:
    """A number that goes up and down: what was set last, for each combination of its attributes."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def set(self, value: float, *attributes: str) -> None:
        self.values[attributes] = value


class Spread:
    """How often values were how large, for each combination of its attributes.

    `listeners` are told each value and its attributes too: OpenTelemetry collects its own spread.
    """

    __slots__ = ("_counts", "_lock", "_sums", "bounds", "listeners")

    def __init__(self, bounds: Iterable[float]) -> None:
        self._lock = threading.Lock()
        self.bounds = tuple(float(b) for b in bounds)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self.listeners: list[Callable[[float, tuple[str, ...]], None]] = []

    def begin(self, *attributes: str) -> None:
        """Be there before the first value: a histogram that is missing until then hides that value from rate()."""
        with self._lock:
            if attributes not in self._counts:
                self._counts[attributes], self._sums[attributes] = [0] * (len(self.bounds) + 1), 0.0

    def observe(self, value: float, *attributes: str) -> None:
        with self._lock:
            counts = self._counts.get(attributes)
            if counts is None:
                counts = self._counts[attributes] = [0] * (len(self.bounds) + 1)
                self._sums[attributes] = 0.0
            counts[bisect_left(self.bounds, value)] += 1
            self._sums[attributes] += value
        for listener in self.listeners:
            listener(value, attributes)

    def read(self) -> dict[tuple[str, ...], tuple[list[tuple[float, int]], float]]:
        """By attributes: (upper bound, values up to it) ascending, the last bound infinite; and the sum of all values."""
        with self._lock:
            counted = {
                attributes: (list(counts), self._sums[attributes]) for attributes, counts in self._counts.items()
            }
        return {attributes: (self._summed(counts), total) for attributes, (counts, total) in counted.items()}

    def _summed(self, counts: list[int]) -> list[tuple[float, int]]:
        pairs, below = [], 0
        for bound, n in zip((*self.bounds, float("inf")), counts, strict=True):
            below += n
            pairs.append((bound, below))
        return pairs


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of a counter or gauge at this moment, and its attributes in our words."""

    value: float
    attributes: dict[str, str]


class Reading:
    """The numbers of one part, now.

    A subclass names the `metrics` and what is `asked` of other sources than the part's own counters.

    Args:
        own    the part's counters
        about  attributes that every number has; they tell one part from another of its kind in the same process
    """

    metrics: ClassVar[tuple[Metric, ...]]

    def __init__(self, own: object, about: dict[str, str]) -> None:
        self._own = own
        self.about = about

    def samples(self, metric: Metric) -> Iterator[Sample]:
        """The numbers of a counter or gauge that there are now."""
        if metric.source != OWN:
            yield from self.asked(metric)
            return
        for values, number in dict(getattr(self._own, metric.key).values).items():
            yield Sample(number, self.about | dict(zip(metric.attributes, values, strict=True)))

    def asked(self, metric: Metric) -> Iterator[Sample]:
        """The numbers of a metric that comes from elsewhere."""
        raise NotImplementedError

    def spread(self, metric: Metric) -> Spread:
        """Of a histogram; those are always the part's own."""
        spread: Spread = getattr(self._own, metric.key)
        return spread


class Measured(Protocol):
    """What can be exported: a relay, a consumer."""

    def reading(self) -> Reading:
        """Its numbers; may be asked again and again, and keeps nobody alive."""


class Collector:
    """A collector for a registry of prometheus_client: `REGISTRY.register(Collector(relay, consumer))` in a service with
    its own endpoint. One for all parts of a process: a registry takes each name once.

    Raises:
        UsageError: two parts are of the same kind and of the same group or outbox.
    """

    def __init__(self, *parts: Measured) -> None:
        self._parts = parts
        self._readings = [part.reading() for part in parts]
        seen: list[tuple[type[Reading], dict[str, str]]] = []
        for reading in self._readings:
            if (type(reading), reading.about) in seen:
                which = ", ".join(f"{name}={value}" for name, value in reading.about.items())
                raise UsageError(
                    f"two parts with {which} would tell their numbers under one name: give each an endpoint"
                )
            seen.append((type(reading), reading.about))

    def collect(self) -> Iterator[Family]:
        """The metrics of this moment, as the registry asks for them."""
        listed = dict.fromkeys(metric for reading in self._readings for metric in reading.metrics)
        for metric in listed:
            yield family(metric, [r for r in self._readings if metric in r.metrics])

    def describe(self) -> list[Family]:
        """Nothing: a registry that asks for the names must not make us ask the database."""
        return []


def family(metric: Metric, readings: Sequence[Reading]) -> Family:
    """What one metric is now, in all parts that have it."""
    from prometheus_client import core

    names = [*dict.fromkeys(name for reading in readings for name in reading.about), *metric.attributes]
    if metric.kind == "histogram":
        spreads = core.HistogramMetricFamily(metric.prometheus_name, metric.meaning, labels=names)
        for reading in readings:
            for values, (pairs, total) in reading.spread(metric).read().items():
                buckets = [(_bound(bound), n) for bound, n in pairs]
                spreads.add_metric([*reading.about.values(), *values], buckets=buckets, sum_value=total)
        return spreads
    kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
    found = kind(metric.prometheus_name, metric.meaning, labels=names)
    for reading in readings:
        for sample in reading.samples(metric):
            found.add_metric([sample.attributes[n] for n in names], sample.value)
    return found


def _bound(bound: float) -> str:
    """A bucket's bound as Prometheus writes it."""
    return "+Inf" if bound == float("inf") else repr(bound)


# --- OpenTelemetry ----------------------------------------------------------------------------------------------------

# Parts whose numbers go to a meter provider, by kind of reading; the process's own provider is None.
_Exported = dict[int, tuple[weakref.ref[Any], Reading]]
_exported: dict[tuple[Any, type[Reading]], _Exported] = {}
_export_lock = threading.Lock()


def export(part: Measured, provider: MeterProvider | None = None) -> bool:
    """Let OpenTelemetry observe a part, when the process uses OpenTelemetry; returns whether it does.

    Called by a part when it starts. Nothing is imported and nothing happens in a process that has not imported
    opentelemetry's metrics by then; where it has, an SDK may also be set up later. Calling twice changes nothing, and a
    part that is gone is not observed any more.

    Args:
        part      whose numbers
        provider  where to; default: what the process has set up
    """
    if provider is None and "opentelemetry.metrics" not in sys.modules:
        return False
    reading = part.reading()
    with _export_lock:
        new = (provider, type(reading)) not in _exported
        parts = _exported.setdefault((provider, type(reading)), {})
        key = id(part)
        if key not in parts or parts[key][0]() is not part:
            parts[key] = (weakref.ref(part, lambda _: parts.pop(key, None)), reading)
            _listen(reading, provider)
        if new:
            _observe(reading.metrics, parts, provider)
    return True


def _meter(provider: MeterProvider | None) -> Any:
    from opentelemetry import metrics

    return metrics.get_meter("evkit") if provider is None else provider.get_meter("evkit")


def _conventional(attributes: dict[str, str], metric: Metric) -> dict[str, str]:
    # What is empty does not apply (an error.type without an error); a label of Prometheus that is empty is none either.
    named = {_CONVENTIONAL.get(name, name): value for name, value in attributes.items() if value}
    return named | dict(metric.constant)


def _observe(metrics: Sequence[Metric], parts: _Exported, provider: MeterProvider | None) -> None:
    from opentelemetry.metrics import Observation

    def observer(metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for part, reading in list(parts.values()):
                if part() is not None:
                    for sample in reading.samples(metric):
                        yield Observation(sample.value, _conventional(sample.attributes, metric))

        return observe

    meter = _meter(provider)
    for metric in metrics:
        if metric.kind != "histogram":
            create = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
            create(metric.name, callbacks=[observer(metric)], unit=metric.unit, description=metric.meaning)


def _listen(reading: Reading, provider: MeterProvider | None) -> None:
    """OpenTelemetry has no observable histogram: it is told each value."""
    meter = _meter(provider)
    for metric in reading.metrics:
        if metric.kind == "histogram":
            spread = reading.spread(metric)
            histogram = meter.create_histogram(
                metric.name,
                unit=metric.unit,
                description=metric.meaning,
                explicit_bucket_boundaries_advisory=list(spread.bounds),
            )
            spread.listeners.append(_listener(histogram, reading.about, metric))


def _listener(histogram: Any, about: dict[str, str], metric: Metric) -> Callable[[float, tuple[str, ...]], None]:
    known: dict[tuple[str, ...], dict[str, str]] = {}

    def listen(value: float, values: tuple[str, ...]) -> None:
        attributes = known.get(values)
        if attributes is None:
            given = dict(zip(metric.attributes, values, strict=True))
            attributes = known[values] = _conventional(about | given, metric)
        histogram.record(value, attributes)

    return listen
