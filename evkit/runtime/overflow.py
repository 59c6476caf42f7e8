"""parked table at its cap → partition: fetch nothing more of it until there is room again.

An event that may not be parked stays in Kafka: its key waits in memory and is tried again (parking.FULL_SECONDS). No offset
of its partition is stored beyond it, so whatever else came would fill the buffer; the partition pauses instead. What is
here of its other keys is handled, and other partitions go on. It resumes when the event is parked or handled after all,
because somebody has redriven or released what is before it.

Nothing of this is kept: a process that starts anew meets the cap with the first event that it fetches of the key.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from evkit.runtime.assignment import Place, Work
from evkit.runtime.outcome import Outcome

log = logging.getLogger(__name__)


class Overflow:
    """Keys of one consumer that wait for room behind dead letters. Not for several threads at once: its owner holds a lock.

    Attributes:
        places  partitions that are to pause; anybody may read it
    """

    def __init__(self, group: str) -> None:
        self._group = group
        self._waiting: dict[tuple[Any, Hashable], str] = {}  # turn of a partition, key → why
        self.places: frozenset[Place] = frozenset()

    def note(self, batch: Sequence[Work], outcome: Outcome) -> None:
        """What became of a batch."""
        if not outcome.full and not self._waiting:
            return
        untouched = set(outcome.untouched)
        for index, work in enumerate(batch):
            place = work.partition, work.key
            if index in outcome.full:
                self._waiting[place] = outcome.full[index]
            elif index not in untouched:
                self._waiting.pop(place, None)
        self._settle()

    def forget(self, places: Iterable[Place]) -> None:
        """These are not ours any more."""
        gone = set(places)
        self._waiting = {key: why for key, why in self._waiting.items() if key[0].place not in gone}
        self._settle()

    def sentences(self) -> list[str]:
        """Why partitions are paused, for people; one for each."""
        found = {partition.place: why for (partition, _), why in self._waiting.items()}
        return [f"{topic}/{partition} is paused: {why}" for (topic, partition), why in sorted(found.items())]

    def _settle(self) -> None:
        self._waiting = {key: why for key, why in self._waiting.items() if key[0].is_ours}
        places = frozenset(partition.place for partition, _ in self._waiting)
        for topic, partition in sorted(places - self.places):
            log.error(
                "group %s fetches nothing more of %s/%s: no room behind dead letters", self._group, topic, partition
            )
        for topic, partition in sorted(self.places - places):
            log.warning("group %s goes on with %s/%s", self._group, topic, partition)
        self.places = places
