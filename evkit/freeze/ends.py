"""The timestamps of a topic's records → where its partitions ended at every millisecond of a window, to be kept.

What a broker answers when it is asked for the first offset stamped later than t changes only at records that are stamped
later than all before them. So these are kept: offset and time. Records are read for it, all of the window's; what a
consumer is never given (markers of transactions) leaves holes between them, and of these the broker is asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from evkit import kafka
from evkit.kafka import KafkaError, KafkaException, TopicPartition
from evkit.system import System
from evkit.views.end_offsets import after, millis
from evkit.views.offsets import Place

# Of all partitions together: some minutes of reading. What has more is left out, and said.
RECORDS_MAX = 5_000_000
# Holes that the broker is asked about; each takes some 20 questions of half a millisecond.
_HOLES_MAX = 5_000


@dataclass(slots=True)
class Steps:
    """One partition: (offset, stamp in milliseconds) wherever a later stamp than all before it begins.

    Attributes:
        next      offset after the last record that was seen
        newest    latest stamp seen
    """

    next: int
    newest: int
    steps: list[tuple[int, int]] = field(default_factory=list)

    def take(self, offset: int, stamp: int) -> None:
        if stamp > self.newest:
            self.steps.append((offset, stamp))
            self.newest = stamp
        self.next = offset + 1


def steps_of(
    system: System, ends: Mapping[Place, int], since: datetime, until: datetime, progress: Any = lambda *_: None
) -> tuple[dict[Place, Steps], dict[Place, str]]:
    """The steps of each place from `since` to its end, and why some have none.

    Raises:
        BrokerUnreachable: nothing came for `settings.kafka_timeout_seconds`.
    """
    first, last = millis(since), millis(until)
    asker = kafka.consumer(system.settings, "evkit-views", **{"isolation.level": "read_uncommitted"})
    try:
        # The first record stamped at `since` or later: what is before it is no answer to any later question.
        begins = _after(system, asker, ends, first - 1)
        found: dict[Place, Steps] = {}
        missing: dict[Place, str] = {}
        left = RECORDS_MAX
        for place in sorted(ends, key=lambda p: ends[p] - begins.get(p, 0) if begins.get(p, -1) >= 0 else 0):
            begin = begins.get(place)
            if begin is None:
                missing[place] = "the broker did not answer for it"
                continue
            begin = ends[place] if begin < 0 else begin
            left -= max(ends[place] - begin, 0)
            if left < 0:
                missing[place] = f"it has more records in the window than are read for that ({RECORDS_MAX:,} in all)"
            else:
                found[place] = Steps(begin, first - 1)
        holes = _read(system, found, ends, missing, progress)
        for place in missing:
            found.pop(place, None)
        if len(holes) > _HOLES_MAX:
            for place in {place for place, *_ in holes}:
                found.pop(place, None)
                missing[place] = f"it has more transactions than are asked about ({_HOLES_MAX:,} in all)"
            holes = []
        for place, start, end, stamped, until_stamp in holes:
            if place in found:
                _ask(system, asker, found[place], place, (start, end), (stamped, min(until_stamp, last)))
        for steps in found.values():
            steps.steps.sort()
            steps.steps = list(_rising(steps.steps))
        return found, missing
    finally:
        asker.close()


_Hole = tuple[Place, int, int, int, int]  # place, offsets [start, end), newest stamp before it, stamp after it


def _read(
    system: System, found: dict[Place, Steps], ends: Mapping[Place, int], missing: dict[Place, str], progress: Any
) -> list[_Hole]:
    """Read all records; returns the holes between them."""
    holes: list[_Hole] = []
    left = {place for place, steps in found.items() if steps.next < ends[place]}
    done, total = 0, sum(ends[place] - found[place].next for place in left)
    reader = kafka.consumer(
        system.settings, "evkit-views", **{"enable.partition.eof": True, "isolation.level": "read_uncommitted"}
    )
    try:
        reader.assign([TopicPartition(*place, found[place].next) for place in sorted(left)])
        heard_at = time.monotonic()
        while left:
            messages = reader.consume(2000, 0.1)
            if messages:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > system.settings.kafka_timeout_seconds:
                raise kafka.failed(system.settings, KafkaException(KafkaError(KafkaError._TIMED_OUT)))
            for message in messages:
                place: Any = (message.topic(), message.partition())
                if place not in left:
                    continue
                error, steps = message.error(), found[place]
                if error is not None:
                    left.discard(place)
                    if error.code() != KafkaError._PARTITION_EOF:
                        missing[place] = error.str()
                    continue
                offset, stamp = message.offset() or 0, message.timestamp()[1]
                if (until := min(offset, ends[place])) > steps.next:
                    holes.append((place, steps.next, until, steps.newest, stamp))
                if offset < ends[place]:
                    steps.take(offset, stamp)
                    done += 1
                if offset >= ends[place] - 1:
                    left.discard(place)
            progress("ends of topics", done, total)
        holes += [
            (place, steps.next, ends[place], steps.newest, 1 << 62)
            for place, steps in found.items()
            if steps.next < ends[place] and place not in missing
        ]
    finally:
        reader.close()
    return holes


def _ask(
    system: System, asker: Any, steps: Steps, place: Place, offsets: tuple[int, int], stamps: tuple[int, int]
) -> None:
    """What in a hole is stamped later than all before it: the broker names it, and by halving also when."""
    newest, latest = stamps
    while newest < latest:
        offset = _after(system, asker, [place], newest).get(place, -1)
        if not offsets[0] <= offset < offsets[1]:
            return
        low, high = newest, latest  # later than low it is the answer; later than high it is not, or nobody asks
        while high - low > 1:
            middle = (low + high) // 2
            if _after(system, asker, [place], middle).get(place, -1) == offset:
                low = middle
            else:
                high = middle
        newest = low + 1
        steps.steps.append((offset, newest))


def _after(system: System, asker: Any, places: Iterable[Place], stamp: int) -> dict[Place, int]:
    return after(system, asker, places, datetime.fromtimestamp(stamp / 1000, UTC))


def _rising(steps: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Those that are stamped later than all before them."""
    newest = None
    for offset, stamp in steps:
        if newest is None or stamp > newest:
            newest = stamp
            yield offset, stamp
