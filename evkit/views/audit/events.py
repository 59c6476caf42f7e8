"""outbox rows and where their records are → what became of each before any group; and where all verdicts are counted.

What is plainly well is counted in columns and never looked at one by one; everything else gets its verdict from
audit_verdict.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl

from evkit.views.audit.log import LogIndex
from evkit.views.audit.order import Order
from evkit.views.audit.rows import Bounds
from evkit.views.audit.verdict import VERDICTS, EventFacts, of_event
from evkit.views.offsets import Place
from evkit.window import Window

Key = tuple[str, str | None]  # topic, group


@dataclass(slots=True)
class Examined:
    """What was found.

    Attributes:
        rows      those asked for, by position, the event's own row before its groups'; of too many the worst
        left_out  how many more there would have been
        counts    by topic and group (None: before any group), the names of views.audit_counts
        verdicts  the same, by verdict
        records   records of the topics that were read
        unread    records after them, up to where the topics ended, in which there may be copies
        began_at  what is later is not in it; the database's clock
    """

    rows_max: int
    began_at: datetime
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0
    counts: dict[Key, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    verdicts: dict[Key, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    records: int = 0
    unread: int = 0

    def keep(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) > 2 * self.rows_max + SPARE:
            self._cut()

    def close(self) -> None:
        """Keep the worst of the rows, and sort them."""
        self._cut()
        self.rows.sort(key=_place_of)

    def _cut(self) -> None:
        if len(self.rows) > self.rows_max:
            self.rows.sort(key=lambda row: (_HARM[row["verdict"]], *_place_of(row)))
            self.left_out += len(self.rows) - self.rows_max
            del self.rows[self.rows_max :]


# Rows that are collected before the least harmful are thrown away.
SPARE = 1_000
_HARM = {verdict: n for n, verdict in enumerate(VERDICTS)}


def _place_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["position"], row["group"] is not None, row["group"])


@dataclass(frozen=True, slots=True)
class Settled:
    bounds: Bounds
    seconds: float
    window: Window

    def age(self, since: datetime) -> float:
        return (self.bounds.now - since).total_seconds()


class Events:
    """Verdicts before any group."""

    def __init__(
        self,
        index: LogIndex,
        starts: Mapping[Place, int],
        compacted: Collection[str],
        settled: Settled,
        found: Examined,
        wanted: set[str],
        order: Order,
    ) -> None:
        self.index, self.settled, self.found, self.wanted = index, settled, found, wanted
        self.compacted = compacted
        self.starts = starts
        self._order = order
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

        `n` records have the id: at copies_place and copies_offset; the first is at copy_partition, copy_offset. `where` is
        what is at the confirmed place (see audit_verdict.Where), null for an event that has neither place nor record.
        at_partition and at_offset are where a group meets it.
        """
        found = events.hstack(self.index.find(events["id"])).join(
            self._places, on=["topic", "partition"], how="left", maintain_order="left"
        )
        found = found.join(self._numbered, on="copy_place", how="left", maintain_order="left")
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

    def order(self, placed: pl.DataFrame) -> None:
        """Take note of where the events of a page stand in the log."""
        first = pl.when((pl.col("n") > 0) & (pl.col("copy_partition") == pl.col("at_partition"))).then(
            pl.min_horizontal("copy_offset", "at_offset")
        )
        self._order.add(
            placed.filter(pl.col("at_offset").is_not_null()).select(
                "position", "topic", "key", partition="at_partition", at=first.otherwise("at_offset")
            )
        )

    def sorted(self) -> None:
        """Find who stands before an earlier event of its key: `take` asks for it."""
        self._order.close()

    def take(self, page: int, placed: pl.DataFrame, handled_by: Mapping[int, str]) -> None:
        """Judge the events of a page; `handled_by` is a group that has dealt with it, by position."""
        known = pl.Series(list(handled_by), dtype=pl.Int64)
        placed = placed.with_columns(
            came=pl.col("state").is_null() & (pl.col("where").is_not_null() | pl.col("position").is_in(known.implode()))
        )
        placed = placed.join(self._order.overtaken(page), on="position", how="left", maintain_order="left")
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
        for row in self.counted(placed, None).iter_rows(named=True):
            verdict, evidence = of_event(self._facts(row, handled_by.get(row["position"])))
            self.say(row, None, verdict, evidence, row["at_partition"], row["at_offset"])
        self._sums(placed)

    def _facts(self, row: Mapping[str, Any], handled_by: str | None) -> EventFacts:
        bounds = self.settled.bounds
        at: Any = [(row["copy_place"], row["copy_offset"])] if row["n"] == 1 else []
        if row["n"] > 1:
            at = zip(row["copies_place"], row["copies_offset"], strict=True)
        copies = [(self.index.places[place], offset) for place, offset in at]
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
            overtaken=None if row["over_position"] is None else (row["over_position"], row["over_at"]),
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

    def counted(self, judged: pl.DataFrame, group: str | None) -> pl.DataFrame:
        """Count what `quick` has said already; returns the rows that are still to be judged, or to be shown."""
        is_done = pl.col("quick").is_not_null() & ~pl.col("quick").is_in(list(self.wanted))
        for topic, verdict, n in judged.filter(is_done).group_by("topic", "quick").len().iter_rows():
            self.found.verdicts[topic, group][verdict] += n
        return judged.filter(~is_done)

    def say(
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
