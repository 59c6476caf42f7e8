"""two windows, or two code versions → what differs, by how much, and whether chance alone makes as much."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np

from evkit.errors import InvalidParameter, UnknownVersion
from evkit.sql import named
from evkit.system import System
from evkit.views.change_points import amount
from evkit.views.frame import Frame, Frames, WindowLike, frame, groups_of, view, window_of
from evkit.views.pages import gathered
from evkit.views.resampling import BUCKETS, SEED, Difference, quantiles, ratios
from evkit.window import Window, present

# What a window is compared with when no other is given: what was before it, or the same hours a day or a week earlier.
BASELINES = ("before", "day", "week")

# Below these nothing is called significant: events of both of a rate; attempts of each of a ratio; events of each of a
# percentile, of which a few have to lie beyond it.
_RATE_MIN, _RATIO_MIN = 20, 30
_QUANTILES = {"p50": (0.5, 30), "p95": (0.95, 100), "p99": (0.99, 500)}
_STEP = 0.005

_SAID = {
    "published": "publish rate",
    "handled": "handled",
    "failed": "failed attempts",
    "dead": "dead letters",
    "attempt_error_ratio": "error ratio of attempts",
    "event_failure_ratio": "share of events that died",
    "latency": "end-to-end latency",
    "handling": "handling time",
}


@dataclass(slots=True)
class _Side:
    """One of the two: counts by (measure, group or topic), bucket by bucket."""

    window: Window
    counts: dict[tuple[str, str], Any] = field(default_factory=dict)
    steps: dict[tuple[str, str], Any] = field(default_factory=dict)  # counts by bucket and step of duration
    values: dict[tuple[str, str], Any] = field(default_factory=dict)  # seconds of each step

    def of(self, measure: str, name: str) -> Any:
        return self.counts.get((measure, name), np.zeros(BUCKETS))

    @property
    def seconds(self) -> Any:
        """Of each bucket."""
        return np.full(BUCKETS, self.window.seconds / BUCKETS)


@view("compare")
def compare(
    system: System,
    a: WindowLike = "before",
    b: WindowLike = None,
    *,
    group: str | None = None,
    versions: Sequence[str] | None = None,
    confidence: float = 0.95,
    seed: int = SEED,
    frames: Frames = "polars",
) -> Frame:
    """What differs between two windows, or between two code versions that ran in the same one: rates, ratios, percentiles.

    Each difference has the interval in which it would lie if as much had been seen again, by drawing the window's own
    stretches of time anew 2,000 times (`evkit.views.resampling`), and is `significant` when that excludes 0 and enough was
    measured: 20 events of both of a rate, 30 attempts of each of a ratio, 30, 100 and 500 events of each of p50, p95 and
    p99. Of 20 numbers that do not differ, one still comes out as significant. Windows of different lengths are compared by
    rates; of a rate of 0 there is no ratio.

    Args:
        a           the window to compare with: a `Window`, "incident:NAME", a length; "before" (what was before `b`, as
                    long as it), "day" or "week" (the same hours a day or a week earlier). With `versions`: the window of
                    the first one
        b           the window in question; default: the last hour
        group       one consumer group; rates of topics are then left out; default: all
        versions    two code versions instead of two times: both in `b`, or the first in `a` when that is a window. In a
                    rolling deploy both run at once, and the clock would not tell them apart. Rates are left out: how much
                    each gets to do is a matter of routing
        confidence  of the intervals
        seed        of the draws: the same seed on the same data gives the same intervals

    Columns: see columns/

    Rates per second (published by topic; handled, failed attempts and dead letters by group), ratios (failed of all
    attempts, dead of all events), percentiles of the end-to-end latency (database write to commit, by the database's clock)
    and of the handling time (received to commit; `received_at` is the consumer's clock). Live handling only. Percentiles
    are of handled events, to half a percent: what still waits in one of the windows is not in them (`latency` counts it).

    In that order, then by group or topic. A window that ends in the future ends now.

    Raises:
        UnknownGroup, UnknownVersion, UnknownIncident: near matches are in `suggestions`.
        InvalidParameter: a window that cannot be read or lies in the future, versions that are not two.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    if versions is not None and (isinstance(versions, str) or len(versions) != 2):
        raise InvalidParameter("versions are two, as in versions=('1.4.1', '1.4.2')", name="versions", value=versions)
    if not 0.5 <= confidence < 1:
        raise InvalidParameter("a confidence is from 0.5 to below 1", name="confidence", value=confidence)
    second = _past(window_of(b, system))
    first = second if versions is not None and a == "before" else _past(_baseline(a, second, system))
    of_a, of_b = versions if versions is not None else (None, None)
    one, two = _read(system, first, group, of_a), _read(system, second, group, of_b)
    how = {"confidence": confidence, "seed": seed}
    by_time = versions is None
    measured = _measures(one, two, how, with_rates=by_time, with_topics=by_time and group is None)
    rows = [_row(*found) for found in measured]
    return frame("compare", rows, frames)


def _baseline(a: WindowLike, b: Window, system: System) -> Window:
    if not isinstance(a, str) or a not in BASELINES:
        return window_of(a, system)
    back = {"before": b.end - b.start, "day": timedelta(days=1), "week": timedelta(weeks=1)}[a]
    return Window(b.start - back, b.end - back)


def _past(window: Window) -> Window:
    now = present()
    if window.start >= now:
        raise InvalidParameter(
            f"the window begins at {window.start.isoformat()}, and now it is {now.isoformat()}: nothing of it is there yet",
            name="window",
            value=window,
        )
    return Window(window.start, min(window.end, now))


def _read(system: System, window: Window, group: str | None, version: str | None) -> _Side:
    side = _Side(window)
    sql = named("compare")
    with system.reading() as connection:
        values: dict[str, Any] = {
            "since": window.start,
            "until": window.end,
            "buckets": BUCKETS,
            "bucket_seconds": window.seconds / BUCKETS,
            "groups": groups_of(system, connection, group),
            "version": version,
        }
        if version is not None:
            known = [row[0] for row in connection.execute(sql["versions"], values).fetchall()]
            if version not in known:
                raise UnknownVersion(
                    version, known, where=f"between {window.start.isoformat()} and {window.end.isoformat()}"
                )
        pages = functools.partial(
            gathered, system, connection, "compare", start=window.start, end=window.end, parameters=values
        )
        for row in pages("groups"):
            for measure in ("handled", "failed", "dead"):
                side.counts.setdefault((measure, row["group"]), np.zeros(BUCKETS))[row["bucket"]] += row[measure]
        for row in pages("topics"):
            side.counts.setdefault(("published", row["topic"]), np.zeros(BUCKETS))[row["bucket"]] += row["published"]
        found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in pages("durations"):
            found.setdefault((row["measure"], row["group"]), []).append(row)
    for key, rows in found.items():
        steps = sorted({row["step"] for row in rows})
        place = {step: n for n, step in enumerate(steps)}
        counts, seconds = np.zeros((BUCKETS, len(steps))), np.zeros(len(steps))
        for line in rows:
            counts[line["bucket"], place[line["step"]]] += line["n"]
            seconds[place[line["step"]]] += line["seconds"]
        side.steps[key], side.values[key] = counts, seconds / counts.sum(axis=0)
    return side


_Found = tuple[str, str | None, str | None, str, Difference, int, int, bool]


def _measures(a: _Side, b: _Side, how: dict[str, Any], *, with_rates: bool, with_topics: bool) -> Iterator[_Found]:
    """What is compared: measure, group, topic, unit, their difference, both n, whether that is enough."""
    named_ = {key for side in (a, b) for key in (*side.counts, *side.steps)}
    groups = sorted({name for measure, name in named_ if measure != "published"})
    topics = sorted({name for measure, name in named_ if measure == "published"})
    for topic in topics if with_topics else ():
        yield _rate("published", None, topic, a, b, how)
    for measure in ("handled", "failed", "dead") if with_rates else ():
        for group in groups:
            yield _rate(measure, group, None, a, b, how)
    for measure, over, under in (
        ("attempt_error_ratio", ("failed",), ("handled", "failed")),
        ("event_failure_ratio", ("dead",), ("handled", "dead")),
    ):
        for group in groups:
            first, second = (
                (sum(side.of(m, group) for m in over), sum(side.of(m, group) for m in under)) for side in (a, b)
            )
            n_a, n_b = int(first[1].sum()), int(second[1].sum())
            found = ratios(first, second, **how)
            yield measure, group, None, "0..1", found, n_a, n_b, min(n_a, n_b) >= _RATIO_MIN
    for measure in ("latency", "handling"):
        for group in groups:
            yield from _percentiles(measure, group, a, b, how)


def _percentiles(measure: str, group: str, a: _Side, b: _Side, how: dict[str, Any]) -> Iterator[_Found]:
    key = (measure, group)
    first, second = (side.steps.get(key, np.zeros((BUCKETS, 1))) for side in (a, b))
    values = (a.values.get(key, np.zeros(1)), b.values.get(key, np.zeros(1)))
    n_a, n_b = int(first.sum()), int(second.sum())
    found = quantiles(first, second, values, [share for share, _ in _QUANTILES.values()], **how)
    for (name, (_, least)), difference in zip(_QUANTILES.items(), found, strict=True):
        yield f"{measure}_{name}", group, None, "s", difference, n_a, n_b, min(n_a, n_b) >= least


def _rate(measure: str, group: str | None, topic: str | None, a: _Side, b: _Side, how: dict[str, Any]) -> _Found:
    first, second = (side.of(measure, group or topic or "") for side in (a, b))
    n_a, n_b = int(first.sum()), int(second.sum())
    found = ratios((first, a.seconds), (second, b.seconds), **how)
    return measure, group, topic, "1/s", found, n_a, n_b, n_a + n_b >= _RATE_MIN


def _row(
    measure: str, group: str | None, topic: str | None, unit: str, found: Difference, n_a: int, n_b: int, enough: bool
) -> dict[str, Any]:
    measured = found.a is not None and found.b is not None
    judged = enough and measured
    row: dict[str, Any] = {
        "measure": measure,
        "group": group,
        "topic": topic,
        "unit": unit,
        "a": found.a,
        "b": found.b,
        "a_n": n_a,
        "b_n": n_b,
        "difference": found.b - found.a if found.a is not None and found.b is not None else None,
        "ratio": found.b / found.a if found.a and found.b is not None else None,
        "low": found.low if judged else None,
        "high": found.high if judged else None,
        "significant": found.excludes_zero if judged else None,
    }
    row["text"] = _sentence(row)
    return row


def _sentence(row: Mapping[str, Any]) -> str:
    stem, _, quantile = row["measure"].rpartition("_")
    name = f"{quantile} of the {_SAID[stem]}" if quantile in _QUANTILES else _SAID[row["measure"]]
    what = f"{name} of {row['group'] or row['topic']}"
    a, b, unit = row["a"], row["b"], row["unit"]
    if a is None or b is None:
        return f"{what} was not measured in " + (
            "both" if a is None and b is None else "the first" if a is None else "the second"
        )
    direction = "rose" if b > a else "fell" if b < a else "stayed"
    change = (
        f"{what} {direction} from {amount(a, unit)} to {amount(b, unit)}"
        if a != b
        else f"{what} stayed at {amount(a, unit)}"
    )
    if row["significant"] is None:
        return f"{change}: too few to judge (n {row['a_n']:,} and {row['b_n']:,})"
    if not row["significant"]:
        return f"{change}: no more than chance"
    low, high = sorted((abs(row["low"]), abs(row["high"])))
    return f"{change}: by {amount(low, unit)} to {amount(high, unit)}"
