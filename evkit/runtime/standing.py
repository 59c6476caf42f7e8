"""poll loop and lanes → who asks: how a consumer stands at this moment, for its metrics and its health.

`Memory` is what the poll loop writes down for others, who may not ask the client themselves: it may be closed meanwhile.
`Standing` is one answer: everything that a consumer knows about itself, in memory, at once, without asking anybody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from evkit import kafka
from evkit.kafka import KafkaError, TopicPartition
from evkit.runtime.assignment import Assignment, Place
from evkit.runtime.breaker import Breakers
from evkit.runtime.fetched import Stretch
from evkit.runtime.pulse import Pulse
from evkit.system import System

log = logging.getLogger(__name__)

# How often the poll loop looks where partitions end.
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class PartitionStanding:
    """How one partition stands.

    Attributes:
        buffered        records that are here and not done, those in hand included; buffered_bytes: their keys and values
        in_hand         records that handlers have
        span            from the first offset that is not done to the last one that is
        paused          nothing more of it is fetched
        position        next offset to be done; None: nothing has come yet
        lag             end offset of the last fetch minus position, both of one moment in the last second; None: not known
        still_seconds   since the position moved, while there is something to do; else 0
    """

    topic: str
    partition: int
    buffered: int
    buffered_bytes: int
    in_hand: int
    span: int
    paused: bool
    position: int | None
    lag: int | None
    still_seconds: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How a consumer stands.

    Attributes:
        running            `run` has been called and has not returned
        stopping           it was told to stop, and finishes what it has in hand
        fatal              the error that ended it
        last_loop_seconds  since its poll loop was last heard of; None when it has not run yet
        waits_for, waits_seconds   which server, in the words of the error, and for how long; of several the longest
        partitions         those that it has, sorted
        polled             records that came of each partition, also of those that it has no more
        waiting_keys       keys that wait for another attempt at a failed event
        lanes, lanes_ended how many there are, and how many of them have ended although it runs
        hung               a sentence for each handler that does not come back
        stuck              a sentence for each partition that gives nothing although it has something
        held               handlers whose events are held by the breaker
        parked             whether keys of the group were parked when it handled its last batch
        parking_full       why partitions are paused whose events can neither be handled nor parked; a sentence each
        paused_for         the replay for which the group pauses, so that nothing is handled
        refused            what Kafka does not let this group do, until it does; a sentence each
    """

    running: bool = False
    stopping: bool = False
    fatal: str | None = None
    last_loop_seconds: float | None = None
    waits_for: str | None = None
    waits_seconds: float | None = None
    partitions: Sequence[PartitionStanding] = ()
    polled: Mapping[Place, int] = field(default_factory=dict)
    waiting_keys: int = 0
    lanes: int = 1
    lanes_ended: int = 0
    hung: Sequence[str] = ()
    stuck: Sequence[str] = ()
    held: Sequence[str] = ()
    parked: bool = False
    parking_full: Sequence[str] = ()
    refused: Sequence[str] = ()
    paused_for: str | None = None


class _Inbox(Protocol):
    @property
    def waits(self) -> tuple[str, float] | None:
        """Why PostgreSQL is waited for, and since when."""

    @property
    def has_parked(self) -> bool: ...


class _Lane(Protocol):
    @property
    def inbox(self) -> _Inbox: ...

    def is_alive(self) -> bool: ...

    def hung(self) -> str | None: ...


class _PauseWatch(Protocol):
    @property
    def paused_for(self) -> str | None: ...


class Owner(Protocol):
    """What is looked at: a consumer."""

    breakers: Breakers | None
    _assignment: Assignment
    _changed: threading.Condition
    _stop: threading.Event
    _paused: set[Place]

    @property
    def _lanes(self) -> Sequence[_Lane]: ...

    @property
    def _pause_watch(self) -> _PauseWatch: ...

    @property
    def parking_full(self) -> list[str]: ...

    @property
    def stuck(self) -> list[str]: ...


class Memory:
    """What a consumer's poll loop writes down; one thread writes, any may read."""

    def __init__(self) -> None:
        self._running = False
        self._fatal: str | None = None
        self._looped_at: float | None = None
        self._next_look = 0.0
        self._no_broker: tuple[str, float] | None = None  # at the start
        self._pulse: Pulse | None = None
        self._brokers = ""
        self._refusals: dict[str | None, str] = {}  # by topic; None: the group itself
        self._lags: dict[Place, int] = {}
        self._moved: dict[Place, tuple[int | None, float]] = {}  # position, and since when it has been there

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around `run`: what ends it is remembered."""
        self._running, self._fatal, self._looped_at, self._no_broker = True, None, None, None
        self._refusals.clear()
        try:
            yield
        except BaseException as error:
            self._fatal = str(error) or type(error).__name__
            raise
        finally:
            self._running = False

    def no_broker(self, group: str, error: Exception) -> None:
        """None answers at the start; it is tried again."""
        self.beat()
        if self._no_broker is None:
            log.warning("group %s waits: %s", group, error)
            self._no_broker = (str(error), time.monotonic())

    def started(self, system: System, topic: str) -> None:
        """A broker has answered, and the consumer of this topic, and maybe of others, has its client."""
        self.beat()
        self._no_broker, self._pulse = None, Pulse(system.settings, topic)
        self._brokers = system.settings.bootstrap_servers

    def closed(self) -> None:
        """The client is gone."""
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None

    def told(self, group: str, topic: str | None, error: KafkaError) -> None:
        """The client says something that does not end it: an authorisation that lacks it says once, and then waits."""
        log.warning("group %s: %s", group, error.str())
        if kafka.is_refusal(error):
            self._refusals[topic] = f"Kafka refuses: {error.str()} ({error.name()})"

    def assigned(self, partitions: Sequence[TopicPartition]) -> None:
        """These are ours, so nobody refuses them, or the group."""
        for topic in (None, *(tp.topic for tp in partitions)):
            self._refusals.pop(topic, None)

    def heard(self, stretches: Sequence[Stretch], ends: Sequence[tuple[Place, int]]) -> None:
        """These came, so their topics may be read."""
        if self._refusals:
            for topic in {*(stretch.place[0] for stretch in stretches), *(place[0] for place, _ in ends)}:
                self._refusals.pop(topic, None)

    def beat(self) -> None:
        """The poll loop is alive, also where it waits for something."""
        self._looped_at = time.monotonic()

    def look(self, client: Any, assignment: Assignment, lock: threading.Condition) -> None:
        """One turn of the poll loop; once a second it is looked where the partitions are, and where they end."""
        self.beat()
        now = time.monotonic()
        if self._pulse is not None:
            self._pulse.look()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        with lock:
            positions = assignment.positions()
        lags: dict[Place, int] = {}
        moved: dict[Place, tuple[int | None, float]] = {}
        for place, position in positions.items():
            known = self._moved.get(place)
            moved[place] = known if known is not None and known[0] == position else (position, now)
            if position is not None:
                found = client.get_watermark_offsets(TopicPartition(*place), cached=True)
                if found is not None and found[1] >= 0:
                    lags[place] = found[1] - position
        self._lags, self._moved = lags, moved

    def standing(self, consumer: Owner) -> Standing:
        """How the consumer stands now."""
        now = time.monotonic()
        with consumer._changed:
            known = [(place, consumer._assignment.look(place)) for place in sorted(consumer._assignment.places)]
            polled = consumer._assignment.polled()
            waiting_keys = consumer._assignment.waiting_keys()
        lags, moved, paused, lanes = self._lags, self._moved, consumer._paused, list(consumer._lanes)
        partitions = []
        for place, look in known:
            lag, since = lags.get(place), moved.get(place, (None, now))[1]
            behind = look.unfinished > 0 or (lag or 0) > 0
            partitions.append(
                PartitionStanding(
                    topic=place[0],
                    partition=place[1],
                    buffered=look.unfinished,
                    buffered_bytes=look.size,
                    in_hand=look.in_hand,
                    span=look.span,
                    paused=place in paused,
                    position=look.position,
                    lag=lag,
                    still_seconds=max(now - since, 0.0) if behind else 0.0,
                )
            )
        waits_for, waits_since = min(self._waits(lanes), key=lambda wait: wait[1], default=(None, now))
        return Standing(
            running=self._running,
            stopping=consumer._stop.is_set(),
            fatal=self._fatal,
            last_loop_seconds=None if self._looped_at is None else max(now - self._looped_at, 0.0),
            waits_for=waits_for,
            waits_seconds=None if waits_for is None else max(now - waits_since, 0.0),
            partitions=partitions,
            polled=polled,
            waiting_keys=waiting_keys,
            lanes=len(lanes),
            lanes_ended=sum(not lane.is_alive() for lane in lanes),
            hung=[sentence for lane in lanes if (sentence := lane.hung()) is not None],
            stuck=consumer.stuck,
            held=[] if consumer.breakers is None else consumer.breakers.open,
            parked=any(lane.inbox.has_parked for lane in lanes),
            parking_full=consumer.parking_full,
            refused=list(self._refusals.values()),
            paused_for=consumer._pause_watch.paused_for,
        )

    def _waits(self, lanes: Sequence[_Lane]) -> list[tuple[str, float]]:
        found = [wait for lane in lanes if (wait := lane.inbox.waits) is not None]
        if self._no_broker is not None:
            found.append(self._no_broker)
        elif self._pulse is not None and (since := self._pulse.silent_since) is not None:
            found.append((f"no Kafka broker answers at {self._brokers}", since))
        return found
