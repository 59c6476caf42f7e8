"""The columns of every view: name, dtype, unit and meaning, in the frame's order.

`help(views.lag)` shows them, an empty frame has them, and figures and monitors check what they are given against them.
Times are UTC with microseconds, durations are seconds, ratios go from 0 to 1. A null says "not measured" or "does not
apply", never zero. Each module here is about the views of one kind.
"""

from __future__ import annotations

from evkit.views.columns import affected, audit, events, failures, flow, lag, outbox, scan, slo, timeline
from evkit.views.columns.column import Column, Dtype
from evkit.views.columns.failures import DEAD_LETTERS_PAYLOAD
from evkit.views.columns.lag import LAG_STATUSES
from evkit.views.columns.outbox import OUTBOX_STATES
from evkit.views.columns.scan import SCAN_PAYLOAD

__all__ = [
    "COLUMNS",
    "DEAD_LETTERS_PAYLOAD",
    "LAG_STATUSES",
    "OUTBOX_STATES",
    "SCAN_PAYLOAD",
    "Column",
    "Dtype",
    "table",
]

COLUMNS: dict[str, tuple[Column, ...]] = {
    "lag": lag.LAG,
    "lag_groups": lag.LAG_GROUPS,
    "consumer_status": lag.CONSUMER_STATUS,
    "lag_history": lag.LAG_HISTORY,
    "rebalances": lag.REBALANCES,
    "offset_resets": lag.OFFSET_RESETS,
    "appended": flow.APPENDED,
    "outbox": outbox.OUTBOX,
    "outbox_summary": outbox.OUTBOX_SUMMARY,
    "schema_usage": outbox.SCHEMA_USAGE,
    "publish_rate": flow.PUBLISH_RATE,
    "throughput": flow.THROUGHPUT,
    "error_rate": failures.ERROR_RATE,
    "errors": failures.ERRORS,
    "breakers": failures.BREAKERS,
    "code_versions": failures.CODE_VERSIONS,
    "dead_letters": failures.DEAD_LETTERS,
    "dead_letter_groups": failures.DEAD_LETTER_GROUPS,
    "dead_letter_count": failures.DEAD_LETTER_COUNT,
    "latency": flow.LATENCY,
    "latency_over_time": flow.LATENCY_OVER_TIME,
    "relay_lag": flow.RELAY_LAG,
    "relay_lag_over_time": flow.RELAY_LAG_OVER_TIME,
    "journey": events.JOURNEY,
    "acts": events.ACTS,
    "replays": events.REPLAYS,
    "audit": audit.AUDIT,
    "audit_counts": audit.AUDIT_COUNTS,
    "latency_events": affected.LATENCY_EVENTS,
    "latency_segments": affected.LATENCY_SEGMENTS,
    "impact": affected.IMPACT,
    "differs": affected.DIFFERS,
    "hot_keys": affected.HOT_KEYS,
    "annotations": timeline.ANNOTATIONS,
    "change_points": timeline.CHANGE_POINTS,
    "timeline": timeline.TIMELINE,
    "compare": timeline.COMPARE,
    "scan": scan.SCAN,
    "scan_plan": scan.SCAN_PLAN,
    "scan_coverage": scan.SCAN_COVERAGE,
    "unread_keys": scan.UNREAD_KEYS,
    "slo": slo.SLO,
}


def table(columns: tuple[Column, ...], indent: str = "    ") -> str:
    """The columns as aligned lines for a docstring or a terminal."""
    wide = max(len(c.name) for c in columns)
    kinds = [f"{c.dtype}{', ' + c.unit if c.unit else ''}" for c in columns]
    widest = max(len(k) for k in kinds)
    return "\n".join(
        f"{indent}{c.name:<{wide}}  {kind:<{widest}}  {c.meaning}" for c, kind in zip(columns, kinds, strict=True)
    )
