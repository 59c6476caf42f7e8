"""P2 with delivery="exactly-once": whoever reads committed data sees each event once, whatever dies in between."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from evkit import Event, Relay, decoding, kafka, outbox
from evkit.runtime.marker import Marker
from evkit.runtime.refusal import Fenced
from evkit.runtime.transactional_publisher import TransactionalPublisher
from evkit.testing.events import read_topic
from tests.relaying import drain


def write(system, topic, events, **more):
    with system.writing() as connection:
        return outbox.write_many(
            connection, [Event("order.placed", f"k{i % 7}", {"i": i}, topic=topic, **more) for i in range(events)]
        )


def once(**more):
    return {"delivery": "exactly-once", "batch_events_max": 50, **more}


def test_each_event_is_there_once_and_in_the_order_of_its_key(evkit_system, evkit_topic):
    topic = evkit_topic(partitions=3)
    ids = write(evkit_system, topic, 200)
    relay = Relay(evkit_system, **once())

    assert drain(relay) == 200
    relay.close()

    records = read_topic(evkit_system, topic)
    assert sorted(decoding.decode(r).id for r in records) == sorted(ids)
    for key in {r.key for r in records}:
        numbers = [decoding.decode(r).payload["i"] for r in records if r.key == key]
        assert numbers == sorted(numbers)


def test_crash_between_kafkas_commit_and_the_mark_repeats_nothing(evkit_system, evkit_topic, monkeypatch):
    """The successor finds the claim committed, marks it with the places that it finds in the topic, and goes on."""
    topic = evkit_topic(partitions=2)
    ids = write(evkit_system, topic, 30)
    crashing = Relay(evkit_system, **once())

    def crash(self, batches):
        if any(batch.answers for batch in batches):
            raise KeyboardInterrupt
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(Marker, "mark", crash)
        with pytest.raises(KeyboardInterrupt):
            crashing.step()

    successor = Relay(evkit_system, **once())
    more = write(evkit_system, topic, 5)
    assert drain(successor) == 5
    successor.close()

    records = read_topic(evkit_system, topic)
    assert Counter(decoding.decode(r).id for r in records) == Counter(ids + more)
    with evkit_system.reading() as connection:
        places = connection.execute(
            'SELECT o.id, p.partition, p."offset" FROM evkit.publication p JOIN evkit.outbox o USING (position)'
        ).fetchall()
    assert sorted(places) == sorted((decoding.decode(r).id, r.partition, r.offset) for r in records)


def test_crash_before_kafkas_commit_leaves_nothing_that_is_read(evkit_system, evkit_topic, monkeypatch):
    topic = evkit_topic()
    ids = write(evkit_system, topic, 30)
    crashing = Relay(evkit_system, **once())

    with monkeypatch.context() as patched:
        real = TransactionalPublisher._produce

        def produce_and_crash(self, batch, rows):
            real(self, batch, rows)
            self._producer.flush()  # the records are in the log, their transaction is open
            raise KeyboardInterrupt

        patched.setattr(TransactionalPublisher, "_produce", produce_and_crash)
        with pytest.raises(KeyboardInterrupt):
            crashing.step()

    successor = Relay(evkit_system, **once())
    assert drain(successor) == 30
    successor.close()
    records = read_topic(evkit_system, topic)
    assert [decoding.decode(r).id for r in records] == ids
    assert records[0].offset >= 30, "the first copy is in the log, and nobody who reads committed data sees it"


def test_an_older_relay_is_fenced_by_kafka_and_publishes_nothing(evkit_system, evkit_topic):
    """Also one that PostgreSQL could not stop: it holds its batch in hand, and another one has begun."""
    topic = evkit_topic()
    write(evkit_system, topic, 3)
    older = Relay(evkit_system, **once())
    older.step()
    ids = write(evkit_system, topic, 3)
    batch = older._next_batch()
    with evkit_system.writing(autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'evkit relay%'"
        )
    newer = Relay(evkit_system, **once())
    assert drain(newer) == 3

    with pytest.raises(Fenced):
        older._term.publisher.send(batch)
    older.close()
    newer.close()

    records = read_topic(evkit_system, topic)
    assert [decoding.decode(r).id for r in records[3:]] == ids


def test_outboxes_of_two_databases_run_side_by_side(evkit_system, evkit_stack, evkit_topic):
    """The same cluster, the same topic, a relay each: neither fences the other."""
    from psycopg import sql

    from evkit import postgres
    from evkit.settings import Settings
    from evkit.system import System

    topic = evkit_topic()
    name = evkit_system.settings.postgres_dsn.rpartition("/")[2][:50] + "_second"
    with postgres.connect(evkit_stack.postgres_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        dsn = f"{evkit_stack.postgres_dsn.rpartition('/')[0]}/{name}"
        try:
            postgres.migrate(dsn)
            second = System(Settings(postgres_dsn=dsn, kafka=evkit_system.settings.kafka))
            ids = write(evkit_system, topic, 20) + write(second, topic, 20)
            done = threading.Semaphore(0)
            relays = [Relay(s, **once(on_batch=done.release)) for s in (evkit_system, second)]
            threads = [relay.start() for relay in relays]
            for _ in range(40):
                assert done.acquire(timeout=60)
            for relay, thread in zip(relays, threads, strict=True):
                relay.stop()
                thread.join(60)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    assert Counter(decoding.decode(r).id for r in read_topic(evkit_system, topic)) == Counter(ids)


def test_event_that_the_topic_does_not_take_is_parked_and_the_rest_of_its_batch_is_there_once(
    evkit_system, evkit_topic
):
    topic = evkit_topic(**{"max.message.bytes": "20000"})
    with evkit_system.writing() as connection:
        outbox.write_many(
            connection,
            [
                Event("a.b", f"k{i % 3}", {"i": i, "pad": "x" * (30_000 if i == 4 else 10)}, topic=topic)
                for i in range(12)
            ],
        )
    relay = Relay(evkit_system, **once())

    assert drain(relay) == 9
    relay.close()

    numbers = [decoding.decode(r).payload["i"] for r in read_topic(evkit_system, topic)]
    assert numbers == [0, 1, 2, 3, 5, 6, 8, 9, 11], "4 is parked; 7 and 10 are of its key"


def test_the_relays_own_group_and_topic_are_in_no_list(evkit_system, evkit_topic):
    """Its offsets are numbers of claims: as lag they would be nonsense, and below zero."""
    write(evkit_system, evkit_topic(), 3)
    relay = Relay(evkit_system, **once())
    assert drain(relay) == 3
    relay.close()

    assert not [g for g in kafka.groups(evkit_system.settings) if g.startswith("evkit.relay")]
    assert "evkit.relay" not in kafka.topics(evkit_system.settings)
