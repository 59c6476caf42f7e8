from __future__ import annotations

import pytest

from evkit import views
from evkit.errors import InvalidParameter
from tests.integration.views.rows import deal, write


def test_every_part_of_the_way_is_measured_between_its_own_two_times(evkit_system, past):
    write(past, "e1", 100, published=99, offset=7)
    deal(past, "billing", "e1", 90, created=100, appended=99.5, received=96, offset=7, code_version="2", attempts=3)

    [row] = views.latency_events(evkit_system, past.window(600)).to_dicts()

    parts = ("relay_seconds", "append_seconds", "queue_seconds", "transit_seconds", "handle_seconds", "total_seconds")
    assert [row[p] for p in parts] == pytest.approx([1, 0.5, 3.5, 3, 6, 10])
    assert row["relay_seconds"] + row["transit_seconds"] + row["handle_seconds"] == pytest.approx(row["total_seconds"])
    assert (row["censored"], row["attempts"], row["code_version"], row["offset"]) == (False, 3, "2", 7)


def test_an_event_that_waits_is_a_row_with_its_age_and_no_end(evkit_system, past):
    write(past, "e1", 100)
    deal(past, "billing", "e1", 90, created=100)
    write(past, "e2", 50, published=49)

    rows = views.latency_events(evkit_system, past.window(600)).to_dicts()

    assert [(r["event_id"], r["censored"]) for r in rows] == [("e2", True), ("e1", False)]
    assert rows[0]["total_seconds"] == pytest.approx(50)
    assert rows[0]["relay_seconds"] == pytest.approx(1)
    assert (rows[0]["processed_at"], rows[0]["handle_seconds"], rows[0]["attempts"]) == (None, None, None)


def test_by_written_takes_who_was_hurt_and_by_processed_when_it_showed(evkit_system, past):
    write(past, "old", 500)
    deal(past, "billing", "old", 50, created=500)
    write(past, "new", 90)
    deal(past, "billing", "new", 80, created=90)

    processed = views.latency_events(evkit_system, past.window(100))
    written = views.latency_events(evkit_system, past.window(100), by="written")

    assert processed["event_id"].to_list() == ["new", "old"]
    assert written["event_id"].to_list() == ["new"]


def test_replays_are_left_out_unless_asked_for_and_are_segments_of_their_own(evkit_system, past):
    write(past, "e1", 100)
    deal(past, "billing", "e1", 90, created=100)
    deal(past, "billing", "e1", 10, created=100, generation=1, replay_id="r-1")

    assert len(views.latency_events(evkit_system, past.window(600))) == 1
    both = views.latency_segments(evkit_system, past.window(600), replays=True)
    assert both.filter(both["segment"] == "total").select("replay", "p50_seconds").rows() == [(False, 10), (True, 90)]


def test_a_wrong_clock_is_shown_and_never_clipped(evkit_system, past):
    for i in range(4):
        write(past, f"e{i}", 100, published=99)
        deal(past, "billing", f"e{i}", 90, created=100, appended=99, received=129 if i == 0 else 98)

    frame = views.latency_segments(evkit_system, past.window(600))

    rows = {r["segment"]: r for r in frame.to_dicts()}
    assert frame["segment"].to_list() == ["relay", "append", "queue", "transit", "handle", "total"]
    assert rows["queue"]["negative_ratio"] == 0.25
    assert rows["queue"]["min_seconds"] == pytest.approx(-30)
    assert (rows["queue"]["from_clock"], rows["queue"]["to_clock"]) == ("record", "client")
    assert (rows["total"]["negative_ratio"], rows["total"]["n"], rows["total"]["p99_seconds"]) == (0, 4, 10)


def test_waiting_events_make_the_p99_of_the_total_a_lower_bound(evkit_system, past):
    write(past, "e1", 100)
    deal(past, "billing", "e1", 90, created=100)
    write(past, "e2", 60)

    frame = views.latency_segments(evkit_system, past.window(600))

    total = frame.filter(frame["segment"] == "total").to_dicts()[0]
    assert (total["n"], total["pending_n"], total["p99_is_lower_bound"]) == (1, 1, True)
    assert total["max_seconds"] == pytest.approx(60)


def test_a_row_limit_keeps_the_newest_and_says_so(evkit_system, past, caplog):
    for i in range(3):
        deal(past, "billing", f"e{i}", 50, created=100 - i)

    frame = views.latency_events(evkit_system, past.window(600), rows_max=2)

    assert frame["event_id"].to_list() == ["e2", "e1"]
    assert "only the newest 2 events" in caplog.text
    with pytest.raises(InvalidParameter, match="take processed or written"):
        views.latency_events(evkit_system, by="sent")
