"""group → partitions: take what is assigned, and finish what is in hand of what is taken away before it goes.

When partitions are revoked, nothing more of them begins, what is in hand is finished, the offsets are committed, and then
they go. When they are lost (the group has moved on without us), nothing is committed, and what comes back late is dropped.
A consumer that stops does the same with all that it has, and goes on polling until then.
Killed anywhere in here, the next member gets again what was not committed, and its inbox knows what was done of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from evkit import kafka
from evkit.kafka import TopicPartition
from evkit.runtime import polled
from evkit.runtime.assignment import Assignment, Place
from evkit.runtime.consumer_metrics import ConsumerMetrics
from evkit.runtime.joined import joined
from evkit.runtime.lane import Lane
from evkit.runtime.overflow import Overflow
from evkit.runtime.standing import Memory
from evkit.settings import Settings

log = logging.getLogger(__name__)

# How long partitions that are being taken away may hold up a rebalance until what is in hand is done.
DRAIN_SECONDS_MAX = 30.0


class Owner(Protocol):
    """What it needs of its consumer."""

    group: str
    topics: list[str]
    metrics: ConsumerMetrics
    assigned: threading.Event
    _assignment: Assignment
    _changed: threading.Condition
    _error: BaseException | None
    _lanes: list[Lane]
    _memory: Memory
    _overflow: Overflow
    _paused: set[Place]

    def _store(self, client: Any) -> None:
        """Store the offsets up to which everything is done."""


class Membership:
    """A consumer's place in its group; for its poll loop, which calls all of this."""

    def __init__(self, consumer: Owner) -> None:
        self._consumer = consumer
        self._epoch = 0

    def begin(self, settings: Settings, protocol: str) -> Any:
        """A client that is about to be a member."""
        return joined(settings, self._consumer.group, self._consumer.topics, protocol, **self.told)

    @property
    def told(self) -> dict[str, Any]:
        """What the client calls, by the names that `subscribe` has for them."""
        return {"on_assign": self.on_assign, "on_revoke": self.on_revoke, "on_lost": self.on_lost}

    def on_assign(self, _client: Any, partitions: Sequence[TopicPartition]) -> None:
        """These are ours."""
        consumer = self._consumer
        log.info("group %s is assigned %s", consumer.group, polled.names(partitions))
        consumer.metrics.rebalances.add(1, "assigned")
        consumer._memory.assigned(partitions)
        with consumer._changed:
            self._epoch += 1
            consumer._assignment.assign([(tp.topic, tp.partition) for tp in partitions], self._epoch)
        consumer.assigned.set()

    def on_revoke(self, client: Any, partitions: Sequence[TopicPartition]) -> None:
        """Begin nothing more of them, finish what is in hand, store and commit, and only then let them go."""
        consumer = self._consumer
        places, names = [(tp.topic, tp.partition) for tp in partitions], polled.names(partitions)
        until = time.monotonic() + DRAIN_SECONDS_MAX
        with consumer._changed:
            consumer._assignment.wind_up(places)
            # A lane that has ended inside a batch does not finish it: at the end of all, nothing is waited for.
            while (
                consumer._assignment.in_hand(places)
                and any(lane.is_alive() for lane in consumer._lanes)
                and consumer._error is None
                and time.monotonic() < until
            ):
                consumer._changed.wait(0.1)
                consumer._memory.beat()
            if consumer._assignment.in_hand(places):
                log.warning("group %s gives up %s with events in hand; they come again", consumer.group, names)
        consumer._store(client)
        try:
            client.commit(asynchronous=False)
        except kafka.KafkaException as error:
            if error.args[0].code() != kafka.KafkaError._NO_OFFSET:
                log.warning("group %s: offsets not committed before a rebalance: %s", consumer.group, error)
        self._forget(places)
        consumer.metrics.rebalances.add(1, "revoked")
        log.info("group %s gave up %s", consumer.group, names)

    def on_lost(self, _client: Any, partitions: Sequence[TopicPartition]) -> None:
        """The group went on without us: commit nothing, forget what is in hand."""
        consumer = self._consumer
        self._forget([(tp.topic, tp.partition) for tp in partitions])
        consumer.metrics.rebalances.add(1, "lost")
        log.warning("group %s lost %s: another member has them", consumer.group, polled.names(partitions))

    def leave(self, client: Any, is_at_work: Callable[[], bool]) -> None:
        """Stay until what is in hand is done, but no longer than DRAIN_SECONDS_MAX; then go, with what is stored committed.

        It polls meanwhile: who does not for `max.poll.interval.ms` is put out of the group, and could commit nothing of it.
        """
        consumer, until = self._consumer, time.monotonic() + DRAIN_SECONDS_MAX
        while is_at_work() and time.monotonic() < until:
            try:
                client.pause(client.assignment())
            except kafka.KafkaException as error:  # taken away just now
                log.info("group %s: %s", consumer.group, error)
            client.poll(0.05)  # what comes in spite of that is nobody's: its offset is never stored
            consumer._store(client)
            consumer._memory.beat()
        consumer._store(client)
        with consumer._changed:
            places = consumer._assignment.places
            in_hand = consumer._assignment.in_hand(places)
        if in_hand and is_at_work():
            log.warning("group %s leaves with %s events in hand; they come again", consumer.group, in_hand)
            self._forget(places)
        client.close()

    def _forget(self, places: list[Place]) -> None:
        consumer = self._consumer
        with consumer._changed:
            consumer._assignment.give_up(places)
            consumer._overflow.forget(places)
            consumer._changed.notify_all()
        consumer._paused -= set(places)
