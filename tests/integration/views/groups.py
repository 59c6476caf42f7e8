"""Records, and what groups have committed, as tests of lag want them."""

from __future__ import annotations

from contextlib import contextmanager

from evkit import kafka
from evkit.kafka import KafkaError, TopicPartition

_NOT_YET = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE)


def produce(system, topic, n, *, partition=0, at=None):
    """n records, stamped now or `at`."""
    producer = kafka.producer(system.settings)
    for i in range(n):
        producer.produce(topic, f"{i}", partition=partition, timestamp=0 if at is None else int(at.timestamp() * 1000))
    assert producer.flush(60) == 0


def commit(system, group, topic, *offsets, partition=0):
    """Commit these, one after the other, as a consumer that never joins."""
    consumer = kafka.consumer(system.settings, group)
    consumer.assign([TopicPartition(topic, partition)])
    for offset in offsets:
        while True:
            try:
                consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)
                break
            except kafka.KafkaException as error:  # of a broker that has just started
                if error.args[0].code() not in _NOT_YET:
                    raise
    consumer.close()


@contextmanager
def joined(system, group, topic, **properties):
    """A consumer that has joined the group and was assigned its partitions; it leaves at the end."""
    consumer = kafka.consumer(system.settings, group, **properties)
    try:
        consumer.subscribe([topic])
        while not consumer.assignment():
            consumer.poll(0.1)
        yield consumer
    finally:
        consumer.close()


def commit_as_member(system, group, topic, offset):
    """Commit this of partition 0, as a consumer that joins and leaves."""
    with joined(system, group, topic) as consumer:
        consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
