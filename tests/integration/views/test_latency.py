from __future__ import annotations

import pytest

from evkit import views


def test_percentiles_are_of_database_times(evkit_system, past):
    for i in range(1, 101):
        past.handle("billing", f"e{i}", 10, written=10 + i / 10)

    (row,) = views.latency(evkit_system, past.window(60)).to_dicts()

    assert row["n"] == 100
    assert row["p50_seconds"] == pytest.approx(5.0)
    assert row["p99_seconds"] == pytest.approx(9.9)
    assert row["max_seconds"] == pytest.approx(10.0)
    assert row["pending_n"] == 0
    assert row["oldest_pending_seconds"] is None
    assert not row["p99_is_lower_bound"]


def test_a_group_that_stands_still_does_not_look_fast(evkit_system, past):
    """Ten quick events, then ten that nobody has handled: the percentiles count them with their age."""
    for i in range(10):
        past.write(f"a{i}", 300, published=300)
        past.handle("billing", f"a{i}", 299.9, written=300)
    for i in range(10):
        past.write(f"b{i}", 200, published=200)

    (row,) = views.latency(evkit_system, past.window(600)).to_dicts()

    assert (row["n"], row["pending_n"], row["overdue_n"]) == (10, 10, 10)
    assert row["p50_seconds"] == pytest.approx(0.1, abs=0.01)
    assert row["p99_seconds"] == pytest.approx(200, abs=1)
    assert row["p99_is_lower_bound"]
    assert row["oldest_pending_seconds"] == pytest.approx(200, abs=1)


def test_a_group_with_nothing_handled_in_the_window_is_there_because_of_what_waits(evkit_system, past):
    past.write("a", 7000, published=7000)
    past.handle("billing", "a", 6999, written=7000)
    past.write("b", 100)

    (row,) = views.latency(evkit_system, past.window(60)).to_dicts()

    assert (row["group"], row["n"], row["pending_n"]) == ("billing", 0, 1)
    assert row["p99_is_lower_bound"]


def test_events_from_before_a_groups_first_one_do_not_wait_for_it(evkit_system, past):
    past.write("old", 500, published=500)
    past.write("new", 100, published=100)
    past.handle("late-comer", "new", 99, written=100)

    (row,) = views.latency(evkit_system, past.window(600)).to_dicts()

    assert row["pending_n"] == 0


def test_events_that_died_or_were_skipped_do_not_wait(evkit_system, past):
    for i, outcome in enumerate(["handled", "dead", "skipped"]):
        past.write(f"e{i}", 50, published=50)
        past.handle("billing", f"e{i}", 49, written=50, outcome=outcome)

    (row,) = views.latency(evkit_system, past.window(60)).to_dicts()

    assert (row["n"], row["pending_n"]) == (1, 0)


def test_redriven_events_are_left_out_or_a_row_of_their_own(evkit_system, past):
    past.write("e1", 3000, published=3000)
    past.handle("billing", "e1", 5, written=3000, replay_id="r-1")
    past.write("e2", 50, published=50)
    past.handle("billing", "e2", 49, written=50)

    live = views.latency(evkit_system, past.window(60)).to_dicts()
    every = views.latency(evkit_system, past.window(60), replays=True).to_dicts()

    assert [(r["replay"], r["max_seconds"]) for r in live] == [(False, pytest.approx(1))]
    assert [(r["replay"], r["max_seconds"]) for r in every] == [(False, pytest.approx(1)), (True, pytest.approx(2995))]


def test_events_without_a_time_of_writing_are_counted_and_not_measured(evkit_system, past):
    past.handle("billing", "foreign", 10)

    (row,) = views.latency(evkit_system, past.window(60)).to_dicts()

    assert (row["n"], row["unmeasured_n"]) == (0, 1)
    assert row["p99_seconds"] is None


def test_by_event_type_there_is_a_row_for_each(evkit_system, past):
    past.handle("billing", "e1", 10, written=11)
    past.handle("billing", "e2", 10, written=12, topic="payment")

    frame = views.latency(evkit_system, past.window(60), by_event_type=True)

    assert frame["event_type"].to_list() == ["order.placed", "payment.placed"]


def test_over_time_events_stand_where_they_were_written(evkit_system, past):
    past.write("slow", 55, published=55)
    past.handle("billing", "slow", 5, written=55)
    past.write("quick", 15, published=15)
    past.handle("billing", "quick", 14, written=15)
    past.write("stuck", 2, published=2)

    frame = views.latency_over_time(evkit_system, past.window(60), bucket="10s")

    assert frame["n"].to_list()[0] == 1
    assert frame["max_seconds"].to_list()[0] == pytest.approx(50)
    assert frame["pending_n"].sum() == 1
    assert frame["p99_is_lower_bound"].to_list()[-1]
