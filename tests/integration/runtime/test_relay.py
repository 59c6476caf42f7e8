"""The relay: everything committed reaches its topic, in order, through failures and restarts."""

from __future__ import annotations

import threading

import pytest

from evkit import Event, Relay, decoding, kafka, outbox
from evkit.errors import NotMigrated
from evkit.runtime import unpublishable
from evkit.settings import Settings
from evkit.system import System
from evkit.testing.events import read_topic
from evkit.testing.faults import TcpProxy
from tests.relaying import drain


def write(system, *events):
    with system.writing() as connection:
        return outbox.write_many(connection, events)


@pytest.fixture
def relay(evkit_system):
    relay = Relay(evkit_system, batch_events_max=50)
    yield relay
    relay.close()


def test_everything_written_is_published_once_and_in_the_order_of_each_key(evkit_system, evkit_topic, relay):
    topic = evkit_topic(partitions=3)
    ids = write(evkit_system, *[Event("order.placed", f"k{i % 5}", {"i": i}, topic=topic) for i in range(500)])

    assert drain(relay) == 500

    records = read_topic(evkit_system, topic)
    assert sorted(decoding.decode(r).id for r in records) == sorted(ids)
    for key in {r.key for r in records}:
        numbers = [decoding.decode(r).payload["i"] for r in records if r.key == key]
        assert numbers == sorted(numbers)


def test_record_is_a_cloudevent_in_binary_mode(evkit_system, evkit_topic, relay):
    """Read back by the CloudEvents project's own reader."""
    from cloudevents.v1.kafka import KafkaMessage, from_binary

    topic = evkit_topic()
    event = Event("order.placed", "o-1", {"total": 3}, topic=topic, headers={"tenant": "north"}, schema_version=2)
    write(evkit_system, event)
    drain(relay)

    (record,) = read_topic(evkit_system, topic)

    read = from_binary(KafkaMessage(headers=dict(record.headers), key=record.key, value=record.value))
    assert (read["id"], read["type"], read["source"]) == (event.id, "order.placed", "/evkit/outbox")
    assert read.get_data() == {"total": 3}
    ours = decoding.decode(record)
    assert (ours.key, ours.schema_version, ours.headers["tenant"]) == ("o-1", 2, "north")
    with evkit_system.reading() as connection:
        assert connection.execute("SELECT created_at FROM evkit.outbox").fetchone() == (ours.created_at,)


def test_publication_says_where_each_event_is(evkit_system, evkit_topic, relay):
    topic = evkit_topic(partitions=3)
    write(evkit_system, *[Event("order.placed", f"k{i}", {"i": i}, topic=topic) for i in range(60)])
    drain(relay)

    with evkit_system.reading() as connection:
        rows = connection.execute(
            'SELECT o.id, p.partition, p."offset" FROM evkit.publication p JOIN evkit.outbox o USING (position)'
        ).fetchall()

    assert sorted(rows) == sorted(
        (decoding.decode(r).id, r.partition, r.offset) for r in read_topic(evkit_system, topic)
    )


def test_rolled_back_positions_are_forgotten_and_hold_nothing_up(evkit_system, evkit_topic, relay):
    topic = evkit_topic()
    with evkit_system.writing() as connection:
        outbox.write_many(connection, [Event("order.placed", "k", {}, topic=topic) for _ in range(100)])
        connection.rollback()
    write(evkit_system, Event("order.placed", "k", {"kept": True}, topic=topic))

    assert drain(relay) == 1
    relay.step()

    with evkit_system.reading() as connection:
        assert connection.execute("SELECT settled_position FROM evkit.relay").fetchone() == (101,)


def test_event_of_an_open_transaction_is_published_after_its_late_commit(evkit_system, evkit_topic, relay):
    topic = evkit_topic()
    with evkit_system.writing() as slow:
        late = outbox.write(slow, Event("order.placed", "slow", {}, topic=topic))
        early = write(evkit_system, Event("order.placed", "fast", {}, topic=topic))
        assert drain(relay) == 1
        relay.close()  # also across a restart: nothing remembers the open transaction's id

        slow.commit()

    assert drain(relay) == 1
    assert [decoding.decode(r).id for r in read_topic(evkit_system, topic)] == [*early, late]


def test_crash_between_publish_and_mark_publishes_again_and_loses_nothing(evkit_system, evkit_topic, monkeypatch):
    topic = evkit_topic()
    ids = write(evkit_system, *[Event("order.placed", "k", {"i": i}, topic=topic) for i in range(10)])
    crashing = Relay(evkit_system)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(crashing, "_mark", crash)
    with pytest.raises(KeyboardInterrupt):
        crashing.step()
    crashing.close()

    with_successor = Relay(evkit_system)
    assert drain(with_successor) == 10
    with_successor.close()
    assert [decoding.decode(r).id for r in read_topic(evkit_system, topic)] == ids + ids


def test_event_that_cannot_be_published_holds_its_key_alone_until_it_can(evkit_system, evkit_topic, relay):
    """A topic that does not exist: its events are parked and held, others flow; a retry publishes them in order."""
    there, missing = evkit_topic(), f"{evkit_topic()}-later"
    write(
        evkit_system,
        Event("order.placed", "a", {}, topic=there),
        *[Event("order.placed", "b", {"n": n}, topic=missing) for n in range(3)],
        Event("order.placed", "c", {"n": 0}, topic=missing),
        Event("order.placed", "b", {}, topic=there),
    )

    assert drain(relay) == 2

    status = outbox.status(evkit_system)
    assert (status["published"], status["waiting"], status["unpublishable"], status["held"]) == (2, 0, 2, 2)
    parked = unpublishable.rows(evkit_system)
    assert [(row.position, row.key, row.held) for row in parked] == [(2, "b", 2), (5, "c", 0)]
    assert missing in parked[0].error
    write(evkit_system, Event("order.placed", "b", {"n": 3}, topic=missing))
    relay.close()  # also across a restart
    assert drain(relay) == 0

    kafka.create_topics(evkit_system.settings, {missing: 1})
    unpublishable.retry(evkit_system, [2], reason="the topic is there")
    assert drain(relay) == 4
    assert [decoding.decode(r).payload["n"] for r in read_topic(evkit_system, missing)] == [0, 1, 2, 3]
    unpublishable.skip(evkit_system, [5])
    write(evkit_system, Event("order.placed", "c", {"n": 1}, topic=missing))
    assert drain(relay) == 1
    status = outbox.status(evkit_system)
    assert (status["written"], status["published"], status["skipped"], status["waiting"]) == (8, 7, 1, 0)
    with evkit_system.reading() as connection:
        acts = connection.execute("SELECT act, reason, result FROM evkit.audit ORDER BY audit_id").fetchall()
    assert acts == [
        ("outbox.retry", "the topic is there", {"changed": 1, "released": 0}),
        ("outbox.skip", None, {"changed": 1, "released": 0}),
    ]


def test_second_relay_stands_by_until_the_first_is_gone(evkit_system, evkit_topic):
    topic = evkit_topic()
    first, second = Relay(evkit_system), Relay(evkit_system)
    first.step()
    write(evkit_system, Event("order.placed", "k", {}, topic=topic))

    assert second.step() == 0
    first.close()
    while not (published := second.step()):  # PostgreSQL may take a moment to end the session, and its lock with it
        pass
    assert published == 1
    second.close()


def test_relay_goes_on_when_postgresql_comes_back(evkit_system, evkit_topic):
    topic = evkit_topic()
    with TcpProxy.to_dsn(evkit_system.settings.postgres_dsn) as proxy:
        behind = Settings(postgres_dsn=proxy.dsn, kafka=evkit_system.settings.kafka)
        published = threading.Semaphore(0)
        relay = Relay(System(behind), on_batch=published.release)
        thread = threading.Thread(target=relay.run)
        thread.start()
        try:
            write(evkit_system, Event("order.placed", "k", {"n": 1}, topic=topic))
            assert published.acquire(timeout=60)
            proxy.cut()
            write(evkit_system, Event("order.placed", "k", {"n": 2}, topic=topic))
            proxy.restore()
            assert published.acquire(timeout=60)
        finally:
            relay.stop()
            thread.join(60)

    assert [decoding.decode(r).payload["n"] for r in read_topic(evkit_system, topic)] == [1, 2]


def test_producer_takes_what_the_caller_sets(evkit_system):
    kafka.producer(evkit_system.settings, **{"delivery.timeout.ms": 1000}).flush(1)


def test_relay_of_a_database_without_tables_says_what_to_do(evkit_stack, evkit_system):
    bare = Settings(
        postgres_dsn=evkit_stack.postgres_dsn.rpartition("/")[0] + "/template1", kafka=evkit_system.settings.kafka
    )

    with pytest.raises(NotMigrated, match="evkit migrate"):
        Relay(System(bare)).run()
