"""SIGTERM while a handler takes its time: the consumer stays in its group until it is through, and its offset is kept."""

from __future__ import annotations

import threading
import time

import pytest

from evkit import Event, kafka
from evkit.runtime import membership
from evkit.system import System
from evkit.testing.waiting import until

PROTOCOLS = pytest.mark.parametrize("protocol", ["consumer", "classic"])
# Who does not poll for so long is put out of a classic group: as short as a broker lets a session be. With KIP-848
# librdkafka takes no less than 45 s, which is longer than a consumer stays.
POLL_SECONDS_MAX = 6.0


@pytest.fixture
def impatient(evkit_system):
    """`impatient(protocol)`: the system, with a group that waits no longer for a member than it must."""

    def make(protocol):
        milliseconds = int(POLL_SECONDS_MAX * 1000)
        names = ("max.poll.interval.ms", "session.timeout.ms") if protocol == "classic" else ()
        kafka_properties = dict.fromkeys(names, milliseconds)
        settings = evkit_system.settings
        return System(settings.model_copy(update={"kafka": {**settings.kafka, **kafka_properties}}))

    return make


@pytest.fixture
def effects(evkit_system):
    """What handlers wrote; `effects()` is the numbers."""
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE effect (i int)")

    def read():
        with evkit_system.reading() as connection:
            return [i for (i,) in connection.execute("SELECT i FROM effect ORDER BY i").fetchall()]

    return read


@PROTOCOLS
def test_consumer_that_is_told_to_stop_under_a_long_handler_keeps_its_place_and_its_offset(
    protocol, impatient, evkit_topic, published, new_consumer, effects, evkit_system
):
    topic = evkit_topic(partitions=1)
    published(*[Event("a.b", "k", {"i": i}, topic=topic) for i in range(3)])
    consumer = new_consumer(topic, protocol=protocol, system=impatient(protocol))
    at_it = threading.Event()

    @consumer.handler("a.b")
    def handle(event, tx):
        tx.execute("INSERT INTO effect VALUES (%s)", (event.payload["i"],))
        if event.payload["i"] == 2:
            at_it.set()
            time.sleep(1.5 * POLL_SECONDS_MAX)  # the group's patience is what is tested

    thread = threading.Thread(target=consumer.run)
    thread.start()
    assert at_it.wait(60)
    consumer.stop()
    thread.join(60)

    assert not thread.is_alive()
    assert effects() == [0, 1, 2]
    partition = kafka.TopicPartition(topic, 0)
    assert kafka.committed(evkit_system.settings, consumer.group, [partition]) == {(topic, 0): 3}


def test_consumer_leaves_its_group_at_the_drains_deadline_and_the_next_member_finds_what_was_done(
    evkit_topic, published, new_consumer, effects, monkeypatch
):
    monkeypatch.setattr(membership, "DRAIN_SECONDS_MAX", 1.0)
    topic = evkit_topic(partitions=1)
    published(*[Event("a.b", "k", {"i": i}, topic=topic) for i in range(3)])
    first = new_consumer(topic)
    at_it, goes_on = threading.Event(), threading.Event()

    @first.handler("a.b")
    def handle(event, tx):
        tx.execute("INSERT INTO effect VALUES (%s)", (event.payload["i"],))
        at_it.set()
        assert goes_on.wait(60)

    thread = threading.Thread(target=first.run)
    thread.start()
    assert at_it.wait(60)
    first.stop()
    second = new_consumer(topic, group=first.group)
    second.handler("a.b")(lambda event, tx: tx.execute("INSERT INTO effect VALUES (%s)", (event.payload["i"],)))
    other = threading.Thread(target=second.run)
    other.start()
    try:
        until(lambda: second.standing().partitions)  # while the first one's handler is still at it
        assert thread.is_alive()
        goes_on.set()
        until(lambda: second.counts.total == 3)
        thread.join(60)
        assert not thread.is_alive()
        assert (first.counts.handled, second.counts.duplicate, effects()) == (3, 3, [0, 1, 2])
    finally:
        goes_on.set()
        second.stop()
        other.join(60)
