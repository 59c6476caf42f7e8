"""broker's answers → publication table: mark what was confirmed, in the order in which it was read.

Only what was confirmed: a mark without a confirmation is a lost event, the reverse only a second copy. A mark also writes
down how far everything is settled, and what could not be published. It is refused when another relay has taken the lead
(`epoch`), so a relay that hung and woke up changes nothing.
"""

from __future__ import annotations

import contextlib
import struct
import time

import psycopg

from evkit import postgres
from evkit.runtime.batch import Batch
from evkit.sql import named

_SQL = named("relay")

# PostgreSQL's binary COPY: signature, flags and extension; each row the number of its columns, each column its length and
# value; -1 ends it. A whole batch is one piece of bytes: a call a row costs as much as publishing the row.
_COPY_START = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_ROW = struct.Struct(">hiqiiiqiq")
_COPY_END = b"\xff\xff"


class Deposed(Exception):
    """Raised when another relay leads: nothing was marked."""


class DatabaseClock:
    """How far the database's clock is from this process's monotonic one, as the answers to questions for its time tell it.

    The database read its clock somewhere between question and answer; taking the answer's moment for it, a process that did
    not run for 90 ms would have events published before they were written. An earlier answer that came sooner says more,
    unless this one contradicts it: then a clock was set.
    """

    def __init__(self) -> None:
        self._shift: int | None = None

    def shift(self, told: int, asked_at: int, answered_at: int) -> int:
        """What to add to a monotonic time, when the database told its own between these two; all in microseconds."""
        least, most = told - answered_at, told - asked_at
        self._shift = least if self._shift is None else max(least, min(self._shift, most))
        return self._shift


class Marker:
    """Writes down what became of batches, on a connection of its own.

    Attributes:
        settled  what is written down as settled
        claim    number of the last claim that is marked
    """

    def __init__(self, connection: postgres.Connection, epoch: int, settled: int, claim: int) -> None:
        self._connection = connection
        self._epoch = epoch
        self._clock = DatabaseClock()
        self.settled = settled
        self.claim = claim

    def mark(self, batches: list[Batch]) -> int:
        """Mark batches in one transaction; returns how many events are published.

        Raises:
            Deposed: another relay leads.
        """
        answers = [answer for batch in batches for answer in batch.answers]
        unpublished = [row for batch in batches for row in batch.unpublished]
        again = [a[0] for b in batches if b.redo for a in b.answers]
        whole = [batch for batch in batches if batch.whole]
        settled = max((batch.settled for batch in whole), default=0)
        claim = max((batch.claim for batch in whole), default=0)
        hole = whole[-1].hole if whole else None
        with self._connection.transaction():
            asked_at = time.monotonic_ns() // 1000
            row = self._connection.execute(
                _SQL["mark"],
                {
                    "settled": settled,
                    "claim": claim,
                    "epoch": self._epoch,
                    "hole_position": hole[0] if hole else None,
                    "hole_seconds": time.monotonic() - hole[1] if hole else None,
                },
            ).fetchone()
            if row is None:
                raise Deposed("another relay leads this outbox: what is unmarked is marked by it")
            if answers:
                # The time of the broker's answer, told on the database's clock, as created_at is: no skew between them.
                shift = self._clock.shift(
                    postgres.micros(row[0]) - postgres.MICROS_2000, asked_at, time.monotonic_ns() // 1000
                )
                pack = _COPY_ROW.pack
                rows = [pack(4, 8, p, 4, partition, 8, offset, 8, at + shift) for p, partition, offset, at in answers]
                with self._connection.cursor().copy(_SQL["publications"]) as copy:
                    copy.write(b"".join((_COPY_START, *rows, _COPY_END)))
            if unpublished:
                columns = zip(
                    *((u.position, u.topic, u.key, u.state, u.blocked_by, u.attempts, u.error_class, u.error)
                      for u in unpublished),
                    strict=True,
                )  # fmt: skip
                self._connection.execute(_SQL["unpublished"], [list(column) for column in columns])
            if again:
                self._connection.execute(_SQL["published_after_all"], (again,))
        self.settled = max(self.settled, settled)
        self.claim = max(self.claim, claim)
        return len(answers)

    def recover(self, found: dict[int, tuple[int, int]], claim: int) -> None:
        """Mark rows that a predecessor's committed transaction has published: position → (partition, offset)."""
        at = time.monotonic_ns() // 1000
        answers = [(position, partition, offset, at) for position, (partition, offset) in sorted(found.items())]
        self.mark([Batch(claim, [], 0, answers=answers)])

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._connection.close()


def ranges_of(positions: list[int]) -> list[list[int]]:
    """Ascending positions as [first, last] stretches without a gap."""
    if positions and positions[-1] - positions[0] == len(positions) - 1:
        return [[positions[0], positions[-1]]]
    ranges: list[list[int]] = []
    for position in positions:
        if ranges and ranges[-1][1] == position - 1:
            ranges[-1][1] = position
        else:
            ranges.append([position, position])
    return ranges
