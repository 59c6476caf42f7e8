"""What was written, and what became of it on the way to its topic."""

from __future__ import annotations

import logging

import pytest

from evkit import views
from evkit.errors import InvalidParameter
from evkit.views.columns import COLUMNS
from tests.integration.views.rows import deal, write


@pytest.fixture
def written(past):
    """One event of each state, and one from before the window."""
    write(past, "old", 900, published=899)
    places = {
        "sent": write(past, "sent", 60, published=58, partition=2, offset=7),
        "waits": write(past, "waits", 50),
        "huge": write(past, "huge", 40, key="k2"),
        "behind": write(past, "behind", 30, key="k2"),
        "given up": write(past, "given up", 20, key="k3", topic="tax"),
    }
    for event_id, state in (("huge", "parked"), ("behind", "held"), ("given up", "skipped")):
        past.sql(
            "INSERT INTO evkit.unpublishable (position, topic, key, state, attempts, error) "
            "VALUES (%s, 'order', 'k', %s, 3, %s)",
            places[event_id], state, "too large" if event_id == "huge" else None,
        )  # fmt: skip
    past.sql(
        "INSERT INTO evkit.scheduled (due_at, aggregatetype, aggregateid, type, payload) "
        "VALUES (%s, 'order', 'k', 'x', '{}')",
        past.at(5),
    )
    return past


def test_every_event_has_the_state_it_is_in_the_newest_first(evkit_system, written):
    frame = views.outbox(evkit_system, written.window(600))

    assert dict(zip(frame["event_id"], frame["state"], strict=True)) == {
        "given up": "skipped", "behind": "held", "huge": "unpublishable", "waits": "waiting", "sent": "published",
    }  # fmt: skip
    assert frame["position"].to_list() == sorted(frame["position"], reverse=True)
    rows = {row["event_id"]: row for row in frame.to_dicts()}
    assert (rows["sent"]["partition"], rows["sent"]["offset"], rows["sent"]["relay_seconds"]) == (2, 7, 2.0)
    assert rows["sent"]["age_seconds"] is None
    assert rows["waits"]["age_seconds"] >= 50
    assert (rows["huge"]["error"], rows["huge"]["attempts"]) == ("too large", 3)


def test_a_state_or_a_topic_is_chosen_and_a_wrong_one_has_a_near_one(evkit_system, written):
    window = written.window(600)

    assert views.outbox(evkit_system, window, state="waiting")["event_id"].to_list() == ["waits"]
    assert views.outbox(evkit_system, window, topic="tax")["event_id"].to_list() == ["given up"]
    with pytest.raises(InvalidParameter, match="did you mean 'waiting'"):
        views.outbox(evkit_system, window, state="wating")


def test_a_limit_that_was_hit_is_said_and_cuts_the_old_ones(evkit_system, written, caplog):
    with caplog.at_level(logging.WARNING):
        frame = views.outbox(evkit_system, written.window(600), rows_max=2)

    assert frame["event_id"].to_list() == ["given up", "behind"]
    assert "only the newest 2 events" in caplog.text


def test_the_summary_adds_up_to_the_rows_and_has_what_is_scheduled(evkit_system, written):
    window = written.window(600)
    summary = {(r["topic"], r["state"]): r for r in views.outbox_summary(evkit_system, window).to_dicts()}

    assert {key: row["n"] for key, row in summary.items()} == {
        ("order", "held"): 1, ("order", "published"): 1, ("order", "scheduled"): 1, ("order", "unpublishable"): 1,
        ("order", "waiting"): 1, ("tax", "skipped"): 1,
    }  # fmt: skip
    assert summary["order", "published"]["relay_p50_seconds"] == 2.0
    assert summary["order", "scheduled"]["oldest_seconds"] >= 5
    assert summary["tax", "skipped"]["oldest_seconds"] is None


def test_versions_are_counted_with_what_each_group_made_of_them(evkit_system, past):
    for n in range(3):
        write(past, f"a{n}", 60 - n, schema_version=1)
    write(past, "b", 30, schema_version=2)
    for event_id, outcome in (("a0", "handled"), ("a1", "dead"), ("a2", "skipped")):
        deal(past, "billing", event_id, 10, outcome=outcome)

    rows = views.schema_usage(evkit_system, past.window(600)).to_dicts()

    assert [(r["schema_version"], r["written"], r["group"], r["handled"], r["skipped"], r["dead"]) for r in rows] == [
        (1, 3, "billing", 1, 1, 1), (2, 1, None, None, None, None),
    ]  # fmt: skip
    assert rows[0]["first_at"] == past.at(60)
    only = views.schema_usage(evkit_system, past.window(600), group="billing")
    assert only["schema_version"].to_list() == [1]


@pytest.mark.parametrize("name", ["outbox", "outbox_summary", "schema_usage"])
def test_an_empty_frame_keeps_its_columns(evkit_system, name):
    for frames in ("polars", "pandas"):
        assert list(getattr(views, name)(evkit_system, "1m", frames=frames).columns) == [c.name for c in COLUMNS[name]]
