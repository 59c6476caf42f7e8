"""outbox, inbox, letters → frames of ranges of positions, two at a time, in short transactions, while the topics are read.

Rows travel as COPY's text: 1,000,000 events as Python objects would take a gigabyte and ten seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from evkit import postgres
from evkit.sql import named
from evkit.system import System
from evkit.views.audit.groups import Reader
from evkit.views.audit.spill import Spill
from evkit.views.columns.column import Dtype
from evkit.views.copied import rows_in
from evkit.views.frame import POLARS
from evkit.views.offsets import Place
from evkit.window import Window

# So many positions a transaction: some tenths of a second, and some ten megabytes.
POSITIONS, _POSITIONS_MIN = 50_000, 10_000
# Counting takes less, so a transaction may take more.
_POSITIONS_COUNTED = 250_000
# The server looks rows up on one processor; the client does nothing else once the topics are read.
_SESSIONS = 2

_SQL = named("audit_events")
_COLUMNS: dict[str, dict[str, Dtype]] = {
    "events": {
        "position": "int64", "id": "string", "type": "string", "key": "string", "topic": "string", "created_at": "time",
        "partition": "int32", "offset": "int64", "published_at": "time", "state": "string", "blocked_by": "int64",
        "error": "string",
    },
    "dealt_with": {
        "position": "int64", "generation": "int32", "outcome": "string", "replay_id": "string", "processed_at": "time",
        "txid": "int64", "wanted": "bool",
    },
    "letters": {"position": "int64", "letter_id": "int64", "letter_state": "string"},
    "run_again": {"position": "int64", "ran_again": "int64"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a window lies in the outbox.

    Attributes:
        first, last       positions from first up to, and without, last
        settled_position  what the relay was done with; None when none ever led
        now               on the database's clock
    """

    first: int
    last: int
    settled_position: int | None
    now: datetime


class Rows:
    """The events of a window, by ranges of positions, and what groups have done with them."""

    def __init__(self, system: System, window: Window, topic: str | None) -> None:
        self._system = system
        self._given = {"since": window.start, "until": window.end, "topic": topic}

    def bounds(self) -> Bounds:
        """Where the window lies in the outbox now."""
        with self._system.reading() as connection:
            row = connection.execute(_SQL["bounds"], self._given).fetchone()
            assert row is not None
            first, last, settled, now = row
        return Bounds(first or 0, 0 if last is None else last + 1, settled, now)

    def stretches(self, bounds: Bounds) -> tuple[dict[Place, tuple[int, int]], dict[str, int]]:
        """First and last confirmed offset by place; and by topic, how many events are not confirmed, or not placed."""
        confirmed: dict[Place, tuple[int, int]] = {}
        unplaced: dict[str, int] = {}
        for first in range(bounds.first, bounds.last, _POSITIONS_COUNTED):
            last = min(first + _POSITIONS_COUNTED, bounds.last)
            with self._system.reading() as connection:
                rows = connection.execute(_SQL["stretches"], {**self._given, "first": first, "last": last}).fetchall()
            for topic, partition, low, high, events in rows:
                if partition is None or partition < 0:
                    unplaced[topic] = unplaced.get(topic, 0) + events
                    continue
                unplaced.setdefault(topic, 0)
                known = confirmed.get((topic, partition), (low, high))
                confirmed[topic, partition] = (min(known[0], low), max(known[1], high))
        return confirmed, unplaced

    def pages(self, bounds: Bounds, groups: int) -> range:
        """Where the pages of the window begin; shorter ones for more groups: all are asked in one snapshot."""
        return range(bounds.first, bounds.last, max(POSITIONS // max(groups, 1), _POSITIONS_MIN))

    @contextmanager
    def copying(self, bounds: Bounds, pages: range, groups: Sequence[Reader], spill: Spill) -> Iterator[Copying]:
        """In threads of their own, every page: ("events", -1, page), and of each group what it has done."""
        is_over = threading.Event()

        def copy(first_page: int) -> None:
            for page in range(first_page, len(pages), _SESSIONS):
                if is_over.is_set():
                    return
                with self.range(pages[page], min(pages[page] + pages.step, bounds.last)) as snapshot:
                    spill.keep(("events", -1, page), snapshot.events())
                    for n, group in enumerate(groups):
                        for what, frame in snapshot.of_group(group.group, group.topics).items():
                            spill.keep((what, n, page), frame)

        with ThreadPoolExecutor(_SESSIONS, thread_name_prefix="evkit-audit") as pool:
            try:
                # Threads do not inherit that this is a view, and so how long its snapshots may last.
                yield Copying([pool.submit(copy_context().run, copy, n) for n in range(_SESSIONS)])
            finally:
                is_over.set()

    @contextmanager
    def range(self, first: int, last: int) -> Iterator[Range]:
        """One snapshot of a range of positions."""
        with self._system.reading() as connection:
            yield Range(connection, {**self._given, "first": first, "last": last})


@dataclass(frozen=True, slots=True)
class Copying:
    """The threads that read the tables."""

    _work: list[Future[None]]

    def check(self) -> None:
        """Raise what one of them has raised, if it has."""
        for work in self._work:
            if work.done():
                work.result()

    def wait(self) -> None:
        """Wait for their end, and raise what one has raised."""
        for work in self._work:
            work.result()


@dataclass(frozen=True, slots=True)
class Range:
    """A range of positions, as one snapshot has it."""

    connection: postgres.Connection
    given: Mapping[str, Any]

    def events(self) -> pl.DataFrame:
        return self._copied("events", {})

    def of_group(self, group: str, topics: list[str]) -> dict[str, pl.DataFrame]:
        """What a group did with them; `live` (no replay that handled again) and `times` (how often) from its inbox."""
        given = {"group": group, "topics": topics}
        dealt = self._copied("dealt_with", given)
        is_handled = pl.col("outcome") == "handled"
        return {
            "live": dealt.filter(pl.col("generation") == 0).select(
                "position", "outcome", "replay_id", "processed_at", "txid"
            ),
            "times": dealt.group_by("position").agg(
                handled_n=is_handled.sum().cast(pl.Int64),
                wanted_n=(is_handled & pl.col("wanted") & (pl.col("generation") > 0)).sum().cast(pl.Int64),
            ),
            "letters": self._copied("letters", given),
            "again": self._copied("run_again", given),
        }

    def _copied(self, query: str, more: Mapping[str, Any]) -> pl.DataFrame:
        columns = _COLUMNS[query]
        parts: list[pl.DataFrame] = [pl.DataFrame(schema={name: POLARS[dtype] for name, dtype in columns.items()})]

        def take(chunk: bytes) -> None:
            parts.append(rows_in(chunk, columns))

        postgres.copy_text(self.connection, _SQL[query], {**self.given, **more}, list(columns.items()), take)
        return pl.concat(parts)
