"""outbox, topics, inboxes → what became of each event of a window: the counts, and the rows that were asked for.

First what can only grow is asked: how far the relay and the groups had come, and where the topics end. Then the ids in
the log are read, once, and then the tables, range by range, each in a short snapshot of its own. So an event that a group
or the relay had passed by the first answer must show in the second, and what happens meanwhile makes nothing look lost.

What is plainly well is counted in columns and never looked at one by one; everything else gets its verdict from
audit_verdict.py.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from evkit import kafka
from evkit.errors import UnknownTopic
from evkit.sql import named
from evkit.system import System
from evkit.views import audit_groups, audit_log
from evkit.views.audit_groups import Jump, Marks, Reader
from evkit.views.audit_log import LogIndex, Stretch
from evkit.views.audit_order import GroupOrder, LogOrder
from evkit.views.audit_rows import Bounds, Rows
from evkit.views.audit_verdict import EventFacts, GroupFacts, of_event, of_group
from evkit.views.offsets import Place
from evkit.window import Window

log = logging.getLogger(__name__)

# The broker's clock and the database's may differ by so much.
_SKEW = timedelta(minutes=1)
# A copy that a relay sends late is there by then: its producer gives up after five minutes.
_COPIES = timedelta(minutes=10)

Key = tuple[str, str | None]  # topic, group


@dataclass(slots=True)
class Examined:
    """What was found.

    Attributes:
        rows      those asked for, by position, the event's own row before its groups'
        left_out  how many more there would have been
        counts    by topic and group (None: before any group), the names of views.audit_counts
        verdicts  the same, by verdict
        records   records of the topics that were read
        began_at  what is later is not in it; the database's clock
    """

    rows_max: int
    began_at: datetime
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0
    counts: dict[Key, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    verdicts: dict[Key, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    records: int = 0

    def keep(self, row: dict[str, Any]) -> None:
        if len(self.rows) < self.rows_max:
            self.rows.append(row)
        else:
            self.left_out += 1


def examine(
    system: System,
    window: Window,
    *,
    topic: str | None,
    group: str | None,
    settle: timedelta,
    wanted: Collection[str],
    rows_max: int,
) -> Examined:
    """Look at every event that was written in the window; `wanted` are the verdicts whose rows are kept.

    Raises: see `views.audit`.
    """
    rows = Rows(system, window, topic)
    bounds = rows.bounds()
    found = Examined(rows_max, bounds.now)
    if group is not None:
        audit_groups.readers(system, [], group)  # says when there is no such group
    confirmed, unplaced = rows.stretches(bounds)
    if topic is not None and topic not in unplaced:
        known = kafka.topics(system.settings, system.admin)
        if topic not in known:
            raise UnknownTopic(topic, known, where=f"to the cluster at {system.settings.bootstrap_servers}")
    if not unplaced:
        return found
    readers = audit_groups.readers(system, unplaced, group)
    starts, ends, compacted = audit_groups.standing(system, unplaced)
    index = audit_log.read(system, _stretches(system, window, confirmed, unplaced, starts, ends))
    found.records = index.records
    settled = _Settled(bounds, settle.total_seconds(), window)
    events = _Events(index, starts, compacted, settled, found, set(wanted))
    groups = [_Group(system, reader, events, confirmed) for reader in readers]
    for first, last in rows.ranges(bounds):
        with rows.range(first, last) as snapshot:
            read = snapshot.events()
            dealt = [(g, snapshot.dealt_with(g.name, g.topics), snapshot.letters(g.name)) for g in groups]
        placed = events.placed(read)
        handled_by: dict[int, str] = {}
        for one, rows_of_group, letters in dealt:
            handled_by |= dict.fromkeys(rows_of_group["position"].to_list(), one.name) if one.matters(placed) else {}
            one.take(placed, rows_of_group, letters)
        events.take(placed, handled_by)
    for one in groups:
        one.close()
    found.rows.sort(key=lambda row: (row["position"], row["group"] is not None, row["group"]))
    return found


def _stretches(
    system: System,
    window: Window,
    confirmed: Mapping[Place, tuple[int, int]],
    unplaced: Mapping[str, int],
    starts: Mapping[Place, int],
    ends: Mapping[Place, int],
) -> dict[Place, Stretch]:
    """What has to be read: from the window's first record to its last, and some minutes around for copies."""
    places = [kafka.TopicPartition(*place) for place in starts]
    at_start = kafka.offsets_at(system.settings, places, window.start - _SKEW, system.admin)
    after = window.end + _COPIES
    is_past = after < datetime.now(UTC)
    at_end = kafka.offsets_at(system.settings, places, after, system.admin) if is_past else {}
    found = {}
    for place, start in starts.items():
        end = ends.get(place, start)
        low, high = confirmed.get(place, (end, -1))
        first = min(low, end if at_start[place] < 0 else at_start[place])
        last = end
        # An event that nobody has confirmed may be anywhere up to the end.
        if not unplaced[place[0]] and at_end.get(place, -1) >= 0:
            last = min(end, max(high + 1, at_end[place]))
        first = max(first, start)
        found[place] = Stretch(first, max(first, last))
    return found


@dataclass(frozen=True, slots=True)
class _Settled:
    bounds: Bounds
    seconds: float
    window: Window

    def age(self, since: datetime) -> float:
        return (self.bounds.now - since).total_seconds()


class _Events:
    """Verdicts before any group."""

    def __init__(
        self,
        index: LogIndex,
        starts: Mapping[Place, int],
        compacted: Collection[str],
        settled: _Settled,
        found: Examined,
        wanted: set[str],
    ) -> None:
        self.index, self.settled, self.found, self.wanted = index, settled, found, wanted
        self.compacted = compacted
        self.starts = starts
        self._order = LogOrder()
        number = {place: n for n, place in enumerate(index.places)}
        places = sorted(starts)
        self._places = pl.DataFrame(
            {
                "topic": [p[0] for p in places],
                "partition": [p[1] for p in places],
                "start": [starts[p] for p in places],
                "read_last": [index.read[p].last if p in index.read else None for p in places],
                "place": [number.get(p, -2) for p in places],
            },
            schema={
                "topic": pl.String,
                "partition": pl.Int32,
                "start": pl.Int64,
                "read_last": pl.Int64,
                "place": pl.Int64,
            },
        )
        copies = [(p[0], p[1], n) for p, n in number.items()]
        self._numbered = pl.DataFrame(
            copies,
            schema={"copy_topic": pl.String, "copy_partition": pl.Int32, "copy_place": pl.Int64},
            orient="row",
        )

    def placed(self, events: pl.DataFrame) -> pl.DataFrame:
        """The events with where their records are.

        `n` records have the id, from `index` on; the first is at copy_partition, copy_offset. `where` is what is at the
        confirmed place (see audit_verdict.Where), null for an event that has neither place nor record. at_partition and
        at_offset are where a group meets it.
        """
        first, n = self.index.counts(audit_log.hashed(events["id"]))
        place, offset = self.index.at(np.where(n > 0, first, np.iinfo(np.int64).max))
        found = events.with_columns(
            pl.Series("index", first, dtype=pl.Int64),
            pl.Series("n", n, dtype=pl.Int64),
            pl.Series("copy_place", place, dtype=pl.Int64),
            pl.Series("copy_offset", offset, dtype=pl.Int64),
        )
        found = found.join(self._places, on=["topic", "partition"], how="left").join(
            self._numbered, on="copy_place", how="left"
        )
        at_place = (pl.col("copy_place") == pl.col("place")) & (pl.col("copy_offset") == pl.col("offset"))
        is_placed = pl.col("partition").is_not_null() & (pl.col("partition") >= 0)
        where = (
            pl.when(pl.col("partition").is_null() & (pl.col("n") == 0)).then(None)
            .when(~is_placed.fill_null(False) & (pl.col("n") > 0)).then(pl.lit("log"))
            .when(~is_placed.fill_null(False)).then(pl.lit("unread"))
            .when(pl.col("start").is_null()).then(pl.lit("gone"))
            .when(pl.col("offset") < pl.col("start")).then(pl.lit("below"))
            .when(pl.col("read_last").is_null()).then(pl.lit("unread"))
            .when(pl.col("offset") >= pl.col("read_last")).then(pl.lit("above"))
            .when(at_place | (pl.col("n") > 1)).then(pl.lit("log"))
            .otherwise(pl.lit("absent"))
        )  # fmt: skip
        found = found.with_columns(where=where)
        elsewhere = (pl.col("n") > 0) & (~is_placed.fill_null(False) | (pl.col("where") == "absent"))
        return found.with_columns(
            at_partition=pl.when(elsewhere).then("copy_partition").when(is_placed).then("partition"),
            at_offset=pl.when(elsewhere).then("copy_offset").when(is_placed).then("offset"),
        )

    def take(self, placed: pl.DataFrame, handled_by: Mapping[int, str]) -> None:
        """Judge the events of a range; `handled_by` is a group that has dealt with it, by position."""
        known = pl.Series(list(handled_by), dtype=pl.Int64)
        placed = placed.with_columns(
            came=pl.col("state").is_null() & (pl.col("where").is_not_null() | pl.col("position").is_in(known.implode()))
        )
        first = pl.when((pl.col("n") > 0) & (pl.col("copy_partition") == pl.col("at_partition"))).then(
            pl.min_horizontal("copy_offset", "at_offset")
        )
        order = placed.filter(pl.col("at_offset").is_not_null()).select(
            "position", "topic", "key", partition="at_partition", at=first.otherwise("at_offset")
        )
        placed = placed.join(self._order.overtaken(order), on="position", how="left", maintain_order="left")
        is_ok = (
            pl.col("state").is_null()
            & pl.col("over_position").is_null()
            & (pl.col("partition") >= 0)
            & (
                ((pl.col("where") == "log") & (pl.col("n") == 1))
                | (pl.col("where").is_in(["below", "above", "unread"]) & (pl.col("n") == 0))
            )
        )
        placed = placed.with_columns(quick=pl.when(is_ok).then(pl.lit("ok")))
        for row in self._counted(placed, None).iter_rows(named=True):
            copies = self.index.copies(row["index"], row["n"])
            verdict, evidence = of_event(self._facts(row, copies, handled_by.get(row["position"])))
            self._say(row, None, verdict, evidence, row["at_partition"], row["at_offset"])
        self._sums(placed)

    def _facts(self, row: Mapping[str, Any], copies: list[tuple[Place, int]], handled_by: str | None) -> EventFacts:
        bounds = self.settled.bounds
        return EventFacts(
            position=row["position"],
            age_seconds=self.settled.age(row["created_at"]),
            settle_seconds=self.settled.seconds,
            settled_position=bounds.settled_position,
            unpublishable=row["state"],
            blocked_by=row["blocked_by"],
            error=row["error"],
            marked=None if row["partition"] is None else (row["partition"], row["offset"]),
            where=row["where"],
            copies=tuple((place[1], offset) for place, offset in copies if place[0] == row["topic"]),
            handled_by=handled_by,
            compacted=row["topic"] in self.compacted,
            overtaken=None if row["over_position"] is None else (row["over_position"], row["over_offset"]),
        )

    def _sums(self, placed: pl.DataFrame) -> None:
        state, came = pl.col("state"), pl.col("came")
        sums = placed.group_by("topic").agg(
            written=pl.len(),
            published=came.sum(),
            unpublishable=state.is_in(["parked", "retry"]).sum(),
            held=(state == "held").sum(),
            withdrawn=(state == "skipped").sum(),
        )
        for row in sums.iter_rows(named=True):
            of_topic = row.pop("topic")
            self.found.counts[of_topic, None].update({name: n or 0 for name, n in row.items()})

    def _counted(self, judged: pl.DataFrame, group: str | None) -> pl.DataFrame:
        """Count what `quick` has said already; returns the rows that are still to be judged, or to be shown."""
        is_done = pl.col("quick").is_not_null() & ~pl.col("quick").is_in(list(self.wanted))
        for topic, verdict, n in judged.filter(is_done).group_by("topic", "quick").len().iter_rows():
            self.found.verdicts[topic, group][verdict] += n
        return judged.filter(~is_done)

    def _say(
        self,
        row: Mapping[str, Any],
        group: str | None,
        verdict: str,
        evidence: str,
        partition: int | None,
        offset: int | None,
    ) -> None:
        self.found.verdicts[row["topic"], group][verdict] += 1
        if verdict in self.wanted:
            counted = row["where"] not in ("unread", "above", "gone") or row["n"] > 0
            self.found.keep({
                "event_id": row["id"], "event_type": row["type"], "key": row["key"], "topic": row["topic"],
                "partition": partition, "offset": offset, "group": group, "position": row["position"],
                "created_at": row["created_at"], "published_at": row["published_at"],
                "processed_at": row.get("processed_at"), "in_log_n": row["n"] if counted else None,
                "processed_n": None if group is None else row["handled_n"], "verdict": verdict, "evidence": evidence,
            })  # fmt: skip


class _Group:
    """Verdicts of one group."""

    def __init__(
        self, system: System, reader: Reader, events: _Events, confirmed: Mapping[Place, tuple[int, int]]
    ) -> None:
        self.name, self.topics = reader.group, reader.topics
        self._system, self._events, self._committed = system, events, reader.committed
        self._offsets = pl.DataFrame(
            [(*place, offset) for place, offset in sorted(reader.committed.items())],
            schema={"topic": pl.String, "at_partition": pl.Int32, "committed": pl.Int64},
            orient="row",
        )
        self._marks = {place: Marks(*where) for place, where in confirmed.items() if place[0] in reader.topics}
        self._order = GroupOrder()
        self._passed: list[pl.DataFrame] = []
        with system.reading() as connection:
            again = connection.execute(
                named("audit_events")["run_again"], {"group": self.name, "since": events.settled.window.start}
            ).fetchall()
        self._ran_again = {event_id: n for event_id, n, _ in again}

    def matters(self, placed: pl.DataFrame) -> bool:
        """Whether some event of the range may be known by the groups alone."""
        return bool(placed.select((pl.col("where").is_null() & pl.col("state").is_null()).any()).item())

    def take(self, placed: pl.DataFrame, dealt: pl.DataFrame, letters: pl.DataFrame) -> None:
        """Judge the events of a range; those that the group went past wait for `close`."""
        live = dealt.filter(pl.col("generation") == 0).select(
            "position", "outcome", "replay_id", "processed_at", "txid"
        )
        is_handled = pl.col("outcome") == "handled"
        times = dealt.group_by("position").agg(
            handled_n=is_handled.sum().cast(pl.Int64),
            wanted_n=(is_handled & pl.col("wanted") & (pl.col("generation") > 0)).sum().cast(pl.Int64),
        )
        found = (
            placed.filter(pl.col("topic").is_in(self.topics) & pl.col("state").is_null())
            .join(live, on="position", how="left", maintain_order="left")
            .join(times, on="position", how="left", maintain_order="left")
            .join(letters, on="position", how="left", maintain_order="left")
            .join(self._offsets, on=["topic", "at_partition"], how="left", maintain_order="left")
            .filter(pl.col("where").is_not_null() | pl.col("handled_n").is_not_null())
            .with_columns(pl.col("handled_n").fill_null(0), pl.col("wanted_n").fill_null(0))
        )
        self._mark(found)
        handled = found.filter((pl.col("outcome") == "handled") & pl.col("replay_id").is_null()).select(
            "position", "topic", "key", "txid", at=pl.col("processed_at").dt.epoch("us")
        )
        found = found.join(self._order.overtaken(handled), on="position", how="left", maintain_order="left")
        unknown = pl.col("outcome").is_null() & (pl.col("handled_n") == 0) & pl.col("letter_id").is_null()
        is_there = pl.col("where").is_in(["log", "above", "unread"])
        passed = unknown & is_there & (pl.col("at_offset") < pl.col("committed")).fill_null(False)
        once = (pl.col("handled_n") - pl.col("wanted_n") <= 1) & ~pl.col("id").is_in(list(self._ran_again))
        quick = (
            pl.when((pl.col("outcome") == "handled") & once & pl.col("over_position").is_null()).then(pl.lit("ok"))
            .when((pl.col("outcome") == "skipped") & (pl.col("handled_n") == 0)).then(pl.lit("skipped"))
            .when(unknown & is_there & ~passed).then(pl.lit("pending"))
        )  # fmt: skip
        found = found.with_columns(quick=quick, passed=passed)
        self._passed.append(found.filter("passed"))
        for row in self._events._counted(found.filter(~pl.col("passed")), self.name).iter_rows(named=True):
            self._judge(row, None, None)
        for topic, n in found.group_by("topic").len().iter_rows():
            self._events.found.counts[topic, self.name]["published"] += n

    def _mark(self, found: pl.DataFrame) -> None:
        live = found.filter(pl.col("outcome").is_not_null() & pl.col("replay_id").is_null())
        for place, offsets in live.group_by("topic", "at_partition").agg("at_offset").select(
            pl.struct("topic", "at_partition"), "at_offset"
        ).iter_rows():  # fmt: skip
            if marks := self._marks.get((place["topic"], place["at_partition"])):
                marks.add(np.array([o for o in offsets if o is not None], dtype=np.int64))

    def close(self) -> None:
        """Judge the events that the group went past: by what it committed, and by what it did under other ids."""
        passed = pl.concat(self._passed) if self._passed else None
        if passed is None or passed.is_empty():
            return
        commits, why = audit_groups.history(self._system, self.name)
        elsewise = self._elsewise(passed)
        for (topic, partition), of_place in passed.sort("at_offset").group_by(
            ["topic", "at_partition"], maintain_order=True
        ):
            place: Any = (topic, partition)
            marks = self._marks.get(place) or Marks(0, 0)
            jumps = audit_groups.jumps(of_place["at_offset"].to_numpy(), marks, commits.get(place), why)
            for row, jump in zip(of_place.iter_rows(named=True), jumps, strict=True):
                self._judge(row, jump, elsewise.get((topic, partition, row["at_offset"])))

    def _elsewise(self, passed: pl.DataFrame) -> dict[Any, tuple[str, str]]:
        found = {}
        for part in passed.iter_slices(50_000):
            given = {
                "group": self.name, "topics": part["topic"].to_list(), "partitions": part["at_partition"].to_list(),
                "offsets": part["at_offset"].to_list(),
            }  # fmt: skip
            with self._system.reading() as connection:
                for topic, partition, offset, event_id, outcome in connection.execute(
                    named("audit_events")["elsewise"], given
                ):
                    found[topic, partition, offset] = (event_id, outcome)
        return found

    def _judge(self, row: Mapping[str, Any], jump: Jump | None, elsewise: tuple[str, str] | None) -> None:
        settled, partition = self._events.settled, row["at_partition"]
        is_known = partition is not None and row["at_offset"] is not None
        facts = GroupFacts(
            place=(partition, row["at_offset"]) if is_known else None,
            where=row["where"] or "unread",
            start_offset=self._events.starts.get((row["topic"], partition)),
            committed_offset=row["committed"],
            age_seconds=settled.age(row["published_at"] or row["created_at"]),
            settle_seconds=settled.seconds,
            outcome=row["outcome"],
            handled_n=row["handled_n"],
            wanted_n=row["wanted_n"],
            ran_again=self._ran_again.get(row["id"], 0),
            letter=None if row["letter_id"] is None else (row["letter_id"], row["letter_state"]),
            elsewise=elsewise,
            overtaken=None if row["over_position"] is None else (row["over_position"], _moment(row["over_at"])),
            handled_at=row["processed_at"],
            compacted=row["topic"] in self._events.compacted,
            jump=jump,
        )
        verdict, evidence = of_group(facts)
        self._events._say(row, self.name, verdict, evidence, partition, row["at_offset"])


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
