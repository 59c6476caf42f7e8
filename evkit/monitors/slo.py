"""service level objectives → does a budget burn so fast that somebody must look?"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from evkit.monitors.finding import Finding, Severity, Thresholds, command, count, seconds
from evkit.views.frame import rows_of
from evkit.views.slo import BURNS, Burn

MONITOR = "slo"


def slo(frame: Any, thresholds: Thresholds | None = None) -> list[Finding]:  # noqa: ARG001
    """Judge the frame of `views.slo`: one finding for each objective of a group or a topic.

    It burns when both windows of a pair do (`evkit.views.slo.BURNS`): 14.4 times over an hour and five minutes or 6 times
    over six hours and half an hour are critical, once over three days and six hours is a warning. Fewer events than
    `events_min` in the long window are a warning at most, told as numbers. What could not be measured is unknown.
    The bounds are those of the rows, so `thresholds` changes nothing here.
    """
    rows = rows_of(frame, "slo")
    if not rows:
        sentence = "no objective could be measured: evkit's tables know no group or topic that one is for"
        return [Finding(MONITOR, Severity.unknown, "all objectives", None, "x", None, sentence, {}, "evkit view slo")]
    found = groupby(rows, key=lambda r: (r["slo"], r["group"], r["topic"]))
    return [_objective({r["window_seconds"]: r for r in of_objective}) for _, of_objective in found]


def _objective(windows: dict[float, dict[str, Any]]) -> Finding:
    longest = windows[max(windows)]
    name = longest["group"] or longest["topic"]
    subject = f"{name}, {longest['slo']}"
    step = command("view", "slo", *(("--group", longest["group"]) if longest["group"] else ()))
    counted = ("window_seconds", "good", "bad", "unmeasured", "burn_rate")
    evidence: dict[str, Any] = {
        "objective": longest["objective"],
        "target_seconds": longest["target_seconds"],
        "windows": [{k: windows[s][k] for k in counted} for s in sorted(windows)],
    }

    def finding(severity: Severity, value: float | None, threshold: float | None, sentence: str) -> Finding:
        following = "" if severity is Severity.ok else step
        return Finding(MONITOR, severity, subject, value, "x", threshold, f"{subject}: {sentence}", evidence, following)

    if longest["good"] is None or longest["bad"] is None:
        return finding(Severity.unknown, None, None, "could not be measured: evkit's tables know no such name")
    events, unmeasured = longest["good"] + longest["bad"], longest["unmeasured"] or 0
    for burn in BURNS:
        if burn.long_seconds not in windows or burn.short_seconds not in windows:
            return finding(Severity.unknown, None, None, "the frame lacks the windows that are judged")
        long, short = windows[burn.long_seconds], windows[burn.short_seconds]
        if min(long["burn_rate"] or 0.0, short["burn_rate"] or 0.0) >= burn.rate:
            severity = Severity.critical if burn.page and long["enough"] else Severity.warning
            return finding(severity, long["burn_rate"], burn.rate, _burning(burn, long, short))
    if unmeasured > events:
        what = f"{count(unmeasured, 'event')} of {unmeasured + events:,} cannot be judged: "
        what += "their records have no time of writing"
        return finding(Severity.unknown, longest["burn_rate"], None, what)
    span = seconds(longest["window_seconds"])
    if not events:
        return finding(Severity.ok, None, BURNS[-1].rate, f"no event in {span}")
    sentence = f"{_share(longest)} in {span}, {longest['objective']:.6g} promised"
    sentence += f"; {longest['budget_used_ratio']:.1%} of the month's budget used"
    return finding(Severity.ok, longest["burn_rate"], BURNS[-1].rate, sentence)


def _burning(burn: Burn, long: dict[str, Any], short: dict[str, Any]) -> str:
    if not long["enough"]:
        events = long["good"] + long["bad"]
        return (
            f"{long['bad']:,} of {count(events, 'event')} in {seconds(burn.long_seconds)} {_failing(long)}; too few to "
            f"judge a ratio (fewer than {long['events_min']:,})"
        )
    said = f"{_share(long)} in {seconds(burn.long_seconds)}, {long['objective']:.6g} promised: the budget burns "
    said += (
        f"{long['burn_rate']:.1f} times too fast ({short['burn_rate']:.1f} in the last {seconds(burn.short_seconds)})"
    )
    return said + f", {long['budget_used_ratio']:.1%} of the month's is gone in it"


_DONE = {
    "freshness": ("were handled within {}", "were not handled within {}"),
    "correctness": ("were handled", "died"),
    "relay": ("were published within {}", "were not published within {}"),
    "completeness": ("were dealt with within {}", "were not dealt with, {} after they were published"),
}


def _share(row: dict[str, Any]) -> str:
    events = row["good"] + row["bad"]
    done = _DONE[row["slo"]][0].format(seconds(row["target_seconds"] or 0))
    return f"{row['good'] / events:.2%} of {count(events, 'event')} {done}"


def _failing(row: dict[str, Any]) -> str:
    return _DONE[row["slo"]][1].format(seconds(row["target_seconds"] or 0))
