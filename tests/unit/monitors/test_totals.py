"""Counters of good and bad events: they only grow, and lose nothing that was counted from the fixed moment on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from evkit.monitors.totals import Counted, Totals
from evkit.views.frame import frame, rows_of
from evkit.views.slo import WINDOWS_SECONDS

START = datetime(2026, 1, 1, tzinfo=UTC)
GOOD, BAD = (Counted("freshness", "billing", None, verdict) for verdict in ("good", "bad"))


def measured(events, end, totals):
    """The frame of views.slo at a moment, of events (moment judged, verdict) in the windows that totals wants too."""
    windows = {*WINDOWS_SECONDS, *totals.windows_seconds(end)}
    rows = []
    for seconds in windows:
        since = end - timedelta(seconds=seconds)
        inside = [verdict for at, verdict in events if since <= at < end]
        rows.append({"slo": "freshness", "group": "billing", "window_seconds": seconds, "good": inside.count("good"),
                     "bad": inside.count("bad")})  # fmt: skip
    return frame("slo", rows)


def test_counters_begin_at_zero_whatever_the_tables_hold():
    totals = Totals()

    totals.add(measured([(START - timedelta(minutes=1), "good")], START, totals), START)

    assert totals.counts() == {GOOD: 0, BAD: 0}


def test_the_judged_windows_alone_come_back():
    totals = Totals()
    totals.add(measured([], START, totals), START)

    left = totals.add(measured([], START + timedelta(seconds=15), totals), START + timedelta(seconds=15))

    assert {row["window_seconds"] for row in rows_of(left, "slo")} == set(WINDOWS_SECONDS)


def test_an_event_judged_before_the_last_measurement_and_seen_after_it_is_counted():
    totals, minute = Totals(), timedelta(minutes=1)
    totals.add(measured([], START, totals), START)
    totals.add(measured([], START + 2 * minute, totals), START + 2 * minute)

    totals.add(measured([(START + minute, "bad")], START + 3 * minute, totals), START + 3 * minute)

    assert totals.counts() == {GOOD: 0, BAD: 1}


def test_what_was_counted_stays_when_it_is_taken_back():
    totals, minute = Totals(), timedelta(minutes=1)
    totals.add(measured([], START, totals), START)
    totals.add(measured([(START, "bad"), (START, "good")], START + minute, totals), START + minute)

    totals.add(measured([(START, "good")], START + 2 * minute, totals), START + 2 * minute)

    assert totals.counts() == {GOOD: 1, BAD: 1}


def test_what_could_not_be_measured_changes_nothing_and_has_no_series():
    totals = Totals()
    totals.windows_seconds(START)

    totals.add(frame("slo", [{"slo": "freshness", "group": "billing", "window_seconds": 300.0}]), START)

    assert totals.counts() == {}


@given(
    steps=st.lists(st.tuples(st.integers(1, 60 * 60 * 40), st.booleans()), min_size=1, max_size=12),
    events=st.lists(st.tuples(st.integers(0, 60 * 60 * 300), st.sampled_from(["good", "bad"])), max_size=40),
)
def test_over_days_every_event_is_counted_once_and_no_count_ever_falls(steps, events):
    """Measurements at any distance, some of which fail; every event is seen at once."""
    totals, end = Totals(), START
    planted = [(START + timedelta(seconds=seconds), verdict) for seconds, verdict in events]
    totals.add(measured(planted, end, totals), end)
    before = totals.counts()
    for seconds, is_measured in [*steps, (1, True)]:
        end += timedelta(seconds=seconds)
        seen = [event for event in planted if event[0] < end]
        if not is_measured:
            totals.windows_seconds(end)
            continue
        totals.add(measured(seen, end, totals), end)
        now = totals.counts()
        assert all(now[of] >= before[of] for of in before)
        assert now == {of: sum(verdict == of.verdict for _, verdict in seen) for of in (GOOD, BAD)}
        before = now
