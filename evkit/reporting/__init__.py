"""Notebooks, executed: catalogue, parameters, papermill on a kernel of its own, one offline page, and what changed since.

In a notebook:

    report = reporting.begin(profile, since, until)     system, window, thresholds
    lag = report.look(views.lag, group)                 a frame, or the error that says why there is none
    report.show(figures.lag, lag)                       the figure, and its data below it
    report.judge(monitors.consumer_lag(lag))            findings, the worst first
    report.finish()                                     the verdict, and the summary for whoever ran it

From outside: `run("health", system=...)` → a folder with report.html, report.ipynb and summary.json.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evkit.reporting.acting import act, plan_redrive, plan_replay
    from evkit.reporting.catalogue import copy, definition, definitions, notebook, notebooks
    from evkit.reporting.comparison import compare
    from evkit.reporting.execution import ReportRun, run, runs
    from evkit.reporting.following import follow
    from evkit.reporting.parameters import Duration, Instant
    from evkit.reporting.report import Report, begin
    from evkit.reporting.summary import Summary

# The kernel of a report needs half of these, the process that runs it the other half; each loads its own.
_HOMES = {
    "begin": "report", "Report": "report",
    "plan_redrive": "acting", "plan_replay": "acting", "act": "acting",
    "follow": "following",
    "Instant": "parameters", "Duration": "parameters",
    "run": "execution", "runs": "execution", "ReportRun": "execution",
    "notebooks": "catalogue", "notebook": "catalogue", "definitions": "catalogue", "definition": "catalogue",
    "copy": "catalogue",
    "Summary": "summary", "compare": "comparison",
}  # fmt: skip

__all__ = [
    "Duration",
    "Instant",
    "Report",
    "ReportRun",
    "Summary",
    "act",
    "begin",
    "compare",
    "copy",
    "definition",
    "definitions",
    "follow",
    "notebook",
    "notebooks",
    "plan_redrive",
    "plan_replay",
    "run",
    "runs",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'evkit.reporting' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"evkit.reporting.{home}"), name)
    globals()[name] = value
    return value
