"""outbox table → rows: read what committed transactions have written; none is lost, none of a key overtakes another.

This is the part where relays lose events. Positions come from a sequence, and a sequence's order is not the order of
commits: when position 8 is visible, 7 may belong to a transaction that is still open, or that was rolled back. So:

- Every position that a read skipped is a *hole*, and it is looked at again in every later read.
- A hole is given the reader's own transaction id, taken *after* the read that found it. The table takes a row's
  transaction id before its position, so whoever holds position 7 has a smaller id than ours.
- A hole is forgotten when a later snapshot, in which it was looked at and still empty, has an xmin above that id: by
  then everybody who could have filled it has ended, so nobody ever will.

Rows of one key cannot be inverted by this as long as their writers hold a lock on the key: whoever takes position 9 after
waiting for 7's lock does so after 7's commit, so a snapshot that shows 9 shows 7.

No transaction id is kept in the database: after a restart the stretches of which nothing is recorded are holes again, with
a new id. Positions and publications are all that is needed, also after a restore into another cluster.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from evkit import postgres
from evkit.sql import named

_SQL = named("outbox_cursor")

# Bytes of stored payloads in one read: three such batches are in the relay's memory at a time.
BATCH_BYTES_MAX = 8_000_000

_DUE, _DECISIONS = 1, 2

# One outbox row, text as the bytes that Kafka wants: (position, topic, key, value, id, type, schema_version, headers,
# time, correlation_id, causation_id, traceparent). A tuple, for it is made and read 100,000 times a second.
Row = tuple[Any, ...]


@dataclass(slots=True)
class Hole:
    """Positions first..last that a read skipped; `xid` is a transaction id taken after that read, `since` its time."""

    first: int
    last: int
    xid: int
    since: float


@dataclass(slots=True)
class Reading:
    """What one read found.

    Attributes:
        rows       not read before, ascending by position
        complete   nothing else was visible: a later read is for what commits from now on
        due        a scheduled event is due
        decisions  how often people have decided about unpublishable events: another number says, look there
    """

    rows: list[Row]
    complete: bool
    due: bool
    decisions: int


class GapAwareCursor:
    """Reads each committed outbox row once; see the module's docstring for how it knows.

    Attributes:
        high   highest position seen
        holes  positions up to `high` that may still be filled, ascending
    """

    def __init__(self, connection: postgres.Connection, settled: int) -> None:
        self._connection = connection
        self._rows = postgres.bytes_cursor(connection)
        self.high = settled
        self.holes: list[Hole] = []

    def recover(self) -> None:
        """Start after a crash: what nothing is recorded of, below the last recorded position, is a hole until read."""
        settled = self.high
        ranges = self._connection.execute(_SQL["unpublished_ranges"], {"settled": settled}).fetchall()
        row = self._connection.execute(_SQL["last_dealt_with"], {"settled": settled}).fetchone()
        if row is not None and row[0] > settled:
            self.high = row[0]
            if ranges:
                xid, now = self._own_xid(), time.monotonic()
                self.holes = [Hole(first, last, xid, now) for first, last in ranges]

    def read(self, events_max: int, bytes_max: int = BATCH_BYTES_MAX) -> Reading:
        """What was not read before, at most so many rows and (but for the first row) so many stored bytes."""
        query = "read"
        params: dict[str, Any] = {"high": self.high, "events_max": events_max, "bytes_max": bytes_max}
        if self.holes:
            query = "read_with_holes"
            params |= {"hole_first": [h.first for h in self.holes], "hole_last": [h.last for h in self.holes]}
        answer = self._rows.execute(_SQL[query], params, prepare=True).fetchall()
        head, rows = answer[0], answer[1:]
        assert head[2] is None, "the row about the snapshot comes first"
        xmin, flags = head[0], head[6]
        positions = [row[0] for row in rows]
        # What is stored may be four bytes longer than what is in it, and is often shorter.
        complete = len(rows) < events_max and sum([len(row[3]) + 4 for row in rows]) < bytes_max
        # A read that may have stopped at a limit has not looked at what lies above its last row.
        looked_until = max(self.high, positions[-1] if positions else 0) if complete else positions[-1]
        if self.holes:
            self._settle_holes(positions, xmin, looked_until)
        self._remember_holes(positions)
        return Reading(rows, complete, bool(flags & _DUE), flags // _DECISIONS)

    @property
    def settled(self) -> int:
        """Every position up to here was read or will never exist."""
        return self.holes[0].first - 1 if self.holes else self.high

    def _settle_holes(self, found: list[int], xmin: int, looked_until: int) -> None:
        """Cut what was filled out of the holes, and forget those that nobody can fill any more."""
        filled = [p for p in found if p <= self.high]
        kept: list[Hole] = []
        at = 0
        for hole in self.holes:  # both ascending: one walk over both
            first = hole.first
            pieces = []
            while at < len(filled) and filled[at] <= hole.last:
                if first < filled[at]:
                    pieces.append(Hole(first, filled[at] - 1, hole.xid, hole.since))
                first = filled[at] + 1
                at += 1
            if first <= hole.last:
                pieces.append(Hole(first, hole.last, hole.xid, hole.since))
            kept += [p for p in pieces if not (p.last <= looked_until and xmin > p.xid)]
        self.holes = kept

    def _remember_holes(self, found: list[int]) -> None:
        """Remember every position that was skipped on the way to the new high-water mark."""
        if not found or found[-1] <= self.high:
            return
        skipped, expected = [], self.high + 1
        if found[0] != expected or found[-1] - found[0] != len(found) - 1:  # else: all in a row, as mostly
            for position in found:
                if position < expected:
                    continue
                if position > expected:
                    skipped.append((expected, position - 1))
                expected = position + 1
        if skipped:
            # After the read, and only when needed: an idle reader uses up none.
            xid, now = self._own_xid(), time.monotonic()
            self.holes += [Hole(first, last, xid, now) for first, last in skipped]
        self.high = found[-1]

    def _own_xid(self) -> int:
        row = self._connection.execute(_SQL["own_xid"]).fetchone()
        assert row is not None
        return int(row[0])
