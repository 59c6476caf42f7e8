"""Kafka: read records of a topic without being a consumer group: one at an offset, or all that a topic has.

Reads with assign(): joins no group, commits nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import cast

from evkit.kafka import (
    OFFSET_BEGINNING,
    AdminClient,
    KafkaError,
    KafkaException,
    Record,
    TopicPartition,
    consumer,
    failed,
    offsets,
    offsets_at,
    partitions_of,
    record_of,
    require_broker,
)
from evkit.settings import Settings

# What a broker says of a topic that cannot be read, however long one waits.
_NEVER = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED}


def record_at(settings: Settings, topic: str, partition: int, offset: int) -> Record | None:
    """The record at one offset; None when the topic does not have it (any more).

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    require_broker(settings)
    reader = consumer(settings, "evkit-record", **{"enable.partition.eof": True, "auto.offset.reset": "error",
                                                   "fetch.min.bytes": 1, "queued.min.messages": 1})  # fmt: skip
    try:
        reader.assign([TopicPartition(topic, partition, offset)])
        until = time.monotonic() + settings.kafka_timeout_seconds
        while (left := until - time.monotonic()) > 0:
            message = reader.poll(left)
            if message is None or message.topic() is None:
                continue  # nothing, or that a broker is away: no word of this record
            if message.error() is not None:
                return None  # out of the topic's range, at its end, or not in this topic: nothing of it is here
            found = record_of(message, datetime.now(UTC))
            return found if found.offset == offset else None
        raise failed(settings, KafkaException(KafkaError(KafkaError._TIMED_OUT)))
    finally:
        reader.close()


def scan(
    settings: Settings,
    topic: str,
    client: AdminClient | None = None,
    *,
    since: datetime | None = None,
    ends: Mapping[tuple[str, int], int] | None = None,
) -> Iterator[Record]:
    """Every record that a topic has at this moment, each partition in order, partitions interleaved.

    The end is frozen before the first record; `ends` are those of an earlier moment, and what came since is left out.
    `since` starts at the first record of that time or later.

    Raises:
        UnknownTopic: there is no such topic.
        BrokerRefused: the topic may not be read, or was deleted meanwhile.
        BrokerUnreachable: nothing came for `settings.kafka_timeout_seconds`.
    """
    if ends is None:
        ends = offsets(settings, partitions_of(settings, [topic], client), client=client)
    starts = dict.fromkeys(ends, OFFSET_BEGINNING)
    if since is not None:
        starts = offsets_at(settings, partitions_of(settings, [topic], client), since, client)
    left = {where for where, end in ends.items() if end > 0 and (since is None or starts[where] >= 0)}
    reader = consumer(settings, "evkit-scan", **{"enable.partition.eof": True})
    try:
        reader.assign([TopicPartition(*where, starts[where]) for where in sorted(left)])
        heard_at = time.monotonic()
        while left:
            messages = reader.consume(2000, 0.1)  # waits for all of them, or so long
            if not messages and time.monotonic() - heard_at > settings.kafka_timeout_seconds:
                raise failed(settings, KafkaException(KafkaError(KafkaError._TIMED_OUT)))
            for message in messages:
                where = (cast(str, message.topic()), cast(int, message.partition()))
                error = message.error()
                if error is None:
                    record = record_of(message, datetime.now(UTC))
                    if record.offset < ends[where]:
                        yield record
                    if record.offset >= ends[where] - 1:
                        left.discard(where)
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(where)  # what is left before the end are markers, or was deleted
                elif error.fatal() or error.code() in _NEVER:
                    raise failed(settings, KafkaException(error))
            if messages:
                heard_at = time.monotonic()  # not before: whoever is handed the records may take long
    finally:
        reader.close()
