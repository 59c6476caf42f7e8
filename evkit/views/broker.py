"""The questions that views ask of Kafka: of the brokers, or of a freeze, which has their answers (freeze/recorded.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, Protocol, cast

from evkit import kafka, kafka_admin, offsets_log
from evkit.kafka import Message, TopicPartition
from evkit.kafka_admin import Member, TopicFacts
from evkit.offsets_log import Part
from evkit.system import System
from evkit.views.end_offsets import End, end_offsets
from evkit.views.offsets import Place, offsets_of
from evkit.views.unread import oldest_unread

Spec = Literal["earliest", "stable", "latest"]


class RecordReader(Protocol):
    """What of a client's consumer reads records without joining a group."""

    def assign(self, partitions: list[TopicPartition]) -> None: ...

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None: ...

    def consume(self, num_messages: int, timeout: float) -> list[Message]: ...

    def close(self) -> None: ...


class Broker(Protocol):
    """What can be asked; the errors are those of the functions that `LiveBroker` calls."""

    def groups(self) -> dict[str, str]:
        """State by group."""

    def topics(self) -> dict[str, int]:
        """Number of partitions by topic."""

    def assigned(self, groups: Iterable[str]) -> dict[str, dict[Place, Member]]:
        """Who holds each partition, by group."""

    def cluster_id(self) -> str:
        """The cluster's own id."""

    def committed(self, groups: Iterable[str]) -> dict[str, dict[Place, int]]:
        """Committed offsets by group, of groups that have answered."""

    def offsets(self, places: Iterable[Place], spec: Spec) -> dict[Place, int]:
        """Where partitions begin, are stable up to, or end."""

    def topic_facts(self, names: Iterable[str]) -> dict[str, TopicFacts]:
        """Facts by topic."""

    def oldest_unread(
        self, unread: Mapping[tuple[str, Place], int], ends: Mapping[Place, int], isolation: str
    ) -> dict[tuple[str, Place], datetime | str]:
        """When the first record at each offset was stamped; see `unread.oldest_unread`."""

    def offsets_log(self, group: str | None) -> list[Part]:
        """Parts of `__consumer_offsets`."""

    def ends(self, places: Iterable[Place], instants: Iterable[datetime]) -> dict[Place, list[End]]:
        """Where partitions ended at these moments."""

    def start_offsets(self, places: Iterable[Place]) -> dict[Place, int]:
        """First offset of each partition; unlike `offsets`, one that cannot be told is an error."""

    def end_offsets(self, places: Iterable[Place]) -> dict[Place, int]:
        """Next offset the broker will assign in each partition; errors as `start_offsets`."""

    def stable_ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """Where each partition ends for who reads committed records; errors as `start_offsets`."""

    def offsets_at(self, places: Iterable[Place], at: datetime) -> dict[Place, int]:
        """First offset stamped `at` or later, -1 where there is none; errors as `start_offsets`."""

    def committed_in(self, group: str, places: Iterable[Place]) -> dict[Place, int]:
        """Committed offsets of one group in these partitions."""

    def reader(self, name: str, **properties: Any) -> RecordReader:
        """Who reads committed records by assign(), and joins no group; to be closed."""

    def require_seen(self, headers: Iterable[str], *, payload: bool) -> None:
        """Raise NotInFreeze unless these headers of records, and their payloads, can be shown."""


def broker(system: System) -> Broker:
    """Whom the views of a system ask."""
    return LiveBroker(system) if system.recorded is None else cast(Broker, system.recorded)


class LiveBroker:
    """The brokers of a system, asked now."""

    def __init__(self, system: System) -> None:
        self._system = system

    def groups(self) -> dict[str, str]:
        return kafka.groups(self._system.settings, self._system.admin)

    def topics(self) -> dict[str, int]:
        return kafka.topics(self._system.settings, self._system.admin)

    def assigned(self, groups: Iterable[str]) -> dict[str, dict[Place, Member]]:
        return kafka_admin.assigned(self._system.settings, groups, self._system.admin)

    def cluster_id(self) -> str:
        return kafka.cluster_id(self._system.settings, self._system.admin)

    def committed(self, groups: Iterable[str]) -> dict[str, dict[Place, int]]:
        found, refused = kafka_admin.committed_of_groups(self._system.settings, groups, self._system.admin)
        for error in refused.values():
            raise error
        return found

    def offsets(self, places: Iterable[Place], spec: Spec) -> dict[Place, int]:
        asked = {"earliest": kafka.EARLIEST, "stable": None, "latest": kafka.LATEST}[spec]
        return {place: found.offset for place, found in offsets_of(self._system, places, asked).items()}

    def topic_facts(self, names: Iterable[str]) -> dict[str, TopicFacts]:
        return kafka_admin.topic_facts(self._system.settings, names, self._system.admin)

    def oldest_unread(
        self, unread: Mapping[tuple[str, Place], int], ends: Mapping[Place, int], isolation: str
    ) -> dict[tuple[str, Place], datetime | str]:
        return oldest_unread(self._system, unread, ends, isolation=isolation)

    def offsets_log(self, group: str | None) -> list[Part]:
        return offsets_log.read(self._system.settings, self._system.admin, group)

    def ends(self, places: Iterable[Place], instants: Iterable[datetime]) -> dict[Place, list[End]]:
        return end_offsets(self._system, places, instants)

    def start_offsets(self, places: Iterable[Place]) -> dict[Place, int]:
        return kafka.start_offsets(self._system.settings, _partitions(places), self._system.admin)

    def end_offsets(self, places: Iterable[Place]) -> dict[Place, int]:
        return kafka.offsets(self._system.settings, _partitions(places), client=self._system.admin)

    def stable_ends(self, places: Iterable[Place]) -> dict[Place, int]:
        return kafka_admin.stable_ends(self._system.settings, _partitions(places), self._system.admin)

    def offsets_at(self, places: Iterable[Place], at: datetime) -> dict[Place, int]:
        return kafka.offsets_at(self._system.settings, _partitions(places), at, self._system.admin)

    def committed_in(self, group: str, places: Iterable[Place]) -> dict[Place, int]:
        return kafka.committed(self._system.settings, group, _partitions(places))

    def reader(self, name: str, **properties: Any) -> RecordReader:
        return cast(RecordReader, kafka.consumer(self._system.settings, name, **properties))

    def require_seen(self, headers: Iterable[str], *, payload: bool) -> None:
        """A broker has all of them."""


def _partitions(places: Iterable[Place]) -> list[TopicPartition]:
    return [TopicPartition(*place) for place in places]
