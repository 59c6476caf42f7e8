"""Files → what Kafka answered at the moment of a freeze: the other side of `views.broker`."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from evkit import offsets_log
from evkit.decoding import NAMING_HEADERS
from evkit.errors import NotInFreeze
from evkit.freeze import parquet
from evkit.freeze.manifest import Manifest, path_of
from evkit.freeze.playback import Playback
from evkit.kafka import Record
from evkit.kafka_admin import Member, TopicFacts
from evkit.offsets_log import OFFSETS_TOPIC, Bounds, Part
from evkit.views.broker import Spec
from evkit.views.end_offsets import End, end_of, millis
from evkit.views.offsets import Place

_RECORDS = "records of topics"
_MICROSECOND = timedelta(microseconds=1)


class Recorded:
    """The answers of a freeze. It is a `views.broker.Broker`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest

    def groups(self) -> dict[str, str]:
        return {row["group"]: row["state"] for row in self._rows("groups")}

    def topics(self) -> dict[str, int]:
        return {row["topic"]: row["partitions"] for row in self._rows("topics")}

    def assigned(self, groups: Iterable[str]) -> dict[str, dict[Place, Member]]:
        wanted = set(groups)
        found: dict[str, dict[Place, Member]] = {
            row["group"]: {} for row in self._rows("asked") if row["group"] in wanted
        }
        for row in self._rows("members"):
            if row["group"] in found:
                member = Member(row["member_id"], row["client_id"], row["host"], row["partitions"])
                found[row["group"]][row["topic"], row["partition"]] = member
        return {name: found[name] for name in sorted(found)}

    @cached_property
    def _committed(self) -> dict[str, dict[Place, int]]:
        found: dict[str, dict[Place, int]] = defaultdict(dict)
        for row in self._rows("committed"):
            found[row["group"]][row["topic"], row["partition"]] = row["offset"]
        return found

    def cluster_id(self) -> str:
        if self._manifest.cluster_id is None:
            raise NotInFreeze(f"the id of the cluster ({self._manifest.why_missing('Kafka')})")
        return self._manifest.cluster_id

    def committed(self, groups: Iterable[str]) -> dict[str, dict[Place, int]]:
        return {group: self._committed.get(group, {}) for group in groups}

    def offsets(self, places: Iterable[Place], spec: Spec) -> dict[Place, int]:
        wanted = set(places)
        rows = ((r["topic"], r["partition"], r["offset"]) for r in self._rows("offsets") if r["spec"] == spec)
        return {(topic, p): offset for topic, p, offset in rows if (topic, p) in wanted}

    def topic_facts(self, names: Iterable[str]) -> dict[str, TopicFacts]:
        wanted = set(names)
        return {
            row["topic"]: TopicFacts(row["topic_id"], row["timestamp_type"], row["compacted"])
            for row in self._rows("topics")
            if row["topic"] in wanted and row["has_facts"]
        }

    def oldest_unread(
        self,
        unread: Mapping[tuple[str, Place], int],
        ends: Mapping[Place, int],
        isolation: str,
    ) -> dict[tuple[str, Place], datetime | str]:
        del ends  # they were those of then
        told = {
            (row["topic"], row["partition"], row["offset"]): row["stamped_at"] or "empty"
            for row in self._rows("unread")
            if row["isolation"] == isolation
        }
        return {of: told[(*of[1], at)] for of, at in unread.items() if (*of[1], at) in told}

    def offsets_log(self, group: str | None) -> list[Part]:
        bounds = {
            row["partition"]: (row["start_offset"], row["stable_offset"], row["end_offset"], row["read_at"])
            for row in self._rows("log_bounds", OFFSETS_TOPIC)
        }
        if not bounds:
            return []
        wanted = sorted(bounds) if group is None else [offsets_log.partition_of(group, len(bounds))]
        found = Bounds(bounds[wanted[0]][3], {p: bounds[p][:3] for p in wanted})
        where = None if group is None else [("partition", "=", wanted[0])]
        records = (
            Record(OFFSETS_TOPIC, r["partition"], r["offset"], r["key"], r["value"], [], r["stamped_at"], "append", None,
                   found.read_at)
            for r in self._rows("log", OFFSETS_TOPIC, where)
        )  # fmt: skip
        return offsets_log.parts(found, records, group)

    def ends(self, places: Iterable[Place], instants: Iterable[datetime]) -> dict[Place, list[End]]:
        instants, known = list(instants), self.topics()
        return {p: [self._end(p, at) for at in instants] for p in sorted(places) if p[1] < known.get(p[0], 0)}

    def _end(self, place: Place, at: datetime) -> End:
        of = self._end_of(place)
        offsets, stamps = self._steps[place]
        next_one = bisect_right(stamps, millis(at))
        answer = offsets[next_one] if next_one < len(offsets) else -1
        ahead = None if of["ahead_offset"] is None else (of["ahead_offset"], of["ahead_at"])
        return end_of(answer, of["start_offset"], of["end_offset"], at, ahead)

    def _end_of(self, place: Place) -> dict[str, Any]:
        of = self._ends_of.get(place)
        if of is None or of["why_missing"] is not None:
            why = of["why_missing"] if of else "the cluster had no such partition"
            raise NotInFreeze(f"where {place[0]} [{place[1]}] ended over time ({why})")
        return of

    def start_offsets(self, places: Iterable[Place]) -> dict[Place, int]:
        return self._told(places, "earliest")

    def end_offsets(self, places: Iterable[Place]) -> dict[Place, int]:
        return self._told(places, "latest")

    def stable_ends(self, places: Iterable[Place]) -> dict[Place, int]:
        return self._told(places, "stable")

    def _told(self, places: Iterable[Place], spec: Spec) -> dict[Place, int]:
        places = list(places)
        found = self.offsets(places, spec)
        if untold := [place for place in places if place not in found]:
            raise NotInFreeze(f"where {untold[0][0]} [{untold[0][1]}] was (the broker did not answer for it)")
        return found

    def offsets_at(self, places: Iterable[Place], at: datetime) -> dict[Place, int]:
        self._require(_RECORDS, "records")
        since = self._manifest.records_since
        if since is None or at < since:
            raise NotInFreeze(f"which records there were at {at.isoformat()} (it has those since {since})")
        found = {}
        for place in places:
            of = self._end_of(place)
            offsets, stamps = self._steps[place]
            # A timestamp is whole milliseconds, and the first one at `at` or later is after the last one before it.
            at_or_later = bisect_right(stamps, millis(at - _MICROSECOND))
            found[place] = max(offsets[at_or_later], of["start_offset"]) if at_or_later < len(offsets) else -1
        return found

    def committed_in(self, group: str, places: Iterable[Place]) -> dict[Place, int]:
        wanted = set(places)
        return {place: offset for place, offset in self._committed.get(group, {}).items() if place in wanted}

    def reader(self, name: str, **properties: Any) -> Playback:
        del name, properties
        kept = {(row["topic"], row["partition"]): row for row in self._rows("records_of", _RECORDS)}
        return Playback(path_of(self._folder, "kafka", "records"), kept)

    def require_seen(self, headers: Iterable[str], *, payload: bool) -> None:
        if not self._manifest.payloads and (payload or set(headers) - NAMING_HEADERS):
            raise NotInFreeze("payloads and headers of events (it was made without --payloads)")

    @cached_property
    def _ends_of(self) -> dict[Place, dict[str, Any]]:
        return {(row["topic"], row["partition"]): row for row in self._rows("ends_of", "ends of topics over time")}

    @cached_property
    def _steps(self) -> dict[Place, tuple[list[int], list[int]]]:
        found: dict[Place, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for row in self._rows("ends", "ends of topics over time"):
            offsets, stamps = found[row["topic"], row["partition"]]
            offsets.append(row["offset"])
            stamps.append(row["stamped_millis"])
        return found

    def _rows(self, name: str, what: str = "Kafka", where: Any = None) -> Iterable[dict[str, Any]]:
        self._require(what, name)
        return parquet.read(self._folder, name, where)

    def _require(self, what: str, name: str) -> None:
        if name in self._manifest.kafka_files:
            return
        older = f"evkit {self._manifest.evkit}, which made it, did not copy that"
        why = self._manifest.why_missing(what) or self._manifest.why_missing("Kafka") or older
        raise NotInFreeze(f"{'what Kafka said' if what == 'Kafka' else what} ({why})")
