"""lag → is a group behind, and by how long?"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from evkit.monitors.finding import Finding, Severity, Thresholds, command, count, level, places, reached, seconds
from evkit.views.frame import rows_of

MONITOR = "consumer_lag"


def consumer_lag(frame: Any, thresholds: Thresholds | None = None) -> list[Finding]:
    """Judge the frame of `views.lag`: one finding for each group, its worst partition named.

    Judged is the age of the oldest unread record, for the number of events says nothing without their rate. Records that
    were deleted unread, and offsets beyond the end, are critical and a warning whatever the age. A group that has
    committed nothing where there is something to read is unknown, as is one that is behind by an age nobody could read.
    What waits for the end of a transaction is judged by its age too, and is told to be its writer's matter.
    """
    bounds = thresholds or Thresholds()
    rows = rows_of(frame, "lag")
    if not rows:
        sentence = "lag could not be measured: neither the cluster nor the inbox knows a consumer group"
        return [Finding(MONITOR, Severity.unknown, "all groups", None, "s", None, sentence, {}, "evkit view lag")]
    rows.sort(key=lambda r: r["group"])
    return [
        _group(name, list(of_group), bounds.of_group(name))
        for name, of_group in groupby(rows, key=lambda r: r["group"])
    ]


def _group(name: str, rows: list[dict[str, Any]], bounds: Thresholds) -> Finding:
    held = [r for r in rows if r["status"] == "open_transaction"]
    own = [r for r in rows if r["status"] != "open_transaction"]
    lag_events = sum(r["lag_events"] for r in own if (r["lag_events"] or 0) > 0)
    measured = [r for r in own if r["lag_seconds"] is not None]
    worst = max(measured, key=lambda r: r["lag_seconds"], default=None)
    unmeasured = [
        r
        for r in rows
        if r["status"] in ("unknown", "no_commit") or (r["status"] == "behind" and r["lag_seconds"] is None)
    ]
    value = None if worst is None else worst["lag_seconds"]
    severity = Severity.ok if value is None else level(value, bounds.lag_seconds_warning, bounds.lag_seconds_critical)
    threshold = reached(severity, bounds.lag_seconds_warning, bounds.lag_seconds_critical)
    evidence = {
        "lag_events": lag_events,
        "partitions": len(rows),
        "partitions_behind": sum((r["lag_events"] or 0) > 0 for r in rows),
        "statuses": {s: sum(r["status"] == s for r in rows) for s in sorted({r["status"] for r in rows})},
        "group_state": rows[0]["group_state"],
    }
    step = command("view", "lag", "--group", name)

    lost = [r for r in rows if r["status"] == "data_loss"]
    if lost:
        n = sum(r["lost_events"] for r in lost)
        sentence = (
            f"{name} lost up to {count(n, 'event')}: retention deleted them in {places(lost)} before they were read"
        )
        return Finding(
            MONITOR, Severity.critical, name, value, "s", threshold, sentence, evidence | {"lost_events": n}, step
        )
    parts = []
    if worst is not None and value is not None:
        if lag_events and value > 0:
            parts.append(
                f"{name} is {seconds(value)} behind, {count(lag_events, 'event')} unread"
                + (f", the oldest in {places([worst])}" if len(rows) > 1 else "")
            )
        else:
            parts.append(f"{name} has read everything")
    ahead = [r for r in rows if r["status"] == "ahead"]
    if ahead:
        severity = max(severity, Severity.warning, key=lambda s: s.rank)
        parts.append(
            f"its offset is beyond the end in {places(ahead)}: was the topic made anew, or the offset set by hand?"
        )
    if held:
        oldest = max(r["lag_seconds"] for r in held)
        if (of_held := level(oldest, bounds.lag_seconds_warning, bounds.lag_seconds_critical)) is not Severity.ok:
            severity = max(severity, of_held, key=lambda s: s.rank)
            value = oldest if value is None else max(value, oldest)
            threshold = reached(severity, bounds.lag_seconds_warning, bounds.lag_seconds_critical)
        n = sum(r["lag_events"] for r in held)
        why = "" if of_held is Severity.ok else ": its writer hangs, or was killed"
        parts.append(
            f"{count(n, 'event')} in {places(held)} wait for the end of a transaction, since {seconds(oldest)}{why}"
        )
    if unmeasured:
        severity = max(severity, Severity.unknown, key=lambda s: s.rank)
        never = [r for r in unmeasured if r["status"] == "no_commit"]
        other = [r for r in unmeasured if r["status"] != "no_commit"]
        if never:
            backlog = sum(r["backlog_events"] or 0 for r in never)
            parts.append(
                f"{name} has committed nothing in {places(never)}, where {count(backlog, 'event')} can be read"
            )
        if other:
            parts.append(f"the lag of {name} in {places(other)} could not be measured")
    if not parts:  # no_commit everywhere, and nothing to read either
        parts.append(f"{name} has nothing to read")
    if evidence["group_state"] in ("empty", "dead", None) and severity is not Severity.ok:
        parts.append("no consumer is running")
    step = "" if severity is Severity.ok else step
    return Finding(MONITOR, severity, name, value, "s", threshold, "; ".join(parts), evidence, step)
