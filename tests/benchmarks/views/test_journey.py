"""A journey with 1,000,000 events stored, against one look into a primary key on a connection of its own, as a view has."""

from __future__ import annotations

import time

import psycopg
import pytest

from evkit import views

EVENTS = 1_000_000


@pytest.fixture
def million(evkit_system, evkit_database):
    """Every event is published and handled by one group; ten share a key, ten a business process in a chain of causes."""
    with psycopg.connect(evkit_database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, correlation_id, causation_id,"
            " created_at)"
            " SELECT 'e' || i, 'order', 'k' || i / 10, 'order.placed', '{\"customer\": {\"id\": 1}}',"
            "        CASE WHEN i %% 10 > 0 THEN 'e' || i / 10 * 10 END, CASE WHEN i %% 10 > 0 THEN 'e' || i - 1 END,"
            "        now() - (%s - i) * interval '1 ms' FROM generate_series(0, %s - 1) AS i",
            (EVENTS, EVENTS),
        )
        connection.execute(
            "INSERT INTO evkit.publication SELECT position, 0, position, created_at + interval '1 ms' FROM evkit.outbox"
        )
        connection.execute(
            'INSERT INTO evkit.inbox (consumer_group, event_id, event_type, topic, partition, "offset", key, created_at,'
            " appended_at, received_at, processed_at) SELECT 'billing', id, type, 'order', 0, position, aggregateid,"
            " created_at, created_at, created_at, created_at + interval '5 ms' FROM evkit.outbox"
        )
        connection.execute("VACUUM ANALYZE evkit.outbox, evkit.publication, evkit.inbox")
    return evkit_system


def test_journey_of_one_among_a_million(million, report):
    def timed(what, times=15):
        seconds = []
        for _ in range(times):
            before = time.perf_counter()
            what()
            seconds.append(time.perf_counter() - before)
        return sorted(seconds)[times // 2]

    def look():
        with million.reading() as connection:
            connection.execute(
                "SELECT * FROM evkit.inbox WHERE (consumer_group, event_id, generation) = ('billing', 'e5', 0)"
            )

    bare = timed(look)
    rows = []
    with million.writing() as connection:
        connection.execute("UPDATE evkit.inbox SET key = 'foreign' WHERE event_id = 'e5'")
    for name, asked in {
        "event_id": {"event_id": "e777777"},
        "key": {"key": "k77777"},
        "business_id": {"business_id": "e777770"},
        "key that only the inbox has": {"key": "foreign"},
    }.items():
        seconds = timed(lambda asked=asked: views.journey(million, **asked), times=5 if "inbox" in name else 15)
        rows.append({"journey by": name, "ms": round(seconds * 1000, 1), "times one look": round(seconds / bare, 2)})
    with million.writing() as connection:
        connection.execute("CREATE INDEX ON evkit.inbox (key)")
    seconds = timed(lambda: views.journey(million, key="foreign"), times=5)
    rows.append(
        {"journey by": "the same, had the inbox an index of keys", "ms": round(seconds * 1000, 1),
         "times one look": round(seconds / bare, 2)}
    )  # fmt: skip
    report("views_journey", rows)
