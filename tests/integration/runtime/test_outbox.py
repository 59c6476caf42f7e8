"""Writing events: with the data or not at all, and refused where the developer still sees why."""

from __future__ import annotations

import math

import psycopg
import pytest

from evkit import Event, outbox
from evkit.errors import InvalidEvent, UsageError


@pytest.fixture
def connection(evkit_database):
    with psycopg.connect(evkit_database) as connection:
        yield connection


def rows(connection, what="id"):
    return connection.execute(f"SELECT {what} FROM evkit.outbox ORDER BY position").fetchall()


def test_event_is_in_the_outbox_if_and_only_if_its_transaction_committed(connection):
    """P1."""
    kept = outbox.write(connection, Event("order.placed", "o-1", {"total": 3}))
    connection.commit()
    outbox.write(connection, Event("order.placed", "o-2", {"total": 4}))
    connection.rollback()

    assert rows(connection) == [(kept,)]


def test_row_keeps_the_columns_that_debeziums_event_router_reads(connection):
    event = Event("order.placed", "o-1", {"total": 3}, headers={"tenant": "north"})

    outbox.write(connection, event)

    assert rows(connection, "id, aggregatetype, aggregateid, type, payload, headers, schema_version") == [
        (event.id, "order", "o-1", "order.placed", {"total": 3}, {"tenant": "north"}, 1)
    ]


def test_write_many_keeps_the_order_of_the_events(connection):
    events = [Event("order.placed", f"o-{i % 7}", {"i": i}) for i in range(3000)]

    ids = outbox.write_many(connection, events)

    assert [row[0] for row in rows(connection)] == ids == [event.id for event in events]


def test_created_at_is_the_time_of_the_write_and_not_of_the_transactions_start(connection):
    connection.execute("SELECT pg_sleep(0.05)")

    outbox.write(connection, Event("order.placed", "o-1", {}))

    late = connection.execute("SELECT created_at - now() > '40 ms' FROM evkit.outbox").fetchone()
    assert late == (True,)


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (Event("order.placed", "k", {"x": math.nan}), "NaN"),
        (Event("order.placed", "k", {"x": {1, 2}}), "x"),
        (Event("order.placed", "k", {"x": "y" * 950_000}), "the most is 900,000"),
        (Event("order.placed", "k", {}, topic="no topic"), "Kafka takes 1-249"),
        (Event("", "k", {}), "no id or no type"),
        (Event("order.placed", "k\x00", {}), "NUL"),
        (Event("order.placed", "k", {}, headers={"ce_id": "x"}), "which evkit writes itself"),
        (Event("order.placed", 17, {}), "keys are text"),
    ],
)
def test_what_could_not_be_published_is_refused_in_a_sentence_and_nothing_is_written(connection, event, sentence):
    with pytest.raises(InvalidEvent, match=sentence):
        outbox.write(connection, event)

    assert rows(connection) == []


def test_one_bad_event_among_many_writes_none_of_them(connection):
    events = [Event("order.placed", "k", {"i": 1}), Event("order.placed", "k", {"i": math.inf})]

    with pytest.raises(InvalidEvent):
        outbox.write_many(connection, events)

    assert rows(connection) == []


def test_an_id_is_used_once(connection):
    event = Event("order.placed", "k", {})
    outbox.write(connection, event)
    connection.commit()

    with pytest.raises(InvalidEvent, match="in the outbox already"):
        outbox.write(connection, event)


def test_writing_outside_a_transaction_is_refused(evkit_database):
    with (
        psycopg.connect(evkit_database, autocommit=True) as connection,
        pytest.raises(UsageError, match="autocommit"),
    ):
        outbox.write(connection, Event("order.placed", "k", {}))


def test_ordered_writers_of_one_key_get_positions_in_the_order_of_their_commits(evkit_database):
    """The second writer waits for the first one's end, as if it had locked the aggregate's row."""
    with psycopg.connect(evkit_database) as first, psycopg.connect(evkit_database) as second:
        outbox.write(first, Event("order.placed", "k", {}, ordered=True))
        second.execute("SET lock_timeout = '200ms'")

        with pytest.raises(psycopg.errors.LockNotAvailable):
            outbox.write(second, Event("order.paid", "k", {}, ordered=True))
