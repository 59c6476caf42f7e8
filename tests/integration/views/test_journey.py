from __future__ import annotations

import pytest
from psycopg.conninfo import make_conninfo

from evkit import views
from evkit.errors import InvalidParameter, NotMigrated, UnknownBusinessId, UnknownEvent, UnknownKey
from evkit.settings import Settings
from evkit.system import System
from evkit.views.columns import COLUMNS
from tests.integration.views.rows import deal, letter, write

FROM_KAFKA = {"lag", "lag_groups", "lag_history", "consumer_status", "rebalances", "offset_resets", "scan", "scan_plan",
              "scan_coverage", "unread_keys", "appended"}  # fmt: skip


def test_the_way_of_an_event_is_told_in_the_order_of_the_databases_clock(evkit_system, past):
    past.write("e1", 100, published=99)
    past.handle("shipping", "e1", 98, written=100)
    past.fail("billing", "e1", 97)
    past.fail("billing", "e1", 96, attempt=2, dead=True)
    past.letter("billing", "e1", 97, state="resolved")
    past.handle("billing", "e1", 40, written=100, replay_id="r-1")

    frame = views.journey(evkit_system, "e1")

    assert frame["stage"].to_list() == [
        "written", "published", "received", "processed", "attempt_failed", "attempt_failed", "parked", "resolved",
        "received", "redriven",
    ]  # fmt: skip
    assert frame["step"].to_list() == list(range(1, 11))
    assert frame["total_seconds"].to_list()[-1] == pytest.approx(60)
    assert frame.filter(frame["stage"] == "redriven")["replay"].to_list() == [True]
    assert frame["gap_seconds"].sum() == pytest.approx(60)


def test_each_stop_names_its_clock_and_a_time_that_cannot_be_is_flagged_where_it_stands(evkit_system, past):
    """The consumer's machine is 30 s behind: it received what was not yet written."""
    write(past, "e1", 100, published=98, offset=7)
    deal(past, "billing", "e1", 90, created=100, appended=99, received=130, offset=7)

    frame = views.journey(evkit_system, "e1")

    assert frame.select("stage", "clock").rows() == [
        ("received", "client"), ("written", "database"), ("appended", "record"), ("published", "database"),
        ("processed", "database"),
    ]  # fmt: skip
    flagged = frame.filter(frame["impossible"].is_not_null())
    assert flagged["stage"].to_list() == ["received"]
    assert flagged["impossible"].to_list() == [
        "31 s before it was appended to the topic, by the clock of a client's machine against the record's timestamp"
    ]


def test_a_records_timestamp_in_whole_milliseconds_is_no_wrong_clock(evkit_system, past):
    write(past, "e1", 100, published=99)
    deal(past, "billing", "e1", 90, created=100, appended=100.0009)

    assert views.journey(evkit_system, "e1")["impossible"].null_count() == 5


def test_the_letter_tells_whose_clock_stamped_the_record(evkit_system, past):
    write(past, "e1", 100)
    deal(past, "billing", "e1", 90, outcome="dead", appended=95)
    letter(past, "billing", "e1", 90, appended_at=past.at(95), timestamp_type="create")

    frame = views.journey(evkit_system, "e1")

    assert frame.filter(frame["stage"] == "appended")["clock"].to_list() == ["client"]


def test_a_journey_shows_what_the_event_caused_and_what_that_caused(evkit_system, past):
    write(past, "e1", 100)
    write(past, "e2", 80, causation_id="e1", correlation_id="e1", type="invoice.sent", topic="invoice", key="i")
    write(past, "e3", 60, causation_id="e2", correlation_id="e1", type="mail.sent", topic="mail", key="m")
    write(past, "other", 50, causation_id="elsewhere", correlation_id="e1")

    frame = views.journey(evkit_system, "e1")

    assert frame.select("stage", "event_id", "event_type", "caused_by").rows() == [
        ("written", "e1", "order.placed", None), ("caused", "e2", "invoice.sent", "e1"),
        ("caused", "e3", "mail.sent", "e2"),
    ]  # fmt: skip
    assert views.journey(evkit_system, "e3")["caused_by"].to_list() == ["e2"]


def test_all_events_of_a_key_or_of_a_business_process_are_one_journey(evkit_system, past):
    write(past, "e1", 100, key="4711")
    deal(past, "billing", "e1", 90)
    write(past, "e2", 80, key="4711", causation_id="e1", correlation_id="e1")
    write(past, "e3", 70, key="other", causation_id="e2", correlation_id="e1")

    by_key = views.journey(evkit_system, key="4711")
    by_process = views.journey(evkit_system, business_id="e1")
    late = views.journey(evkit_system, key="4711", window=past.window(85))

    assert by_key.select("stage", "event_id").rows() == [
        ("written", "e1"), ("received", "e1"), ("processed", "e1"), ("written", "e2"), ("caused", "e3"),
    ]  # fmt: skip
    assert by_process.filter(by_process["stage"] == "written")["event_id"].to_list() == ["e1", "e2", "e3"]
    assert late["event_id"].to_list() == ["e2", "e3"]
    assert views.journey(evkit_system, key="4711", window=past.window(1)).is_empty()


def test_a_key_that_this_outbox_never_wrote_is_found_among_what_groups_handled(evkit_system, past):
    deal(past, "billing", "foreign", 90, key="f-1", created=100)

    assert views.journey(evkit_system, key="f-1")["stage"].to_list() == ["received", "processed"]


def test_a_business_id_may_be_a_path_into_the_payload(evkit_system, past):
    write(past, "e1", 100, payload={"customer": {"id": 42}, "lines": [{"sku": "a=b"}]})
    write(past, "e2", 90, payload={"customer": {"id": 43}})
    past.sql("UPDATE evkit.outbox SET payload = %s WHERE id = 'e2'", '{"customer": {"id": 43}, "x": "\\u0000"}')

    assert views.journey(evkit_system, business_id="$.customer.id=42")["event_id"].to_list() == ["e1"]
    assert views.journey(evkit_system, business_id="$.lines[0].sku=a=b")["event_id"].to_list() == ["e1"]
    with pytest.raises(UnknownBusinessId, match="is not known to evkit's tables"):
        views.journey(evkit_system, business_id="$.customer.id=42' OR 'a'='a")
    with pytest.raises(InvalidParameter, match=r"write \$\.customer\.id=4711"):
        views.journey(evkit_system, business_id="$.customer.id")


def test_relay_scheduling_redrives_and_id_conflicts_are_stops_too(evkit_system, past):
    position = write(past, "e1", 100)
    past.sql(
        "INSERT INTO evkit.unpublishable (position, topic, key, state, error_class, error, attempts, parked_at,"
        " state_changed_at) VALUES (%s, 'order', 'k', 'retry', 'E', 'too large', 1, %s, %s)",
        position, past.at(99), past.at(95),
    )  # fmt: skip
    deal(past, "billing", "e1", 50, outcome="dead", received=60)
    held = letter(past, "billing", "e1", 50)
    past.sql(
        "INSERT INTO evkit.redrive_run (redrive_id, consumer_group, state, run_by, stop_at_failure, fingerprints, actor,"
        " reason, created_at) VALUES ('r-1', 'billing', 'done', 'process', true, '{}', 'ada', 'mended', %s)", past.at(40),
    )  # fmt: skip
    past.sql("INSERT INTO evkit.redrive_letter VALUES ('r-1', 1, %s, 'failed', 0, NULL, NULL, %s)", held, past.at(30))
    past.sql(
        "INSERT INTO evkit.id_conflict (consumer_group, event_id, event_type, topic, partition, \"offset\", first_seen_at)"
        " VALUES ('billing', 'e1', 'x', 'order', 0, 9, %s)", past.at(20),
    )  # fmt: skip

    frame = views.journey(evkit_system, "e1")

    assert frame["stage"].to_list() == [
        "written", "unpublishable", "relay_retry", "received", "parked", "redrive_planned", "redrive_failed", "id_conflict",
    ]  # fmt: skip
    assert frame.filter(frame["stage"] == "redrive_planned")["detail"].to_list() == ["ada: mended"]


def test_a_row_limit_keeps_the_newest_stops_and_says_so(evkit_system, past, caplog):
    for i in range(5):
        write(past, f"e{i}", 100 - i, published=90 - i)

    frame = views.journey(evkit_system, key="k", rows_max=4)

    assert "only the newest 4 stops" in caplog.text
    assert frame["stage"].to_list() == ["published"] * 4
    assert frame["step"].to_list() == [1, 2, 3, 4]


@pytest.mark.parametrize("by", [{"key": "k"}, {"business_id": "c-1"}, {"business_id": "$.customer=1"}])
def test_a_row_limit_is_told_where_each_event_has_one_stop_alone(by, evkit_system, past, caplog):
    for i in range(3):
        write(past, f"e{i}", 100 - i, correlation_id="c-1", payload={"customer": 1})

    whole = views.journey(evkit_system, **by, rows_max=3)
    told_of_all = caplog.text
    cut = views.journey(evkit_system, **by, rows_max=2)

    assert (whole["event_id"].to_list(), told_of_all) == (["e0", "e1", "e2"], "")
    assert cut["event_id"].to_list() == ["e1", "e2"]
    assert "only the newest 2 stops" in caplog.text


def test_a_journey_is_of_one_thing_that_exists(evkit_system, past):
    write(past, "e1", 10, key="order-1", correlation_id="c-1")

    with pytest.raises(InvalidParameter, match="give event_id, key or business_id"):
        views.journey(evkit_system)
    with pytest.raises(InvalidParameter, match="give event_id, key or business_id"):
        views.journey(evkit_system, "e1", key="order-1")
    with pytest.raises(UnknownKey, match="did you mean 'order-1'"):
        views.journey(evkit_system, key="order-2")
    with pytest.raises(UnknownBusinessId, match="did you mean 'c-1'"):
        views.journey(evkit_system, business_id="c-2")


def test_an_unknown_event_is_answered_with_ids_like_it(evkit_system, past):
    past.write("018f2c7a-aaaa", 10)
    past.write("7c9e6679-bbbb", 10)

    with pytest.raises(UnknownEvent, match="did you mean '018f2c7a-aaaa'"):
        views.journey(evkit_system, "018f2c7a-aaab")


def test_every_view_of_a_database_without_evkit_says_what_to_do(evkit_stack):
    dsn = make_conninfo(evkit_stack.postgres_dsn, dbname="postgres")  # evkit's own may have its tables, from elsewhere
    empty = System(Settings(postgres_dsn=dsn, kafka={"bootstrap.servers": "127.0.0.1:1"}))

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
