"""relay lag → do committed events reach the broker in time?"""

from __future__ import annotations

from typing import Any

from evkit.monitors.finding import Finding, Severity, Thresholds, count, level, reached, seconds
from evkit.views.frame import rows_of

MONITOR = "relay_lag"


def relay_lag(frame: Any, thresholds: Thresholds | None = None) -> list[Finding]:
    """Judge the frame of `views.relay_lag`: one finding for the outbox.

    What waits now decides: its age, and a relay that stands at an event it cannot publish is at least a warning. What was
    late inside the window and is through by now is a warning at most.
    """
    bounds = thresholds or Thresholds()
    warning, critical = bounds.relay_seconds_warning, bounds.relay_seconds_critical
    rows = rows_of(frame, "relay_lag")
    if not rows:
        sentence = "relay lag could not be measured: the frame is empty"
        return [Finding(MONITOR, Severity.unknown, "outbox", None, "s", None, sentence, {}, "evkit view relay_lag")]
    row = rows[0]
    oldest, pending = row["oldest_pending_seconds"], row["pending"]
    if oldest is None or pending is None:
        sentence = "the age of what waits in the outbox could not be measured"
        return [Finding(MONITOR, Severity.unknown, "outbox", None, "s", None, sentence, {}, "evkit view relay_lag")]
    severity = level(oldest, warning, critical)
    value, threshold = oldest, reached(severity, warning, critical)
    evidence = {
        k: row[k] for k in ("pending", "relay", "moved_at", "published", "p50_seconds", "p99_seconds", "max_seconds")
    }
    step = "evkit outbox status"
    if pending:
        sentence = f"{count(pending, 'event')} wait in the outbox, the oldest for {seconds(oldest)}"
        if pending == 1:
            sentence = f"1 event waits in the outbox, for {seconds(oldest)}"
        if row["relay"] is None:
            sentence += "; no relay has ever run on this database"
    else:
        sentence = "everything that was written is published"
    if row["failing_since"] is not None:
        severity = max(severity, Severity.warning, key=lambda s: s.rank)
        sentence += f"; relay '{row['relay']}' stands at position {row['failing_position']}: {row['failing_error']}"
        evidence |= {k: row[k] for k in ("failing_since", "failing_error", "failing_position")}
    elif severity is not Severity.ok and row["relay"] is not None:
        sentence += "; is the relay running?"
    late = row["p99_seconds"]
    if late is not None:
        if severity is Severity.ok and late >= warning:
            severity, value, threshold = Severity.warning, late, warning
        bound = "at least " if row["p99_is_lower_bound"] else ""
        sentence += f"; p99 in the window {bound}{seconds(late)}, longest {seconds(row['max_seconds'])}"
    step = "" if severity is Severity.ok else step
    return [Finding(MONITOR, severity, "outbox", value, "s", threshold, sentence, evidence, step)]
