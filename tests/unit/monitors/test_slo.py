"""Objectives and consumers judged, from frames made by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from evkit.monitors import Severity, Thresholds, consumer_status, judge, slo
from evkit.views.frame import frame
from evkit.views.slo import WINDOWS_SECONDS, Objective, _line

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOUR, FIVE_MINUTES, SIX_HOURS, HALF_HOUR, THREE_DAYS = 3600.0, 300.0, 21_600.0, 1800.0, 259_200.0


def judged(counts, **objective):
    """The finding for (good, bad, unmeasured) by window; (1000, 0, 0) where nothing is said."""
    promise = Objective("freshness", 0.99, 60, "billing", **objective)
    rows = [_line(promise, "billing", s, counts.get(s, counts.get("all", (1000, 0, 0))), NOW) for s in WINDOWS_SECONDS]
    (found,) = slo(frame("slo", rows))
    return found


@pytest.mark.parametrize(
    ("counts", "severity"),
    [
        ({}, Severity.ok),
        ({HOUR: (850, 150, 0), FIVE_MINUTES: (80, 20, 0)}, Severity.critical),
        ({HOUR: (850, 150, 0), FIVE_MINUTES: (100, 0, 0)}, Severity.ok),  # over
        ({HOUR: (1000, 0, 0), FIVE_MINUTES: (0, 100, 0)}, Severity.ok),  # just begun
        ({SIX_HOURS: (930, 70, 0), HALF_HOUR: (930, 70, 0)}, Severity.critical),
        ({THREE_DAYS: (980, 20, 0), SIX_HOURS: (980, 20, 0)}, Severity.warning),
        ({THREE_DAYS: (980, 20, 0)}, Severity.ok),
        ({"all": (None, None, None)}, Severity.unknown),
        ({"all": (1, 0, 100)}, Severity.unknown),
        ({"all": (0, 0, 5)}, Severity.unknown),
        ({"all": (0, 0, 0)}, Severity.ok),
    ],
)
def test_a_budget_burns_when_both_windows_of_a_pair_do(counts, severity):
    assert judged(counts).severity is severity


def test_few_events_are_told_as_numbers_and_are_a_warning_at_most():
    found = judged({"all": (2, 3, 0)}, events_min=50)

    assert found.severity is Severity.warning
    assert (
        "3 of 5 events in 60 min were not handled within 60 s; too few to judge a ratio (fewer than 50)"
        in found.sentence
    )


def test_the_sentence_has_the_numbers_that_decide():
    found = judged({HOUR: (850, 150, 0), FIVE_MINUTES: (80, 20, 0)})

    assert found.sentence == (
        "billing, freshness: 85.00% of 1,000 events were handled within 60 s in 60 min, 0.99 promised: the budget burns "
        "15.0 times too fast (20.0 in the last 5 min), 2.1% of the month's is gone in it"
    )
    assert (found.value, found.threshold) == (pytest.approx(15), 14.4)
    assert found.next_step == "evkit view slo --group billing"


def test_objectives_that_nothing_is_known_of_are_unknown_and_never_ok():
    (found,) = slo(frame("slo", []))

    assert found.severity is Severity.unknown


def test_an_objective_that_could_not_be_read_is_an_unknown_finding_of_the_verdict():
    verdict = judge({"slo": RuntimeError("permission denied")}, Thresholds())

    assert "slo could not be measured: permission denied" in [f.sentence for f in verdict.findings]


def status(group, partition, status, *, alarm=False, covered=True, lag=0):
    return {"group": group, "topic": "order", "partition": partition, "status": status, "alarm": alarm, "covered": covered,
            "reason": f"reason {partition}", "lag_events": lag}  # fmt: skip


def test_alarms_of_a_group_are_one_finding_with_the_worst_partitions_reason():
    rows = [
        status("a", 0, "ok"),
        status("b", 0, "warn", alarm=True, lag=900),
        status("b", 1, "stall", alarm=True, lag=5),
    ]

    alarm, calm = consumer_status(frame("consumer_status", rows))

    assert (alarm.severity, alarm.subject) == (Severity.critical, "b")
    assert alarm.sentence == "b in order/1: stall, reason 1; alarms in 2 of 2 partitions"
    assert (calm.severity, calm.sentence) == (Severity.ok, "1 group without an alarm")


def test_what_the_offsets_log_does_not_tell_is_said_once():
    rows = [status(g, p, "unknown", covered=False) for g in "abcde" for p in range(3)]

    (found,) = consumer_status(frame("consumer_status", rows))

    assert found.severity is Severity.ok
    assert found.sentence == (
        "5 groups without an alarm; the past commits of a, b, c and 2 more are not known, so stalls and rewinds of them "
        "cannot be seen"
    )
