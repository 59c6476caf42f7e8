"""client → messages → stretches of records, ends, errors: take what its broker has given it, and sort it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence, Set
from datetime import UTC, datetime
from typing import Any

from evkit import kafka
from evkit.kafka import TopicPartition
from evkit.runtime.assignment import Anew, Assignment, Place
from evkit.runtime.fetched import Stretch, stretches

log = logging.getLogger(__name__)

# A consumer that cannot take a record more for so long is slow enough for a pause to cost it nothing.
ROOM_SECONDS = 1.0


def poll(client: Any, assignment: Assignment, messages_max: int, timeout_seconds: float, *, idle: bool) -> list[Any]:
    """What is there; waits for a first message so long, and only a moment while something is in hand."""
    # consume(n, timeout) waits for n messages or the whole timeout: take one, then what is there besides.
    first = client.poll(timeout_seconds if idle else min(timeout_seconds, 0.02))
    if first is None:
        return []
    if messages_max == 1:
        return [first]
    place = first.topic(), first.partition()
    epoch = assignment.epoch_of(place)
    more = client.consume(messages_max - 1, 0)
    # The partition may have been taken away in there and given back. It begins anew then, at an offset before that of the
    # first message, which would stand before what it comes behind.
    return [first, *more] if assignment.epoch_of(place) == epoch else more


def full(
    assignment: Assignment, changed: threading.Condition, paused: Set[Place], is_busy: Callable[[], bool]
) -> set[Place]:
    """Partitions of which nothing more may be fetched now; waits for room in them, `ROOM_SECONDS` at most.

    To pause a partition throws away what the client has fetched of it, up to `queued.min.messages` records, and they are
    fetched again: a consumer whose buffers are always full would fetch each record twenty times. So one that is full is
    paused only when there is no room for a while, or somebody would have to wait for records of another.

    Args:
        paused   what is paused for being full
        is_busy  whether everybody who handles has something to do; asked with `changed` held
    """
    until = time.monotonic() + ROOM_SECONDS
    with changed:
        while True:
            found = assignment.full(paused)
            left = until - time.monotonic()
            if found <= paused or left <= 0 or not is_busy():
                return found
            changed.wait(min(left, 0.1))


def paused(client: Any, wanted: set[Place], before: set[Place]) -> set[Place]:
    """Pause these partitions, resume those of `before` that are not wanted any more; returns those of ours that are paused.

    What somebody else has paused stays so. Where nothing changes, the client is not asked what is ours: it waits for a
    thread of its own, and no other thread of Python runs meanwhile.
    """
    if wanted == before:
        return wanted
    ours = {(tp.topic, tp.partition) for tp in client.assignment()}
    if stop := (wanted - before) & ours:
        client.pause([TopicPartition(*place) for place in stop])
    if go_on := (before - wanted) & ours:
        client.resume([TopicPartition(*place) for place in go_on])
    return wanted & ours


def read(
    messages: Sequence[Any],
) -> tuple[list[Stretch], list[tuple[Place, int]], list[tuple[str | None, kafka.KafkaError]]]:
    """Records in the order in which they came; where partitions ended; and what the client says of topics, or of none."""
    now = datetime.now(UTC)
    ends: list[tuple[Place, int]] = []
    errors: list[tuple[str | None, kafka.KafkaError]] = []
    records: list[Any] = []
    for message in messages:
        error = message.error()
        if error is None:
            records.append(message)
        elif error.code() == kafka.KafkaError._PARTITION_EOF:
            ends.append(((message.topic(), message.partition()), message.offset()))
        else:
            errors.append((message.topic(), error))
    return stretches(records, now), ends, errors


# A fatal error comes from a poll under a code of its own, and what it is stands in its words alone.
_NO_KIP_848 = kafka.KafkaError(kafka.KafkaError.UNSUPPORTED_VERSION).str()


def is_fatal(error: kafka.KafkaError) -> bool:
    """Whether the client will never do anything again."""
    return bool(error.fatal()) or error.code() == kafka.KafkaError._FATAL


def is_without_kip_848(error: kafka.KafkaError) -> bool:
    """Whether the broker does not know the protocol in which the group was to be joined."""
    return is_fatal(error) and _NO_KIP_848 in error.str()


def tell_anew(group: str, anew: Iterable[Anew]) -> None:
    """Where a log went back under a consumer: nothing of it may be lost in silence."""
    for place, offset, given_up in anew:
        log.warning(
            "group %s goes back to offset %s of %s/%s, which it had passed: the log was cut, or the topic made anew; %s"
            " records of before that were not done are given up", group, offset, *place, given_up,
        )  # fmt: skip


def names(partitions: Iterable[TopicPartition]) -> str:
    """Partitions in a log line."""
    return ", ".join(f"{tp.topic}/{tp.partition}" for tp in partitions) or "nothing"
