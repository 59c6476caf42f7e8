"""The reading of the outbox against a model of PostgreSQL: hypothesis looks for the interleaving that loses an event.

The model has what matters here and nothing else: transaction ids and positions that are handed out in the order of asking,
transactions that take the one and the other when they like, row locks on keys, savepoints, snapshots with the oldest id
still running (xmin) and the last one completed (xmax). What hypothesis finds is a handful of steps that can be read; the
same forms under real traffic are in tests/integration/runtime/test_relay_reading.py.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from evkit.runtime.outbox_cursor import GapAwareCursor
from evkit.sql import named

KEYS = ("a", "b", "c")
OPEN_MAX = 4
ALL = 1000


@dataclass(slots=True)
class Row:
    position: int
    key: str
    n: int  # of the key: 1, 2, 3 … in the order of writing
    bytes: int
    xid: int = 0

    @property
    def stored_bytes(self) -> int:
        """With a header; a large one is compressed."""
        return self.bytes // 4 if self.bytes > 80 else self.bytes + 4


@dataclass
class Transaction:
    xid: int | None = None
    rows: list[Row] = field(default_factory=list)
    locks: list[str] = field(default_factory=list)


class Server:
    """As much of PostgreSQL as the cursor can see."""

    def __init__(self, *, xid_before_position: bool = True) -> None:
        self.next_xid = 100
        self.next_position = 1
        self.completed = 99  # highest transaction id that has ended
        self.open: list[Transaction] = []
        self.committed: dict[int, Row] = {}
        self.published: set[int] = set()
        self.settled = 0
        self.meanwhile: Callable[[], None] = lambda: None  # what others do right before each of the reader's queries
        self._xid_before_position = xid_before_position

    # --- transactions -------------------------------------------------------------------------------------------------

    def take_xid(self) -> int:
        self.next_xid += 1
        return self.next_xid - 1

    def begin(self) -> Transaction:
        self.open.append(Transaction())
        return self.open[-1]

    def can_lock(self, transaction: Transaction, key: str) -> bool:
        return not any(key in other.locks for other in self.open if other is not transaction)

    def write(self, transaction: Transaction, key: str, sizes: list[int], *, undone: bool = False) -> None:
        """Rows of one key, whose lock the transaction takes first. Undone: inside a savepoint that is rolled back, which
        releases the lock, and what stays is the transaction's id and a hole."""
        locked = key in transaction.locks
        if transaction.xid is None and self._xid_before_position:
            transaction.xid = self.take_xid()
        n = sum(row.key == key for row in (*self.committed.values(), *transaction.rows))
        rows = [Row(self.next_position + i, key, n + 1 + i, size) for i, size in enumerate(sizes)]
        self.next_position += len(sizes)
        if not undone:
            transaction.rows += rows
            transaction.locks += [] if locked else [key]

    def end(self, transaction: Transaction, *, commit: bool) -> None:
        self.open.remove(transaction)
        if transaction.rows and transaction.xid is None:
            transaction.xid = self.take_xid()
        if transaction.xid is not None:
            self.completed = max(self.completed, transaction.xid)
        if commit:
            for row in transaction.rows:
                row.xid = transaction.xid
                self.committed[row.position] = row

    @property
    def xmin(self) -> int:
        return min((t.xid for t in self.open if t.xid is not None), default=self.next_xid)

    # --- what the reader asks -----------------------------------------------------------------------------------------

    def own_xid(self) -> int:
        xid = self.take_xid()
        self.completed = max(self.completed, xid)
        return xid

    def read(self, high, events_max, bytes_max) -> list[tuple]:
        """As evkit/sql/outbox_cursor.sql does it."""
        return self.read_with_holes(high, [], [], events_max, bytes_max)

    def read_with_holes(self, high, hole_first, hole_last, events_max, bytes_max) -> list[tuple]:
        ascending = sorted(self.committed)
        found = [p for p in ascending if p > high][:events_max]
        for first, last in zip(hole_first, hole_last, strict=True):
            found += [p for p in ascending if first <= p <= last][:events_max]
        batch, bytes_before = [], 0
        for position in sorted(found):
            if bytes_before < bytes_max:
                batch.append(position)
            bytes_before += self.committed[position].stored_bytes
        head = (self.xmin, None, None, None, None, None, 0, None, None, None, None, None)
        return [head] + [
            (p, b"topic", b"key", b"x" * self.committed[p].bytes, *(None,) * 8) for p in batch[:events_max]
        ]

    def unpublished_ranges(self, settled) -> list[tuple[int, int]]:
        ranges, previous = [], settled
        for position in sorted(p for p in self.published if p > settled):
            if position > previous + 1:
                ranges.append((previous + 1, position - 1))
            previous = position
        return ranges

    def last_dealt_with(self, settled) -> int:
        return max((p for p in self.published if p > settled), default=0)


class Connection:
    """Answers the cursor's named queries from the model; any other query is an error."""

    _NAMES = {query: name for name, query in named("outbox_cursor").items()}

    def __init__(self, server: Server) -> None:
        self.server = server
        self.adapters = SimpleNamespace(register_loader=lambda *_: None)
        self._answer: list[tuple] = []

    def cursor(self, **_):
        return Connection(self.server)

    def execute(self, query, params=None, **_):
        name = self._NAMES[query]
        self.server.meanwhile()
        answer = getattr(self.server, name)(**(params or {}))
        self._answer = answer if isinstance(answer, list) else [(answer,)]
        return self

    def fetchall(self) -> list[tuple]:
        return self._answer

    def fetchone(self) -> tuple:
        return self._answer[0]


# --- unsound forms, each published somewhere --------------------------------------------------------------------------


class PositionCursor:
    """`position > last ORDER BY position`: the order of positions is not that of commits."""

    def __init__(self, connection, settled):
        self.server, self.last = connection.server, settled

    def recover(self):
        self.last = max(self.last, self.server.last_dealt_with(self.last))

    def read(self, events_max, bytes_max):
        found = sorted(p for p in self.server.committed if p > self.last)[:events_max]
        self.last = found[-1] if found else self.last
        return SimpleNamespace(rows=[(p,) for p in found])

    @property
    def settled(self):
        return self.last


class XidCursor:
    """Cursor (txid, position) below xmin: a transaction may take its id first and write the key last."""

    def __init__(self, connection, settled):
        self.server, self.last = connection.server, (0, 0)

    def recover(self):
        done = [self.server.committed[p] for p in self.server.published if p in self.server.committed]
        self.last = max(((row.xid, row.position) for row in done), default=(0, 0))

    def read(self, events_max, bytes_max):
        rows = [(row.xid, row.position) for row in self.server.committed.values() if row.xid < self.server.xmin]
        found = sorted(row for row in rows if row > self.last)[:events_max]
        self.last = found[-1] if found else self.last
        return SimpleNamespace(rows=[(position,) for _, position in found])

    settled = 0


class XmaxCursor(GapAwareCursor):
    """Holes settled by the snapshot's xmax, the last *completed* id + 1: those still running may be above it."""

    def _own_xid(self):
        return self._connection.server.completed


class ForgetfulCursor(GapAwareCursor):
    """A hole is forgotten at the next look, as if everybody had ended by then."""

    def _own_xid(self):
        return 0


class EarlyXidCursor(GapAwareCursor):
    """The own id is taken before the read: who begins in between has a position and a larger id."""

    def read(self, events_max, bytes_max):
        self.early = super()._own_xid()
        return super().read(events_max, bytes_max)

    def _own_xid(self):
        return getattr(self, "early", 0) or super()._own_xid()


class HastyCursor(GapAwareCursor):
    """A hole counts as looked at although the read had stopped at its limit before it."""

    def _settle_holes(self, found, xmin, looked_until):
        super()._settle_holes(found, xmin, 10**9)


class UnsettledCursor(GapAwareCursor):
    """What is settled is the highest position seen: after a restart nobody looks at the holes below it."""

    @property
    def settled(self):
        return self.high


class ReadingAnOutbox(RuleBasedStateMachine):
    """Writers, and one relay that reads, marks, crashes and begins anew."""

    cursor_class = GapAwareCursor
    xid_before_position = True

    def __init__(self) -> None:
        super().__init__()
        self.server = Server(xid_before_position=self.xid_before_position)
        self.begin_reading()

    def begin_reading(self) -> None:
        self.cursor = self.cursor_class(Connection(self.server), self.server.settled)
        self.cursor.recover()
        self.read_now: set[int] = set()
        self.next_n: dict[str, int] = defaultdict(lambda: 1)
        self.unmarked: list[tuple[list[int], int]] = []  # positions of a batch, and what is settled with it

    # --- writers ------------------------------------------------------------------------------------------------------

    # Few rules with many arguments: hypothesis switches rules off by chance, and without one of these nothing happens.

    @rule(
        number=st.integers(0, OPEN_MAX - 1),
        key=st.sampled_from((None, *KEYS)),
        sizes=st.sampled_from(([1], [1], [1, 50], [90, 50, 1, 90], [1] * 20)),
        undone=st.sampled_from((False, False, False, True)),
        skipped=st.sampled_from((0, 0, 0, 0, 20)),
    )
    def write(self, number: int, key: str | None, sizes: list[int], undone: bool, skipped: int) -> None:
        """A transaction, open or new, writes to the outbox, or only elsewhere (no key), which takes its id early.

        `undone`: inside a savepoint that it rolls back. `skipped`: positions that nobody will ever fill, as after a crash
        of the server.
        """
        transactions = self.server.open
        transaction = transactions[number] if number < len(transactions) else self.server.begin()
        self.server.next_position += skipped
        if key is None:
            if transaction.xid is None:
                transaction.xid = self.server.take_xid()
        elif self.server.can_lock(transaction, key):  # else it would wait
            self.server.write(transaction, key, sizes, undone=undone)

    @precondition(lambda self: self.server.open)
    @rule(number=st.integers(0, OPEN_MAX - 1), commit=st.sampled_from((True, True, False)))
    def end(self, number: int, commit: bool) -> None:
        self.server.end(self.server.open[number % len(self.server.open)], commit=commit)

    # --- relay --------------------------------------------------------------------------------------------------------

    @rule(
        events_max=st.sampled_from((1, 2, ALL, ALL)),
        bytes_max=st.sampled_from((60, 10**6, 10**6)),
        meanwhile=st.sampled_from(("nothing", "nothing", "an end", "a write")),
    )
    def read(self, events_max: int, bytes_max: int, meanwhile: str) -> None:
        """One read; others may act before it, and before the taking of an own id, which are two statements."""

        def act() -> None:
            if meanwhile == "an end" and self.server.open:
                self.server.end(self.server.open[0], commit=True)
            if meanwhile == "a write":
                hasty, slow = self.server.begin(), self.server.begin()
                for transaction in (slow, hasty):
                    for free in (k for k in KEYS if self.server.can_lock(transaction, k)):
                        self.server.write(transaction, free, [1])
                        break
                self.server.end(hasty, commit=True)

        self.server.meanwhile = act
        rows = self.cursor.read(events_max, bytes_max).rows
        self.server.meanwhile = lambda: None
        self.take([row[0] for row in rows], events_max)

    def take(self, positions: list[int], events_max: int) -> None:
        assert len(positions) <= events_max
        for position in positions:
            row = self.server.committed[position]
            assert position not in self.read_now, f"position {position} is read twice"
            assert position not in self.server.published, f"position {position} is published and read again"
            while self.next_n[row.key] < row.n:  # published before this relay began: it need not be read again
                assert self.is_published(row.key, self.next_n[row.key]), (
                    f"{row.key} {row.n} at {position} overtakes {row.key} {self.next_n[row.key]}"
                )
                self.next_n[row.key] += 1
            assert self.next_n[row.key] == row.n, f"{row.key} {row.n} at {position} comes late"
            self.next_n[row.key] += 1
            self.read_now.add(position)
        if positions:
            self.unmarked.append((positions, self.cursor.settled))

    def is_published(self, key: str, n: int) -> bool:
        return any(
            self.server.committed[p].key == key and self.server.committed[p].n == n for p in self.server.published
        )

    @precondition(lambda self: self.unmarked)
    @rule(crash=st.sampled_from((False, False, True)), confirmed=st.sets(st.sampled_from(KEYS)))
    def mark(self, crash: bool, confirmed: set[str]) -> None:
        """The oldest batch under way is confirmed; or some of its keys are, and the relay is killed and begins anew."""
        positions, settled = self.unmarked.pop(0)
        if crash:
            self.server.published.update(p for p in positions if self.server.committed[p].key in confirmed)
            self.begin_reading()
        else:
            self.server.published.update(positions)
            self.server.settled = settled

    # --- what must hold -----------------------------------------------------------------------------------------------

    def unread(self) -> list[int]:
        """Positions that are to be read yet: committed, or of a transaction that may still commit."""
        written = [*self.server.committed, *(row.position for t in self.server.open for row in t.rows)]
        return [p for p in written if p not in self.read_now and p not in self.server.published]

    @invariant()
    def what_is_settled_stays_settled(self) -> None:
        passed = [p for p in self.unread() if p <= self.cursor.settled]
        assert not passed, f"settled is {self.cursor.settled}, and {passed} may still come"
        lost = [p for p in self.unread() if p <= self.server.settled]
        assert not lost, f"{self.server.settled} is written down as settled, and {lost} may still come"

    @invariant()
    def what_is_unread_will_be_looked_at(self) -> None:
        if isinstance(self.cursor, GapAwareCursor):
            holes = self.cursor.holes
            assert all(a.last < b.first for a, b in itertools.pairwise(holes)), "holes are not ascending"
            for p in self.unread():
                assert p > self.cursor.high or any(h.first <= p <= h.last for h in holes), f"{p} is forgotten"

    def teardown(self) -> None:
        """At last everybody ends, and everything committed has been read or published; no hole stays."""
        for transaction in list(self.server.open):
            self.server.end(transaction, commit=True)
        quiet = 0
        while quiet < 3:
            rows = self.cursor.read(7, 10**6).rows
            self.take([row[0] for row in rows], 7)
            quiet = 0 if rows else quiet + 1
        assert not self.unread(), f"positions {self.unread()} are lost"
        if isinstance(self.cursor, GapAwareCursor):
            assert not self.cursor.holes, "a hole stays although everybody has ended"


def machine(cursor: type, *, xid_first: bool = True) -> type[ReadingAnOutbox]:
    class Reading(ReadingAnOutbox):
        cursor_class = cursor
        xid_before_position = xid_first

    return Reading


def test_gap_aware_cursor_reads_each_committed_event_once_and_in_order():
    """P2, P3: whatever the order of ids, positions, locks, savepoints, commits, limits and crashes."""
    run_state_machine_as_test(
        machine(GapAwareCursor),
        settings=settings(max_examples=150, stateful_step_count=60, deadline=None, database=None),
    )


@pytest.mark.parametrize(
    ("cursor_class", "xid_first"),
    [
        (PositionCursor, True),
        (XidCursor, True),
        (XmaxCursor, True),
        (ForgetfulCursor, True),
        (EarlyXidCursor, True),
        (HastyCursor, True),
        (UnsettledCursor, True),
        (GapAwareCursor, False),  # a table whose position stands before its txid
    ],
)
def test_each_unsound_way_of_reading_is_found_without_a_server(cursor_class, xid_first):
    """Else the test above would prove nothing."""
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            machine(cursor_class, xid_first=xid_first),
            settings=settings(
                max_examples=1500,
                stateful_step_count=50,
                deadline=None,
                database=None,
                derandomize=True,
                print_blob=False,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
