from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evkit import views
from evkit.errors import InvalidParameter
from evkit.window import Window


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


BUCKET = timedelta(minutes=1)


@pytest.fixture
def buckets(past):
    """Three whole minutes that have passed; `past` counts its seconds back from their end."""
    past.now = datetime.now(UTC).replace(second=0, microsecond=0) - BUCKET
    return Window(past.at(180), past.now)


def counted(frame):
    return {r["bucket_at"]: (r["n"], r["pending_n"]) for r in frame.to_dicts()}


def test_an_event_is_in_the_bucket_of_its_write_or_in_that_of_its_handling(evkit_system, past, buckets):
    past.write("slow", 150, published=149)
    past.handle("billing", "slow", 30, written=150)

    written = views.latency_over_time(evkit_system, buckets, bucket=BUCKET)
    processed = views.latency_over_time(evkit_system, buckets, bucket=BUCKET, by="processed")

    assert counted(written) == {past.at(180): (1, 0)}
    assert counted(processed) == {past.at(60): (1, 0)}
    assert written["max_seconds"].to_list() == processed["max_seconds"].to_list() == [pytest.approx(120)]
    assert (written["by"].to_list(), processed["by"].to_list()) == (["written"], ["processed"])


def test_by_processing_time_every_event_is_in_one_bucket_and_waiting_ones_in_the_last(evkit_system, past, buckets):
    for i in range(10):
        past.write(f"quick{i}", 170, published=170)
        past.handle("billing", f"quick{i}", 169, written=170)
        past.write(f"late{i}", 160, published=160)
        past.handle("billing", f"late{i}", 20, written=160)
    past.write("stuck", 155, published=155)
    past.write("first of the group", 1100, published=1100)
    past.handle("billing", "first of the group", 1099, written=1100)
    past.write("stuck before the window", 1000, published=1000)
    past.write("fresh", 1, published=1)
    past.write("handled after the window", 100, published=100)
    past.handle("billing", "handled after the window", -5, written=100)

    frame = views.latency_over_time(evkit_system, buckets, bucket=BUCKET, by="processed")

    assert counted(frame) == {past.at(180): (10, 0), past.at(60): (10, 4)}
    assert frame["p99_is_lower_bound"].to_list() == [False, True]
    assert frame["p50_seconds"].to_list() == [pytest.approx(1), pytest.approx(140)]
    assert frame["max_seconds"].to_list() == [pytest.approx(1), pytest.approx(1000)]


def test_a_waiting_event_that_is_quick_so_far_pulls_no_percentile_down(evkit_system, past, buckets):
    past.write("slow", 150, published=150)
    past.handle("billing", "slow", 30, written=150)
    for i in range(5):
        past.write(f"fresh{i}", 1, published=1)

    (row,) = views.latency_over_time(evkit_system, buckets, bucket=BUCKET, by="processed").to_dicts()

    assert (row["n"], row["pending_n"], row["p99_is_lower_bound"]) == (1, 5, False)
    assert row["p50_seconds"] == pytest.approx(120)


def test_latency_of_a_window_by_writing_is_that_of_the_events_that_were_written_in_it(evkit_system, past, buckets):
    past.write("before", 500, published=500)
    past.handle("billing", "before", 100, written=500)
    past.write("within", 120, published=120)
    past.handle("billing", "within", 118, written=120)
    past.write("stuck", 110, published=110)
    past.write("stuck before", 400, published=400)

    (written,) = views.latency(evkit_system, buckets, by="written").to_dicts()
    (processed,) = views.latency(evkit_system, buckets).to_dicts()

    assert (written["n"], written["pending_n"], written["max_seconds"]) == (1, 1, pytest.approx(110))
    assert (processed["n"], processed["pending_n"], processed["max_seconds"]) == (2, 2, pytest.approx(400))


@pytest.mark.parametrize("view", ["latency", "latency_over_time", "latency_events", "latency_segments"])
def test_a_time_that_no_event_has_is_refused_in_a_sentence(evkit_system, view):
    with pytest.raises(InvalidParameter, match="by 'published' is no time of an event: take processed or written"):
        getattr(views, view)(evkit_system, by="published")
