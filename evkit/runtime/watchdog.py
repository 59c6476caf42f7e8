"""assigned partition → alarm: notice one that has records, is not paused and does not move, and push it.

librdkafka can leave a partition without fetching it, silently: after a pause around a rebalance (its issue 5591, open in
2026), or from the start, when the group's coordinator moves at the moment in which it is asked for the committed offset
(5586, open in 2026). No record, and a lag that grows. Whoever waits for an error waits for ever, so the end offsets are
asked for from time to time, without waiting for the answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from evkit import kafka, kafka_admin
from evkit.kafka import TopicPartition
from evkit.runtime.assignment import Place

log = logging.getLogger(__name__)

# How often the broker is asked where the partitions end: one small request.
LOOK_SECONDS = 5.0
# A partition that has records and gave none for so long is pushed, and pushed again after as long.
STUCK_SECONDS = 30.0
# One that was assigned and of which nothing was ever read: the committed offset that it waits for comes at once or never.
BEGIN_SECONDS = 10.0


class Watchdog:
    """Watches the partitions of one client; for its poll loop.

    Attributes:
        stuck  partition → (position, end offset, monotonic time since when it has not moved, how often it was pushed)
    """

    def __init__(self, group: str, admin: kafka.AdminClient) -> None:
        self._group = group
        self._admin = admin
        self._asked: dict[TopicPartition, Future[Any]] = {}
        self._next_look = time.monotonic() + LOOK_SECONDS
        self._still: dict[Place, tuple[int, float, int]] = {}
        self.stuck: dict[Place, tuple[int, int, float, int]] = {}

    def look(self, client: Any, idle: Iterable[Place], ended_at: Callable[[Place], int]) -> None:
        """One turn.

        Args:
            idle      partitions that are ours, not paused by us, and of which nothing is here that is not done
            ended_at  where a partition ended when its end was last reached, -1 when it was not
        """
        if self._asked and all(future.done() for future in self._asked.values()):
            asked, self._asked = self._asked, {}
            self._judge(client, asked, set(idle), ended_at)
        elif not self._asked and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._asked = kafka_admin.ask_stable_ends(self._admin, idle)

    def sentences(self) -> list[str]:
        """What is stuck, for people."""
        return [
            f"{topic}/{partition} has not moved from offset {position} for {time.monotonic() - since:.0f} s, although it "
            f"ends at {end}"
            for (topic, partition), (position, end, since, _) in sorted(dict(self.stuck).items())
        ]

    def _judge(
        self,
        client: Any,
        asked: dict[TopicPartition, Future[Any]],
        idle: set[Place],
        ended_at: Callable[[Place], int],
    ) -> None:
        now = time.monotonic()
        still: dict[Place, tuple[int, float, int]] = {}
        stuck: dict[Place, tuple[int, int, float, int]] = {}
        if any(kafka.is_moved(future) for future in asked.values()):
            kafka.refresh_leaders(self._admin)
        for partition, future in asked.items():
            place = (partition.topic, partition.partition)
            if place not in idle or future.exception() is not None:
                continue
            end = future.result().offset
            (at,) = client.position([TopicPartition(*place)])
            position = max(at.offset, ended_at(place), -1)
            if position >= end:
                continue
            before, since, pushed = self._still.get(place, (position, now, 0))
            if before != position:
                since, pushed = now, 0
            patience = BEGIN_SECONDS if position < 0 else STUCK_SECONDS
            if now - since >= patience * (pushed + 1):
                pushed += 1
                log.error(
                    "group %s: %s/%s has not moved from offset %s for %.0f s, although it ends at %s; it is pushed",
                    self._group, *place, position, now - since, end,
                )  # fmt: skip
                _push(client, place, at.offset)
            still[place] = (position, since, pushed)
            if pushed:
                stuck[place] = (position, end, since, pushed)
        for place in self.stuck.keys() - stuck.keys():
            log.warning("group %s: %s/%s moves again, or is not ours any more", self._group, *place)
        self._still, self.stuck = still, stuck


def _push(client: Any, place: Place, position: int) -> None:
    """Fetch on, from where it stands; one that has never begun is given up and taken again, with a new question for its
    committed offset (a seek is refused as long as that is not known)."""
    partition = [TopicPartition(*place)]
    try:
        client.resume(partition)
        if position >= 0:
            client.seek(TopicPartition(*place, position))
        else:
            client.incremental_unassign(partition)
            client.incremental_assign(partition)
    except kafka.KafkaException as error:  # not ours any more
        log.info("%s/%s cannot be pushed: %s", *place, error)
