from __future__ import annotations

import pytest

from evkit import views
from evkit.errors import NotMigrated, UnknownEvent
from evkit.settings import Settings
from evkit.system import System
from evkit.views.columns import COLUMNS

FROM_KAFKA = {"lag", "lag_groups", "lag_history", "consumer_status", "rebalances", "scan", "scan_plan", "scan_coverage",
              "unread_keys", "appended"}  # fmt: skip


def test_the_way_of_an_event_is_told_in_the_order_of_the_databases_clock(evkit_system, past):
    past.write("e1", 100, published=99)
    past.handle("shipping", "e1", 98, written=100)
    past.fail("billing", "e1", 97)
    past.fail("billing", "e1", 96, attempt=2, dead=True)
    past.letter("billing", "e1", 97, state="resolved")
    past.handle("billing", "e1", 40, written=100, replay_id="r-1")

    frame = views.journey(evkit_system, "e1")

    assert frame["stage"].to_list() == [
        "written", "published", "processed", "attempt_failed", "attempt_failed", "parked", "resolved", "redriven",
    ]  # fmt: skip
    assert frame["step"].to_list() == list(range(1, 9))
    assert frame["total_seconds"].to_list()[-1] == pytest.approx(60)
    assert frame.filter(frame["stage"] == "redriven")["replay"].to_list() == [True]
    assert frame["gap_seconds"].sum() == pytest.approx(60)


def test_an_unknown_event_is_answered_with_ids_like_it(evkit_system, past):
    past.write("018f2c7a-aaaa", 10)
    past.write("7c9e6679-bbbb", 10)

    with pytest.raises(UnknownEvent, match="did you mean '018f2c7a-aaaa'"):
        views.journey(evkit_system, "018f2c7a-aaab")


def test_every_view_of_a_database_without_evkit_says_what_to_do(evkit_stack):
    empty = System(Settings(postgres_dsn=evkit_stack.postgres_dsn, kafka={"bootstrap.servers": "127.0.0.1:1"}))

    for name in set(COLUMNS) - FROM_KAFKA - {"journey"}:
        with pytest.raises(NotMigrated, match="run `evkit migrate`"):
            getattr(views, name)(empty)


@pytest.mark.parametrize("frames", ["polars", "pandas"])
def test_every_view_of_an_empty_system_is_a_frame_with_all_columns(evkit_system, frames):
    for name in set(COLUMNS) - FROM_KAFKA - {"journey"}:
        frame = getattr(views, name)(evkit_system, frames=frames)

        assert list(frame.columns) == [c.name for c in COLUMNS[name]]
        assert len(frame) == (1 if name == "relay_lag" else 0)


def test_acts_and_replays_are_listed_newest_first(evkit_system, past):
    past.sql(
        "INSERT INTO evkit.audit (actor, act, target, plan) VALUES ('ada', 'dead_letters.redrive', 'billing', '{}')"
    )
    past.sql("INSERT INTO evkit.audit (actor, act, target, plan) VALUES ('bob', 'replay.run', 'billing', '{\"n\": 1}')")
    past.sql(
        "INSERT INTO evkit.replay_run (replay_id, consumer_group, topics, from_time, dedupe, generation, ranges, actor)"
        " VALUES ('r-1', 'billing', ARRAY['order', 'payment'], now(), 'honour', 0, '[]', 'ada')"
    )

    assert views.acts(evkit_system)["actor"].to_list() == ["bob", "ada"]
    assert views.replays(evkit_system)["topics"].to_list() == ["order, payment"]
