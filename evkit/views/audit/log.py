"""topics → where each event id is in the log: 28 bytes a record, whatever its payload is.

Ids are kept as 64-bit hashes. Each stretch ends where its partition ended when the audit began, and is read once, with
assign(): no group is joined, nothing is committed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import polars as pl

from evkit import kafka
from evkit.event import CE_ID
from evkit.kafka import KafkaError, KafkaException, TopicPartition
from evkit.system import System
from evkit.views.offsets import Place

log = logging.getLogger(__name__)

# A consumer that waits for so many returns with them at once, and after so long with fewer.
_RECORDS, _SECONDS = 10_000, 0.1
# Debezium's outbox router has the id there.
_ROUTED_ID = "id"


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
        records  how many records that were
    """

    read: dict[Place, Stretch]
    places: list[Place] = field(default_factory=list)
    _hashes: Any = None
    _place_of: Any = None
    _offsets: Any = None

    @property
    def records(self) -> int:
        return len(self._hashes)

    def counts(self, hashes: pl.Series) -> tuple[Any, Any]:
        """Where the records of these hashes begin in the index, and how many there are of each."""
        wanted = hashes.to_numpy()
        first = np.searchsorted(self._hashes, wanted, "left")
        return first, np.searchsorted(self._hashes, wanted, "right") - first

    def at(self, indexes: Any) -> tuple[Any, Any]:
        """Number of the place and offset at these indexes; -1 where an index is past the end."""
        inside = indexes < len(self._hashes)
        found = np.where(inside, indexes, 0)
        if not len(self._hashes):
            nothing = np.full(len(indexes), -1)
            return nothing, nothing
        return np.where(inside, self._place_of[found], -1), np.where(inside, self._offsets[found], -1)

    def copies(self, first: int, count: int) -> list[tuple[Place, int]]:
        """All records from an index on: their place and offset."""
        return [
            (self.places[p], int(o))
            for p, o in zip(
                self._place_of[first : first + count], self._offsets[first : first + count].tolist(), strict=True
            )
        ]


def hashed(ids: pl.Series) -> pl.Series:
    """The hash by which ids of outbox rows and of records are compared."""
    return ids.hash(seed=0)


def read(system: System, stretches: Mapping[Place, Stretch]) -> LogIndex:
    """Read the ids of these stretches. A topic that may not be read is left out, and a warning says so.

    Raises:
        BrokerUnreachable: nothing came for `settings.kafka_timeout_seconds`.
    """
    wanted = {place: stretch for place, stretch in stretches.items() if stretch.first < stretch.last}
    while True:
        try:
            return _read(system, wanted, {place: s for place, s in stretches.items() if place not in wanted})
        except _Refused as refused:
            log.warning("audit: topic %s may not be read by us: what it holds is not compared", refused.topic)
            wanted = {place: s for place, s in wanted.items() if place[0] != refused.topic}
            stretches = {place: s for place, s in stretches.items() if place[0] != refused.topic}


class _Refused(Exception):
    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.topic = topic


def _read(system: System, wanted: Mapping[Place, Stretch], empty: Mapping[Place, Stretch]) -> LogIndex:
    index = LogIndex({**wanted, **empty}, sorted(wanted))
    number = {place: n for n, place in enumerate(index.places)}
    hashes: list[Any] = []
    place_of: list[Any] = []
    offsets: list[Any] = []
    left = set(wanted)
    reader = kafka.consumer(system.settings, "evkit-audit", **{"enable.partition.eof": True})
    try:
        reader.assign([TopicPartition(*place, wanted[place].first) for place in index.places])
        heard_at = time.monotonic()
        while left:
            messages = reader.consume(_RECORDS, _SECONDS)
            if not messages and time.monotonic() - heard_at > system.settings.kafka_timeout_seconds:
                raise kafka.failed(system.settings, KafkaException(KafkaError(KafkaError._TIMED_OUT)))
            ids: list[str] = []
            at: list[int] = []
            where: list[int] = []
            for message in messages:
                place = cast(Place, (message.topic(), message.partition()))
                error = message.error()
                if error is None:
                    offset = cast(int, message.offset())
                    last = wanted[place].last
                    if offset < last and (found := _id_of(cast(Any, message.headers() or ()))) is not None:
                        ids.append(found)
                        at.append(offset)
                        where.append(number[place])
                    if offset >= last - 1 and place in left:
                        left.discard(place)
                        reader.incremental_unassign([TopicPartition(*place)])
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(place)
                elif error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART):
                    raise _Refused(place[0])
                elif error.fatal():
                    raise kafka.failed(system.settings, KafkaException(error))
            if ids:
                hashes.append(hashed(pl.Series(ids, dtype=pl.String)).to_numpy())
                place_of.append(np.array(where, dtype=np.int32))
                offsets.append(np.array(at, dtype=np.int64))
            if messages:
                heard_at = time.monotonic()
    finally:
        reader.close()
    unsorted = np.concatenate(hashes) if hashes else np.array([], dtype=np.uint64)
    # Stable: of one id, the records of a partition stay in the order of the log.
    order = np.argsort(unsorted, kind="stable")
    index._hashes = unsorted[order]
    index._place_of = (np.concatenate(place_of) if hashes else np.array([], dtype=np.int32))[order]
    index._offsets = (np.concatenate(offsets) if hashes else np.array([], dtype=np.int64))[order]
    return index


def _id_of(headers: Iterable[tuple[str, Any]]) -> str | None:
    routed = None
    for name, value in headers:
        if name == CE_ID and value is not None:
            return cast(bytes, value).decode("utf-8", "replace")
        if name == _ROUTED_ID and value is not None:
            routed = cast(bytes, value).decode("utf-8", "replace")
    return routed
