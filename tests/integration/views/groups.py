"""Records, and what groups have committed, as tests of lag want them."""

from __future__ import annotations

from evkit import kafka
from evkit.kafka import TopicPartition


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
        consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)
    consumer.close()
