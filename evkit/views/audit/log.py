"""topics → where each event id is in the log: 20 bytes a record, whatever its payload is, and most of them on disk.

Ids are kept as 64-bit hashes. Each stretch ends where its partition ended when the audit began, and is read once, with
assign(): no group is joined, nothing is committed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import polars as pl

from evkit import kafka
from evkit.event import CE_ID
from evkit.kafka import KafkaError, KafkaException, Message, TopicPartition
from evkit.system import System
from evkit.views.audit.spill import Spill
from evkit.views.broker import broker
from evkit.views.offsets import Place
from evkit.views.scan.reader import collecting_no_garbage

log = logging.getLogger(__name__)

_BATCH, _SECONDS = 5_000, 0.1
# What the client reads ahead, in all partitions together.
_AHEAD_RECORDS, _AHEAD_KILOBYTES = 60_000, 24_000
# So many records a heap of the index: sorted, and looked into, in 30 MB.
RECORDS = 500_000
# Debezium's outbox router has the id there.
_ROUTED_ID = "id"

_LIST = pl.List(pl.Int64)
_RECORD = np.dtype([("hash", "u8"), ("offset", "i8"), ("place", "i4")])


@dataclass(frozen=True, slots=True)
class Stretch:
    """Offsets of one partition that are to be read: from first up to, and without, last."""

    first: int
    last: int


@dataclass(slots=True)
class LogIndex:
    """Which ids the log has where, in the stretches that were read.

    Attributes:
        read     by place, what was read of it; a partition that could not be read is not in it
        places   those that have records, sorted
        heaps    how many there are, by the upper bits of the hash
        records  how many records were read
    """

    read: dict[Place, Stretch]
    spill: Spill
    places: list[Place] = field(default_factory=list)
    heaps: int = 1
    records: int = 0

    def add(self, hashes: Any, places: Any, offsets: Any) -> None:
        """Take note of records; `close` when there are no more."""
        records = np.empty(len(hashes), dtype=_RECORD)
        records["hash"], records["place"], records["offset"] = hashes, places, offsets
        self.records += len(records)
        self.spill.throw("log", -1, self._heap_of(hashes), records)

    def close(self) -> None:
        """Sort each heap by hash, then place, then offset; `find` answers from now on."""
        for number in range(self.heaps):
            unsorted = self.spill.heap(("log", -1, number), _RECORD)
            order = np.lexsort((unsorted["offset"], unsorted["place"], unsorted["hash"]))
            self.spill.put(("log", -1, number), unsorted[order])

    def find(self, ids: pl.Series) -> pl.DataFrame:
        """For each id: `n` records that have it, the first of which is at copy_place (its number) and copy_offset.

        Where there are several, copies_place and copies_offset list all.
        """
        wanted = hashed(ids).to_numpy()
        n, place, offset = np.zeros(len(wanted), np.int64), np.full(len(wanted), -1), np.full(len(wanted), -1)
        places: dict[int, list[int]] = {}
        offsets: dict[int, list[int]] = {}
        order = np.argsort(wanted)
        bounds = np.searchsorted(self._heap_of(wanted[order]), np.arange(self.heaps + 1))
        for number in range(self.heaps):
            asked = order[bounds[number] : bounds[number + 1]]
            if not len(asked):
                continue
            heap = self.spill.heap(("log", -1, number), _RECORD, keep=True)
            known = np.ascontiguousarray(heap["hash"])
            first = np.searchsorted(known, wanted[asked], "left")
            found = np.searchsorted(known, wanted[asked], "right") - first
            is_there = found > 0
            n[asked] = found
            place[asked[is_there]] = heap["place"][first[is_there]]
            offset[asked[is_there]] = heap["offset"][first[is_there]]
            for which in np.flatnonzero(found > 1).tolist():
                copies = heap[first[which] : first[which] + found[which]]
                places[int(asked[which])] = copies["place"].tolist()
                offsets[int(asked[which])] = copies["offset"].tolist()
        made = pl.DataFrame({"n": n, "copy_place": place, "copy_offset": offset})
        lists = {"copies_place": places, "copies_offset": offsets}
        return made.with_columns(
            pl.Series(name, [of.get(i) for i in range(len(wanted))], dtype=_LIST)
            if of
            else pl.lit(None, _LIST).alias(name)
            for name, of in lists.items()
        )

    def _heap_of(self, hashes: Any) -> Any:
        return (((hashes >> np.uint64(40)) * np.uint64(self.heaps)) >> np.uint64(24)).astype(np.int64)


def hashed(ids: pl.Series) -> pl.Series:
    """The hash by which ids of outbox rows and of records are compared; the same for text and for its bytes."""
    return ids.hash(seed=0)


def read(
    system: System, stretches: Mapping[Place, Stretch], spill: Spill, meanwhile: Callable[[], None] = lambda: None
) -> LogIndex:
    """Read the ids of these stretches. A topic that may not be read is left out, and a warning says so.

    Args:
        meanwhile  called now and then; what it raises ends the reading

    Raises:
        BrokerUnreachable: nothing came for `settings.kafka_timeout_seconds`.
    """
    wanted = {place: stretch for place, stretch in stretches.items() if stretch.first < stretch.last}
    heaps = max(1, -(-sum(s.last - s.first for s in wanted.values()) // RECORDS))
    index = LogIndex({}, spill, sorted(wanted), heaps)
    while True:
        index.read = {place: s for place, s in stretches.items() if place not in wanted} | wanted
        try:
            _read(system, wanted, index, meanwhile)
        except _Refused as refused:
            log.warning("audit: topic %s may not be read by us: what it holds is not compared", refused.topic)
            # What was read of the others already is read again: a record counts once.
            for number in range(heaps):
                spill.heap(("log", -1, number), _RECORD)
            index.records = 0
            wanted = {place: s for place, s in wanted.items() if place[0] != refused.topic}
            stretches = {place: s for place, s in stretches.items() if place[0] != refused.topic}
        else:
            index.close()
            return index


class _Refused(Exception):
    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.topic = topic


def _read(system: System, wanted: Mapping[Place, Stretch], index: LogIndex, meanwhile: Callable[[], None]) -> None:
    number = {place: n for n, place in enumerate(index.places)}
    lasts = np.array([wanted[place].last if place in wanted else 0 for place in index.places], dtype=np.int64)
    left = set(wanted)
    ahead = {
        "queued.min.messages": max(100, _AHEAD_RECORDS // max(len(wanted), 1)),
        "queued.max.messages.kbytes": _AHEAD_KILOBYTES,
        "fetch.max.bytes": 16 << 20,
    }
    reader = broker(system).reader("evkit-audit", **{"enable.partition.eof": True, **ahead})
    try:
        reader.assign([TopicPartition(*place, wanted[place].first) for place in index.places if place in wanted])
        heard_at = time.monotonic()
        while left:
            meanwhile()
            messages = reader.consume(1, _SECONDS)
            if not messages:
                if time.monotonic() - heard_at > system.settings.kafka_timeout_seconds:
                    raise kafka.failed(system.settings, KafkaException(KafkaError(KafkaError._TIMED_OUT)))
                continue
            with collecting_no_garbage():
                # Not with a timeout: the client would wait for all of them.
                messages += reader.consume(_BATCH - 1, 0)
                done = _taken(system, messages, number, lasts, index)
                del messages
            if done := done & left:
                left -= done
                reader.incremental_unassign([TopicPartition(*place) for place in done])
            heard_at = time.monotonic()
    finally:
        reader.close()


def _taken(
    system: System, messages: list[Message], number: Mapping[Place, int], lasts: Any, index: LogIndex
) -> set[Place]:
    """Take note of a batch; the places of which there is no more to read."""
    done: set[Place] = set()
    if any(map(Message.error, messages)):
        for message in messages:
            if (error := message.error()) is None:
                continue
            place = cast(Place, (message.topic(), message.partition()))
            if error.code() == KafkaError._PARTITION_EOF:
                done.add(place)
            elif error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART):
                raise _Refused(place[0])
            elif error.fatal():
                raise kafka.failed(system.settings, KafkaException(error))
        messages = [message for message in messages if message.error() is None]
    if not messages:
        return done
    came_from: Any = zip(map(Message.topic, messages), map(Message.partition, messages), strict=True)
    at = map(number.__getitem__, came_from)
    places = np.fromiter(at, dtype=np.int32, count=len(messages))
    offsets = np.fromiter(map(cast(Any, Message.offset), messages), dtype=np.int64, count=len(messages))
    ids = _ids_of(messages)
    wanted = (offsets < lasts[places]) & ids.is_not_null().to_numpy()
    if not wanted.all():
        ids = ids.filter(pl.Series(wanted))
    index.add(hashed(ids).to_numpy(), places[wanted], offsets[wanted])
    ended = np.unique(places[offsets >= lasts[places] - 1])
    return done | {index.places[n] for n in ended.tolist()}


def _ids_of(messages: list[Message]) -> pl.Series:
    """The id of each record, as bytes of UTF-8; null where there is none."""
    headers: list[Any] = list(map(Message.headers, messages))
    # Whoever writes a topic writes its headers in one order: where the first record has its id, the others are asked first.
    at = next((n for n, (name, _) in enumerate(headers[0] or ()) if name == CE_ID), None)
    if at is not None:
        try:
            names, ids = zip(*[of[at] for of in headers], strict=True)
        except (IndexError, TypeError):
            pass
        else:
            if names.count(CE_ID) == len(names) and None not in ids:
                return pl.Series(ids, dtype=pl.Binary)
    return pl.Series([_id_of(of or ()) for of in headers], dtype=pl.Binary)


def _id_of(headers: Iterable[tuple[str, Any]]) -> bytes | None:
    routed = None
    for name, value in headers:
        if name == CE_ID and value is not None:
            return cast(bytes, value)
        if name == _ROUTED_ID and value is not None:
            routed = cast(bytes, value)
    return routed
