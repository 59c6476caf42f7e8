"""Claims that expect a whole batch to be new, and the answers of a handler's statements: each without a topic."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evkit import Consumer, Retry
from evkit.kafka import Record

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def record(n: int) -> Record:
    headers = [("ce_id", b"event-%d" % n), ("ce_type", b"a.b"), ("ce_specversion", b"1.0"), ("ce_source", b"/test")]
    return Record("orders", 0, n, b"k%d" % (n % 3), b'{"n": %d}' % n, headers, NOW, "append", None, NOW)


@pytest.fixture
def table(evkit_system):
    """A table that handlers write to."""
    with evkit_system.writing() as connection:
        connection.execute("DROP TABLE IF EXISTS inbox_test")
        connection.execute("CREATE TABLE inbox_test (n int CHECK (n <> 13))")
    return "inbox_test"


@pytest.fixture
def new_inbox(evkit_system, evkit_group):
    """`new_inbox(handler, ...)`: the inbox of a group of its own."""
    made = []

    def make(function, **how):
        consumer = Consumer(
            evkit_group(), ["orders"], system=evkit_system, retry=Retry(attempts=1), park_key=False, breaker=None
        )
        consumer.handler("a.b", **how)(function)
        made.append(consumer.inbox(evkit_system))
        return made[-1]

    yield make
    for inbox in made:
        inbox.close()


def insert(event, tx):
    tx.execute("INSERT INTO inbox_test VALUES (%s)", (event.payload["n"],))


@pytest.mark.parametrize("how", [{}, {"pipeline": True}, {"batch": True}], ids=["plain", "pipeline", "batch"])
def test_what_was_known_is_left_out_also_of_a_batch_that_was_expected_to_be_new(how, table, new_inbox, rows):
    """One is known, one comes twice in the batch, one fails: after five batches that were new as a whole."""

    def insert_all(events, tx):
        for event in events:
            insert(event, tx)

    inbox = new_inbox(insert_all if how.get("batch") else insert, **how)
    for first in range(100, 150, 10):
        assert inbox.handle([record(n) for n in range(first, first + 10)]).handled == 10

    counts = inbox.handle([record(n) for n in (105, 1, 2, 2, 13, 3)])

    assert (counts.handled, counts.duplicate, counts.dead) == (3, 2, 1)
    assert rows("SELECT n FROM inbox_test WHERE n < 100 ORDER BY n") == [(1,), (2,), (3,)]
    assert rows("SELECT count(*), count(DISTINCT n) FROM inbox_test WHERE n >= 100") == [(50, 50)]
    assert rows("SELECT outcome, count(*) FROM evkit.inbox GROUP BY outcome ORDER BY 1") == [
        ("dead", 1),
        ("handled", 53),
    ]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.integers(20, 60), min_size=1, max_size=8), max_size=12))
def test_each_event_takes_effect_once_however_batches_repeat_each_other(batches, table, new_inbox, rows, evkit_system):
    with evkit_system.writing() as connection:
        connection.execute("TRUNCATE inbox_test, evkit.inbox")
    inbox = new_inbox(insert)

    total = [inbox.handle([record(n) for n in batch]) for batch in batches]

    known = {n for batch in batches for n in batch}
    assert rows("SELECT n FROM inbox_test ORDER BY n") == [(n,) for n in sorted(known)]
    assert sum(c.handled for c in total) == len(known)
    assert sum(c.duplicate for c in total) == sum(map(len, batches)) - len(known)


@pytest.mark.parametrize("pipeline", [False, True])
def test_answers_that_a_handler_keeps_stay_its_own(pipeline, table, new_inbox):
    """A cursor is used again only when nobody has looked at its answer."""
    seen = []

    def handle(event, tx):
        tx.execute("SELECT 1")
        first = tx.execute("SELECT generate_series(1, 3)")
        second = tx.execute("SELECT 'second'")
        tx.execute("SELECT 'dropped'")
        inside = []
        for (n,) in first:
            insert(event, tx)
            inside.append(n)
        with tx.execute("SELECT 'with'") as cursor:
            tx.execute("SELECT 'dropped too'")
            seen.append((inside, second.fetchone(), cursor.fetchall(), tx.execute("VALUES (1), (2)").fetchall()))
        fetch = tx.execute("SELECT 'bound'").fetchone
        tx.execute("SELECT 'later'")
        seen.append(fetch())

    inbox = new_inbox(handle, pipeline=pipeline)

    assert inbox.handle([record(n) for n in (1, 2)]).handled == 2
    assert seen == [([1, 2, 3], ("second",), [("with",)], [(1,), (2,)]), ("bound",)] * 2


def test_cursor_is_used_again_when_its_answer_was_dropped(table, new_inbox, monkeypatch):
    """Making one costs more than running a small statement on it."""
    made = []
    real = psycopg.Connection.cursor
    monkeypatch.setattr(psycopg.Connection, "cursor", lambda self, *a, **k: made.append(1) or real(self, *a, **k))
    inbox = new_inbox(insert, pipeline=True)
    inbox.handle([record(1), record(2)])
    made.clear()

    inbox.handle([record(n) for n in range(20, 120)])

    assert len(made) < 10
