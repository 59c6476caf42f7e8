"""frame → findings: six judges, one for each number that says how a system is; and two more, of consumers and of promises.

Pure: no connection, no clock.

`monitors.NAME(frame, thresholds)` takes the frame of the view that its docstring names, polars or pandas, and returns
findings; `judge(measure(system))` asks all six. What could not be measured is `unknown`, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evkit.monitors.consumer_lag import consumer_lag
from evkit.monitors.consumer_status import consumer_status
from evkit.monitors.dead_letters import dead_letters
from evkit.monitors.error_rate import error_rate
from evkit.monitors.finding import Finding, Severity, Thresholds, Verdict
from evkit.monitors.latency import latency
from evkit.monitors.publish_rate import publish_rate
from evkit.monitors.relay_lag import relay_lag
from evkit.monitors.slo import slo
from evkit.monitors.triage import Cause, Diagnosis, Harm, triage

__all__ = [
    "MONITORS",
    "MORE",
    "Cause",
    "Diagnosis",
    "Finding",
    "Harm",
    "Severity",
    "Thresholds",
    "Verdict",
    "consumer_lag",
    "consumer_status",
    "dead_letters",
    "error_rate",
    "judge",
    "latency",
    "publish_rate",
    "relay_lag",
    "slo",
    "triage",
]

# In the order of travel; the names are the keys of `evkit.views.measure`.
MONITORS: dict[str, Callable[[Any, Thresholds], list[Finding]]] = {
    "publish_rate": publish_rate,
    "relay_lag": relay_lag,
    "consumer_lag": consumer_lag,
    "latency": latency,
    "error_rate": error_rate,
    "dead_letters": dead_letters,
}
# Judged where they were measured: what consumers do by all that they committed, and what was promised.
MORE: dict[str, Callable[[Any, Thresholds], list[Finding]]] = {"consumer_status": consumer_status, "slo": slo}


def judge(measured: Mapping[str, Any], thresholds: Thresholds | None = None) -> Verdict:
    """The monitors on what `evkit.views.measure` returned: a frame by monitor, or the error that prevented it.

    A monitor whose frame is missing or an error gives one finding `unknown` that says why. The worst severity is the
    verdict's; critical is worse than unknown, so that a server that does not answer cannot hide what was seen.
    `consumer_status` and `slo` are judged where `measured` has them.
    """
    bounds = thresholds or Thresholds()
    findings: list[Finding] = []
    asked = MONITORS | {name: monitor for name, monitor in MORE.items() if name in measured}
    for name, monitor in asked.items():
        frame = measured.get(name)
        if frame is None or isinstance(frame, BaseException):
            why = "nobody measured it" if frame is None else str(frame)
            findings.append(
                Finding(
                    name,
                    Severity.unknown,
                    "all",
                    None,
                    "",
                    None,
                    f"{name} could not be measured: {why}",
                    {},
                    "evkit status",
                )
            )
        else:
            findings += monitor(frame, bounds)
    return Verdict.of(findings)
