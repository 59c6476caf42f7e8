from __future__ import annotations

import pytest

from evkit import views
from evkit.errors import UnknownGroup


def test_failures_are_counted_against_all_attempts_and_events_once(evkit_system, past):
    past.fail("billing", "e1", 30)
    past.fail("billing", "e1", 29, attempt=2)
    past.handle("billing", "e1", 28, written=31)
    past.fail("billing", "e2", 20, dead=True)
    past.handle("billing", "e2", 20, written=21, outcome="dead")
    past.handle("billing", "e3", 10, written=11)

    (row,) = views.error_rate(evkit_system, past.window(60)).to_dicts()

    assert (row["attempts"], row["failures"], row["events"], row["dead"]) == (5, 3, 3, 1)
    assert row["attempt_error_ratio"] == pytest.approx(3 / 5)
    assert row["event_failure_ratio"] == pytest.approx(1 / 3)
    assert row["handler"] == "shop.bill"
    assert row["bucket_seconds"] == pytest.approx(60)


def test_what_a_replay_did_is_left_out_or_a_row_of_its_own(evkit_system, past):
    past.handle("billing", "e1", 10, written=11)
    past.fail("billing", "e2", 10, replay_id="r-1")

    live = views.error_rate(evkit_system, past.window(60))
    every = views.error_rate(evkit_system, past.window(60), replays=True)

    assert live["failures"].to_list() == [0]
    assert [(r["replay"], r["failures"]) for r in every.to_dicts()] == [(False, 0), (True, 1)]


@pytest.mark.parametrize("state", ["resolved", "archived", "purged", "open"])
def test_failures_of_decided_letters_are_counted_as_dealt_with(evkit_system, past, state):
    past.fail("billing", "e1", 30, dead=True)
    past.letter("billing", "e1", 30, state=state)

    (row,) = views.error_rate(evkit_system, past.window(60)).to_dicts()

    assert row["failures"] == 1
    assert row["failures_dealt_with"] == (0 if state == "open" else 1)


def test_buckets_add_up_to_the_window(evkit_system, past):
    for i in range(20):
        past.fail("billing", f"e{i}", 3 * i + 1)
        past.handle("billing", f"e{i}", 3 * i + 0.5, written=3 * i + 2)

    whole = views.error_rate(evkit_system, past.window(60))
    cut = views.error_rate(evkit_system, past.window(60), bucket="7s")

    assert cut.height > 5
    assert cut["attempts"].sum() == whole["attempts"].sum() == 40
    assert cut["bucket_at"].min() >= past.at(60)


def test_every_failed_attempt_is_a_row_and_a_limit_keeps_the_newest(evkit_system, past, caplog):
    for i in range(5):
        past.fail("billing", f"e{i}", 10 + i)

    every = views.errors(evkit_system, past.window(60))
    two = views.errors(evkit_system, past.window(60), rows_max=2)

    assert every["event_id"].to_list() == ["e0", "e1", "e2", "e3", "e4"]
    assert two["event_id"].to_list() == ["e0", "e1"]
    assert "only the newest 2" in caplog.text


def test_an_unknown_group_is_named_with_the_ones_like_it(evkit_system, past):
    past.handle("billing", "e1", 10)

    with pytest.raises(UnknownGroup, match="did you mean 'billing'"):
        views.errors(evkit_system, group="biling")
