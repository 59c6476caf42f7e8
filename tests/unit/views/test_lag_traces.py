"""The status of recorded incidents, second by second, against what was truly the case; and Burrow's rules on the same.

The traces are real (lag_traces/record.py made them on a broker), with time compressed 20 times: 30 s stand for the default
window of 10 min. Burrow's look at the broker each 10 s becomes one each half second; its other rules know no unit of time.

How it is counted. A second is a miss when something is wrong and the answer is no alarm, a false alarm when nothing is
wrong and it is one. Only alarm or not is counted, so that Burrow is not blamed for having no word for a loss; no_commit is
none, and a hanging transaction is nothing wrong with the consumer. Nobody can know in the first moment: after a change of
what is true neither is counted for as long as GRACE says; how late each is within it stands in a column of its own.

Ours is told three things that Burrow cannot be: the stable offset, whether a record can be read, and that a partition is
paused on purpose. What it makes of offsets and ends alone is counted beside it, as "bare".
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from evkit.views.lag_status import ALARMS, Commit, Ends, PartitionStatus, Rules, lag_status
from tests.unit.views.burrow import burrow

FOLDER = Path(__file__).parent / "lag_traces"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))

# 30 s instead of 10 min, and so on: everything by 20.
RULES = Rules(window_seconds=30, silence_seconds_min=0.75, silence_seconds_new=15)

# Seconds in which neither can know. What the offsets themselves show is there with the next sample; a trend or a silence
# takes a third of the window; what is over needs a commit that says so.
GRACE = {"rewind": 1.0, "data_loss": 1.0, "ahead": 1.0, "no_commit": 1.0, "stop": 10.0, "stall": 10.0, "warn": 10.0}
GRACE_FINE = 2.0

WRONG = frozenset({"stop", "stall", "warn", "rewind", "data_loss", "ahead"})
# What ours may say where this is true: catching up is also fine, and before three commits nothing is known.
WORDS = {"ok": {"ok", "catching_up", "unknown"}, "catching_up": {"ok", "catching_up", "unknown"}}


@dataclass
class Score:
    """Seconds of one trace; late: of an incident before the first alarm, within the grace."""

    seconds: int = 0
    judged: int = 0
    misses: int = 0
    false_alarms: int = 0
    unknown: int = 0
    bare_misses: int = 0
    bare_false_alarms: int = 0
    burrow_misses: int = 0
    burrow_false_alarms: int = 0
    late: int = 0
    burrow_late: int = 0
    told: list[str] = field(default_factory=list)


def trace_of(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def at(seconds: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def seconds_of(trace: dict[str, Any]) -> range:
    return range(math.ceil(trace["truth"][0][0]), int(trace["truth"][-1][1]) + 1)


def truth_at(trace: dict[str, Any], now: float) -> tuple[str, bool]:
    """What is the case, and whether it can be known yet."""
    begin, _, word, _ = next(s for s in reversed(trace["truth"]) if s[0] <= now)
    # The same word again is no change.
    for earlier in reversed([s for s in trace["truth"] if s[1] is not None and s[1] <= begin]):
        if earlier[2] != word:
            break
        begin = earlier[0]
    return word, now - begin >= GRACE.get(word, GRACE_FINE)


def ours_at(trace: dict[str, Any], now: float, *, bare: bool = False) -> PartitionStatus:
    commits = [Commit(at(t), offset) for t, offset in trace["commits"] if t <= now]
    ends = [Ends(at(t), start, end, stable) for t, _, start, end, stable in trace["samples"] if t <= now]
    if bare:
        return lag_status(commits, [replace(e, stable=None) for e in ends], at(now), rules=RULES)
    probes = [p for p in trace["probes"] if p[0] <= now]
    readable = None
    if probes and commits and probes[-1][1] == commits[-1].offset and now - probes[-1][0] < 1:
        readable = probes[-1][2]
    paused = any(begin <= now < end for begin, end in trace["paused"])
    return lag_status(commits, ends, at(now), readable_events=readable, paused=paused, rules=RULES)


def burrow_at(trace: dict[str, Any], now: float) -> str:
    looks: list[tuple[float, int]] = []
    for t, _, _, end, _ in trace["samples"]:
        if not looks or t - looks[-1][0] >= 0.5:
            looks.append((t, end))
    return burrow([(t, offset) for t, offset in trace["commits"]], looks, now)


def score(name: str) -> Score:
    trace, found = trace_of(name), Score()
    for now in seconds_of(trace):
        word, knowable = truth_at(trace, now)
        found.seconds += 1
        ours, bare, theirs = ours_at(trace, now), ours_at(trace, now, bare=True), burrow_at(trace, now)
        if not knowable:
            found.late += word in WRONG and not ours.alarm
            found.burrow_late += word in WRONG and theirs == "OK"
            continue
        found.judged += 1
        found.unknown += ours.status == "unknown"
        if word in WRONG:
            found.misses += ours.status not in ALARMS
            found.bare_misses += bare.status not in ALARMS
            found.burrow_misses += theirs == "OK"
        else:
            found.false_alarms += ours.status in ALARMS
            found.bare_false_alarms += bare.status in ALARMS
            found.burrow_false_alarms += theirs != "OK"
        if ours.status not in WORDS.get(word, {word}):
            found.told.append(f"{name} at {now} s: {word} is true, told {ours.status}: {ours.reason}")
    return found


def test_traces_are_all_there():
    assert NAMES == [
        "burst", "compacted", "deleted_records", "fast_commits", "idle", "outage", "overload", "paused",
        "recreated_topic", "reset_forward", "rewind", "single_commit", "transactional",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_status_of_a_recorded_incident_is_what_was_the_case(name):
    assert score(name).told == []


def test_fewer_false_alarms_and_misses_than_burrow_on_the_same_traces():
    """The table, with -s. Ours has none of either; what Burrow's are, and what bare is for:

    overload         missed: of ten commits one shows a smaller lag than the one before, and the climb is none
    recreated_topic  missed: an offset beyond the end has lag 0; and the new topic's low offsets look like a rewind
    single_commit    false: after one commit any silence is longer than the time between first and last
    paused           false: it cannot know; bare is no better
    transactional    false: the marker behind the last record is lag for ever, and a hanging transaction is a stop. Without
                     the stable offset and a look at the record bare is no better, and sooner
    """
    rows = {name: score(name) for name in NAMES}

    print("\nseconds of each    |            | ours                    | bare       | Burrow")
    print("trace              | all judged | false miss late unknown | false miss | false miss late")
    for name, r in rows.items():
        print(
            f"{name:<18} | {r.seconds:>3} {r.judged:>6} | "
            f"{r.false_alarms:>5} {r.misses:>4} {r.late:>4} {r.unknown:>7} | {r.bare_false_alarms:>5} {r.bare_misses:>4} | "
            f"{r.burrow_false_alarms:>5} {r.burrow_misses:>4} {r.burrow_late:>4}"
        )
    ours = sum(r.false_alarms + r.misses for r in rows.values())
    bare = sum(r.bare_false_alarms + r.bare_misses for r in rows.values())
    theirs = sum(r.burrow_false_alarms + r.burrow_misses for r in rows.values())
    judged = sum(r.judged for r in rows.values())
    print(f"of {judged} seconds judged, false or missed: ours {ours}, bare {bare}, Burrow's {theirs}")
    assert ours == 0
    assert bare < theirs


def test_committed_offsets_of_the_samples_are_those_of_the_log():
    """Two ways to the same offsets: what a sample shows, somebody has committed."""
    for name in NAMES:
        trace = trace_of(name)
        logged = {offset for _, offset in trace["commits"]}
        for t, committed, *_ in trace["samples"]:
            if committed is not None:
                assert committed in logged, (name, t)
