"""publish rate → do events still come, and do they still go out?"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from evkit.monitors.finding import Finding, Severity, Thresholds, count, seconds
from evkit.views.frame import rows_of

MONITOR = "publish_rate"
# Written in at least this share of the buckets before: what is called steady.
_STEADY_RATIO = 0.9


def publish_rate(frame: Any, thresholds: Thresholds | None = None) -> list[Finding]:
    """Judge the frame of `views.publish_rate`: one finding for each topic.

    Critical: events were written and none was published for `publish_stopped_seconds_critical`, until the end of the
    window. Warning: nothing was written for `publish_silent_seconds_warning` at its end, after writing had been steady
    for `publish_steady_seconds`; a window shorter than both together cannot show that. A topic that is quiet because
    nothing is written is ok: nothing is late.
    """
    bounds = thresholds or Thresholds()
    rows = rows_of(frame, "publish_rate")
    if not rows:
        sentence = "no event was written in this window or in the day before it"
        return [Finding(MONITOR, Severity.ok, "all topics", None, "1/s", None, sentence)]
    rows.sort(key=lambda r: (r["topic"], r["bucket_at"]))
    return [
        _topic(topic, list(of_topic), bounds.of_topic(topic))
        for topic, of_topic in groupby(rows, key=lambda r: r["topic"])
    ]


def _topic(topic: str, rows: list[dict[str, Any]], bounds: Thresholds) -> Finding:
    known = [r for r in rows if r["written"] is not None]
    if not known:
        sentence = f"the rate of {topic} could not be measured: its first event is younger than this window"
        return Finding(MONITOR, Severity.unknown, topic, None, "1/s", None, sentence, {}, "evkit view publish_rate")
    written, published = sum(r["written"] for r in known), sum(r["published"] for r in known)
    length = sum(r["bucket_seconds"] for r in known)
    rate = published / length if length else None
    evidence = {"written": written, "published": published, "seconds": round(length, 3)}

    # The stretch at the end in which nothing was published, from its first write on.
    stretch = _tail(known, "published")
    while stretch and not stretch[0]["written"]:
        stretch = stretch[1:]
    stopped = sum(r["bucket_seconds"] for r in stretch)
    waiting = sum(r["written"] for r in stretch)
    if waiting and stopped >= bounds.publish_stopped_seconds_critical:
        sentence = f"{topic}: {count(waiting, 'event')} written in the last {seconds(stopped)}, none published"
        return Finding(
            MONITOR, Severity.critical, topic, stopped, "s", bounds.publish_stopped_seconds_critical, sentence,
            evidence | {"unpublished": waiting}, "evkit view relay_lag",
        )  # fmt: skip

    silent_rows = _tail(known, "written")
    silent = sum(r["bucket_seconds"] for r in silent_rows)
    before = known[: len(known) - len(silent_rows)]
    steady_seconds = sum(r["bucket_seconds"] for r in before)
    busy = sum(r["bucket_seconds"] for r in before if r["written"])
    if (
        silent >= bounds.publish_silent_seconds_warning
        and steady_seconds >= bounds.publish_steady_seconds
        and busy >= _STEADY_RATIO * steady_seconds
    ):
        usual = sum(r["written"] for r in before) / steady_seconds
        sentence = f"{topic}: nothing was written for {seconds(silent)}, it had been {usual:,.3g} events/s before"
        return Finding(
            MONITOR, Severity.warning, topic, silent, "s", bounds.publish_silent_seconds_warning, sentence,
            evidence | {"usual_per_second": usual}, "evkit view publish_rate",
        )  # fmt: skip
    sentence = f"{topic}: {count(written, 'event')} written and {published:,} published in {seconds(length)}"
    if rate is not None and published:
        sentence += f", {rate:,.3g}/s"
    return Finding(MONITOR, Severity.ok, topic, rate, "1/s", None, sentence, evidence)


def _tail(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """The rows at the end in which the column is 0."""
    start = len(rows)
    while start and not rows[start - 1][column]:
        start -= 1
    return rows[start:]
