"""error rate → do handlers fail more than they may?"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from evkit.errors import InvalidParameter
from evkit.monitors.finding import Finding, Severity, Thresholds, command, count, level
from evkit.views.frame import rows_of

MONITOR = "error_rate"


def error_rate(frame: Any, thresholds: Thresholds | None = None) -> list[Finding]:
    """Judge the frame of `views.error_rate`: one finding for each group and event type, live handling only.

    Failures whose dead letter was resolved, archived or purged since are dealt with: they are named and not judged, so
    that an incident that is over does not alarm until the window has passed it. Below `attempts_min` attempts nothing
    fails. Types without a failure are summed up in one finding a group.

    Raises:
        InvalidParameter: the frame tells failures apart `by` more than that: its rows share attempts.
    """
    bounds = thresholds or Thresholds()
    rows = [r for r in rows_of(frame, "error_rate") if not r["replay"]]
    if any(r["attempts"] is None or r["code_version"] or r["error_class"] or r["fingerprint"] for r in rows):
        raise InvalidParameter(
            "monitors.error_rate judges groups and event types: take a frame of views.error_rate without by=",
            name="frame",
        )
    if not rows:
        sentence = "no event was attempted in this window"
        return [Finding(MONITOR, Severity.ok, "all groups", None, "ratio", None, sentence)]
    rows.sort(key=lambda r: (r["group"], r["event_type"]))
    findings = []
    for group, of_group in groupby(rows, key=lambda r: r["group"]):
        totals = [_summed(list(of_type)) for _, of_type in groupby(of_group, key=lambda r: r["event_type"])]
        failed = [t for t in totals if t["failures"]]
        findings += [_failed(group, t, bounds.of_group(group)) for t in failed]
        if not failed:
            attempts = sum(t["attempts"] for t in totals)
            sentence = f"{group}: no failure in {count(attempts, 'attempt')}"
            evidence = {"attempts": attempts}
            bound = bounds.of_group(group).attempt_error_ratio_warning
            value = 0.0 if attempts else None
            findings.append(Finding(MONITOR, Severity.ok, group, value, "ratio", bound, sentence, evidence))
    return findings


def _summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Buckets of one group and event type added up."""
    counted = ("attempts", "failures", "failures_dealt_with", "events", "dead", "held")
    total = {k: sum(r[k] or 0 for r in rows) for k in counted}
    handlers = sorted({r["handler"] for r in rows if r["handler"]})
    return total | {"event_type": rows[0]["event_type"], "handler": handlers[0] if handlers else None}


def _failed(group: str, total: dict[str, Any], bounds: Thresholds) -> Finding:
    subject = f"{group}, {total['event_type']}"
    attempts, failures, dealt_with = total["attempts"], total["failures"], total["failures_dealt_with"]
    judged_failures, judged_attempts = failures - dealt_with, attempts - dealt_with
    said = f"{subject}: {failures:,} of {count(attempts, 'attempt')} failed ({failures / attempts:.1%})"
    if total["dead"]:
        said += f", {count(total['dead'], 'event')} died"
    if total["held"]:
        said += f", {total['held']:,} of them held: a dependency was away"
    step = command(*(("breaker", "list") if total["held"] else ("view", "errors")), "--group", group)
    ratio = judged_failures / judged_attempts if judged_attempts else None
    warning, critical = bounds.attempt_error_ratio_warning, bounds.attempt_error_ratio_critical
    if dealt_with and not judged_failures:
        sentence = f"{said}; all of it is dealt with, its dead letters are resolved or archived"
        return Finding(MONITOR, Severity.ok, subject, ratio, "ratio", warning, sentence, total)
    if dealt_with:
        said += f"; {dealt_with:,} of these failures are dealt with"
    if attempts < bounds.attempts_min:
        sentence = f"{said}; too few attempts to judge (fewer than {bounds.attempts_min})"
        return Finding(MONITOR, Severity.ok, subject, ratio, "ratio", warning, sentence, total)
    assert ratio is not None  # attempts that failed and are not dealt with are attempts
    severity, value, threshold = level(ratio, warning, critical), ratio, warning
    if severity is Severity.critical:
        threshold = critical
    # Dead events that nobody has dealt with; the share of failures that are open is the best there is for it.
    dead = total["dead"] * judged_failures / failures
    dead_ratio = dead / total["events"] if total["events"] else 0.0
    of_events = level(dead_ratio, bounds.event_failure_ratio_warning, bounds.event_failure_ratio_critical)
    if of_events.rank > severity.rank:
        severity, value = of_events, dead_ratio
        threshold = (
            bounds.event_failure_ratio_critical if severity is Severity.critical else bounds.event_failure_ratio_warning
        )
    if total["handler"]:
        said += f", in {total['handler']}"
    return Finding(
        MONITOR, severity, subject, value, "ratio", threshold, said, total, "" if severity is Severity.ok else step
    )
