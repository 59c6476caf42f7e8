"""the six monitors' series → when each of them went to another level."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from evkit.errors import BrokerRefused, BrokerUnreachable, InvalidParameter, NoPostgres, UnknownGroup, closest
from evkit.system import System
from evkit.views.change_point_search import PENALTY, ChangePoint, Kind
from evkit.views.change_point_search import change_points as search
from evkit.views.change_points_of_kafka import told_by_kafka
from evkit.views.columns.timeline import MEASURES, MEASURES_OF_KAFKA
from evkit.views.errors import error_rate
from evkit.views.frame import Frame, Frames, WindowLike, bucket_of, frame, groups_of, rows_of, view, window_of
from evkit.views.latency import latency_over_time
from evkit.views.relay_lag import relay_lag_over_time
from evkit.views.throughput import publish_rate, throughput
from evkit.window import Window, present

# How each measure is called in a sentence, and its unit.
_SAID = {
    "publish_rate": ("publish rate", "1/s"),
    "append_rate": ("append rate", "1/s"),
    "error_ratio": ("error ratio", "0..1"),
    "latency_p50": ("median latency", "s"),
    "latency_p99": ("p99 latency", "s"),
    "lag": ("lag", "events"),
    "relay_lag": ("p99 of the relay lag", "s"),
    "dead_letters": ("dead letters", "1/min"),
}
# Which of evkit's tables each measure is from; Kafka's say it themselves.
_TABLES = {
    "publish_rate": "publication",
    "error_ratio": "attempt",
    "latency_p50": "inbox",
    "latency_p99": "inbox",
    "lag": "inbox",
    "relay_lag": "publication",
    "dead_letters": "attempt",
}
# Those of no group in particular.
_WITHOUT_GROUP = frozenset({"publish_rate", "relay_lag"})
# A percentile of fewer events than this is one event.
_PERCENTILE_EVENTS_MIN = 5


@dataclass(slots=True)
class _Series:
    """One measure of one group or topic, bucket by bucket; `of`: the seconds of a count, or what a ratio is of."""

    measure: str
    group: str | None
    topic: str | None
    kind: Kind
    times: list[datetime]
    values: list[float | None]
    of: list[float | None] | None = None
    per: float = 1.0  # levels are multiplied by it: 60 where a rate is told per minute
    source: str | None = None  # None: the measure's own table


@view("change_points")
def change_points(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    measures: Sequence[str] | None = None,
    bucket: str | timedelta | None = None,
    penalty: float = PENALTY,
    frames: Frames = "polars",
) -> Frame:
    """When the six monitors' numbers went to another level, per group and topic, and from what to what.

    Looked at are events published per second (by topic), failed of all attempts, median and p99 of the end-to-end latency
    and dead letters per minute (by group), the lag as evkit's tables have it (by group and topic) and the p99 of the relay
    lag. What counts as a change, and how noise is told from it: `evkit.views.change_point_search`.

    A group that is asked for and that evkit's tables do not know is one of Kafka's: then they are the lag of `lag_history`,
    from whichever source knows most of it, and the append rate of its topics, from the timestamps of their records. The
    column `source` says which it was.

    Args:
        window    a `Window`, or a length that ends now ("2h"); default: the last hour
        group     one consumer group; publish rate and relay lag, which have none, stay in; default: all
        measures  which of publish_rate, error_ratio, latency_p50, latency_p99, lag, relay_lag, dead_letters, and for a
                  group that only Kafka knows lag and append_rate; default: all
        bucket    length of a bucket ("30s"), and so how exact a time is; default: a round one that makes at most 120
        penalty   how much proof a change needs; more finds less (3: see `change_point_search`)

    Columns: see columns/

    Sorted by time, then measure, group, topic. Buckets that the window cuts, or that are still running, are left out; those
    without a measured value too, while 0 is a value. Fewer than 12 buckets have no change point. Latencies stand where the
    events were written, as in `latency_over_time`: a change of them is when those events were written, not when it showed.

    Raises:
        UnknownGroup: neither evkit's tables nor Kafka know such a group, or Kafka does not say; the closest names are in
            `suggestions`.
        InvalidParameter, UnknownIncident: window, bucket or a measure cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    wanted = (*MEASURES, *MEASURES_OF_KAFKA) if measures is None else tuple(measures)
    for name in wanted:
        if name not in (*MEASURES, *MEASURES_OF_KAFKA):
            hint = " or ".join(closest(name, MEASURES)) or ", ".join(MEASURES)
            raise InvalidParameter(f"'{name}' is no measure of a change: take {hint}", name="measures", value=name)
    if penalty <= 0:
        raise InvalidParameter("a penalty must be above zero", name="penalty", value=penalty)
    seen = window_of(window, system)
    length = bucket_of(bucket, seen)
    rows = []
    for series in _told(system, seen, group, wanted, length):
        for found in search(series.times, series.values, series.kind, of=series.of, penalty=penalty):
            rows.append(_row(series, found, length))
    rows.sort(key=lambda row: (row["at"], row["measure"], row["group"] or "", row["topic"] or ""))
    return frame("change_points", rows, frames)


def _told(
    system: System, seen: Window, group: str | None, wanted: Sequence[str], length: timedelta
) -> Iterable[_Series]:
    """The series that evkit's tables have; of a group that they do not know, or without them, those that Kafka has."""
    if group is None:
        return _series(system, seen, group, wanted, length)
    of_group = [name for name in wanted if name not in _WITHOUT_GROUP and name in MEASURES]
    try:
        if not of_group:  # nothing that is measured would ask whether there is such a group
            with system.reading() as connection:
                groups_of(system, connection, group)
        # What is about the group first: where nobody knows it, nothing else has been asked.
        found = list(_series(system, seen, group, of_group, length))
    except (UnknownGroup, NoPostgres) as error:
        return _of_kafka(system, seen, group, wanted, length, error)
    return [*found, *_series(system, seen, group, [name for name in wanted if name in _WITHOUT_GROUP], length)]


def _of_kafka(
    system: System,
    seen: Window,
    group: str,
    wanted: Sequence[str],
    length: timedelta,
    unknown: UnknownGroup | NoPostgres,
) -> list[_Series]:
    """The series of a group that evkit's tables do not know, as `unknown` says."""
    seconds = length.total_seconds()
    try:
        found = []
        for told in told_by_kafka(system, seen, group, wanted, length):
            of_topic = _Series(told.measure, group, told.topic, "amount", told.times, told.values, source=told.source)
            if told.measure == "append_rate":
                of_topic.group, of_topic.kind, of_topic.of = None, "count", [seconds] * len(told.times)
            found.append(of_topic)
        return found
    except (UnknownGroup, BrokerUnreachable, BrokerRefused) as error:
        if isinstance(unknown, UnknownGroup):
            raise unknown from error
        raise


def _series(  # noqa: PLR0912 - one branch for each measure
    system: System, seen: Window, group: str | None, wanted: Sequence[str], length: timedelta
) -> Iterator[_Series]:
    seconds = length.total_seconds()
    if "publish_rate" in wanted:
        for (topic,), rows in _by(rows_of(publish_rate(system, seen, bucket=length), "publish_rate"), "topic"):
            times, values = [r["bucket_at"] for r in rows], [r["published"] for r in rows]
            yield _Series("publish_rate", None, topic, "count", times, values, [r["bucket_seconds"] for r in rows])
    if "error_ratio" in wanted or "dead_letters" in wanted:
        found = rows_of(error_rate(system, seen, group=group, bucket=length), "error_rate")
        whole = [r for r in found if r["bucket_seconds"] >= seconds]
        for (name,), rows in _by(whole, "group"):
            if "error_ratio" in wanted:
                attempts, failures = _summed(rows, "attempts"), _summed(rows, "failures")
                yield _Series("error_ratio", name, None, "ratio", sorted(attempts), [failures[t] for t in sorted(attempts)],
                              [float(attempts[t]) for t in sorted(attempts)])  # fmt: skip
            if "dead_letters" in wanted:
                dead, times = _summed(rows, "dead"), _whole_buckets(seen, length)
                yield _Series("dead_letters", name, None, "count", times, [float(dead.get(t, 0)) for t in times],
                              [seconds] * len(times), per=60)  # fmt: skip
    if "latency_p50" in wanted or "latency_p99" in wanted:
        found = rows_of(latency_over_time(system, seen, group=group, bucket=length), "latency_over_time")
        for (name,), rows in _by(found, "group"):
            for measure, column in (("latency_p50", "p50_seconds"), ("latency_p99", "p99_seconds")):
                if measure in wanted:
                    yield _percentile(measure, name, column, rows)
    if "lag" in wanted:
        found = rows_of(throughput(system, seen, group=group, bucket=length), "throughput")
        for (name, topic), rows in _by(found, "group", "topic"):
            yield _Series("lag", name, topic, "amount", [r["bucket_at"] for r in rows], [r["backlog"] for r in rows])
    if "relay_lag" in wanted:
        rows = [r for r in rows_of(relay_lag_over_time(system, seen, bucket=length)) if not r["partial"]]
        yield _percentile("relay_lag", None, "p99_seconds", rows)


def _percentile(measure: str, group: str | None, column: str, rows: list[dict[str, Any]]) -> _Series:
    values = [r[column] if r["n"] + r["pending_n"] >= _PERCENTILE_EVENTS_MIN else None for r in rows]
    return _Series(measure, group, None, "duration", [r["bucket_at"] for r in rows], values)


def _by(rows: list[dict[str, Any]], *columns: str) -> Iterator[tuple[tuple[Any, ...], list[dict[str, Any]]]]:
    """Rows of whole buckets by the values of these columns."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if not row.get("partial"):
            found[tuple(row[c] for c in columns)].append(row)
    yield from found.items()


def _summed(rows: list[dict[str, Any]], column: str) -> dict[datetime, int]:
    """Over event types, by bucket."""
    found: dict[datetime, int] = defaultdict(int)
    for row in rows:
        found[row["bucket_at"]] += row[column]
    return found


def _whole_buckets(seen: Window, length: timedelta) -> list[datetime]:
    """Starts of the buckets, aligned as PostgreSQL's date_bin does it, that lie whole in the window and in the past."""
    origin = datetime(2000, 1, 3, tzinfo=UTC)
    first = origin - ((origin - seen.start) // length) * length
    end = min(seen.end, present())
    return [first + n * length for n in range(max((end - first) // length, 0))]


def _row(series: _Series, found: ChangePoint, length: timedelta) -> dict[str, Any]:
    _, unit = _SAID[series.measure]
    before, after = found.before * series.per, found.after * series.per
    return {
        "at": found.at,
        "until": found.until,
        "measure": series.measure,
        "group": series.group,
        "topic": series.topic,
        "direction": found.direction,
        "before": before,
        "after": after,
        "unit": unit,
        "confidence": found.confidence,
        "evidence": found.evidence,
        "buckets": sum(v is not None for v in series.values),
        "bucket_seconds": length.total_seconds(),
        "source": series.source or _TABLES[series.measure],
        "text": sentence(series.measure, series.group, series.topic, found.direction, before, after),
    }


def sentence(measure: str, group: str | None, topic: str | None, direction: str, before: float, after: float) -> str:
    """A change in words: `publish rate of orders rose from 20/s to 95/s`."""
    name, unit = _SAID[measure]
    what = (
        f"{name} of {group} on {topic}"
        if group and topic
        else f"{name} of {group or topic}"
        if group or topic
        else name
    )
    return f"{what} {direction} from {amount(before, unit)} to {amount(after, unit)}"


def amount(value: float, unit: str) -> str:
    """A value with its unit, as a sentence has it: 20/s, 3.1 %, 250 ms, 1,204 events."""
    if unit == "0..1":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s" if value < 120 else f"{value / 60:,.3g} min"
    number = f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"
    return f"{number}{'/s' if unit == '1/s' else '/min' if unit == '1/min' else f' {unit}'}"
