"""`outbox.status`: what waits, what cannot go on, and who is in the way."""

from __future__ import annotations

import json
import time

import psycopg
import pytest
from psycopg import sql

from evkit import Event, Relay, outbox
from evkit.settings import Settings
from evkit.system import System


@pytest.fixture
def database(evkit_database):
    with psycopg.connect(evkit_database, autocommit=True) as connection:
        yield connection


def write(connection, *ids, key="k"):
    with connection.transaction():
        return outbox.write_many(connection, [Event("order.placed", key, {}, id=i) for i in ids])


def publish(connection, position):
    connection.execute("INSERT INTO evkit.publication VALUES (%s, 0, 1, clock_timestamp())", (position,))


def relay_row(connection, **columns):
    connection.execute("INSERT INTO evkit.relay (name) VALUES ('default') ON CONFLICT DO NOTHING")
    for column, value in columns.items():
        connection.execute(sql.SQL("UPDATE evkit.relay SET {} = %s").format(sql.Identifier(column)), (value,))


def hole_since_now(connection, position):
    relay_row(connection, hole_position=position)
    connection.execute("UPDATE evkit.relay SET hole_since = clock_timestamp()")


def unpublishable(connection, position, state, ago="1 hour"):
    connection.execute(
        "INSERT INTO evkit.unpublishable (position, topic, key, state, parked_at) "
        "VALUES (%s, 'order', 'k', %s, clock_timestamp() - %s::interval)",
        (position, state, ago),
    )


def test_an_outbox_that_nobody_uses_is_all_zeros_and_no_ages(evkit_system):
    status = outbox.status(evkit_system)

    counts = ("written", "published", "waiting", "scheduled", "due", "unpublishable", "held", "retrying", "skipped")
    assert {status[k] for k in counts} == {0}
    assert {v for k, v in status.items() if k not in counts} == {None}


def test_the_numbers_add_up_with_every_state_an_event_can_be_in(evkit_system, database):
    """P8: written = published + waiting + unpublishable + held + retrying + skipped."""
    write(database, *(f"e{i}" for i in range(1, 9)))
    for position in (1, 2, 4):
        publish(database, position)
    unpublishable(database, 3, "parked", ago="2 hours")
    unpublishable(database, 4, "published")
    unpublishable(database, 5, "held")
    unpublishable(database, 6, "retry")
    unpublishable(database, 7, "skipped")
    relay_row(database, settled_position=6)

    status = outbox.status(evkit_system)

    assert (status["written"], status["published"], status["waiting"]) == (8, 3, 1)
    states = ("published", "waiting", "unpublishable", "held", "retrying", "skipped")
    assert status["written"] == sum(status[k] for k in states)
    assert [status[k] for k in states] == [3, 1, 1, 1, 1, 1]
    assert status["oldest_unpublishable_seconds"] == pytest.approx(7200, abs=60)
    assert 0 <= status["oldest_waiting_seconds"] < 60


def test_a_skipped_event_whose_partition_is_gone_is_counted_nowhere(evkit_system, database):
    write(database, "e1")
    unpublishable(database, 1, "skipped")
    database.execute("DELETE FROM evkit.outbox")

    status = outbox.status(evkit_system)

    assert (status["written"], status["skipped"]) == (0, 0)


def test_counts_can_be_left_out_and_the_rest_is_the_same(evkit_system, database):
    write(database, "e1", "e2")

    status = outbox.status(evkit_system, counts=False)

    assert (status["written"], status["published"], status["skipped"], status["waiting"]) == (None, None, None, 2)


def test_scheduled_events_are_due_once_their_time_has_come(evkit_system, database):
    for event_id, due in (("past", "-90 seconds"), ("future", "1 hour")):
        database.execute(
            "INSERT INTO evkit.scheduled (id, due_at, aggregatetype, aggregateid, type, payload) "
            "VALUES (%s, clock_timestamp() + %s::interval, 'order', 'k', 'order.placed', '{}')",
            (event_id, due),
        )

    status = outbox.status(evkit_system)

    assert (status["scheduled"], status["due"], status["waiting"]) == (2, 1, 0)
    assert status["oldest_due_seconds"] == pytest.approx(90, abs=60)


def test_a_scheduled_event_of_the_future_is_not_due(evkit_system, database):
    database.execute(
        "INSERT INTO evkit.scheduled (due_at, aggregatetype, aggregateid, type, payload) "
        "VALUES (clock_timestamp() + interval '1 hour', 'order', 'k', 'order.placed', '{}')"
    )

    status = outbox.status(evkit_system)

    assert (status["due"], status["oldest_due_seconds"]) == (0, None)


def test_a_hole_is_blamed_on_the_backend_that_has_written_to_the_outbox_and_not_ended(
    evkit_system, database, evkit_database
):
    with psycopg.connect(evkit_database, application_name="orders-service") as writer:
        outbox.write(writer, Event("order.placed", "k", {}))
        hole_since_now(database, 1)

        status = outbox.status(evkit_system)

        assert status["oldest_hole_position"] == 1
        assert 0 <= status["oldest_hole_seconds"] < 60
        assert status["hole_pid"] == writer.info.backend_pid
        assert status["hole_pid_seconds"] >= status["oldest_hole_seconds"]
        assert (status["hole_database"], status["hole_state"], status["hole_application"]) == (
            writer.info.dbname,
            "idle in transaction",
            "orders-service",
        )


def test_who_can_fill_the_hole_is_blamed_before_who_has_been_there_longer(
    evkit_system, database, evkit_database, evkit_stack
):
    with psycopg.connect(evkit_stack.postgres_dsn) as older, psycopg.connect(evkit_database) as writer:
        older.execute("SELECT pg_current_xact_id()")
        outbox.write(writer, Event("order.placed", "k", {}))
        hole_since_now(database, 1)

        assert outbox.status(evkit_system)["hole_pid"] == writer.info.backend_pid


def test_a_writer_that_began_after_the_hole_was_found_is_not_blamed(evkit_system, database, evkit_database):
    hole_since_now(database, 1)
    with psycopg.connect(evkit_database) as innocent:
        outbox.write(innocent, Event("order.placed", "k", {}))

        assert outbox.status(evkit_system)["hole_pid"] != innocent.info.backend_pid


def test_a_hole_can_be_held_by_a_transaction_in_another_database(evkit_system, database, evkit_stack):
    """A snapshot's xmin waits for every transaction of the server. Other runs may use it too: theirs can be older, and
    are named before ours until they end."""
    with psycopg.connect(evkit_stack.postgres_dsn, application_name="somebody else") as elsewhere:
        elsewhere.execute("SELECT pg_current_xact_id()")
        hole_since_now(database, 1)

        status, until = outbox.status(evkit_system), time.monotonic() + 60
        while status["hole_application"] != "somebody else" and time.monotonic() < until:
            time.sleep(0.1)
            status = outbox.status(evkit_system)

        assert (status["hole_pid"], status["hole_database"]) == (elsewhere.info.backend_pid, elsewhere.info.dbname)


def test_the_holders_pid_is_told_to_a_role_that_may_see_nothing_else_of_it(
    evkit_system, database, evkit_database, evkit_settings, evkit_stack
):
    """Without pg_read_all_stats the sessions of others are hidden: unknown is said, nothing fails."""
    role = f"looker_{database.info.dbname[-6:]}"
    database.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    try:
        for grant in ("GRANT USAGE ON SCHEMA evkit TO {}", "GRANT SELECT ON ALL TABLES IN SCHEMA evkit TO {}"):
            database.execute(sql.SQL(grant).format(sql.Identifier(role)))
        dsn = evkit_database.replace("//postgres@", f"//{role}@")
        limited = System(Settings(profile="test", postgres_dsn=dsn, kafka=evkit_settings.kafka))
        with psycopg.connect(evkit_database) as writer:
            outbox.write(writer, Event("order.placed", "k", {}))
            hole_since_now(database, 1)

            status = outbox.status(limited)

            assert status["hole_pid"] is not None
            assert (status["hole_pid_seconds"], status["hole_state"]) == (None, None)
    finally:
        database.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


def test_a_hole_below_the_settled_position_is_old_news(evkit_system, database):
    hole_since_now(database, 3)
    relay_row(database, settled_position=7)

    status = outbox.status(evkit_system)

    assert (status["oldest_hole_position"], status["oldest_hole_seconds"], status["hole_pid"]) == (None, None, None)


def test_the_leader_is_the_session_that_holds_the_relays_lock(evkit_system):
    relay = Relay(evkit_system)
    assert outbox.status(evkit_system)["leader_pid"] is None
    relay.step()
    try:
        status = outbox.status(evkit_system)

        with evkit_system.reading() as connection:
            application = connection.execute(
                "SELECT application_name FROM pg_stat_activity WHERE pid = %s", (status["leader_pid"],)
            ).fetchone()
        assert application is not None
        assert application[0].startswith("evkit relay")
        assert status["leader_address"] in ("127.0.0.1", "::1", "local")
    finally:
        relay.close()


def test_command_prints_one_fact_a_line_and_the_same_facts_as_json(evkit_system, database, monkeypatch, capsys):
    from evkit.cli import app

    write(database, "e1", "e2")
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", evkit_system.settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", evkit_system.settings.bootstrap_servers)

    app(["outbox", "status"], standalone_mode=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    app(["outbox", "status", "--format", "json"], standalone_mode=False)
    (document,) = json.loads(capsys.readouterr().out)

    assert ["waiting", "2"] in lines
    assert document["waiting"] == 2
    assert set(document) == set(outbox.status(evkit_system))


def test_unpublishable_rows_that_are_left_out_are_told(database, streams):
    for position in (1, 2, 3):
        unpublishable(database, position, "parked")

    _, two, said = streams("outbox", "unpublishable", "--limit", "2", "--format", "json")
    _, three, said_of_all = streams("outbox", "unpublishable", "--limit", "3", "--format", "json")

    assert (len(json.loads(two)), len(json.loads(three))) == (2, 3)
    assert said == "only the first 2 are shown: --limit shows more\n"
    assert said_of_all == ""
