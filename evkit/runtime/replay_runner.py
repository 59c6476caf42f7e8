"""stretches of topics → lanes: read them with assign(), hand over what is wanted, and account for every offset.

It works as the consumer does: one thread reads into bounded buffers (assignment.py), lanes handle batches, a failed event
that is to be tried again keeps back its key and nobody else. There is no group to join and no offset to commit; instead
each record carries the offsets that it stands for (those before it that have no record, or one that is passed over), and
they are written down by the ledger in the transaction that handles it. A start after a kill reads what is missing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from evkit import kafka, kafka_admin, postgres
from evkit.errors import ReplayRefused
from evkit.kafka import TopicPartition
from evkit.runtime import look_ahead, polled
from evkit.runtime.assignment import Assignment, Place, Work
from evkit.runtime.consumer import BUFFER_BATCHES, BUFFER_BYTES_MAX, RECORD_BYTES, Consumer
from evkit.runtime.emission import Emit
from evkit.runtime.fetched import stretches
from evkit.runtime.inbox import Inbox
from evkit.runtime.lane import Lane
from evkit.runtime.outcome import Counts
from evkit.runtime.replay_ledger import Ended, Piece, ReplayLedger, Share, Shares, progress, without
from evkit.runtime.replay_survey import Naming, Wanted
from evkit.runtime.session import Session, Stopped
from evkit.system import System

log = logging.getLogger(__name__)

# A line in the log each so many events, for replays without a terminal.
PROGRESS_EVENTS = 10_000
# No event has come to its end for this long: said once, then waited out.
_QUIET_SECONDS = 10.0
# Records that are passed over are written down with the next one that is not; where none comes, after so long.
_FLUSH_SECONDS = 1.0
# How often the broker is asked whether the topics are still the same ones.
_TOPICS_SECONDS = 5.0

_GONE = {
    kafka.KafkaError.UNKNOWN_TOPIC_OR_PART,
    kafka.KafkaError._UNKNOWN_TOPIC,
    kafka.KafkaError._UNKNOWN_PARTITION,
    kafka.KafkaError.UNKNOWN_TOPIC_ID,
}


@dataclass(slots=True)
class Stretch:
    """Offsets of one partition that are to be read, and how far the reading is.

    Attributes:
        topic_id  Kafka's, None where the broker did not say
        done      what was done when this process began: sorted, without overlaps
        at        next offset to account for
        pending   offsets that are read and stand for no record that is on its way
        ended     all of it is read
    """

    place: Place
    topic_id: str | None
    start: int
    end: int
    done: Sequence[Piece] = ()
    at: int = 0
    pending: Share = field(default_factory=Share)
    ended: bool = False
    _alone: bool = False

    def __post_init__(self) -> None:
        left = without(self.start, self.end, self.done)
        self.at = left[0][0] if left else self.end
        self.ended = not left

    def step(self, offset: int) -> bool:
        """The next record is at this offset; whether it is to be looked at: it was not done before. Whoever looks at it
        calls `handed_over` or `passed_over` then."""
        at, self.at = self.at, offset + 1
        self._alone = offset == at and not self.done and not self.pending.pieces
        if self._alone:  # as most are: without a list
            return True
        pieces = without(at, offset + 1, self.done) if self.done else [(at, offset + 1)]
        self.pending.pieces += pieces
        return bool(pieces) and pieces[-1][1] == offset + 1

    def handed_over(self) -> Share | None:
        """What the record that was just stepped to stands for; None: for its own offset alone."""
        return None if self._alone else self.share()

    def passed_over(self) -> None:
        """The record that was just stepped to is not for the handlers."""
        if self._alone:
            self.pending.pieces.append((self.at - 1, self.at))
        self.pending.filtered += 1

    def share(self) -> Share:
        """What was read and stands for no record that is on its way."""
        share, self.pending = self.pending, Share()
        return share

    def reach(self, offset: int) -> None:
        """There is no other record before this offset."""
        if offset > self.at:
            self.pending.pieces += without(self.at, offset, self.done)
            self.at = offset
        self.ended = self.at >= self.end


class Throttle:
    """Lets through so many events a second, in portions of a tenth of one."""

    def __init__(self, per_second_max: float | None) -> None:
        self._rate = per_second_max
        self._most = 1.0 if per_second_max is None else max(1.0, per_second_max / 10)
        self._tokens = 1.0
        self._at: float | None = None

    def allowed(self, wanted: int, now: float) -> int:
        """How many of them may go now."""
        if self._rate is None:
            return wanted
        if self._at is not None:
            self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return min(wanted, int(self._tokens))

    def took(self, events: int) -> None:
        """So many went."""
        if self._rate is not None:
            self._tokens -= events

    def wait_seconds(self) -> float:
        """Until one may go again."""
        return 0.0 if self._rate is None else max(0.0, 1.0 - self._tokens) / self._rate


@dataclass(frozen=True, slots=True)
class Orders:
    """How a replay is to be run, as its row says."""

    replay_id: str
    epoch: int
    generation: int
    wanted: Wanted
    dry: bool = False
    paused: bool = False
    emit: Emit = "marked"
    per_second_max: float | None = None
    allow_missing: bool = False


class Runner:
    """Runs a replay in this process; `run` returns when its end is reached, or it must not go on.

    Args:
        counted  how far it had come when this process began, for who watches; the row of the replay has the exact counts
        stop     when set, what is in hand is finished, and the rest is left for another time
    """

    def __init__(
        self,
        system: System,
        consumer: Consumer,
        orders: Orders,
        stretches: Sequence[Stretch],
        counted: Counts,
        stop: threading.Event,
    ) -> None:
        self.group = consumer.group
        self._system = system
        self._consumer = consumer
        self._orders = orders
        self._stretches = {s.place: s for s in stretches}
        self._naming = Naming(consumer.handlers.decode)
        self._stop = stop
        self._halt = threading.Event()  # also for a lane that waits
        self._why: str | None = None
        self._error: BaseException | None = None
        self._changed = threading.Condition()  # guards what follows, as in the consumer
        high = consumer.batch_events_max * BUFFER_BATCHES * consumer.concurrency
        self._assignment = Assignment(high, BUFFER_BYTES_MAX, RECORD_BYTES)
        self._ending = False
        self._free = 0  # lanes that wait for a batch
        self._counts = counted
        self._throttle = Throttle(orders.per_second_max)
        self._shares = Shares()
        self._planned = sum(s.end - s.start for s in stretches)
        self._offsets_done = sum(last - first for s in stretches for first, last in s.done)
        self._lanes: list[Lane] = []
        self._paused: set[Place] = set()
        self._flushed_at = time.monotonic()
        self._moved_at = time.monotonic()
        self._said = counted.total
        self._topics: dict[str, Future[Any]] = {}
        self._topics_at = time.monotonic()

    def run(self, watch: Callable[[int, int], None] | None = None) -> str | None:
        """None when the end was reached, else why not. `watch` is called with (offsets done, offsets planned).

        Raises:
            ReplayRefused: a part of the stretch is gone, or a topic was made anew.
            KafkaException, MemoryError: as they come.
        """
        session = Session(self._system, "evkit replay", f"replay {self._orders.replay_id}", self._halt)
        client = kafka.consumer(
            self._system.settings,
            f"{self.group}.replay.{self._orders.replay_id}",  # never joined: assign() makes no group
            **{"enable.partition.eof": True, "auto.offset.reset": "error"},
        )
        try:
            self._assignment.assign(self._stretches, epoch=self._orders.epoch)
            self._assign(client)
            most = self._consumer.hung_seconds
            self._lanes = [Lane(self, n, self._inbox(), most) for n in range(self._consumer.concurrency)]
            for lane in self._lanes:
                lane.start()
            while not self._is_over():
                self._take_in(client, self._poll(client))
                self._pause(client)
                self._flush(session)
                self._look_after(watch)
            if self._error is not None:
                raise self._error
            if self._why is None and not self._stop.is_set():
                self._require_same_topics(kafka_admin.topic_ids(self._system.settings, self._names, self._system.admin))
        except Stopped:  # told to, while it waited for PostgreSQL
            pass
        finally:
            self._end()
            client.close()
            session.close()
        if self._error is not None:
            raise self._error
        if self._why is None and self._stop.is_set() and not self._is_through():
            self._why = "it was told to stop"
        if watch is not None:
            watch(self._offsets_done, self._planned)
        return self._why

    def end(self, why: str) -> None:
        """It must not go on; from any thread. What is in hand is finished, as far as it may be."""
        if self._why is None:
            self._why = why
            log.warning("replay %s ends: %s", self._orders.replay_id, why)
        self._halt.set()

    def _inbox(self) -> Inbox:
        orders = self._orders
        ledger = ReplayLedger(
            orders.replay_id,
            orders.epoch,
            self._shares,
            self.end,
            dry=orders.dry,
            paused=orders.paused,
            emit=orders.emit,
        )
        return self._consumer.inbox(
            self._system, generation=orders.generation, replay_id=orders.replay_id, stop=self._halt, ledger=ledger
        )

    @property
    def _names(self) -> list[str]:
        return sorted({topic for topic, _ in self._stretches})

    def _is_over(self) -> bool:
        if self._stop.is_set():
            self._halt.set()
        return self._halt.is_set() or self._error is not None or self._is_through()

    def _is_through(self) -> bool:
        if not all(s.ended and not s.pending.pieces for s in self._stretches.values()):
            return False
        with self._changed:
            return not self._assignment.unfinished

    def _end(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.join()

    def _assign(self, client: Any) -> None:
        """Read on from where each partition is."""
        client.assign([TopicPartition(*s.place, s.at) for s in self._stretches.values() if not s.ended])
        self._paused = set()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _poll(self, client: Any) -> list[Any]:
        with self._changed:
            idle = not self._assignment.unfinished
        return polled.poll(client, self._assignment, self._consumer.batch_events_max, 0.1, idle=idle)

    def _take_in(self, client: Any, messages: list[Any]) -> None:
        now = datetime.now(UTC)
        taken = []
        for message in messages:
            stretch = self._stretches[message.topic(), message.partition()]
            if message.error() is not None:
                self._fault(client, stretch, message)
            elif message.offset() >= stretch.end:
                stretch.reach(stretch.end)
            elif (offset := message.offset()) >= stretch.at:
                if stretch.step(offset):
                    if not self._orders.wanted.takes(message, now, self._naming):
                        stretch.passed_over()
                    else:
                        if (share := stretch.handed_over()) is not None:
                            self._shares.put(stretch.place, offset, share)
                        taken.append(message)
                stretch.ended = stretch.at >= stretch.end
        if taken:
            with self._changed:
                self._assignment.add(stretches(taken, now))
                self._changed.notify_all()

    def _fault(self, client: Any, stretch: Stretch, message: Any) -> None:
        error = message.error()
        if error.code() == kafka.KafkaError._PARTITION_EOF:
            # What is left before the end are markers and deleted records. A follower may end earlier for a moment.
            if message.offset() >= stretch.end:
                stretch.reach(stretch.end)
        elif error.code() == kafka.KafkaError._AUTO_OFFSET_RESET:
            self._skip_what_is_gone(client, stretch)
        elif polled.is_fatal(error):
            raise kafka.KafkaException(error)
        elif error.code() in _GONE:
            self._require_same_topics(kafka_admin.topic_ids(self._system.settings, self._names, self._system.admin))
        else:
            log.warning("replay %s: %s", self._orders.replay_id, error.str())

    def _skip_what_is_gone(self, client: Any, stretch: Stretch) -> None:
        """Retention was faster than the replay."""
        settings, admin = self._system.settings, self._system.admin
        self._require_same_topics(kafka_admin.topic_ids(settings, self._names, admin))
        topic, partition = stretch.place
        first = kafka.start_offsets(settings, [TopicPartition(*stretch.place)], admin)[stretch.place]
        if not self._orders.allow_missing:
            raise ReplayRefused(
                f"offset {stretch.at:,} of {topic}/{partition} is gone, it begins at {first:,} now: retention has taken a "
                "part of the replay's stretch; plan a new one, with --allow-missing for what is left"
            )
        log.warning(
            "replay %s: offsets %s to %s of %s/%s are gone, retention has taken them",
            self._orders.replay_id, stretch.at, min(first, stretch.end) - 1, topic, partition,
        )  # fmt: skip
        stretch.reach(min(first, stretch.end))
        self._assign(client)  # the client does not seek in a partition that it has given up

    def _pause(self, client: Any) -> None:
        """Fetch nothing more of what is full or read to its end."""
        full = polled.full(self._assignment, self._changed, self._paused, lambda: not self._free and not self._ending)
        stop = full | {s.place for s in self._stretches.values() if s.ended}
        self._paused = polled.paused(client, stop, self._paused)

    def _flush(self, session: Session) -> None:
        """Write down what is read and stands for no record that is on its way."""
        due = time.monotonic() - self._flushed_at > _FLUSH_SECONDS
        stretches = [s for s in self._stretches.values() if s.pending.pieces and (due or s.ended)]
        if not stretches:
            return
        self._flushed_at = time.monotonic()
        shares = {s.place: s.share() for s in stretches}
        try:
            session.repeated(self._write, shares)
        except Ended as why:
            self.end(str(why))
            return
        with self._changed:
            self._offsets_done += sum(last - first for share in shares.values() for first, last in share.pieces)
            self._moved_at = time.monotonic()

    def _write(self, connection: postgres.Connection, shares: dict[Place, Share]) -> None:
        progress(
            connection,
            self._orders.replay_id,
            self._orders.epoch,
            {place: share.pieces for place, share in shares.items()},
            Counts(),
            filtered=sum(share.filtered for share in shares.values()),
            paused=self._orders.paused,
        )

    # --- looking after it ---------------------------------------------------------------------------------------------

    def _look_after(self, watch: Callable[[int, int], None] | None) -> None:
        with self._changed:
            counts, done, moved_at = self._counts, self._offsets_done, self._moved_at
            total, waiting, unfinished = counts.total, self._assignment.waiting_keys(), self._assignment.unfinished
        if watch is not None:
            watch(done, self._planned)
        if total // PROGRESS_EVENTS > self._said // PROGRESS_EVENTS:
            self._said = total
            log.warning(
                "replay %s: %s events so far, %s handled, %s known, %s failed; %s of %s offsets",
                self._orders.replay_id, total, counts.handled, counts.duplicate, counts.dead, done, self._planned,
            )  # fmt: skip
        if time.monotonic() - moved_at > _QUIET_SECONDS:
            with self._changed:
                self._moved_at = time.monotonic()
            waits_for = (
                f"for another attempt at events of {waiting:,} keys"
                if waiting
                else f"for its handlers, which have {unfinished:,} events"
                if unfinished
                else f"for the broker at {self._system.settings.bootstrap_servers}"
            )
            log.warning("replay %s waits %s", self._orders.replay_id, waits_for)
        for lane in self._lanes:
            lane.report_if_hung()
        self._look_at_topics()

    def _look_at_topics(self) -> None:
        if self._topics and all(asked.done() for asked in self._topics.values()):
            asked, self._topics = self._topics, {}
            self._require_same_topics({name: kafka_admin.id_of(future) for name, future in asked.items()})
        elif not self._topics and time.monotonic() - self._topics_at > _TOPICS_SECONDS:
            self._topics_at = time.monotonic()
            self._topics = kafka_admin.ask_topic_ids(self._names, self._system.admin)

    def _require_same_topics(self, now: dict[str, str | None]) -> None:
        require_same_topics({s.place[0]: s.topic_id for s in self._stretches.values()}, now)

    # --- lanes --------------------------------------------------------------------------------------------------------

    def _next_batch(self) -> list[Work] | None:
        """For a lane: what it may handle now; waits for it. None at the end."""
        with self._changed:
            self._free += 1
            try:
                while not self._ending and not self._halt.is_set():
                    now = time.monotonic()
                    share = -(-self._assignment.unfinished // self._consumer.concurrency)
                    wanted = min(self._consumer.batch_events_max, max(share, 1))
                    allowed = self._throttle.allowed(wanted, now)
                    batch = self._assignment.take(allowed, now, self._free) if allowed else []
                    if batch:
                        self._throttle.took(len(batch))
                        return batch
                    at = self._assignment.next_at
                    waits = [0.5] if at is None else [0.5, max(at - now, 0.001)]
                    if not allowed:
                        waits.append(max(self._throttle.wait_seconds(), 0.001))
                    self._changed.wait(min(waits))
            finally:
                self._free -= 1
        return None

    def _upcoming(self) -> list[Work]:
        """For a lane: what it may handle next."""
        consumer = self._consumer
        return look_ahead.in_line(self._assignment, self._changed, consumer.batch_events_max, consumer.concurrency)

    def _handle(self, batch: list[Work], inbox: Inbox) -> None:
        """For a lane: handle a batch, and tell what became of it."""
        outcome = inbox.attempt(batch, [work.attempt for work in batch])
        now = time.monotonic()
        again = []
        for index, (seconds, number) in outcome.again.items():
            batch[index].attempt = number
            again.append((batch[index], now + seconds))
        left = {*outcome.again, *outcome.untouched}
        done = [work for index, work in enumerate(batch) if index not in left]
        with self._changed:
            self._assignment.finish(done, again, [batch[index] for index in sorted(outcome.untouched)])
            self._counts += outcome.counts
            self._offsets_done += self._shares.forget([(work.partition.place, work.offset) for work in done])
            if done:
                self._moved_at = time.monotonic()
            self._changed.notify_all()

    def _break(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._ending = True
            self._changed.notify_all()


def require_same_topics(planned: dict[str, str | None], now: dict[str, str | None]) -> None:
    """Raise ReplayRefused unless these topics (id by name) are those of the plan; an id that nobody knows fits any."""
    for name, topic_id in planned.items():
        if name in now and (now[name] is None or topic_id is None or now[name] == topic_id):
            continue
        was = "is gone" if not now.get(name) else "was deleted and made anew"
        raise ReplayRefused(
            f"topic '{name}' {was} since this replay was planned, so its offsets are not those of the plan: plan a new one"
        )
