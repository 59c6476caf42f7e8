"""Kafka → files: what it answers to the questions of the views, asked by the view of lag itself, and what it remembers.

The order matters. The end of the offsets log is taken first: a group that is at work must not look as if it had committed
beyond it. Then lag looks, and its answers are kept. Then comes the moment of the freeze, and the database. Records are
read last, those of the log and of the topics, up to the ends that were taken before.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evkit import kafka, offsets_log
from evkit.errors import BrokerRefused, BrokerUnreachable
from evkit.freeze import parquet, records
from evkit.freeze.ends import Steps, steps_of
from evkit.freeze.manifest import File, Missing
from evkit.kafka_admin import Member, TopicFacts
from evkit.offsets_log import Bounds, Part
from evkit.system import System
from evkit.views.broker import LiveBroker, Spec
from evkit.views.end_offsets import End, stamped_ahead
from evkit.views.lag import lag
from evkit.views.offsets import Place
from evkit.views.scan.reader import sizes
from evkit.window import Window

# For the plan: what a record takes in the folder without its value, measured of events with keys and ids of 36 characters.
_BYTES_WITHOUT_PAYLOAD = 45
_COMPRESSED = 0.5
# So many topics are looked into, those with most records, for the size of theirs.
_SAMPLED_TOPICS_MAX, _SAMPLED_RECORDS, _SAMPLED_SECONDS = 20, 50, 1.0
_SPECS: set[Spec] = {"earliest", "stable", "latest"}
_KAFKA = "Kafka"
_LOG = "__consumer_offsets"


@dataclass(slots=True)
class Remembered:
    """The brokers, asked now; what they answer is remembered. It is a `views.broker.Broker` as far as lag asks one."""

    live: LiveBroker
    states: dict[str, str] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    members: dict[str, dict[Place, Member]] = field(default_factory=dict)
    commits: dict[str, dict[Place, int]] = field(default_factory=dict)
    places: dict[Spec, dict[Place, int]] = field(default_factory=dict)
    facts: dict[str, TopicFacts] = field(default_factory=dict)
    unread: dict[tuple[str, Place, int], datetime | str] = field(default_factory=dict)

    def groups(self) -> dict[str, str]:
        self.states = self.live.groups()
        return self.states

    def topics(self) -> dict[str, int]:
        self.known = self.live.topics()
        return self.known

    def assigned(self, groups: Iterable[str]) -> dict[str, dict[Place, Member]]:
        self.members = self.live.assigned(groups)
        return self.members

    def cluster_id(self) -> str:
        return self.live.cluster_id()

    def committed(self, groups: Iterable[str]) -> dict[str, dict[Place, int]]:
        self.commits = self.live.committed(groups)
        return self.commits

    def offsets(self, places: Iterable[Place], spec: Spec) -> dict[Place, int]:
        # Of every topic, also of those that no group has read yet.
        every = {*places} | {(topic, p) for topic, n in self.known.items() for p in range(n)}
        self.places[spec] = self.live.offsets(sorted(every), spec)
        return self.places[spec]

    def topic_facts(self, names: Iterable[str]) -> dict[str, TopicFacts]:
        self.facts = self.live.topic_facts({*names, *self.known})
        return self.facts

    def oldest_unread(
        self, unread: Mapping[tuple[str, Place], int], ends: Mapping[Place, int], isolation: str
    ) -> dict[tuple[str, Place], datetime | str]:
        found = self.live.oldest_unread(unread, ends, isolation)
        self.unread |= {(isolation, of[1], unread[of]): told for of, told in found.items()}
        return found

    def offsets_log(self, group: str | None) -> list[Part]:
        return self.live.offsets_log(group)

    def ends(self, places: Iterable[Place], instants: Iterable[datetime]) -> dict[Place, list[End]]:
        return self.live.ends(places, instants)


def estimated(system: System, window: Window, *, payloads: bool) -> dict[str, tuple[int, int]]:
    """Records that a freeze of the window would read, and about how many bytes of them it would keep.

    Raises:
        BrokerUnreachable, BrokerRefused.
    """
    settings, client = system.settings, system.admin
    partitions = kafka.partitions_of(settings, kafka.topics(settings, client), client)
    ends = kafka.offsets(settings, partitions, client=client)
    begins = kafka.offsets_at(settings, partitions, window.start - records.LOOKBACK, client)
    of_topic: Counter[str] = Counter()
    for place, end in ends.items():
        of_topic[place[0]] += end - begins[place] if begins[place] >= 0 else 0
    total = of_topic.total()
    size = total * _BYTES_WITHOUT_PAYLOAD
    if payloads:
        most = of_topic.most_common(_SAMPLED_TOPICS_MAX)
        means = {topic: _mean_size(system, topic, begins, ends) for topic, n in most if n}
        others = sum(means.values()) / len(means) if means else 0.0
        size += round(sum(n * means.get(topic, others) for topic, n in of_topic.items()) * _COMPRESSED)
    found = {f"records of topics{'' if payloads else ' (no payloads)'}": (total, size)}
    if (bounds := offsets_log.bounds(settings, client)) is not None:
        commits = sum(end - start for start, end, _ in bounds.partitions.values())
        found["Kafka's log of offsets"] = (commits, commits * 30)
    return found


def _mean_size(system: System, topic: str, begins: Mapping[Place, int], ends: Mapping[Place, int]) -> float:
    """Of some records at the begin of the range."""
    some = {
        p: (begin, min(begin + _SAMPLED_RECORDS, ends[of, p]))
        for (of, p), begin in begins.items()
        if of == topic and begin >= 0
    }
    sampled = [size for of in sizes(system, topic, some, seconds_max=_SAMPLED_SECONDS).values() for size in of]
    return sum(sampled) / len(sampled) if sampled else 0.0


class Answers:
    """What is asked of Kafka for a freeze, in two steps; what cannot be had is in `missing`.

    Attributes:
        missing     what there is not, and why
        cluster_id  of the cluster
    """

    def __init__(self, system: System, progress: Callable[[str, int, int], None]) -> None:
        """First step, of this moment: groups, members, offsets, lag."""
        self.missing: list[Missing] = []
        self.cluster_id: str | None = None
        self._system, self._progress = system, progress
        self._told = Remembered(LiveBroker(system))
        self._bounds: Bounds | None = None
        self._is_there = False
        with self._missing_otherwise(_KAFKA):
            kafka.require_broker(system.settings, system.admin)
            self.cluster_id = kafka.cluster_id(system.settings)
            with self._missing_otherwise(_LOG):
                self._bounds = offsets_log.bounds(system.settings, system.admin)
            asking = copy.copy(system)
            asking.recorded = self._told
            lag(asking)
            for spec in _SPECS - self._told.places.keys():
                self._told.offsets((), spec)  # there is no group, and so lag did not ask
            self._is_there = True

    @property
    def groups(self) -> list[str]:
        return sorted(self._told.states)

    @property
    def topics(self) -> list[str]:
        return sorted(self._told.known)

    @contextmanager
    def _missing_otherwise(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BrokerUnreachable, BrokerRefused) as error:
            self.missing.append(Missing(what=what, why=str(error)))

    def write(self, folder: Path, window: Window, at: datetime, *, payloads: bool) -> dict[str, File]:
        """Second step: read the log and the topics up to the ends of the first, and write everything down."""
        if not self._is_there:
            return {}
        told, since = self._told, window.start - records.LOOKBACK
        files = {
            "groups": told.states.items(),
            "members": (
                (group, *place, m.member_id, m.client_id, m.host, m.partitions)
                for group, of_group in told.members.items()
                for place, m in of_group.items()
            ),
            "asked": ((group,) for group in told.members),
            "committed": ((g, *place, offset) for g, of in told.commits.items() for place, offset in of.items()),
            "topics": (self._topic(name, n) for name, n in told.known.items()),
            "offsets": ((spec, *place, offset) for spec, of in told.places.items() for place, offset in of.items()),
            "unread": (
                (isolation, *place, offset, at if isinstance(at, datetime) else None)
                for (isolation, place, offset), at in told.unread.items()
            ),
        }  # fmt: skip
        written = {name: parquet.write(folder, name, rows) for name, rows in files.items()}
        with self._missing_otherwise(_LOG):
            written |= self._log(folder)
        with self._missing_otherwise("ends of topics over time"):
            written |= self._ends(folder, since, at)
        with self._missing_otherwise("records of topics"):
            written |= self._records(folder, since, payloads=payloads)
        return written

    def _topic(self, name: str, partitions: int) -> tuple[Any, ...]:
        of = self._told.facts.get(name)
        facts = (None, None, None) if of is None else (of.topic_id, of.timestamp_type, of.compacted)
        return (name, partitions, *facts, of is not None)

    def _log(self, folder: Path) -> dict[str, File]:
        """The offsets log, record by record, as it is."""
        if self._bounds is None:
            if any(m.what == _LOG for m in self.missing):
                return {}
            self._bounds = Bounds(datetime.now(UTC), {})  # the cluster has no such topic yet
        total = sum(end - start for start, end, _ in self._bounds.partitions.values())

        def rows() -> Iterator[tuple[Any, ...]]:
            assert self._bounds is not None
            if not self._bounds.partitions:
                return
            records = offsets_log.records(self._system.settings, self._system.admin, self._bounds)
            for n, record in enumerate(records):
                if n % 10_000 == 0:
                    self._progress("Kafka's log of offsets", n, total)
                yield record.partition, record.offset, record.timestamp, record.key, record.value

        log = parquet.write(folder, "log", rows())
        bounds = (
            (p, start, stable, end, self._bounds.read_at) for p, (start, stable, end) in self._bounds.partitions.items()
        )
        return {"log": log, "log_bounds": parquet.write(folder, "log_bounds", bounds)}

    def _ends(self, folder: Path, since: datetime, at: datetime) -> dict[str, File]:
        starts, ends = self._told.places["earliest"], self._told.places["latest"]
        asked = {place: ends[place] for place in sorted(ends) if place in starts}
        found: dict[Place, Steps] = {}
        missing: dict[Place, str] = {}
        ahead: dict[Place, tuple[int, datetime]] = {}
        if asked:
            found, missing = steps_of(self._system, asked, since, at, self._progress)
            ahead = stamped_ahead(self._system, asked)
        self._not_of_topics("ends of topic {} over time", missing)
        steps = ((*place, *step) for place, of in found.items() for step in of.steps)
        of = ((*p, starts[p], ends[p], *ahead.get(p, (None, None)), missing.get(p)) for p in asked)
        return {"ends": parquet.write(folder, "ends", steps), "ends_of": parquet.write(folder, "ends_of", of)}

    def _records(self, folder: Path, since: datetime, *, payloads: bool) -> dict[str, File]:
        """The records up to where the topics were stable, with what the groups had not read of them."""
        told = self._told.places
        unread_from: dict[Place, int] = {}
        for of in self._told.commits.values():
            for place, offset in of.items():
                unread_from[place] = min(offset, unread_from.get(place, offset))
        found = records.chosen(self._system, told["earliest"], told["stable"], unread_from, since)
        hidden = frozenset(p.header for p in self._system.settings.masking if p.header is not None)
        copied = records.rows(self._system, found, payloads=payloads, hidden=hidden, progress=self._progress)
        files = {"records": parquet.write(folder, "records", copied)}
        self._not_of_topics("records of topic {}", found.missing)
        of_places = ((*p, *found.ranges.get(p, (0, 0)), found.missing.get(p)) for p in sorted(told["stable"]))
        return files | {"records_of": parquet.write(folder, "records_of", of_places)}

    def _not_of_topics(self, what: str, missing: Mapping[Place, str]) -> None:
        for topic in sorted({place[0] for place in missing}):
            why = next(reason for place, reason in missing.items() if place[0] == topic)
            self.missing.append(Missing(what=what.format(topic), why=why))
