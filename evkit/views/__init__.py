"""records → frames: look at a system without touching it.

Each view is a function `views.NAME(system, ..., frames="polars")`: one read-only transaction in PostgreSQL, or offsets
asked from Kafka without joining a group, and a real polars DataFrame out of it (pandas on request). Their columns are in
`columns/`; what a view is about, in its docstring. Live handling and replays are never mixed without a mark.
"""

# `from __future__ import annotations` would hide what `annotations` is here from type checkers.

from evkit.views.acts import acts, replays
from evkit.views.annotations import annotations
from evkit.views.appended import appended
from evkit.views.audit import audit, audit_counts
from evkit.views.breakers import breakers
from evkit.views.change_points import change_points
from evkit.views.code_versions import code_versions
from evkit.views.columns import COLUMNS, Column
from evkit.views.compare import compare
from evkit.views.consumer_status import consumer_status
from evkit.views.dead_letters import dead_letter_count, dead_letter_groups, dead_letters
from evkit.views.differs import differs
from evkit.views.errors import error_rate, errors
from evkit.views.hot_keys import hot_keys
from evkit.views.impact import impact
from evkit.views.journey import journey
from evkit.views.lag import lag
from evkit.views.lag_groups import lag_groups
from evkit.views.lag_history import lag_history
from evkit.views.latency import latency, latency_over_time
from evkit.views.latency_events import latency_events, latency_segments
from evkit.views.offset_resets import offset_resets
from evkit.views.outbox import outbox, outbox_summary, schema_usage
from evkit.views.rebalances import rebalances
from evkit.views.relay_lag import relay_lag, relay_lag_over_time
from evkit.views.scan import Scanned, scan, scan_coverage, scan_plan, scan_with_coverage
from evkit.views.six import measure
from evkit.views.slo import Objective, slo
from evkit.views.symptoms import symptoms
from evkit.views.throughput import publish_rate, throughput
from evkit.views.timeline import timeline
from evkit.views.unread_keys import unread_keys

__all__ = [
    "COLUMNS",
    "Column",
    "Objective",
    "Scanned",
    "acts",
    "annotations",
    "appended",
    "audit",
    "audit_counts",
    "breakers",
    "change_points",
    "code_versions",
    "compare",
    "consumer_status",
    "dead_letter_count",
    "dead_letter_groups",
    "dead_letters",
    "differs",
    "error_rate",
    "errors",
    "hot_keys",
    "impact",
    "journey",
    "lag",
    "lag_groups",
    "lag_history",
    "latency",
    "latency_events",
    "latency_over_time",
    "latency_segments",
    "measure",
    "offset_resets",
    "outbox",
    "outbox_summary",
    "publish_rate",
    "rebalances",
    "relay_lag",
    "relay_lag_over_time",
    "replays",
    "scan",
    "scan_coverage",
    "scan_plan",
    "scan_with_coverage",
    "schema_usage",
    "slo",
    "symptoms",
    "throughput",
    "timeline",
    "unread_keys",
]
