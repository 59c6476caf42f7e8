"""relay lag → do committed events reach the broker in time?"""

from __future__ import annotations

from typing import Any

from evkit.monitors.finding import Finding, Severity, Thresholds, count, level, reached, seconds
from evkit.views.frame import rows_of

MONITOR = "relay_lag"
_STEP = "evkit outbox status"


def relay_lag(frame: Any, thresholds: Thresholds | None = None) -> list[Finding]:
    """Judge the frame of `views.relay_lag`: one finding for the outbox, and one more each for unpublishable events and
    for a hole that is old.

    What waits now decides: its age (of what is due, since when it is), and a relay that cannot go on is at least a warning.
    What was late inside the window and is through by now is a warning at most. An event that cannot be published is at
    least a warning, however little else waits: nobody else will tell of it. A hole is named with who keeps it open.
    """
    bounds = thresholds or Thresholds()
    rows = rows_of(frame, "relay_lag")
    if not rows:
        return [_unknown("relay lag could not be measured: the frame is empty")]
    row = rows[0]
    if row["oldest_pending_seconds"] is None or row["pending"] is None:
        return [_unknown("the age of what waits in the outbox could not be measured")]
    found = [_outbox(row, bounds), _unpublishable(row, bounds), _hole(row, bounds)]
    return [finding for finding in found if finding is not None]


def _unknown(sentence: str) -> Finding:
    return Finding(MONITOR, Severity.unknown, "outbox", None, "s", None, sentence, {}, "evkit view relay_lag")


def _outbox(row: dict[str, Any], bounds: Thresholds) -> Finding:
    """Does what was written reach the broker?"""
    warning, critical = bounds.relay_seconds_warning, bounds.relay_seconds_critical
    pending, due = row["pending"], row["due"] or 0
    oldest = max(row["oldest_pending_seconds"], row["oldest_due_seconds"] or 0.0)
    severity = level(oldest, warning, critical)
    value, threshold = oldest, reached(severity, warning, critical)
    evidence = {
        k: row[k]
        for k in (
            "pending", "due", "relay", "leader_pid", "moved_at", "published", "p50_seconds", "p99_seconds", "max_seconds",
        )
    }  # fmt: skip
    waits = []
    if pending == 1:
        waits.append(f"1 event waits in the outbox, for {seconds(row['oldest_pending_seconds'])}")
    elif pending:
        age = seconds(row["oldest_pending_seconds"])
        waits.append(f"{count(pending, 'event')} wait in the outbox, the oldest for {age}")
    if due:
        are = "is" if due == 1 else "are"
        waits.append(
            f"{count(due, 'scheduled event')} {are} due, the oldest for {seconds(row['oldest_due_seconds'] or 0)}"
        )
    sentence = "; ".join(waits) or "everything that was written is published"
    if row["unpublishable"] and not waits:
        sentence = "everything that can be published is"
    if waits and row["relay"] is None:
        sentence += "; no relay has ever run on this database"
    if row["failing_since"] is not None:
        severity = max(severity, Severity.warning, key=lambda s: s.rank)
        where = "waits" if row["failing_position"] is None else f"stands at position {row['failing_position']}"
        sentence += f"; relay '{row['relay']}' {where}: {row['failing_error']}"
        evidence |= {k: row[k] for k in ("failing_since", "failing_error", "failing_position")}
    elif severity is not Severity.ok and row["relay"] is not None and row["leader_pid"] is None:
        sentence += "; is the relay running? None leads now"
    late = row["p99_seconds"]
    if late is not None:
        if severity is Severity.ok and late >= warning:
            severity, value, threshold = Severity.warning, late, warning
        bound = "at least " if row["p99_is_lower_bound"] else ""
        sentence += f"; p99 in the window {bound}{seconds(late)}, longest {seconds(row['max_seconds'])}"
    step = "" if severity is Severity.ok else _STEP
    return Finding(MONITOR, severity, "outbox", value, "s", threshold, sentence, evidence, step)


def _unpublishable(row: dict[str, Any], bounds: Thresholds) -> Finding | None:
    """What will not move before somebody decides; None when there is nothing of the kind."""
    parked, held = row["unpublishable"] or 0, row["held"] or 0
    if not parked + held:
        return None
    severity = level(parked + held, bounds.unpublishable_events_warning, bounds.unpublishable_events_critical)
    sentence = f"{count(parked, 'event')} cannot be published"
    if row["oldest_unpublishable_seconds"] is not None:
        since = seconds(row["oldest_unpublishable_seconds"])
        sentence += f", for {since}" if parked == 1 else f", the oldest for {since}"
    if held:
        sentence += f", and {count(held, 'later one')} of the same keys {'waits' if held == 1 else 'wait'} behind"
    sentence += ": see why, then `evkit outbox retry` or `evkit outbox skip`"
    evidence = {k: row[k] for k in ("unpublishable", "held", "oldest_unpublishable_seconds")}
    threshold = reached(severity, bounds.unpublishable_events_warning, bounds.unpublishable_events_critical)
    step = "" if severity is Severity.ok else _STEP
    return Finding(
        MONITOR, severity, "unpublishable events", parked + held, "events", threshold, sentence, evidence, step
    )


def _hole(row: dict[str, Any], bounds: Thresholds) -> Finding | None:
    """A transaction that keeps a position open for long; None when there is none, or a young one."""
    age = row["hole_seconds"]
    if age is None or age < bounds.hole_seconds_warning:
        return None
    severity = level(age, bounds.hole_seconds_warning, bounds.hole_seconds_critical)
    sentence = f"outbox position {row['hole_position']} may still be filled, for {seconds(age)} now"
    if row["hole_pid"] is not None:
        who = f"backend {row['hole_pid']}"
        who += f" ({row['hole_application']})" if row["hole_application"] else ""
        who += f" in database {row['hole_database']}" if row["hole_database"] else ""
        doing = f" is {row['hole_state']}" if row["hole_state"] else " has a transaction open"
        since = (
            f", its transaction {seconds(row['hole_pid_seconds'])} old" if row["hole_pid_seconds"] is not None else ""
        )
        sentence += f": {who}{doing}{since}"
    elif row["hole_state"]:
        sentence += f": {row['hole_state']} in database {row['hole_database']} is neither committed nor rolled back"
    else:
        sentence += ", and no transaction that could fill it is seen: the relay has not looked again; is it running?"
    keys = (
        "hole_position",
        "hole_seconds",
        "hole_pid",
        "hole_pid_seconds",
        "hole_database",
        "hole_state",
        "hole_application",
    )
    threshold = reached(severity, bounds.hole_seconds_warning, bounds.hole_seconds_critical)
    return Finding(MONITOR, severity, "oldest hole", age, "s", threshold, sentence, {k: row[k] for k in keys}, _STEP)
