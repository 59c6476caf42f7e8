"""Kafka's own `__consumer_offsets` → the history of a consumer group: what it committed when, and who its members were.

Brokers compact that topic: of each key they keep the last record, and the earlier ones go when their segment is cleaned
(100 MiB by default). So the past reaches back as far as it is kept, and here is what tells how far that is:

- Compaction takes the oldest records of a key first: what is left of a key is the end of its history, without gaps. From
  the first commit that is still there, a partition's commits are all there, whatever became of those of others. (A cleaner
  removes a record when a later one of its key is in the part that it cleans; then every earlier one of that key goes too.)
- Before that first commit nothing is known, unless no offset is missing before it: then there was none.
- A missing offset is a record that was compacted away, or a marker or an aborted commit of a transaction. A client cannot
  tell one from the other, so every one counts as compacted away: coverage may be understated, never overstated.

Reading uses `assign()`: no group is joined, nothing is committed. Commits of transactions count when these are committed.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import NamedTuple

from evkit import kafka, kafka_admin
from evkit.errors import BrokerRefused, OffsetsLogRefused, Undecodable
from evkit.kafka import AdminClient, KafkaError, Record, TopicPartition
from evkit.offsets_records import KIND_NUMBERS, Commit, Key, Value, decode, key_prefix
from evkit.records import scan
from evkit.settings import Settings

log = logging.getLogger(__name__)

OFFSETS_TOPIC = "__consumer_offsets"


class Entry(NamedTuple):
    """A decoded record of the log; `value` is None where the key was deleted. `at` is the coordinator's clock."""

    offset: int
    at: datetime
    key: Key
    value: Value | None


@dataclass(slots=True)
class Part:
    """One partition of the log, as far as it was asked for.

    Attributes:
        partition    of `__consumer_offsets`
        entries      in the order of the log
        first_hole   first offset that is missing; None when none is
        whole_from   offset after the last one that is missing; 0 when none is
        whole_since  time of the record at `whole_from`; None when none is missing
        read_at      when its end was frozen, this machine's clock
        until        where a transaction is open, time of the last record before it: later ones are not read; else None
        passed_over  records that this evkit does not know or cannot read, by reason
    """

    partition: int
    entries: list[Entry] = field(default_factory=list)
    first_hole: int | None = None
    whole_from: int = 0
    whole_since: datetime | None = None
    read_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    until: datetime | None = None
    passed_over: Counter[str] = field(default_factory=Counter)

    def has_all_before(self, offset: int) -> bool:
        """Whether no offset below this one is missing."""
        return self.first_hole is None or offset <= self.first_hole


class Bounds(NamedTuple):
    """Where partitions of the log begin and end at a moment: (first offset, end for who reads committed records, end)."""

    read_at: datetime
    partitions: dict[int, tuple[int, int, int]]


class Commits:
    """What a group committed to one partition of a topic, as a function of time.

    Attributes:
        times, offsets  of the commits, in the log's order; an offset is None where the commit was deleted
        since    from here on every commit is known; None: from the beginning
        until    up to here; None: up to the time of the read
        unknown  stretches of time in between of which not every commit is known; the end of the last one may be None: up
                 to the time of the read
    """

    def __init__(
        self,
        times: Sequence[datetime],
        offsets: Sequence[int | None],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        unknown: Sequence[tuple[datetime, datetime | None]] = (),
    ) -> None:
        # The log's order is what happened; another coordinator's clock may be a little behind.
        self.times = list(accumulate(times, max))
        self.offsets = list(offsets)
        self.since, self.until, self.unknown = since, until, list(unknown)

    @classmethod
    def of(cls, part: Part, entries: Iterable[Entry]) -> Commits:
        """Of the entries that a part of the log still has."""
        entries = list(entries)
        times = [e.value.committed_at if isinstance(e.value, Commit) else e.at for e in entries]
        found = cls(times, [e.value.offset if isinstance(e.value, Commit) else None for e in entries], until=part.until)
        if entries and not part.has_all_before(entries[0].offset):
            found.since = found.times[0]
        return found

    def covers(self, at: datetime) -> bool:
        """Whether every commit up to this moment that counts at it is known."""
        if (self.since is not None and at < self.since) or (self.until is not None and at > self.until):
            return False
        return not any(begins <= at and (ends is None or at < ends) for begins, ends in self.unknown)

    def at(self, at: datetime) -> int | None:
        """The committed offset at a moment; None when there was none, or it is not covered."""
        found = bisect_right(self.times, at)
        return self.offsets[found - 1] if found and self.covers(at) else None


def commits_of(part: Part, group: str) -> dict[tuple[str, int], Commits]:
    """Commits of one group by (topic, partition), sorted."""
    found: dict[tuple[str, int], list[Entry]] = defaultdict(list)
    for entry in part.entries:
        if entry.key.kind == "commit" and entry.key.group == group:
            assert entry.key.topic is not None
            assert entry.key.partition is not None
            found[entry.key.topic, entry.key.partition].append(entry)
    return {place: Commits.of(part, entries) for place, entries in sorted(found.items())}


def partition_of(group: str, partitions: int) -> int:
    """The partition of `__consumer_offsets` that holds a group.

    Source: GroupCoordinatorService.partitionFor in Kafka, which is Java's String.hashCode.
    """
    number = 0
    utf16 = group.encode("utf-16-be", "surrogatepass")
    for high, low in zip(utf16[::2], utf16[1::2], strict=True):
        number = (31 * number + (high << 8 | low)) & 0xFFFFFFFF
    signed = number - (1 << 32) if number >> 31 else number
    return (0 if signed == -(1 << 31) else abs(signed)) % partitions


def read(settings: Settings, client: AdminClient, group: str | None = None) -> list[Part]:
    """The history of one group (one part, which holds nothing else), or of all groups (a part for each partition).

    Up to the ends of this moment. Empty when the cluster has no `__consumer_offsets` yet. A part is read whole, for its
    holes tell how far back it can be trusted: 120,000 records of others a second, 25,000 of the group's own.

    Raises:
        OffsetsLogRefused: the topic may not be read by us.
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    found = bounds(settings, client, group)
    return [] if found is None else parts(found, records(settings, client, found), group)


def bounds(settings: Settings, client: AdminClient, group: str | None = None) -> Bounds | None:
    """Where the partitions of a group, or all of them, begin and end at this moment; None when there is no such topic yet.

    Raises: see `read`.
    """
    with _refusals(settings):
        count = kafka_admin.partitions_count(settings, OFFSETS_TOPIC, client)
        if count is None:
            return None
        wanted = list(range(count)) if group is None else [partition_of(group, count)]
        read_at = datetime.now(UTC)
        places = [TopicPartition(OFFSETS_TOPIC, p) for p in wanted]
        starts = kafka.start_offsets(settings, places, client)
        last = kafka.offsets(settings, places, client=client)
        ends = kafka_admin.stable_ends(settings, places, client)
    by_partition = {p: (starts[OFFSETS_TOPIC, p], ends[OFFSETS_TOPIC, p], last[OFFSETS_TOPIC, p]) for p in wanted}
    return Bounds(read_at, by_partition)


def records(settings: Settings, client: AdminClient, found: Bounds) -> Iterator[Record]:
    """The records between these bounds.

    Raises: see `read`.
    """
    ends = {(OFFSETS_TOPIC, p): end for p, (_, end, _) in found.partitions.items()}
    with _refusals(settings):
        yield from scan(settings, OFFSETS_TOPIC, client, ends=ends)


def parts(found: Bounds, records: Iterable[Record], group: str | None = None) -> list[Part]:
    """What records between bounds tell, of one group or of all; a part for each partition."""
    readers = {
        p: _Reader(Part(p, read_at=found.read_at), start, group) for p, (start, _, _) in found.partitions.items()
    }
    for record in records:
        readers[record.partition].take(record)
    for p, (_, end, last) in found.partitions.items():
        readers[p].close(end, is_open=end < last)
    return [reader.part for reader in readers.values()]


@contextmanager
def _refusals(settings: Settings) -> Iterator[None]:
    try:
        yield
    except BrokerRefused as error:
        if error.cause.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise OffsetsLogRefused(settings.bootstrap_servers, error.cause) from None
        raise


class _Reader:
    """Takes the records of one partition in order; keeps those of the group, and what is missing between all of them."""

    def __init__(self, part: Part, start: int, group: str | None) -> None:
        self.part = part
        self._next = 0
        self._last_at: datetime | None = None
        # Most records are of other groups: a comparison of bytes is a tenth of the work of decoding.
        self._prefixes = None if group is None else tuple(key_prefix(kind, group) for kind in KIND_NUMBERS)
        if start > 0:
            self._hole(start, None)

    def take(self, record: Record) -> None:
        if record.offset != self._next:
            self._hole(record.offset, record.timestamp)
        elif self.part.whole_from == record.offset and self.part.first_hole is not None:
            self.part.whole_since = record.timestamp
        self._next = record.offset + 1
        self._last_at = record.timestamp
        if record.key is not None and (self._prefixes is None or record.key.startswith(self._prefixes)):
            self._keep(record, record.key)

    def close(self, end: int, *, is_open: bool) -> None:
        if end > self._next:
            self._hole(end, self.part.read_at)
        if is_open:
            self.part.until = self._last_at or datetime.min.replace(tzinfo=UTC)
        if self.part.passed_over:
            log.info("%s [%s]: passed over %s", OFFSETS_TOPIC, self.part.partition, dict(self.part.passed_over))

    def _hole(self, until: int, at: datetime | None) -> None:
        if self.part.first_hole is None:
            self.part.first_hole = self._next
        self.part.whole_from, self.part.whole_since = until, at
        self._next = until

    def _keep(self, record: Record, key: bytes) -> None:
        try:
            found = decode(key, record.value)
        except Undecodable as error:
            self.part.passed_over[error.reason] += 1
            return
        if found is None or record.timestamp is None:
            self.part.passed_over[_unknown(key, record.value)] += 1
            return
        self.part.entries.append(Entry(record.offset, record.timestamp, *found))


def _unknown(key: bytes, value: bytes | None) -> str:
    version = "" if value is None else f", version {int.from_bytes(value[:2], 'big')}"
    return f"kind {int.from_bytes(key[:2], 'big')}{version}"
