from __future__ import annotations

import pytest

from evkit import views
from evkit.errors import InvalidParameter


def test_every_bucket_of_the_window_is_there_with_zero_or_null(evkit_system, past):
    past.write("e1", 47, published=46)
    past.write("e2", 44)

    frame = views.publish_rate(evkit_system, past.window(100), bucket="10s")

    assert frame["written"].sum() == 2
    assert frame["published"].sum() == 1
    known = frame.filter(frame["written"].is_not_null())
    assert known["bucket_at"].min() <= past.at(47)  # null until the bucket of the topic's first event
    assert known["written"].to_list().count(0) >= 3  # and 0, not nothing, after it
    assert frame["bucket_seconds"].sum() == pytest.approx(100)
    inside = frame[1:-1]
    assert not inside["partial"].any()
    assert set(inside["bucket_seconds"]) == {10.0}


def test_a_topic_that_fell_silent_before_the_window_is_still_a_row_with_zero(evkit_system, past):
    past.write("e1", 4000, published=3999)

    frame = views.publish_rate(evkit_system, past.window(60), bucket="1m")

    assert frame["topic"].unique().to_list() == ["order"]
    assert set(frame["written"]) == {0}


def test_rates_are_over_what_the_window_covers_of_a_bucket(evkit_system, past):
    for i in range(6):
        past.write(f"e{i}", 1 + i / 10)

    frame = views.publish_rate(evkit_system, past.window(2), bucket="1h")

    assert frame["written_per_second"].sum() == pytest.approx(3.0, rel=0.01)


def test_a_bucket_shorter_than_a_figure_can_show_is_refused(evkit_system, past):
    with pytest.raises(InvalidParameter, match="at most 5,000"):
        views.publish_rate(evkit_system, past.window(86_400), bucket="1s")


def test_backlog_is_what_was_published_and_not_dealt_with_at_the_end_of_each_bucket(evkit_system, past):
    for i in range(10):
        past.write(f"e{i}", 90 - i, published=90 - i)
    for i in range(6):
        past.handle("billing", f"e{i}", 30 - i, written=90 - i)

    frame = views.throughput(evkit_system, past.window(60), bucket="1s")

    assert frame["published"].sum() == 0  # all before the window
    assert frame["dealt_with"].sum() == 6
    assert frame["backlog"].to_list()[0] == 10
    assert frame["backlog"].to_list()[-1] == 4


def test_a_redrive_does_not_make_a_dead_event_wait_again(evkit_system, past):
    past.write("e1", 50, published=50)
    past.handle("billing", "e1", 5, written=50, replay_id="r-1")  # the redrive turned its inbox row
    past.fail("billing", "e1", 45, dead=True)

    frame = views.throughput(evkit_system, past.window(60), bucket="1s")

    assert frame["backlog"].max() == 1
    late = frame.filter(frame["bucket_at"] > past.at(40))
    assert late["backlog"].max() == 0
