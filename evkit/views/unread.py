"""Kafka → when the first record that a group has not read was stamped: one record is read, and nothing committed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from evkit import kafka
from evkit.kafka import KafkaError, TopicPartition
from evkit.system import System
from evkit.views.offsets import Place

# One record of each partition that is behind; brokers answer in milliseconds, and what takes longer is said to be unknown.
_READ_SECONDS = 5.0
# The client asks for no more than this at once: a record is wanted, not a backlog.
_FETCH_BYTES = 65_536


def oldest_unread(
    system: System,
    unread: Mapping[tuple[str, Place], int],
    ends: Mapping[Place, int],
    *,
    isolation: str = "read_committed",
) -> dict[tuple[str, Place], datetime | str]:
    """Timestamp of the first record at or after each offset; "empty" where nothing readable is left before the end.

    One consumer can stand at one offset of a partition, so groups that stand at different ones are read in rounds.
    """
    wanted: dict[Place, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (group, place), offset in unread.items():
        wanted[place][offset].append(group)
    found: dict[tuple[str, Place], datetime | str] = {}
    if not wanted:
        return found
    consumer = kafka.consumer(
        system.settings,
        "evkit-views",
        **{
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "fetch.message.max.bytes": _FETCH_BYTES,
            "queued.min.messages": 1,
            "fetch.wait.max.ms": 100,
        },
    )
    try:
        while wanted:
            now = {place: next(iter(offsets)) for place, offsets in wanted.items()}
            answers = _first_records(consumer, now, ends)
            for place, offset in now.items():
                for group in wanted[place].pop(offset):
                    if place in answers:
                        found[group, place] = answers[place]
                if not wanted[place]:
                    del wanted[place]
    finally:
        consumer.close()
    return found


def _first_records(consumer: Any, at: Mapping[Place, int], ends: Mapping[Place, int]) -> dict[Place, datetime | str]:
    consumer.assign([TopicPartition(topic, partition, offset) for (topic, partition), offset in at.items()])
    deadline = time.monotonic() + _READ_SECONDS
    missing = set(at)
    found: dict[Place, datetime | str] = {}
    while missing and (left := deadline - time.monotonic()) > 0:
        message = consumer.poll(left)
        if message is None:
            break
        place = (message.topic(), message.partition())
        if place not in missing:
            continue
        error = message.error()
        if error is None:
            record = kafka.record_of(message, datetime.now(UTC))
            if record.timestamp is not None:
                found[place] = record.timestamp
        elif error.code() == KafkaError._PARTITION_EOF and message.offset() >= ends[place]:
            # Short of the end offset there would be an open transaction: something nobody may read yet.
            found[place] = "empty"
        missing.discard(place)
        consumer.incremental_unassign([TopicPartition(*place)])
    consumer.unassign()
    return found
