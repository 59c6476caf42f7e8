"""messages → records, ends, errors: sort what a client was given by its broker."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from evkit import kafka
from evkit.kafka import Record, TopicPartition
from evkit.runtime.assignment import Place


def read(
    messages: Iterable[Any],
) -> tuple[list[Record], list[tuple[Place, int]], list[tuple[str | None, kafka.KafkaError]]]:
    """Records in the order in which they came; where partitions ended; and what the client says of topics, or of none."""
    now = datetime.now(UTC)
    records: list[Record] = []
    ends: list[tuple[Place, int]] = []
    errors: list[tuple[str | None, kafka.KafkaError]] = []
    for message in messages:
        error = message.error()
        if error is None:
            records.append(kafka.record_of(message, now))
        elif error.code() == kafka.KafkaError._PARTITION_EOF:
            ends.append(((message.topic(), message.partition()), message.offset()))
        else:
            errors.append((message.topic(), error))
    return records, ends, errors


def names(partitions: Iterable[TopicPartition]) -> str:
    """Partitions in a log line."""
    return ", ".join(f"{tp.topic}/{tp.partition}" for tp in partitions) or "nothing"
