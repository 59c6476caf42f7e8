"""a stretch of topic → what is in it: count its records, and what the group has done with each; changes nothing.

Offsets are not events: transaction markers, compaction and records of other times, keys or types are in between. Only who
reads the records can say how many a replay would hand over, so a plan reads them, up to a number.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from evkit import kafka, postgres
from evkit.decoding import Decode
from evkit.kafka import Message, Record, TopicPartition
from evkit.letter_states import OPEN
from evkit.runtime.assignment import Place
from evkit.runtime.delivery import Delivery
from evkit.runtime.fetched import time_of
from evkit.runtime.handler import Handlers
from evkit.sql import named
from evkit.system import System

_SQL = named("replay_plan")

_CHUNK = 2000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records a replay hands over: of a time (both to the millisecond, the end not included), of keys, of types.

    `types` are asked of the events, so they need the consumer's decode function where it has one.
    """

    from_time: datetime
    until_time: datetime | None = None
    keys: frozenset[bytes] | None = None
    types: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        from_time: datetime,
        until_time: datetime | None,
        keys: Sequence[str] | None = None,
        types: Sequence[str] | None = None,
    ) -> Wanted:
        return cls(
            _millis(from_time),
            None if until_time is None else _millis(until_time),
            None if keys is None else frozenset(key.encode() for key in keys),
            None if types is None else frozenset(types),
        )

    def takes(self, message: Message, received_at: datetime, naming: Naming) -> bool:
        """Whether a replay hands it over."""
        if not self._takes(time_of(message), message.key()):
            return False
        return self.types is None or naming.of(kafka.record_of(message, received_at)).event_type in self.types

    def takes_place(self, record: Record) -> bool:
        """By time and key. Offsets are found by the first record of a time; where producers give the time, later records
        may be older."""
        return self._takes(record.timestamp, record.key)

    def _takes(self, at: datetime | None, key: bytes | None) -> bool:
        if at is not None and (at < self.from_time or (self.until_time is not None and at >= self.until_time)):
            return False
        return self.keys is None or key in self.keys


class Naming:
    """What records are called, without a look at who handles them.

    Args:
        decode  of the consumer; None: evkit's own formats
    """

    def __init__(self, decode: Decode | None = None) -> None:
        self._nobody = Handlers(decode)

    def of(self, record: Record) -> Delivery:
        """Never raises for what is in the record."""
        return Delivery.of(record, self._nobody)


def _millis(at: datetime) -> datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


@dataclass(slots=True)
class Contents:
    """What is in a stretch of one partition, or of several.

    Attributes:
        records    that a replay would hand over
        filtered   records between them, of other times, keys or types
        keys       different keys of these records; those without one are not counted
        handled, skipped, parked
                   events that the group has handled, passed over for want of a handler, or lets wait behind a letter
        letters    events of it that are open dead letters
        put_away   events that were given up: their letters are archived or purged
        missing    events that the inbox does not know
        parked_keys
                   keys of which events wait, so that a missing event of theirs would wait too
        late_keys  keys of which a missing event is older than one that the group has handled
        types      records by event type
        undecodable
                   records that are no event
        by_producer
                   records whose time is the producer's
    """

    records: int = 0
    filtered: int = 0
    keys: int = 0
    handled: int = 0
    skipped: int = 0
    parked: int = 0
    letters: int = 0
    put_away: int = 0
    missing: int = 0
    parked_keys: int = 0
    late_keys: int = 0
    undecodable: int = 0
    by_producer: int = 0
    types: Counter[str] = field(default_factory=Counter)

    def count(self, outcome: str, letter_state: str | None, n: int = 1) -> None:
        """So many events the group knows."""
        if outcome == "dead":
            if letter_state in OPEN:
                self.letters += n
            else:
                self.put_away += n
        elif outcome == "handled":
            self.handled += n
        elif outcome == "skipped":
            self.skipped += n
        else:
            self.parked += n

    @classmethod
    def sum(cls, parts: Sequence[Contents]) -> Contents:
        """Of several partitions: a key is in one of them."""
        total = cls()
        for part in parts:
            for name in _COUNTED:
                setattr(total, name, getattr(total, name) + getattr(part, name))
            total.types += part.types
        return total


_COUNTED = (
    "records", "filtered", "keys", "handled", "skipped", "parked", "letters", "put_away", "missing", "parked_keys",
    "late_keys", "undecodable", "by_producer",
)  # fmt: skip


def survey(
    system: System,
    connection: postgres.Connection,
    group: str,
    stretches: Mapping[Place, tuple[int, int]],
    wanted: Wanted,
    naming: Naming,
) -> dict[Place, Contents]:
    """Read every record of these stretches (start, end) and look up what the group has done with it.

    Reads with assign(): joins no group, commits nothing.

    Raises:
        BrokerUnreachable: nothing came for `settings.kafka_timeout_seconds`. KafkaException: the client cannot go on.
    """
    topics = sorted({topic for topic, _ in stretches})
    parked = set(connection.execute(_SQL["parked_keys"], {"group": group, "topics": topics}).fetchall())
    counted = {place: _Counting(group, parked) for place in stretches}
    left = {place for place, (start, end) in stretches.items() if start < end}
    client = kafka.consumer(system.settings, "evkit-replay-plan", **{"enable.partition.eof": True})
    try:
        client.assign([TopicPartition(*place, stretches[place][0]) for place in sorted(left)])
        heard_at = time.monotonic()
        while left:
            now = datetime.now(UTC)
            messages = client.consume(_CHUNK, 0.2)
            if not messages and time.monotonic() - heard_at > system.settings.kafka_timeout_seconds:
                raise kafka.failed(system.settings, kafka.KafkaException(kafka.KafkaError(kafka.KafkaError._TIMED_OUT)))
            for message in messages:
                place = (str(message.topic()), int(message.partition() or 0))
                error = message.error()
                if error is None:
                    record = kafka.record_of(message, now)
                    if record.offset < stretches[place][1]:
                        counted[place].take(record, wanted, naming)
                    if record.offset >= stretches[place][1] - 1:
                        left.discard(place)
                elif error.code() == kafka.KafkaError._PARTITION_EOF:
                    left.discard(place)  # what is left before the end are markers, or was deleted
                elif error.fatal():
                    raise kafka.KafkaException(error)
            for counting in counted.values():
                counting.look_up(connection)
            if messages:
                heard_at = time.monotonic()  # not before: the look-up may take long
    finally:
        client.close()
    return {place: counting.finished() for place, counting in counted.items()}


class _Counting:
    """Counts the records of one partition, in their order."""

    def __init__(self, group: str, parked: set[tuple[str, bytes]]) -> None:
        self._group = group
        self._parked = parked
        self._contents = Contents()
        self._keys: set[bytes] = set()
        self._missing: set[int] = set()  # hashes of ids: a second copy is no second missing event
        self._missing_keys: set[bytes] = set()
        self._late_keys: set[bytes] = set()
        self._parked_keys: set[bytes] = set()
        self._chunk: list[tuple[str, bytes | None]] = []

    def take(self, record: Record, wanted: Wanted, naming: Naming) -> None:
        contents = self._contents
        delivery = naming.of(record) if wanted.takes_place(record) else None
        if delivery is None or (wanted.types is not None and delivery.event_type not in wanted.types):
            contents.filtered += 1
            return
        contents.records += 1
        contents.types[delivery.event_type] += 1
        contents.undecodable += delivery.problem is not None
        contents.by_producer += record.timestamp_type == "create"
        if record.key:
            self._keys.add(record.key)
            if (record.topic, record.key) in self._parked:
                self._parked_keys.add(record.key)
        self._chunk.append((delivery.event_id, record.key))

    def look_up(self, connection: postgres.Connection) -> None:
        """What the group has done with the records since the last look."""
        if not self._chunk:
            return
        chunk, self._chunk = self._chunk, []
        rows = connection.execute(
            _SQL["seen"], {"group": self._group, "event_ids": list({event_id for event_id, _ in chunk})}
        ).fetchall()
        seen = {event_id: (outcome, state) for event_id, outcome, state in rows}
        for event_id, key in chunk:
            if event_id in seen:
                self._contents.count(*seen[event_id])
                if key in self._missing_keys and seen[event_id][0] == "handled":
                    assert key is not None
                    self._late_keys.add(key)
            elif hash(event_id) not in self._missing:
                self._missing.add(hash(event_id))
                self._contents.missing += 1
                if key:
                    self._missing_keys.add(key)

    def finished(self) -> Contents:
        self._contents.keys = len(self._keys)
        self._contents.parked_keys = len(self._parked_keys)
        self._contents.late_keys = len(self._late_keys)
        return self._contents
