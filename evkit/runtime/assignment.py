"""records → what may be handled now: keep each key's order, let everything else go on, and know what may be committed.

Pure bookkeeping of the partitions that a consumer has at the moment, without a client, a thread or a clock: polled records
go in, batches that may be handled come out, outcomes go back in, and the offsets that may be stored come out. The rules:

- A key is busy while an event of it is in hand or waits for another attempt; its later events wait behind it, in order, and
  everybody else's go on. Records without a key have no order among them.
- An offset may be stored when everything before it in its partition is done: the contiguous prefix. So a killed consumer
  gets again what was not done, and only events behind a slow one that were done already come twice (the inbox knows them).
- A partition whose unfinished records, or their bytes, reach the high mark takes no more (`full`), until half of them are
  done.
- At the end of a partition the offset of the end is stored, and not the last record's next: transaction markers behind it
  would else be a lag for ever.
- Whatever comes back for a partition that was taken away meanwhile is dropped, also if the partition has come back since:
  each turn has an epoch.
- A record at or before the first that is not done says that the log was cut or the topic made anew, and the client has gone
  back: a turn ends there and a new one begins. What of before was not done is given up; the log brings again what it has.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, islice, repeat
from operator import attrgetter, lt
from typing import NamedTuple

from evkit import kafka
from evkit.kafka import Message, Record
from evkit.runtime.fetched import Place, Stretch

__all__ = ["Anew", "Assignment", "Look", "Place", "Work"]

# Of what was fetched, so many are made Work at a time where nobody knows how many are wanted.
_SOME = 64
_PARTITION = attrgetter("partition")


@dataclass(eq=False, slots=True)
class Work:
    """One record on its way; `attempt` is the next attempt's number, 0 when the database has to say."""

    offset: int
    source: Message | Record
    partition: _Partition
    key: Hashable  # of a record without a key its offset
    size: int  # bytes
    received_at: datetime
    attempt: int = 0

    @property
    def record(self) -> Record:
        """Made of what the client has fetched at the first look."""
        source = self.source
        if type(source) is Message:
            source = self.source = kafka.record_of(source, self.received_at)
        return source  # type: ignore[return-value]

    @property
    def epoch(self) -> int:
        """Of the turn in which its partition was ours when it came."""
        return self.partition.epoch


@dataclass(eq=False, slots=True)
class _Partition:
    """One turn of a partition: from its assignment until it is given up."""

    place: Place
    epoch: int
    is_ours: bool = True
    fetched: deque[Iterator[Work]] = field(default_factory=deque)  # behind the queue, made Work when it is asked for
    queue: deque[Work] = field(default_factory=deque)  # not taken yet, by offset
    again: deque[Work] = field(default_factory=deque)  # before the queue: what had waited behind its key
    busy: dict[Hashable, deque[Work] | None] = field(default_factory=dict)  # key → what waits behind what is in hand
    received: deque[int] = field(default_factory=deque)  # offsets that are not stored, in order
    done: set[int] = field(default_factory=set)  # those of them that are done
    stored: int | None = None  # next offset to read, when it has changed
    end: int = -1  # where the partition ended when its end was last reached
    size: int = 0  # bytes of what is unfinished
    in_hand: int = 0  # taken and not finished
    winds_up: bool = False
    next: int | None = None  # what was last stored, or is to be
    gone: int = 0  # records that are done and stored

    @property
    def position(self) -> int | None:
        """Next offset to be done; None while nothing has come."""
        return self.received[0] if self.received else self.next

    def line_up(self, most: int) -> deque[Work]:
        """The queue, with so many in it, or all that there are."""
        queue, fetched = self.queue, self.fetched
        while fetched and len(queue) < most:
            queue.extend(islice(fetched[0], most - len(queue)))
            if len(queue) < most:
                fetched.popleft()
        return queue

    def next_in_line(self) -> deque[Work]:
        """Where its next one stands in front; empty when there is none."""
        return self.again or self.queue or self.line_up(_SOME)

    def clear_line(self) -> None:
        """Nothing that was not taken stands in line any more."""
        for line in (self.fetched, self.queue, self.again):
            line.clear()


class Look(NamedTuple):
    """How far a partition is: records that are not done and their bytes, those in hand, from the first offset that is not
    done to the last one that is, and the next offset to be done (None while nothing has come)."""

    unfinished: int
    size: int
    in_hand: int
    span: int
    position: int | None


class Anew(NamedTuple):
    """A partition whose log went back: to which offset, and how many records of before were not done."""

    place: Place
    offset: int
    given_up: int


class Assignment:
    """The partitions a consumer has. Not for several threads at once: its owner holds a lock.

    Args:
        high        unfinished records a partition may have before it takes no more
        high_bytes  bytes of unfinished records that all partitions together may have; each has its share
        overhead    bytes that a record counts for there beside those of its key and value
    """

    def __init__(self, high: int = 5000, high_bytes: int = 64 * 1024 * 1024, overhead: int = 0) -> None:
        self._high = high
        self._high_bytes = high_bytes
        self._overhead = overhead
        self._partitions: dict[Place, _Partition] = {}
        self._waiting: list[tuple[float, int, Place, Work]] = []  # heap by time; the number breaks ties
        self._numbers = 0
        self._turn = 0
        self._polled: dict[Place, int] = {}  # records that came in turns that are over

    # --- partitions ---------------------------------------------------------------------------------------------------

    def assign(self, places: Iterable[Place], epoch: int) -> None:
        """These are ours from now on."""
        for place in places:
            self._drop(place)
            self._partitions[place] = _Partition(place, epoch)

    def _drop(self, place: Place) -> None:
        if (partition := self._partitions.pop(place, None)) is not None:
            partition.is_ours = False
            self._polled[place] = self._polled.get(place, 0) + partition.gone + len(partition.received)
            # They point at each other, and would stay until the garbage collector comes.
            partition.clear_line()
            partition.busy.clear()

    def give_up(self, places: Iterable[Place]) -> None:
        """These are not ours any more: everything of them is forgotten, and what comes back later is dropped."""
        for place in places:
            self._drop(place)
        self._waiting = [entry for entry in self._waiting if entry[2] in self._partitions]
        heapq.heapify(self._waiting)

    def wind_up(self, places: Iterable[Place]) -> None:
        """These will be given up: nothing more of them begins; what is in hand may still be finished."""
        for place in places:
            if (partition := self._partitions.get(place)) is not None:
                partition.clear_line()
                partition.winds_up = True

    def in_hand(self, places: Iterable[Place]) -> int:
        """Records of these that were taken and are not finished."""
        return sum(self._partitions[place].in_hand for place in places if place in self._partitions)

    @property
    def places(self) -> list[Place]:
        return list(self._partitions)

    def epoch_of(self, place: Place) -> int | None:
        """The epoch of a partition's turn; None: it is not ours."""
        partition = self._partitions.get(place)
        return None if partition is None else partition.epoch

    def full(self, paused: Set[Place] = frozenset()) -> set[Place]:
        """Partitions that have too much unfinished to take more; a paused one stays full until half of it is done."""
        share = self._high_bytes // max(len(self._partitions), 1)
        found = set()
        for place, partition in self._partitions.items():
            unfinished = len(partition.received) - len(partition.done)
            size = partition.size + unfinished * self._overhead
            part = 2 if place in paused else 1
            if unfinished >= self._high // part or size >= share // part:
                found.add(place)
        return found

    # --- records in, work out -----------------------------------------------------------------------------------------

    def add(self, stretches: Iterable[Stretch]) -> list[Anew]:
        """What was polled; of partitions that are not ours it is dropped. Returns where a log went back."""
        anew: list[Anew] = []
        for stretch in stretches:
            partition = self._partitions.get(stretch.place)
            if partition is None:
                continue  # not ours
            offsets = stretch.offsets
            before = partition.received[-1] if partition.received else -1
            if offsets[0] > before and offsets[0] >= partition.end and all(map(lt, offsets, islice(offsets, 1, None))):
                self._line_up(partition, stretch)
            else:
                for one in stretch.one_by_one():
                    self._add_one(self._partitions[stretch.place], one, anew)
        return anew

    def _add_one(self, partition: _Partition, stretch: Stretch, anew: list[Anew]) -> None:
        """A record that may have come before, or from a log that went back."""
        (offset,) = stretch.offsets
        if partition.received and offset <= partition.received[-1]:
            if offset > partition.received[0]:
                return  # fetched a second time
            anew.append(Anew(stretch.place, offset, len(partition.received) - len(partition.done)))
            partition = self._begin_anew(partition)
        if offset < partition.end:
            partition.end = -1  # the topic was made anew, or somebody has moved us back
        self._line_up(partition, stretch)

    @staticmethod
    def _line_up(partition: _Partition, stretch: Stretch) -> None:
        offsets, keys, sizes = stretch.offsets, stretch.keys, stretch.sizes
        own: Iterable[Hashable] = keys
        if None in keys:
            own = [offset if key is None else key for offset, key in zip(offsets, keys, strict=True)]
        partition.received.extend(offsets)
        partition.size += sum(sizes)
        # Out of a queue, so that what was taken stays no longer than whoever has taken it; asked after there is an offset.
        sources = iter(deque(stretch.sources).popleft, None)
        partition.fetched.append(
            map(Work, offsets, sources, repeat(partition), own, sizes, repeat(stretch.received_at))
        )

    def _begin_anew(self, before: _Partition) -> _Partition:
        fresh = _Partition(before.place, before.epoch, winds_up=before.winds_up)
        self.give_up([before.place])
        self._partitions[before.place] = fresh
        return fresh

    def pass_over(self, place: Place, offset: int) -> None:
        """There is no record before `offset` that we have not had: the partition ends there, maybe behind markers."""
        partition = self._partitions.get(place)
        if partition is None:
            return
        partition.end = offset
        if not partition.received:
            partition.stored = partition.next = offset

    def take(self, records_max: int, now: float, takers: int = 1) -> list[Work]:
        """A batch that may be handled now, at most so many, each partition's records in order; [] when there is none.

        All of one key that are next in line may be in it together: whoever handles it keeps their order, and gives back
        untouched what stands behind a failure.

        Args:
            takers  how many wait for a batch at this moment, the caller too: the keys that are ready are shared among them,
                    else the first one would make all of them busy, and nobody would be left to run beside it
        """
        self._wake(now)
        self._turn += 1
        partitions = self._in_turn(self._turn)
        if takers > 1:
            return self._take_share(partitions, records_max, takers)
        batch: list[Work] = []
        for partition in partitions:
            if len(batch) >= records_max:
                break
            self._take_from(partition, batch, records_max)
        return batch

    def upcoming(self, records_max: int) -> list[Work]:
        """What `take` would give to the only taker once everything in hand is done, if nothing fails and nothing comes;
        nothing is taken."""
        found: list[Work] = []
        for partition in self._in_turn(self._turn + 1):
            found += islice(partition.again, records_max - len(found))
            left = records_max - len(found)
            found += islice(partition.line_up(left), left)
        return found

    def _in_turn(self, turn: int) -> list[_Partition]:
        """Each partition is first in turn, so that a full one does not starve the others."""
        partitions = list(self._partitions.values())
        first = turn % max(len(partitions), 1)
        return partitions[first:] + partitions[:first]

    def _take_share(self, partitions: list[_Partition], records_max: int, takers: int) -> list[Work]:
        """A batch of no more keys than fall to one of the takers."""
        ready: list[Work] = []
        for partition in partitions:
            while not partition.winds_up and len(ready) < records_max * takers and (source := partition.next_in_line()):
                work = source.popleft()
                if work.key in partition.busy:
                    self._put_behind(partition, work)
                else:
                    ready.append(work)
        keys = list(dict.fromkeys((work.partition, work.key) for work in ready))
        mine = set(keys[: -(-len(keys) // takers)])
        batch: list[Work] = []
        others: list[Work] = []
        for work in ready:
            partition = work.partition
            if len(batch) < records_max and (partition, work.key) in mine:
                partition.busy.setdefault(work.key)
                partition.in_hand += 1
                batch.append(work)
            elif work.key in partition.busy:
                self._put_behind(partition, work)
            else:
                others.append(work)
        for work in reversed(others):
            work.partition.again.appendleft(work)
        return batch

    def _take_from(self, partition: _Partition, batch: list[Work], records_max: int) -> None:
        if partition.winds_up:
            return
        busy, before = partition.busy, len(batch)
        if not busy and not partition.again:  # all that is in line may go
            room = records_max - before
            queue = partition.line_up(room)
            works = [queue.popleft() for _ in range(min(room, len(queue)))]
            busy.update(dict.fromkeys([work.key for work in works]))
            partition.in_hand += len(works)
            batch += works
            return
        mine: set[Hashable] = set()  # keys that this batch itself has made busy
        while len(batch) < records_max and (source := partition.next_in_line()):
            work = source.popleft()
            key = work.key
            if key not in busy:
                busy[key] = None
                mine.add(key)
            elif key not in mine:
                self._put_behind(partition, work)
                continue
            batch.append(work)
        partition.in_hand += len(batch) - before

    @staticmethod
    def _put_behind(partition: _Partition, work: Work) -> None:
        """It waits behind what is in hand of its key."""
        behind = partition.busy[work.key]
        if behind is None:
            partition.busy[work.key] = deque([work])
        else:
            behind.append(work)

    def _wake(self, now: float) -> None:
        """Keys whose wait is over may be taken again, the failed event first."""
        while self._waiting and self._waiting[0][0] <= now:
            work = heapq.heappop(self._waiting)[-1]
            partition = work.partition
            if partition.is_ours:
                behind = partition.busy.pop(work.key, None) or ()
                partition.again.extendleft(reversed([work, *behind]))

    # --- outcomes in, offsets out -------------------------------------------------------------------------------------

    def finish(
        self, done: Sequence[Work], again: Sequence[tuple[Work, float]] = (), untouched: Sequence[Work] = ()
    ) -> None:
        """What became of a batch: done, to be tried again at a time, or untouched (in order, behind what failed)."""
        again = [(work, at) for work, at in again if self._is_ours(work)]
        untouched = [work for work in untouched if self._is_ours(work)]
        for work, at in again:
            work.partition.in_hand -= 1
            self._numbers += 1
            heapq.heappush(self._waiting, (at, self._numbers, _place(work), work))
        for work in reversed(untouched):
            work.partition.in_hand -= 1
            if (behind := work.partition.busy.get(work.key)) is None:
                work.partition.busy[work.key] = deque([work])
            else:
                behind.appendleft(work)
        # A key with a failed event stays busy until that is tried again; any other may go on with what waits behind.
        waiting = {(work.partition, work.key) for work, _ in again}
        # Before all that is there: of its key it is the oldest, and what another taker has put back may hold newer ones.
        first: dict[_Partition, list[Work]] = {}
        changed: dict[_Partition, None] = {}
        for partition, stretch in groupby(done, _PARTITION):
            if not partition.is_ours:
                continue
            works = list(stretch)
            changed[partition] = None
            partition.in_hand -= len(works)
            partition.size -= sum([work.size for work in works])
            partition.done.update([work.offset for work in works])
            self._release(partition, works, waiting, first)
        for work in untouched:
            self._release(work.partition, [work], waiting, first)
        for partition, released in first.items():
            partition.again.extendleft(reversed(released))
        for partition in changed:
            self._advance(partition)

    @staticmethod
    def _release(
        partition: _Partition,
        works: Iterable[Work],
        waiting: Set[tuple[_Partition, Hashable]],
        first: dict[_Partition, list[Work]],
    ) -> None:
        """These keys are not busy any more, unless an event of theirs waits; what is behind them is `first` in line."""
        busy = partition.busy
        for key in dict.fromkeys([work.key for work in works]):
            if not (waiting and (partition, key) in waiting) and (behind := busy.pop(key, None)):
                first.setdefault(partition, []).extend(behind)

    @staticmethod
    def _is_ours(work: Work) -> bool:
        return work.partition.is_ours

    @staticmethod
    def _advance(partition: _Partition) -> None:
        received, done, offset = partition.received, partition.done, None
        before = len(received)
        while received and received[0] in done:
            offset = received.popleft()
            done.remove(offset)
        if offset is not None:
            partition.stored = partition.next = offset + 1 if received else max(offset + 1, partition.end)
            partition.gone += before - len(received)

    def to_store(self) -> dict[Place, int]:
        """Offsets that may be stored and were not given out yet: the next one to read, by partition."""
        changed = {}
        for place, partition in self._partitions.items():
            if partition.stored is not None:
                changed[place] = partition.stored
                partition.stored = None
        return changed

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> int:
        """Records that are here and not done."""
        return sum(len(p.received) - len(p.done) for p in self._partitions.values())

    @property
    def unfinished_bytes(self) -> int:
        """Bytes of keys and values that are here and not done."""
        return sum(p.size for p in self._partitions.values())

    def idle(self) -> list[Place]:
        """Partitions of which nothing is here that is not done."""
        return [place for place, p in self._partitions.items() if not p.received and not p.winds_up]

    def ended_at(self, place: Place) -> int:
        """Where the partition ended when its end was last reached; -1: it was not, or it is not ours."""
        partition = self._partitions.get(place)
        return -1 if partition is None else partition.end

    @property
    def next_at(self) -> float | None:
        """When the next waiting key may be tried again; None when none waits."""
        return self._waiting[0][0] if self._waiting else None

    def positions(self) -> dict[Place, int | None]:
        """The next offset to be done of each partition; None while nothing of it has come."""
        return {place: partition.position for place, partition in self._partitions.items()}

    def look(self, place: Place) -> Look:
        """How far one of our partitions is."""
        p = self._partitions[place]
        span = max(p.done) + 1 - p.received[0] if p.done else 0
        return Look(len(p.received) - len(p.done), p.size, p.in_hand, span, p.position)

    def polled(self) -> dict[Place, int]:
        """How many records have come of each partition, in all its turns; also of those that are not ours any more."""
        came = {place: p.gone + len(p.received) for place, p in self._partitions.items()}
        return {place: self._polled.get(place, 0) + came.get(place, 0) for place in self._polled.keys() | came.keys()}

    def waiting_keys(self) -> int:
        """Keys whose failed event waits for another attempt."""
        return len(self._waiting)


def _place(work: Work) -> Place:
    return work.partition.place
