"""Records of a topic, read without a group: all that it has at this moment, and one sentence when it cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evkit import kafka, records
from evkit.errors import BrokerRefused, BrokerUnreachable, UnknownTopic
from evkit.testing.faults import pause, resume


def send(settings, topic, *values, partition=0):
    producer = kafka.producer(settings)
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(30) == 0


def values(found):
    return [record.value for record in found]


def test_a_scan_ends_where_the_topic_ended_when_it_began(evkit_settings, evkit_topic):
    topic = evkit_topic(partitions=2)
    send(evkit_settings, topic, b"a", b"b")
    send(evkit_settings, topic, b"c", partition=1)

    scan = records.scan(evkit_settings, topic)
    first = next(scan)
    send(evkit_settings, topic, b"too late", b"and this")

    assert sorted([first.value, *values(scan)]) == [b"a", b"b", b"c"]
    assert values(records.scan(evkit_settings, topic, since=datetime.now(UTC) + timedelta(hours=1))) == []


def test_one_record_is_found_by_its_offset_and_none_beyond_the_end(evkit_settings, evkit_topic):
    topic = evkit_topic()
    send(evkit_settings, topic, b"a", b"b")

    assert records.record_at(evkit_settings, topic, 0, 1).value == b"b"
    assert records.record_at(evkit_settings, topic, 0, 2) is None


def test_a_topic_that_is_not_there_is_named(evkit_settings):
    with pytest.raises(UnknownTopic, match="no-such-topic"):
        next(records.scan(evkit_settings, "no-such-topic"))


def test_a_topic_that_may_not_be_read_ends_the_scan_with_the_brokers_words(evkit_secured_kafka):
    """It may be described, so its end is known; the first fetch is refused, and would be for ever."""
    topic = evkit_secured_kafka.topic()
    send(evkit_secured_kafka.open_settings, topic, b"a")
    settings = evkit_secured_kafka.settings("describer")
    evkit_secured_kafka.allow("describer", ["DESCRIBE"], topic=topic)

    with pytest.raises(BrokerRefused, match="Topic authorization failed"):
        list(records.scan(settings, topic))


def test_a_broker_that_falls_silent_ends_the_scan_with_a_sentence(evkit_stack, evkit_settings, evkit_topic):
    topic = evkit_topic()
    send(evkit_settings, topic, *[b"x" * 200] * 100_000)  # more than the client fetches ahead
    impatient = evkit_settings.model_copy(update={"kafka_timeout_seconds": 5.0})
    scan = records.scan(impatient, topic)
    next(scan)

    pause(evkit_stack.kafka_pid)
    try:
        with pytest.raises(BrokerUnreachable):
            list(scan)
    finally:
        resume(evkit_stack.kafka_pid)
