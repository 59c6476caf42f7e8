"""latency → how long until an event has had its effect?"""

from __future__ import annotations

from typing import Any

from evkit.monitors.finding import Finding, Severity, Thresholds, command, count, level, reached, seconds
from evkit.views.frame import rows_of

MONITOR = "latency"


def latency(frame: Any, thresholds: Thresholds | None = None) -> list[Finding]:
    """Judge the frame of `views.latency`: one finding for each row of live handling.

    Judged is the p99, in which events that wait longer already than the handled ones count with their age; or the age of
    the oldest pending one, when that alone has reached the warning: a single stuck event of ten thousand is not in a p99.
    """
    bounds = thresholds or Thresholds()
    rows = [r for r in rows_of(frame, "latency") if not r["replay"]]
    if not rows:
        sentence = "no event was handled in this window, and none waits"
        return [Finding(MONITOR, Severity.ok, "all groups", None, "s", None, sentence)]
    return [_group(row, bounds.of_group(row["group"])) for row in rows]


def _group(row: dict[str, Any], bounds: Thresholds) -> Finding:
    warning, critical = bounds.latency_p99_seconds_warning, bounds.latency_p99_seconds_critical
    subject = row["group"] if row["event_type"] is None else f"{row['group']}, {row['event_type']}"
    step = command("view", "latency", "--group", row["group"])
    names = ("n", "pending_n", "overdue_n", "unmeasured_n", "p50_seconds", "p95_seconds", "p99_seconds", "max_seconds",
             "p99_is_lower_bound", "oldest_pending_seconds")  # fmt: skip
    evidence = {k: row[k] for k in names}
    p99, oldest = row["p99_seconds"], row["oldest_pending_seconds"]
    if p99 is None and oldest is None:
        sentence = f"{subject}: {count(row['unmeasured_n'], 'event')} handled, none of which says when it was written"
        return Finding(MONITOR, Severity.unknown, subject, None, "s", None, sentence, evidence, step)
    value = max(p99 or 0.0, oldest or 0.0)
    # The oldest pending one is a warning at most: it is a single event, and lag judges a group that stands still.
    severity = max(
        Severity.ok if p99 is None else level(p99, warning, critical),
        Severity.ok if oldest is None or oldest < warning else Severity.warning,
        key=lambda s: s.rank,
    )
    if p99 is not None and level(p99, warning, critical) is severity:
        value = p99
    if row["n"]:
        bound = "at least " if row["p99_is_lower_bound"] else ""
        sentence = f"{subject}: p99 {bound}{seconds(p99)}, median {seconds(row['p50_seconds'])}"
        sentence += f" over {count(row['n'], 'event')}"
        if row["n"] < 100:
            sentence += " (p99 of fewer than 100 is the slowest)"
    else:
        sentence = f"{subject}: no event was handled"
    if row["pending_n"]:
        sentence += f"; {count(row['pending_n'], 'event')} still waiting, the oldest for {seconds(oldest)}"
    step = "" if severity is Severity.ok else step
    return Finding(
        MONITOR, severity, subject, value, "s", reached(severity, warning, critical), sentence, evidence, step
    )
