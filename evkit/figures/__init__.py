"""frame → figure: drawings of the views of the same names. Pure: no connection, and nothing is changed.

`figures.NAME(frame)` takes the frame of `views.NAME`, polars or pandas, and returns a plotly figure. Its title is a
sentence with the numbers that matter, its axes have units, its times are UTC, and a status has the same colour in all of
them. An empty frame gives a figure that says why there is nothing to draw. Text that comes from events is shown as it is:
never as markup.
"""

# `from __future__ import annotations` would hide what `annotations` is here from type checkers.

from evkit.figures.dead_letters import dead_letters
from evkit.figures.differs import differs
from evkit.figures.error_rate import error_rate
from evkit.figures.journey import journey
from evkit.figures.lag import lag
from evkit.figures.latency import latency, latency_over_time
from evkit.figures.latency_segments import latency_segments
from evkit.figures.overview import overview
from evkit.figures.relay_lag import relay_lag, relay_lag_over_time
from evkit.figures.template import STATUS_COLOURS, TEMPLATE
from evkit.figures.throughput import publish_rate, throughput
from evkit.figures.timeline import annotations, rules, timeline

__all__ = [
    "STATUS_COLOURS",
    "TEMPLATE",
    "annotations",
    "dead_letters",
    "differs",
    "error_rate",
    "journey",
    "lag",
    "latency",
    "latency_over_time",
    "latency_segments",
    "overview",
    "publish_rate",
    "relay_lag",
    "relay_lag_over_time",
    "rules",
    "throughput",
    "timeline",
]
