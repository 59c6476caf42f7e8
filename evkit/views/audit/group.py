"""inbox, letters and commits of one group → what became of each event that came to its topics."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from evkit.sql import named
from evkit.system import System
from evkit.views.audit import groups as audit_groups
from evkit.views.audit.events import Events
from evkit.views.audit.groups import Jump, Marks, Reader
from evkit.views.audit.order import GroupOrder
from evkit.views.audit.verdict import GroupFacts, of_group
from evkit.views.offsets import Place


class Group:
    """Verdicts of one group."""

    def __init__(
        self, system: System, reader: Reader, events: Events, confirmed: Mapping[Place, tuple[int, int]]
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

    def knows(self, placed: pl.DataFrame, dealt: pl.DataFrame) -> dict[int, str]:
        """This group, by position of the events that it has dealt with and that nobody else says are published."""
        unknown = placed.filter(pl.col("where").is_null() & pl.col("state").is_null())["position"]
        return dict.fromkeys(dealt.filter(pl.col("position").is_in(unknown.implode()))["position"].to_list(), self.name)

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
        for row in self._events.counted(found.filter(~pl.col("passed")), self.name).iter_rows(named=True):
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
        self._events.say(row, self.name, verdict, evidence, partition, row["at_offset"])


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
