from __future__ import annotations

import psycopg
import pytest

from evkit import views


def test_an_outbox_that_nobody_wrote_to_has_nothing_pending_and_no_percentiles(evkit_system):
    (row,) = views.relay_lag(evkit_system).to_dicts()

    assert (row["pending"], row["oldest_pending_seconds"], row["published"]) == (0, 0.0, 0)
    assert row["relay"] is None
    assert row["p99_seconds"] is None


def test_what_waits_counts_with_its_age_now_and_in_the_percentiles(evkit_system, past):
    for i in range(10):
        past.write(f"e{i}", 50, published=49.5)
    past.write("stuck", 40)
    past.sql("INSERT INTO evkit.relay (name, settled_position) VALUES ('default', 10)")

    (row,) = views.relay_lag(evkit_system, past.window(60)).to_dicts()

    assert (row["pending"], row["published"], row["relay"]) == (1, 10, "default")
    assert 40 <= row["oldest_pending_seconds"] < 100  # as old as it is when it is asked for
    assert row["p50_seconds"] == pytest.approx(0.5)
    assert row["p99_is_lower_bound"]


def test_a_hole_below_the_settled_position_is_not_pending(evkit_system, past):
    past.write("rolled back", 50)
    past.sql("DELETE FROM evkit.outbox")
    past.write("e1", 50, published=49)
    past.sql("INSERT INTO evkit.relay (name, settled_position) VALUES ('default', 2)")

    (row,) = views.relay_lag(evkit_system, past.window(60)).to_dicts()

    assert row["pending"] == 0


def test_a_relay_that_stands_is_shown_with_its_error(evkit_system, past):
    past.sql(
        "INSERT INTO evkit.relay (name, failing_position, failing_since, failing_error) "
        "VALUES ('default', 7, clock_timestamp(), 'Unknown topic')"
    )

    (row,) = views.relay_lag(evkit_system).to_dicts()

    assert (row["relay"], row["failing_position"], row["failing_error"]) == ("default", 7, "Unknown topic")
    assert row["leader_pid"] is None


def test_what_cannot_be_published_is_not_pending_and_not_in_the_percentiles(evkit_system, past):
    past.write("fine", 50, published=49.5)
    for event_id in ("too large", "behind it"):
        past.write(event_id, 40)
    past.sql(
        "INSERT INTO evkit.unpublishable (position, topic, key, state, blocked_by, parked_at) VALUES "
        "(2, 'order', 'k', 'parked', NULL, clock_timestamp() - interval '30 s'), (3, 'order', 'k', 'held', 2, now())"
    )

    (row,) = views.relay_lag(evkit_system, past.window(60)).to_dicts()

    assert (row["pending"], row["unpublishable"], row["held"]) == (0, 1, 1)
    assert 30 <= row["oldest_unpublishable_seconds"] < 90
    assert row["max_seconds"] == pytest.approx(0.5)
    assert not row["p99_is_lower_bound"]


def test_scheduled_events_that_are_due_are_shown_with_their_age(evkit_system, past):
    past.sql(
        "INSERT INTO evkit.scheduled (due_at, aggregatetype, aggregateid, type, payload) "
        "SELECT clock_timestamp() + d * interval '1 s', 'order', 'k', 'order.placed', '{}' FROM unnest(ARRAY[-40, 40]) d"
    )

    (row,) = views.relay_lag(evkit_system).to_dicts()

    assert (row["due"], row["pending"]) == (1, 0)
    assert 40 <= row["oldest_due_seconds"] < 100


def test_the_oldest_hole_is_shown_with_the_backend_that_keeps_it_open(evkit_system, evkit_database, past):
    with psycopg.connect(evkit_database, application_name="orders-service") as writer:
        writer.execute(
            "INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload) VALUES ('e', 'o', 'k', 't', '{}')"
        )
        past.sql("INSERT INTO evkit.relay (name, hole_position, hole_since) VALUES ('default', 1, clock_timestamp())")

        (row,) = views.relay_lag(evkit_system).to_dicts()

        assert (row["hole_position"], row["hole_pid"]) == (1, writer.info.backend_pid)
        assert (row["hole_database"], row["hole_application"]) == (writer.info.dbname, "orders-service")
        assert row["hole_pid_seconds"] >= row["hole_seconds"] >= 0


def test_over_time_a_hold_is_seen_in_the_buckets_of_those_it_held(evkit_system, past):
    past.write("quick", 55, published=54.9)
    past.write("held", 35, published=15)
    past.write("waiting", 3)

    frame = views.relay_lag_over_time(evkit_system, past.window(60), bucket="10s")

    assert frame["n"].sum() == 2
    assert frame["pending_n"].sum() == 1
    assert frame["max_seconds"].max() == pytest.approx(20)
