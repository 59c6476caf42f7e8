"""Events to test with, and what is really in a topic."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from evkit import kafka
from evkit.event import Event
from evkit.kafka import Record, TopicPartition
from evkit.system import System


def an_event(**more: Any) -> Event:
    """An event that is like any other but for what the test says: `an_event(key="o-1")`."""
    values: dict[str, Any] = {"type": "order.placed", "key": "order-1", "payload": {"total": 3}}
    return Event(**(values | more))


def read_topic(system: System, topic: str) -> list[Record]:
    """All records of a topic from its first to its last offset of this moment, partition by partition in order.

    Reads with assign(): joins no group, commits nothing.
    """
    partitions = kafka.partitions_of(system.settings, [topic], system.admin)
    open_partitions = {w for w, end in kafka.offsets(system.settings, partitions, client=system.admin).items() if end}
    client = kafka.consumer(system.settings, "evkit-testing", **{"enable.partition.eof": True})
    records = []
    try:
        client.assign([TopicPartition(*where, 0) for where in sorted(open_partitions)])
        while open_partitions:
            message = client.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                records.append(kafka.record_of(message, datetime.now(UTC)))
            elif error.code() == kafka.KafkaError._PARTITION_EOF:
                open_partitions.discard((str(message.topic()), int(message.partition() or 0)))
    finally:
        client.close()
    return sorted(records, key=lambda r: (r.partition, r.offset))
