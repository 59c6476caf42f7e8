"""The table of design.md section 5: what each way of reading an outbox loses or reorders, under the same traffic.

Eight writers, each taking the aggregate's row lock; half of them write to another table first (so they take their
transaction id early and their position late), one in ten rolls back, some wait before the commit. The sound form must lose
nothing and invert no key. Each unsound form must be caught doing one or the other: else this test would prove nothing.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict

import psycopg
import pytest

from evkit.runtime.outbox_cursor import GapAwareCursor

WRITERS = 8
EVENTS_A_WRITER = 400
KEYS = 25


def write_events(dsn: str, seed: int, go_on: threading.Event) -> None:
    chance = random.Random(seed)
    with psycopg.connect(dsn) as connection:
        for _ in range(EVENTS_A_WRITER):
            if go_on.is_set():
                return
            key = f"key-{chance.randrange(KEYS)}"
            if chance.random() < 0.5:  # takes the transaction id long before the position
                connection.execute("INSERT INTO unrelated (n) VALUES (1)")
            n = connection.execute("UPDATE aggregate SET n = n + 1 WHERE key = %s RETURNING n", (key,)).fetchone()
            connection.execute(
                "INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload)"
                " VALUES (gen_random_uuid()::text, 't', %s, 'e', %s)",
                (key, str(n[0])),
            )
            if chance.random() < 0.1:
                connection.execute("SELECT pg_sleep(%s)", (chance.random() * 0.01,))  # a commit that comes late
            if chance.random() < 0.1:
                connection.rollback()
            else:
                connection.commit()


@pytest.fixture
def traffic(evkit_database):
    """Eight writers at work; stopped and joined at the end, whatever happened."""
    with psycopg.connect(evkit_database) as connection:
        connection.execute("CREATE TABLE unrelated (n int)")
        connection.execute("CREATE TABLE aggregate (key text PRIMARY KEY, n int NOT NULL)")
        connection.execute("INSERT INTO aggregate SELECT 'key-' || k, 0 FROM generate_series(0, %s) k", (KEYS - 1,))
    go_on = threading.Event()
    writers = [
        threading.Thread(target=write_events, args=(evkit_database, seed, go_on), daemon=True)
        for seed in range(WRITERS)
    ]
    yield evkit_database, writers
    go_on.set()
    for writer in writers:
        writer.join()


class PositionCursor:
    """Unsound: `position > last ORDER BY position`. Identity order is not commit order."""

    def __init__(self, connection):
        self.connection, self.last = connection, 0

    def read(self, events_max):
        rows = self.connection.execute(
            "SELECT position FROM evkit.outbox WHERE position > %s ORDER BY position LIMIT %s", (self.last, events_max)
        ).fetchall()
        if rows:
            self.last = rows[-1][0]
        return rows


class XidCursor:
    """Unsound: cursor (txid, position) below xmin. A transaction may take its id first and write the key last."""

    def __init__(self, connection):
        self.connection, self.last = connection, ("0", 0)

    def read(self, events_max):
        rows = self.connection.execute(
            "SELECT position, txid::text FROM evkit.outbox WHERE (txid, position) > (%s::xid8, %s)"
            " AND txid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY txid, position LIMIT %s",
            (*self.last, events_max),
        ).fetchall()
        if rows:
            self.last = (rows[-1][1], rows[-1][0])
        return [row[:1] for row in rows]


class XmaxCursor(GapAwareCursor):
    """Unsound: holes settled by the snapshot's xmax, which is the last *completed* id + 1: running ones may be above."""

    def _own_xid(self):
        row = self._connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1").fetchone()
        return row[0]


class ForgetfulCursor(GapAwareCursor):
    """Unsound: holes are forgotten at the next look, as if everybody had committed by then."""

    def _own_xid(self):
        return 0


def read_all(cursor_class, dsn, writers):
    """Read while the writers write, and until nothing more comes; positions in the order of reading."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = (
            cursor_class(connection) if cursor_class in (PositionCursor, XidCursor) else cursor_class(connection, 0)
        )
        for writer in writers:
            writer.start()
        positions, quiet = [], 0
        while quiet < 3:
            rows = cursor.read(500)
            rows = getattr(rows, "rows", rows)
            positions += [row[0] for row in rows]
            writing = any(writer.is_alive() for writer in writers)
            quiet = 0 if rows or writing else quiet + 1
    return positions


def judge(dsn, positions):
    """(events lost, key-order inversions) of what was read, against what is in the table."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT position, aggregateid, payload::text::int FROM evkit.outbox").fetchall()
    about = {position: (key, n) for position, key, n in rows}
    assert len(positions) == len(set(positions)), "read twice"
    last, inversions = defaultdict(int), 0
    for position in positions:
        key, n = about[position]
        inversions += n < last[key]
        last[key] = max(last[key], n)
    return len(about) - len(positions), inversions


def test_gap_aware_cursor_loses_nothing_and_inverts_no_key(traffic):
    """P2, P3: the relay's own way of reading."""
    dsn, writers = traffic

    positions = read_all(GapAwareCursor, dsn, writers)

    assert judge(dsn, positions) == (0, 0)


@pytest.mark.parametrize("cursor_class", [PositionCursor, XidCursor, XmaxCursor, ForgetfulCursor])
def test_each_unsound_way_of_reading_is_caught(cursor_class, traffic):
    """The same traffic and the same judge find every published mistake; else the test above would prove nothing."""
    dsn, writers = traffic

    positions = read_all(cursor_class, dsn, writers)

    lost, inversions = judge(dsn, positions)
    assert lost + inversions > 0
