from __future__ import annotations

import pytest
from hypothesis import given, strategies

from evkit import views
from evkit.errors import InvalidParameter, UnknownGroup
from evkit.views.slo import Objective, _line

FRESH = Objective("freshness", 0.9, 60, events_min=2)


def counts(frame, window):
    rows = [r for r in frame.to_dicts() if r["window_seconds"] == window]
    return {r["group"] or r["topic"]: (r["good"], r["bad"], r["unmeasured"]) for r in rows}


def test_an_event_is_fresh_in_the_window_in_which_it_was_handled_and_late_in_the_one_in_which_its_time_was_over(
    evkit_system, past
):
    past.handle("billing", "quick", 10, written=20)
    past.handle("billing", "late", 10, written=500)  # its minute was over 440 s ago
    past.write("waits", 100)  # and its was over 40 s ago
    past.write("young", 30)
    past.handle("billing", "unknown", 10)

    frame = views.slo(evkit_system, [FRESH], until=past.now, windows_seconds=[300, 3600])

    # `waits` is younger than the oldest event that the group was given, so it is the group's own.
    assert counts(frame, 300) == {"billing": (1, 1, 1)}
    assert counts(frame, 3600) == {"billing": (1, 2, 1)}


def test_a_group_that_stands_still_burns_its_budget(evkit_system, past):
    past.handle("billing", "first", 3000, written=3001)
    for n in range(50):
        past.write(f"e{n}", 2000 + n, published=1999 + n)

    (row,) = views.slo(evkit_system, [FRESH], until=past.now, windows_seconds=[2500]).to_dicts()

    assert (row["good"], row["bad"], row["bad_ratio"]) == (0, 50, 1.0)
    assert row["burn_rate"] == pytest.approx(10)
    assert row["budget_used_ratio"] == pytest.approx(10 * 2500 / (30 * 86400))


def test_a_death_is_an_incorrect_event_and_no_stale_one_and_a_redrive_does_not_undo_it(evkit_system, past):
    past.handle("billing", "e1", 20, written=21)
    past.fail("billing", "e2", 20, dead=True)
    past.letter("billing", "e2", 20, state="resolved")
    past.handle("billing", "e2", 5, written=1000, replay_id="r-1")
    objectives = [FRESH, Objective("correctness", 0.99)]

    frame = views.slo(evkit_system, objectives, until=past.now, windows_seconds=[300])

    by_slo = {r["slo"]: (r["good"], r["bad"]) for r in frame.to_dicts()}
    assert by_slo == {"freshness": (1, 0), "correctness": (1, 1)}


def test_the_relay_is_judged_for_each_topic_and_what_is_not_published_in_time_is_bad(evkit_system, past):
    past.write("a", 100, published=99)
    past.write("b", 100, published=20)
    past.write("c", 100)
    past.write("d", 5)  # still has time
    past.write("x", 100, topic="payment", published=99)

    frame = views.slo(evkit_system, [Objective("relay", 0.9, 10)], until=past.now, windows_seconds=[300])

    assert counts(frame, 300) == {"order": (1, 2, 0), "payment": (1, 0, 0)}


def test_what_was_published_and_never_dealt_with_is_incomplete(evkit_system, past):
    past.handle("billing", "a", 199, written=200)
    past.write("a", 200, published=199.5)
    past.write("lost", 150, published=149)
    past.write("dead", 150, published=149)
    past.handle("billing", "dead", 148, written=150, outcome="dead")
    past.write("young", 20, published=19)

    frame = views.slo(evkit_system, [Objective("completeness", 0.9, 60)], until=past.now, windows_seconds=[300])

    assert counts(frame, 300) == {"billing": (2, 1, 0)}


def test_an_objective_for_a_group_that_nobody_knows_has_rows_without_numbers(evkit_system, past):
    past.handle("billing", "e1", 20, written=21)
    named = Objective("freshness", 0.9, 60, subject="shiping")

    rows = views.slo(evkit_system, [named], until=past.now).to_dicts()

    assert {(r["group"], r["good"], r["bad"], r["burn_rate"], r["enough"]) for r in rows} == {
        ("shiping", None, None, None, None)
    }


def test_an_objective_speaks_for_the_groups_of_its_pattern_that_no_other_speaks_for(evkit_system, past):
    for group in ("bill-a", "bill-b", "ship"):
        past.handle(group, "e1", 20, written=21)

    some = Objective("freshness", 0.9, 60, subject="bill*", excluded=("bill-b",))
    frame = views.slo(evkit_system, [some], until=past.now, windows_seconds=[300])

    assert frame["group"].to_list() == ["bill-a"]


def test_without_an_event_a_ratio_is_null_and_no_perfect_score(evkit_system, past):
    past.handle("billing", "e1", 2000, written=2001)

    (row,) = views.slo(evkit_system, [FRESH], until=past.now, windows_seconds=[300]).to_dicts()

    assert (row["good"], row["bad"], row["bad_ratio"], row["burn_rate"], row["enough"]) == (0, 0, None, None, False)


def test_bad_input_is_one_sentence(evkit_system, past):
    past.handle("billing", "e1", 20, written=21)

    with pytest.raises(InvalidParameter, match=r"above 0 and below 1, and freshness has 99\.0: 0\.99 for 99 %"):
        views.slo(evkit_system, [Objective("freshness", 99.0)])
    with pytest.raises(InvalidParameter, match="'fresh' is no slo; there are freshness"):
        views.slo(evkit_system, [Objective("fresh", 0.9)])
    with pytest.raises(UnknownGroup, match="did you mean 'billing'"):
        views.slo(evkit_system, group="biling")


@given(good=strategies.integers(0, 10**9), bad=strategies.integers(0, 10**9), objective=strategies.floats(0.5, 0.99999))
def test_a_burn_rate_of_one_is_the_objective_just_kept(good, bad, objective):
    from datetime import UTC, datetime

    row = _line(Objective("correctness", objective), "g", 300.0, (good, bad, 0), datetime.now(UTC))

    if good + bad:
        kept = bad <= (1 - objective) * (good + bad)
        assert (row["burn_rate"] <= 1 + 1e-9) == kept or row["burn_rate"] == pytest.approx(1)
