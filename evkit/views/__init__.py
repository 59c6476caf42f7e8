"""records → frames: look at a system without touching it.

Each view is a function `views.NAME(system, ..., frames="polars")`: one read-only transaction in PostgreSQL, or offsets
asked from Kafka without joining a group, and a real polars DataFrame out of it (pandas on request). Their columns are in
`columns/`; what a view is about, in its docstring. Live handling and replays are never mixed without a mark.
"""

from __future__ import annotations

from evkit.views.acts import acts, replays
from evkit.views.columns import COLUMNS, Column
from evkit.views.consumer_status import consumer_status
from evkit.views.dead_letters import dead_letter_count, dead_letter_groups, dead_letters
from evkit.views.errors import error_rate, errors
from evkit.views.journey import journey
from evkit.views.lag import lag
from evkit.views.lag_groups import lag_groups
from evkit.views.lag_history import lag_history
from evkit.views.latency import latency, latency_over_time
from evkit.views.rebalances import rebalances
from evkit.views.relay_lag import relay_lag, relay_lag_over_time
from evkit.views.six import measure
from evkit.views.slo import Objective, slo
from evkit.views.throughput import publish_rate, throughput

__all__ = [
    "COLUMNS",
    "Column",
    "Objective",
    "acts",
    "consumer_status",
    "dead_letter_count",
    "dead_letter_groups",
    "dead_letters",
    "error_rate",
    "errors",
    "journey",
    "lag",
    "lag_groups",
    "lag_history",
    "latency",
    "latency_over_time",
    "measure",
    "publish_rate",
    "rebalances",
    "relay_lag",
    "relay_lag_over_time",
    "replays",
    "slo",
    "throughput",
]
