"""acknowledged transactions → decided ones: ask the partitions whether they have the commit markers.

Kafka acknowledges a commit when its coordinator has written down what is to be done; the markers in the partitions, which
show the events to readers of committed records, follow in a moment. When the whole cluster is killed in that moment they
may never follow: measured with Apache Kafka 4.3.1 on one node, after one of five kills within a few milliseconds of the
acknowledgement the coordinator took the transaction for complete and had written no marker. Its events stay behind the
last stable offset, and the next abort of the same producer takes them along. So an acknowledgement does not count as
published; that the last stable offset has passed the events, while no later transaction was aborted, does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from evkit import kafka, kafka_admin
from evkit.kafka import KafkaError, KafkaException, TopicPartition
from evkit.runtime.batch import Batch
from evkit.settings import Settings

log = logging.getLogger(__name__)

Place = tuple[str, int]


class Decisions:
    """Which acknowledged batches are not decided yet; asks without waiting.

    Attributes:
        undecided_since  since when a broker answers that some are not decided, on the monotonic clock; None: none says so
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = kafka.admin(settings)
        self._waiting: dict[int, dict[Place, int]] = {}
        self._asked: dict[TopicPartition, Future[Any]] = {}
        self.undecided_since: float | None = None

    def add(self, batch: Batch) -> None:
        """A batch whose commit was acknowledged, with its answers."""
        topics = {row[0]: row[1].decode() for row in batch.rows}
        ends: dict[Place, int] = {}
        for position, partition, offset, _ in batch.answers:
            place = (topics[position], partition)
            if ends.get(place, -1) <= offset:
                ends[place] = offset + 1
        if ends:
            self._waiting[batch.claim] = ends
        self.look()

    @property
    def all_decided(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def is_decided(self, batch: Batch) -> bool:
        """Whether the partitions have it, by what was last answered."""
        return batch.claim not in self._waiting

    def forget(self) -> None:
        """Whoever leads next finds out what became of them."""
        self._waiting.clear()
        self._asked = {}
        self.undecided_since = None

    def look(self) -> None:
        """Take an answer that has come, and ask again while something waits."""
        if self._asked and all(future.done() for future in self._asked.values()):
            self._take_answers()
        if self._waiting and not self._asked:
            places = {place for ends in self._waiting.values() for place in ends}
            self._asked = kafka_admin.ask_stable_ends(self._admin, sorted(places))

    def _take_answers(self) -> None:
        asked, self._asked = self._asked, {}
        if any(kafka.is_moved(future) for future in asked.values()):
            kafka.refresh_leaders(self._admin)
        stable: dict[Place, int] = {}
        for where, future in asked.items():
            error = future.exception()
            if error is None:
                stable[where.topic, where.partition] = future.result().offset
            elif isinstance(error, KafkaException) and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                stable[where.topic, where.partition] = 2**63 - 1  # deleted with all that was in it
        for claim, ends in list(self._waiting.items()):
            left = {place: end for place, end in ends.items() if stable.get(place, -1) < end}
            if left:
                self._waiting[claim] = left
            else:
                del self._waiting[claim]
        if not self._waiting or not stable:
            self.undecided_since = None
        elif self.undecided_since is None:
            self.undecided_since = time.monotonic()

    def words(self) -> str:
        """Which partitions are waited for, for a log line."""
        places = sorted({place for ends in self._waiting.values() for place in ends})
        return ", ".join(f"{topic}/{partition}" for topic, partition in places[:10])

    def open_partitions(self, topics: Iterable[str], seconds: float) -> list[Place]:
        """Partitions of these topics with something before their present end that is undecided still after so long.

        Raises:
            BrokerUnreachable, BrokerRefused.
        """
        if not (wanted := set(topics)):
            return []
        known = kafka.topics(self._settings, self._admin)
        partitions = [TopicPartition(t, p) for t in sorted(wanted & known.keys()) for p in range(known[t])]
        ends = kafka.offsets(self._settings, partitions, client=self._admin)
        until = time.monotonic() + seconds
        while True:
            left = [TopicPartition(*place) for place in ends]
            stable = kafka_admin.stable_ends(self._settings, left, self._admin) if left else {}
            ends = {place: end for place, end in ends.items() if stable[place] < end}
            if not ends or time.monotonic() > until:
                return sorted(ends)
            time.sleep(0.05)
