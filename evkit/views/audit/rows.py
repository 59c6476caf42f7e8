"""outbox, inbox, letters → frames of a range of positions, in short transactions.

Rows travel as COPY's CSV, which psycopg hands on unparsed and pyarrow parses: 1,000,000 events as Python objects would take
a gigabyte and ten seconds.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa
from pyarrow import csv

from evkit import postgres
from evkit.sql import named
from evkit.system import System
from evkit.views.offsets import Place
from evkit.window import Window

# So many positions a transaction: some tenths of a second, and some ten megabytes.
POSITIONS, _POSITIONS_MIN = 100_000, 10_000
# Counting takes less, so a transaction may take more.
_POSITIONS_COUNTED = 1_000_000

_SQL = named("audit_events")
_TIME = pa.timestamp("us", "UTC")
_COLUMNS: dict[str, dict[str, Any]] = {
    "events": {
        "position": pa.int64(), "id": pa.string(), "type": pa.string(), "key": pa.string(), "topic": pa.string(),
        "created_at": _TIME, "partition": pa.int32(), "offset": pa.int64(), "published_at": _TIME, "state": pa.string(),
        "blocked_by": pa.int64(), "error": pa.string(),
    },
    "dealt_with": {
        "position": pa.int64(), "generation": pa.int32(), "outcome": pa.string(), "replay_id": pa.string(),
        "processed_at": _TIME, "txid": pa.int64(), "wanted": pa.bool_(),
    },
    "letters": {"position": pa.int64(), "letter_id": pa.int64(), "letter_state": pa.string()},
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

    def ranges(self, bounds: Bounds, groups: int) -> Iterator[tuple[int, int]]:
        """The window in ranges, shorter ones for more groups: all of them are asked in one snapshot."""
        step = max(POSITIONS // max(groups, 1), _POSITIONS_MIN)
        for first in range(bounds.first, bounds.last, step):
            yield first, min(first + step, bounds.last)

    @contextmanager
    def range(self, first: int, last: int) -> Iterator[Range]:
        """One snapshot of a range of positions."""
        with self._system.reading() as connection:
            yield Range(connection, {**self._given, "first": first, "last": last})


@dataclass(frozen=True, slots=True)
class Range:
    """A range of positions, as one snapshot has it."""

    connection: postgres.Connection
    given: Mapping[str, Any]

    def events(self) -> pl.DataFrame:
        return self._copied("events", {})

    def dealt_with(self, group: str, topics: list[str]) -> pl.DataFrame:
        return self._copied("dealt_with", {"group": group, "topics": topics})

    def letters(self, group: str) -> pl.DataFrame:
        return self._copied("letters", {"group": group})

    def _copied(self, query: str, more: Mapping[str, Any]) -> pl.DataFrame:
        columns = _COLUMNS[query]
        received = io.BytesIO()
        copy = b"COPY (" + _SQL[query] + b") TO STDOUT (FORMAT csv)"
        with self.connection.cursor() as cursor, cursor.copy(copy, {**self.given, **more}) as rows:
            for piece in rows:
                received.write(piece)
        received.seek(0)
        if not received.getbuffer().nbytes:
            return _framed(pa.schema(columns).empty_table())
        table = csv.read_csv(
            received,
            read_options=csv.ReadOptions(column_names=list(columns), block_size=1 << 24),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            # As COPY has it: nothing is null, "" is the empty text.
            convert_options=csv.ConvertOptions(
                column_types=columns, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
                true_values=["t"], false_values=["f"],
            ),
        )  # fmt: skip
        return _framed(table)


def _framed(table: Any) -> pl.DataFrame:
    made = pl.from_arrow(table)
    assert isinstance(made, pl.DataFrame)
    return made
