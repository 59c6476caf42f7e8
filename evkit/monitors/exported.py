"""frames and verdict → series for Prometheus. Pure: what was not measured has no series, and no id or key is a label.

Names follow the exporters that people know: `kafka_consumergroup_lag` beside evkit's own. A label is a group, a topic, a
partition, an objective or a monitor: there are as many series as there are of these, whatever flows through them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evkit.monitors.finding import Severity, Verdict
from evkit.monitors.totals import Counts
from evkit.views.frame import rows_of

if TYPE_CHECKING:
    from prometheus_client import Metric as Family


@dataclass(frozen=True, slots=True)
class Gauge:
    """One metric; a counter when its name ends with _total, as Prometheus wants it.

    Attributes:
        name     unit last
        meaning  one line
        labels   column of the frame by the name of the label; both are often the same
    """

    name: str
    meaning: str
    labels: tuple[str, ...] = ()


_PARTITION = ("group", "topic", "partition")
LAG = (
    (Gauge("kafka_consumergroup_lag", "end offset - committed offset", _PARTITION), "lag_events"),
    (
        Gauge("evkit_consumer_lag_seconds", "age of the oldest record that the group has not read", _PARTITION),
        "lag_seconds",
    ),
    (Gauge("evkit_consumer_lost_events", "offsets deleted before the group read them", _PARTITION), "lost_events"),
)
RELAY = (
    (Gauge("evkit_outbox_pending_events", "outbox rows not confirmed by the broker"), "pending"),
    (
        Gauge("evkit_outbox_oldest_pending_seconds", "age of the oldest of them; 0 when there is none"),
        "oldest_pending_seconds",
    ),
    (Gauge("evkit_outbox_unpublishable_events", "events that the broker will not take as they are"), "unpublishable"),
    (
        Gauge("evkit_outbox_hole_seconds", "age of the oldest position that a transaction may still fill"),
        "hole_seconds",
    ),
)
LATENCY = (
    (
        Gauge("evkit_latency_p50_seconds", "median from the database write to the handler's commit", ("group",)),
        "p50_seconds",
    ),
    (
        Gauge("evkit_latency_p99_seconds", "99th percentile of it, waiting events with their age", ("group",)),
        "p99_seconds",
    ),
    (
        Gauge("evkit_pending_events", "written, on a topic the group reads, and not dealt with yet", ("group",)),
        "pending_n",
    ),
    (Gauge("evkit_pending_oldest_seconds", "age of the oldest of them", ("group",)), "oldest_pending_seconds"),
)
RATES = (
    Gauge("evkit_written_events_per_second", "outbox rows written, over the window", ("topic",)),
    Gauge("evkit_published_events_per_second", "events the broker confirmed, over the window", ("topic",)),
)
ATTEMPTS = (
    (Gauge("evkit_attempts", "attempts of live handling in the window", ("group", "event_type")), "attempts"),
    (Gauge("evkit_attempt_failures", "of them, those that failed", ("group", "event_type")), "failures"),
)
ATTEMPT_RATIO = Gauge(
    "evkit_attempt_error_ratio", "failed attempts / attempts; none without an attempt", ("group", "event_type")
)
LETTERS = (
    Gauge("evkit_dead_letters_open", "dead letters that wait for a decision", ("group",)),
    Gauge("evkit_dead_letters_oldest_seconds", "age of the oldest of them", ("group",)),
)
STATUS = Gauge("evkit_consumer_status", "partitions of the group in this status", ("group", "status"))
_OBJECTIVE = ("slo", "group", "topic", "window")
OBJECTIVES = (
    (Gauge("evkit_slo_good_events", "events judged good in the window", _OBJECTIVE), "good"),
    (Gauge("evkit_slo_bad_events", "events judged bad in the window", _OBJECTIVE), "bad"),
    (Gauge("evkit_slo_unmeasured_events", "events that cannot be judged", _OBJECTIVE), "unmeasured"),
    (Gauge("evkit_slo_burn_rate", "bad ratio / (1 - objective); none without an event", _OBJECTIVE), "burn_rate"),
)
PROMISED = Gauge("evkit_slo_objective_ratio", "share of events that must be good", ("slo", "group", "topic"))
GOOD_TOTAL = Gauge(
    "evkit_slo_events_good_total", "events judged good since the server started", ("slo", "group", "topic")
)
TOTAL = Gauge(
    "evkit_slo_events_judged_total", "events judged since the server started, good and bad", ("slo", "group", "topic")
)
FEWEST = Gauge("evkit_slo_enough_events", "1 when the window has enough events for a ratio, else 0", _OBJECTIVE)
MONITOR = Gauge(
    "evkit_monitor_severity", "worst finding of the monitor: 0 ok, 1 warning, 2 critical, 3 unknown", ("monitor",)
)
MEASURED = Gauge(
    "evkit_monitor_measured", "1 when the monitor's view was measured the last time, 0 when not", ("monitor",)
)
MEASURED_AT = Gauge("evkit_measured_timestamp_seconds", "when the last measurement began, since 1970")
MEASURING = Gauge("evkit_measuring_seconds", "how long the last measurement took")
FAILED = Gauge("evkit_measuring_failed", "1 when the last measurement broke as a whole, and its numbers are gone")

GAUGES: tuple[Gauge, ...] = (
    *(g for g, _ in (*LAG, *RELAY, *LATENCY, *ATTEMPTS, *OBJECTIVES)),
    *RATES, ATTEMPT_RATIO, *LETTERS, STATUS, PROMISED, GOOD_TOTAL, TOTAL, FEWEST, MONITOR, MEASURED, MEASURED_AT,
    MEASURING, FAILED,
)  # fmt: skip

Samples = dict[Gauge, list[tuple[tuple[str, ...], float]]]


@dataclass(slots=True)
class Exported:
    """The series of one measurement, as a registry of prometheus_client asks for them (`collect`).

    Attributes:
        samples  (values of the labels, number) by gauge
    """

    samples: Samples = field(default_factory=lambda: defaultdict(list))

    def collect(self) -> Iterator[Family]:
        """The metrics, those without a series left out."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for gauge in GAUGES:
            if self.samples.get(gauge):
                kind = CounterMetricFamily if gauge.name.endswith("_total") else GaugeMetricFamily
                family = kind(gauge.name, gauge.meaning, labels=gauge.labels)
                for labels, value in self.samples[gauge]:
                    family.add_metric(labels, value)
                yield family

    def add(self, gauge: Gauge, value: float | None, *labels: str) -> None:
        """One series; nothing when the number was not measured."""
        if value is not None:
            self.samples[gauge].append((labels, float(value)))


def exported(
    measured: Mapping[str, Any],
    verdict: Verdict,
    counts: Counts | None = None,
    *,
    began_at: float,
    took_seconds: float,
    window_seconds: float,
) -> Exported:
    """The series of what `evkit.views.measure` returned, and of the verdict on it.

    Args:
        counts          events of each objective since the server started, of `Totals.counts`
        began_at        seconds since 1970
        window_seconds  of the measurement, for rates
    """
    made = Exported()
    frames = {k: v for k, v in measured.items() if v is not None and not isinstance(v, BaseException)}
    for name in measured:
        made.add(MEASURED, float(name in frames), name)
        severities = [f.severity for f in verdict.findings if f.monitor == name]
        if severities:
            worst: Severity = max(severities, key=lambda s: s.rank)
            made.add(MONITOR, worst.exit_code, name)
    for name, writer in _WRITERS.items():
        if name in frames:
            writer(made, frames[name], window_seconds)
    _totals(made, counts or {})
    made.add(MEASURED_AT, began_at)
    made.add(MEASURING, took_seconds)
    made.add(FAILED, 0)
    return made


def broken(*, began_at: float) -> Exported:
    """What is left when the measurement broke as a whole: when, and that."""
    made = Exported()
    made.add(MEASURED_AT, began_at)
    made.add(FAILED, 1)
    return made


def _columns(made: Exported, row: Mapping[str, Any], gauges: tuple[tuple[Gauge, str], ...]) -> None:
    for gauge, column in gauges:
        made.add(gauge, row[column], *(_label(row[label]) for label in gauge.labels))


def _label(value: Any) -> str:
    return "" if value is None else str(value)


def _lag(made: Exported, frame: Any, _: float) -> None:
    for row in rows_of(frame, "lag"):
        _columns(made, row, LAG)


def _relay(made: Exported, frame: Any, _: float) -> None:
    for row in rows_of(frame, "relay_lag"):
        _columns(made, row, RELAY)


def _latency(made: Exported, frame: Any, _: float) -> None:
    for row in rows_of(frame, "latency"):
        if not row["replay"] and row["event_type"] is None:
            _columns(made, row, LATENCY)


def _rates(made: Exported, frame: Any, window_seconds: float) -> None:
    totals: dict[str, list[float]] = {}
    for row in rows_of(frame, "publish_rate"):
        if row["written"] is not None:
            total = totals.setdefault(row["topic"], [0.0, 0.0])
            total[0] += row["written"]
            total[1] += row["published"]
    for topic, total in totals.items():
        for gauge, number in zip(RATES, total, strict=True):
            made.add(gauge, number / window_seconds, topic)


def _attempts(made: Exported, frame: Any, _: float) -> None:
    for row in rows_of(frame, "error_rate"):
        if not row["replay"]:
            _columns(made, row, ATTEMPTS)
            made.add(ATTEMPT_RATIO, row["attempt_error_ratio"], row["group"], row["event_type"])


def _letters(made: Exported, frame: Any, _: float) -> None:
    groups: dict[str, list[float]] = {}
    for row in rows_of(frame, "dead_letter_groups"):
        total = groups.setdefault(row["group"], [0.0, 0.0])
        total[0] += row["n_open"]
        total[1] = max(total[1], row["oldest_open_seconds"] or 0.0)
    for group, total in groups.items():
        for gauge, number in zip(LETTERS, total, strict=True):
            made.add(gauge, number, group)


def _statuses(made: Exported, frame: Any, _: float) -> None:
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows_of(frame, "consumer_status"):
        counted[row["group"], row["status"]] += 1
    for labels, n in counted.items():
        made.add(STATUS, n, *labels)


def _objectives(made: Exported, frame: Any, _: float) -> None:
    promised: dict[tuple[str, ...], float] = {}
    for row in rows_of(frame, "slo"):
        labelled = row | {"window": window_label(row["window_seconds"])}
        _columns(made, labelled, OBJECTIVES)
        if row["enough"] is not None:
            made.add(FEWEST, float(row["enough"]), *(_label(labelled[label]) for label in FEWEST.labels))
        promised[row["slo"], _label(row["group"]), _label(row["topic"])] = row["objective"]
    for labels, objective in promised.items():
        made.add(PROMISED, objective, *labels)


def _totals(made: Exported, counts: Counts) -> None:
    judged: dict[tuple[str, str, str], int] = defaultdict(int)
    for of, number in counts.items():
        labels = (of.slo, _label(of.group), _label(of.topic))
        judged[labels] += number
        if of.verdict == "good":
            made.add(GOOD_TOTAL, number, *labels)
    for labels, number in judged.items():
        made.add(TOTAL, number, *labels)


def window_label(seconds: float) -> str:
    """A window as Prometheus writes durations: 5m, 1h, 3d."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:g}s"


_WRITERS = {
    "publish_rate": _rates,
    "relay_lag": _relay,
    "consumer_lag": _lag,
    "latency": _latency,
    "error_rate": _attempts,
    "dead_letters": _letters,
    "consumer_status": _statuses,
    "slo": _objectives,
}
