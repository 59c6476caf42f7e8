"""client → messages → records, ends, errors: take what its broker has given it, and sort it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from evkit import kafka
from evkit.kafka import Record, TopicPartition
from evkit.runtime.assignment import Assignment, Place


def poll(client: Any, assignment: Assignment, messages_max: int, timeout_seconds: float, *, idle: bool) -> list[Any]:
    """What is there; waits for a first message so long, and only a moment while something is in hand."""
    # consume(n, timeout) waits for n messages or the whole timeout: take one, then what is there besides.
    first = client.poll(timeout_seconds if idle else min(timeout_seconds, 0.02))
    if first is None or messages_max == 1:
        return [] if first is None else [first]
    place = first.topic(), first.partition()
    epoch = assignment.epoch_of(place)
    more = client.consume(messages_max - 1, 0)
    # The partition may have been taken away in there and given back. It begins anew then, at an offset before that of the
    # first message, which would stand before what it comes behind.
    return [first, *more] if assignment.epoch_of(place) == epoch else more


def paused(client: Any, wanted: set[Place], before: set[Place]) -> set[Place]:
    """Pause these partitions, resume those of `before` that are not wanted any more; returns those of ours that are paused.

    What somebody else has paused stays so.
    """
    ours = {(tp.topic, tp.partition) for tp in client.assignment()}
    if stop := (wanted - before) & ours:
        client.pause([TopicPartition(*place) for place in stop])
    if go_on := (before - wanted) & ours:
        client.resume([TopicPartition(*place) for place in go_on])
    return wanted & ours


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
