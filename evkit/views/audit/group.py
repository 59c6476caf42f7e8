"""inbox, letters and commits of one group → what became of each event that came to its topics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from evkit.sql import named
from evkit.system import System
from evkit.views.audit import groups as audit_groups
from evkit.views.audit.events import Events
from evkit.views.audit.groups import Jump, Marks, Reader
from evkit.views.audit.order import Order
from evkit.views.audit.spill import Spill
from evkit.views.audit.verdict import GroupFacts, of_group
from evkit.views.offsets import Place


class Group:
    """Verdicts of one group, which has this number."""

    def __init__(
        self,
        system: System,
        reader: Reader,
        number: int,
        events: Events,
        confirmed: Mapping[Place, tuple[int, int]],
        order: Order,
    ) -> None:
        self.name, self.topics, self.number = reader.group, reader.topics, number
        self._system, self._events, self._committed = system, events, reader.committed
        self._offsets = pl.DataFrame(
            [(*place, offset) for place, offset in sorted(reader.committed.items())],
            schema={"topic": pl.String, "at_partition": pl.Int32, "committed": pl.Int64},
            orient="row",
        )
        self._marks = {place: Marks(*where) for place, where in confirmed.items() if place[0] in reader.topics}
        self._order = order
        self._passed_at: dict[Place, int] = {}
        self._pages_passed: list[int] = []

    def order(self, placed: pl.DataFrame, live: pl.DataFrame) -> None:
        """Take note of which events of a page the group dealt with, and in which order."""
        read = placed.filter(pl.col("topic").is_in(self.topics) & pl.col("state").is_null())
        dealt = read.join(live.filter(pl.col("replay_id").is_null()), on="position", how="inner")
        self._mark(dealt)
        self._order.add(
            dealt.filter(pl.col("outcome") == "handled").select(
                "position", "topic", "key", "txid", at=pl.col("processed_at").dt.epoch("us")
            )
        )

    def sorted(self) -> None:
        """Find who was handled before an earlier event of its key: `take` asks for it."""
        self._order.close()

    def _knows(self, placed: pl.DataFrame, times: pl.DataFrame) -> dict[int, str]:
        unknown = placed.filter(pl.col("where").is_null() & pl.col("state").is_null())["position"]
        return dict.fromkeys(times.filter(pl.col("position").is_in(unknown.implode()))["position"].to_list(), self.name)

    def take(self, page: int, placed: pl.DataFrame, spill: Spill) -> dict[int, str]:
        """Judge the events of a page; those that the group went past wait for `close`.

        Returns this group, by position of the events that it has dealt with and that nobody else says are published.
        """
        live, times, letters, again = (
            spill.taken((what, self.number, page)) for what in ("live", "times", "letters", "again")
        )
        found = (
            placed.filter(pl.col("topic").is_in(self.topics) & pl.col("state").is_null())
            .join(live, on="position", how="left", maintain_order="left")
            .join(times, on="position", how="left", maintain_order="left")
            .join(letters, on="position", how="left", maintain_order="left")
            .join(again, on="position", how="left", maintain_order="left")
            .join(self._offsets, on=["topic", "at_partition"], how="left", maintain_order="left")
            .join(self._order.overtaken(page), on="position", how="left", maintain_order="left")
            .filter(pl.col("where").is_not_null() | pl.col("handled_n").is_not_null())
            .with_columns(pl.col("handled_n", "wanted_n", "ran_again").fill_null(0))
        )
        unknown = pl.col("outcome").is_null() & (pl.col("handled_n") == 0) & pl.col("letter_id").is_null()
        is_there = pl.col("where").is_in(["log", "above", "unread"])
        passed = unknown & is_there & (pl.col("at_offset") < pl.col("committed")).fill_null(False)
        once = (pl.col("handled_n") - pl.col("wanted_n") <= 1) & (pl.col("ran_again") == 0)
        quick = (
            pl.when((pl.col("outcome") == "handled") & once & pl.col("over_position").is_null()).then(pl.lit("ok"))
            .when((pl.col("outcome") == "skipped") & (pl.col("handled_n") == 0)).then(pl.lit("skipped"))
            .when(unknown & is_there & ~passed).then(pl.lit("pending"))
        )  # fmt: skip
        found = found.with_columns(quick=quick, passed=passed)
        self._pass(page, found.filter("passed"), spill)
        for row in self._events.counted(found.filter(~pl.col("passed")), self.name).iter_rows(named=True):
            self._judge(row, None, None)
        for topic, n in found.group_by("topic").len().iter_rows():
            self._events.found.counts[topic, self.name]["published"] += n
        return self._knows(placed, times)

    def _mark(self, dealt: pl.DataFrame) -> None:
        for (topic, partition), offsets in _by_place(dealt.filter(pl.col("at_offset").is_not_null())):
            if marks := self._marks.get((topic, partition)):
                marks.add(offsets["at_offset"].to_numpy())

    def _pass(self, page: int, passed: pl.DataFrame, spill: Spill) -> None:
        if passed.is_empty():
            return
        for place, of_place in _by_place(passed):
            number = self._passed_at.setdefault(place, len(self._passed_at))
            spill.put(("passed_at", self.number, number), of_place["at_offset"].to_numpy().copy())
        spill.keep(("passed", self.number, page), passed)
        self._pages_passed.append(page)

    def close(self, spill: Spill) -> None:
        """Judge the events that the group went past: by what it committed, and by what it did under other ids."""
        if not self._pages_passed:
            return
        commits, why = audit_groups.history(self._system, self.name)
        found = {}
        for place, number in self._passed_at.items():
            offsets = np.sort(spill.heap(("passed_at", self.number, number), np.int64))
            marks = self._marks.get(place) or Marks(0, 0)
            found[place] = (offsets, audit_groups.jumps(offsets, marks, commits.get(place), why))
        for page in self._pages_passed:
            passed = spill.taken(("passed", self.number, page))
            elsewise = self._elsewise(passed)
            for place, of_place in _by_place(passed):
                offsets, jumps = found[place]
                at = np.searchsorted(offsets, of_place["at_offset"].to_numpy()).tolist()
                for row, n in zip(of_place.iter_rows(named=True), at, strict=True):
                    self._judge(row, jumps[n], elsewise.get((*place, row["at_offset"])))

    def _elsewise(self, passed: pl.DataFrame) -> dict[Any, tuple[str, str]]:
        given = {
            "group": self.name, "topics": passed["topic"].to_list(), "partitions": passed["at_partition"].to_list(),
            "offsets": passed["at_offset"].to_list(),
        }  # fmt: skip
        with self._system.reading() as connection:
            rows = connection.execute(named("audit_events")["elsewise"], given)
            return {
                (topic, partition, offset): (event_id, outcome) for topic, partition, offset, event_id, outcome in rows
            }

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
            ran_again=row["ran_again"],
            letter=None if row["letter_id"] is None else (row["letter_id"], row["letter_state"]),
            elsewise=elsewise,
            overtaken=None if row["over_position"] is None else (row["over_position"], _moment(row["over_at"])),
            handled_at=row["processed_at"],
            compacted=row["topic"] in self._events.compacted,
            jump=jump,
        )
        verdict, evidence = of_group(facts)
        self._events.say(row, self.name, verdict, evidence, partition, row["at_offset"])


def _by_place(events: pl.DataFrame) -> Iterator[tuple[Any, pl.DataFrame]]:
    return iter(events.group_by(["topic", "at_partition"], maintain_order=True))


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
