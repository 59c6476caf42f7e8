"""ranges of a topic → its messages in big batches, and how far it came: the loop of everything that scans.

Reads by `assign()`: no group is joined, no offset committed. A partition that is done is given back at once, so that
nothing behind its range is fetched. What makes it fast, as measured: thousands of messages at once (`consume(n, 0)` after
the first one: with a timeout it waits for all n), methods mapped over them in C, and no collection of garbage in between,
for the lists of headers alone trigger it thousands of times and none of them is garbage.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import compress
from typing import Any, NamedTuple

from evkit import kafka
from evkit.kafka import KafkaError, KafkaException, Message, TopicPartition
from evkit.system import System
from evkit.views.broker import broker
from evkit.views.scan.range import Ranges

_BATCH = 5_000
# What a broker says of a topic that cannot be read, however long one waits.
_NEVER = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED}

ROW_LIMIT, TIME_LIMIT, OPEN_TRANSACTION, DELETED = "row_limit", "time_limit", "open_transaction", "deleted"


class Batch(NamedTuple):
    """Messages in the order in which they came, each inside its range."""

    messages: Sequence[Message]
    partitions: Sequence[int]
    offsets: Sequence[int]


class Reader:
    """One scan: iterate over it, then ask how far it came.

    Attributes:
        ranges     by partition, from one offset up to another
        positions  next offset to scan; the end of the range where all was scanned
        scanned    records read, by partition
        reasons    why a partition ended before its range did
    """

    def __init__(self, system: System, topic: str, ranges: Ranges, *, seconds_max: float) -> None:
        self.system, self.topic, self.ranges = system, topic, ranges
        self.positions = {p: first for p, (first, _) in ranges.items()}
        self.scanned: Counter[int] = Counter()
        self.reasons: dict[int, str] = {}
        self._left = {p for p, (first, last) in ranges.items() if first < last}
        self._seconds_max = seconds_max

    def __iter__(self) -> Iterator[Batch]:
        """Batches until everything is read, the time is over, or `cut` was called.

        Raises:
            BrokerUnreachable: nothing came for `settings.kafka_timeout_seconds`: a part is no answer.
            BrokerRefused: the topic may not be read, or was deleted meanwhile.
        """
        if not self._left:
            return
        settings = self.system.settings
        wanted = {"enable.partition.eof": True, "auto.offset.reset": "error"}
        reader = broker(self.system).reader("evkit-views", **wanted)
        try:
            reader.assign([TopicPartition(self.topic, p, self.positions[p]) for p in sorted(self._left)])
            heard_at = time.monotonic()
            until = heard_at + self._seconds_max
            while self._left:
                now = time.monotonic()
                if now >= until:
                    self.stop(TIME_LIMIT)
                    return
                messages = reader.consume(1, min(0.1, until - now))
                if not messages:
                    if now - heard_at > settings.kafka_timeout_seconds:
                        raise kafka.failed(settings, KafkaException(KafkaError(KafkaError._TIMED_OUT)))
                    continue
                with collecting_no_garbage():
                    messages += reader.consume(_BATCH - 1, 0)
                    done, batch = self._sorted(messages)
                    if done:
                        reader.incremental_unassign([TopicPartition(self.topic, p) for p in done])
                    if batch.messages:
                        yield batch
                heard_at = time.monotonic()  # not before: whoever is handed the batch may take long
        finally:
            reader.close()

    def _sorted(self, messages: list[Message]) -> tuple[set[int], Batch]:
        """The partitions that have just ended, and the messages inside their ranges; takes note of both."""
        done: set[int] = set()
        errors: list[Message] = []
        if any(map(Message.error, messages)):
            errors = [m for m in messages if m.error() is not None]
            messages = [m for m in messages if m.error() is None]
        partitions: list[Any] = list(map(Message.partition, messages))
        offsets: list[Any] = list(map(Message.offset, messages))
        last = dict(zip(partitions, offsets, strict=True))
        if any(p not in self._left or offset >= self.ranges[p][1] for p, offset in last.items()):
            inside = [p in self._left and o < self.ranges[p][1] for p, o in zip(partitions, offsets, strict=True)]
            messages, partitions, offsets = (list(compress(of, inside)) for of in (messages, partitions, offsets))
        for p, offset in last.items():
            if p in self._left:
                end = self.ranges[p][1]
                self.positions[p] = min(offset + 1, end)
                if offset >= end - 1:
                    done.add(p)
        for message in errors:
            self._told(message, done)
        for p in done:
            if p not in self.reasons:
                self.positions[p] = self.ranges[p][1]
        self._left -= done
        self.scanned.update(partitions)
        return done, Batch(messages, partitions, offsets)

    def _told(self, message: Message, done: set[int]) -> None:
        """What the client says in place of a record."""
        p, error = message.partition(), message.error()
        assert p is not None
        assert error is not None
        if error.code() == KafkaError._PARTITION_EOF and p in self._left:
            end = message.offset()
            if end is not None and end < self.ranges[p][1]:
                # Short of the end that the partition has: nobody may read on before a transaction ends.
                self.positions[p], self.reasons[p] = max(end, self.positions[p]), OPEN_TRANSACTION
            done.add(p)  # what is left before the end are markers, or was compacted away
        elif error.code() == KafkaError._AUTO_OFFSET_RESET and p in self._left:
            self.reasons[p] = DELETED
            done.add(p)
        elif error.fatal() or error.code() in _NEVER:
            raise kafka.failed(self.system.settings, KafkaException(error))

    def stop(self, reason: str) -> None:
        """Read no further; what is left of the ranges has this reason."""
        for p in self._left:
            self.reasons[p] = reason
        self._left = set()

    def cut(self, batch: Batch, index: int, reason: str) -> None:
        """Read no further, and take the messages of this batch from `index` on as not scanned."""
        self.stop(reason)
        for p, offset in zip(reversed(batch.partitions[index:]), reversed(batch.offsets[index:]), strict=True):
            self.positions[p], self.reasons[p] = offset, reason
            self.scanned[p] -= 1

    def coverage(self, matched: Counter[int], unparsed: Counter[int], measured_at: datetime) -> list[list[Any]]:
        """Rows of `views.scan_coverage`."""
        return [
            [
                self.topic, p, first, last, self.positions[p], self.scanned[p], matched[p], unparsed[p],
                p not in self.reasons, self.reasons.get(p), measured_at,
            ]
            for p, (first, last) in self.ranges.items()
        ]  # fmt: skip

    def unscanned(self) -> str | None:
        """What was not scanned, in a sentence; None when all was."""
        parts = [
            f"partition {p} from offset {self.positions[p]} to {self.ranges[p][1]} ({reason.replace('_', ' ')})"
            for p, reason in sorted(self.reasons.items())
        ]
        if not parts:
            return None
        more = f" and {len(parts) - 3} more partitions" if len(parts) > 3 else ""
        return f"not scanned of {self.topic}: {', '.join(parts[:3])}{more}"


@contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """Keep Python from looking for cycles among objects that have none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def sizes(
    system: System, topic: str, places: dict[int, tuple[int, int]], *, seconds_max: float
) -> dict[int, list[int]]:
    """Sizes of the records in small ranges: key, value and headers, in bytes."""
    found: dict[int, list[int]] = {p: [] for p in places}
    for batch in Reader(system, topic, places, seconds_max=seconds_max):
        for message, p in zip(batch.messages, batch.partitions, strict=True):
            record = kafka.record_of(message, datetime.now(UTC))
            found[p].append(
                len(record.key or b"") + len(record.value or b"")
                + sum(len(name) + len(value or b"") for name, value in record.headers)
            )  # fmt: skip
    return found
