"""what consumers do in their partitions → does one stand still, run away, or go back?"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from evkit.monitors.finding import Finding, Severity, Thresholds, command, count
from evkit.views.frame import rows_of

MONITOR = "consumer_status"
# These move nothing, or have lost something. A consumer that is slow, or was sent back, still does its work.
_CRITICAL = ("data_loss", "stop", "stall")


def consumer_status(frame: Any, thresholds: Thresholds | None = None) -> list[Finding]:  # noqa: ARG001
    """Judge the frame of `views.consumer_status`: one finding for each group with an alarm, with the reason of its worst
    partition, and one for all others.

    There are no thresholds: what is long is what is long for that group. Groups whose past commits are not known (Kafka's
    offsets log may not be read, or has been compacted) are named once; their lag is judged all the same, by consumer_lag.
    """
    rows = rows_of(frame, "consumer_status")
    found = []
    groups = {name: list(of_group) for name, of_group in groupby(sorted(rows, key=_place), key=lambda r: r["group"])}
    for name, of_group in groups.items():
        alarms = [r for r in of_group if r["alarm"]]
        if alarms:
            found.append(_alarm(name, alarms, len(of_group)))
    calm = [name for name in groups if not any(r["alarm"] for r in groups[name])]
    if calm or not groups:
        unseen = [name for name in calm if not all(r["covered"] for r in groups[name])]
        sentence = f"{count(len(calm), 'group')} without an alarm" if calm else "no consumer group is known"
        if unseen:
            names = ", ".join(unseen[:3]) + (f" and {len(unseen) - 3} more" if len(unseen) > 3 else "")
            sentence += f"; the past commits of {names} are not known, so stalls and rewinds of them cannot be seen"
        found.append(Finding(MONITOR, Severity.ok, "all other groups" if found else "all groups", 0.0, "partitions", None,
                             sentence, {"groups": calm, "not_covered": unseen}))  # fmt: skip
    return found


def _place(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["group"], row["topic"], row["partition"]


def _alarm(group: str, alarms: list[dict[str, Any]], partitions: int) -> Finding:
    critical = [r for r in alarms if r["status"] in _CRITICAL]
    worst = max(critical or alarms, key=lambda r: (r["lag_events"] or 0, r["partition"]))
    severity = Severity.critical if critical else Severity.warning
    sentence = (
        f"{group} in {worst['topic']}/{worst['partition']}: {worst['status'].replace('_', ' ')}, {worst['reason']}"
    )
    if len(alarms) > 1:
        sentence += f"; alarms in {len(alarms)} of {count(partitions, 'partition')}"
    evidence = {
        "statuses": {s: sum(r["status"] == s for r in alarms) for s in sorted({r["status"] for r in alarms})},
        "partitions": [f"{r['topic']}/{r['partition']}" for r in alarms],
        "lag_events": worst["lag_events"],
        "still_seconds": worst["still_seconds"],
    }
    step = command("view", "consumer-status", "--group", group)
    return Finding(MONITOR, severity, group, float(len(alarms)), "partitions", 1.0, sentence, evidence, step)
