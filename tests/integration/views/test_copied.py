"""Frames of very many rows: the same as those of few, in every value, and the same errors."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime

import polars as pl
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from polars.testing import assert_frame_equal

from evkit import postgres, views
from evkit.errors import DatabaseUnreachable, QueryTimeout, UnknownGroup
from evkit.sql import named
from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.copied import _Reader, copied, rows_in
from evkit.views.frame import fetch, frame, groups_of

AWKWARD = [
    "",
    " ",
    '"',
    '""',
    ",",
    "a,b",
    "\n",
    "\r\n",
    "a\nb",
    "\\N",
    "\\.",
    "\\t\t\\\\n\v\b\f",
    "NULL",
    "null",
    "'",
    "é",
    "\u2028",
    "1",
    "%s",
    "%(a)s",
]

# A moment is made of one of these and a zone.
FIRST, LAST = datetime(1, 2, 1), datetime(9999, 12, 1)  # noqa: DTZ001


def _both(system, view, noun, query, given):
    rows = frame(view, fetch(system, noun, query, COLUMNS[view], **given))
    reader = _Reader(COLUMNS[view])
    with reader, system.reading() as connection:
        if "group" in given:
            given = {**given, "groups": groups_of(system, connection, given["group"])}
        columns = [(c.name, c.dtype) for c in COLUMNS[view]]
        postgres.copy_text(connection, named(noun)[query], given, columns, reader.take)
        return rows, pl.concat([pl.DataFrame(schema=rows.schema), *[part.result() for part, _ in reader.page()]])


def test_every_view_is_the_same_frame_by_rows_and_by_copy(evkit_system, past, monkeypatch):
    for n, text in enumerate(AWKWARD):
        past.write(f"e{n}", 50 + n, key=text, published=49 + n if n % 2 else None)
        past.handle("billing", f"e{n}", 40 + n, written=50 + n)
        past.fail("billing", f"e{n}", 40 + n, dead=n % 3 == 0)
        past.letter("billing", f"e{n}", 40 + n, key=text or None)
        past.sql("UPDATE evkit.attempt SET key = %s, error_message = %s WHERE event_id = %s", text, text, f"e{n}")
        past.sql("INSERT INTO evkit.audit (actor, act, target, plan) VALUES (%s, 'x', 'y', '{\"n\": [1, null]}')", text)
    past.sql("UPDATE evkit.attempt SET key = NULL, handler = NULL, duration_seconds = 1e-7 WHERE event_id = 'e1'")
    window, compared = past.window(3600), set()

    def compare(system, noun, query, given, view):
        rows, columns = _both(system, view, noun, query, given)
        # Ages go on while the second one is read.
        still = [c for c in rows.columns if not (c.endswith("_seconds") or c in ("measured_at", "letters_per_minute"))]
        assert_frame_equal(rows.select(still), columns.select(still))
        assert rows.schema == columns.schema
        compared.add(view)

    for name in ("acts", "dead_letters", "errors"):
        module = importlib.import_module(f"evkit.views.{name}")

        def by_rows(system, noun, query, columns, /, **given):
            # A view may ask for more than it shows.
            compare(
                system, noun, query, given, next(n for n in COLUMNS if tuple(columns[: len(COLUMNS[n])]) == COLUMNS[n])
            )
            return fetch(system, noun, query, columns, **given)

        def by_copy(system, view, noun, query, /, newest_first=True, bounds=None, **given):
            compare(system, noun, query, given, view)
            return copied(system, view, noun, query, newest_first=newest_first, bounds=bounds, **given)

        for function, other in (("fetch", by_rows), ("copied", by_copy)):
            if hasattr(module, function):
                monkeypatch.setattr(module, function, other)
    for name in COLUMNS:
        function = getattr(views, name)
        if name in ("errors", "error_rate", "dead_letter_groups", "dead_letter_count", "latency", "latency_over_time",
                    "publish_rate", "throughput", "acts"):  # fmt: skip
            function(evkit_system, window=window)
        elif name in ("dead_letters", "replays"):
            function(evkit_system)

    assert compared >= {"errors", "error_rate", "dead_letters", "dead_letter_groups", "acts"}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    strategies.lists(
        strategies.tuples(
            strategies.none()
            | strategies.text(strategies.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
            strategies.none() | strategies.integers(-(2**63), 2**63 - 1),
            strategies.none() | strategies.floats(allow_nan=False),
            strategies.none() | strategies.booleans(),
            strategies.none() | strategies.datetimes(FIRST, LAST, timezones=strategies.just(UTC)),
        ),
        max_size=20,
    )
)
def test_what_was_put_into_postgres_is_what_the_frame_has(evkit_system, rows):
    columns = [("t", "string"), ("i", "int64"), ("f", "float64"), ("b", "bool"), ("at", "time")]
    query = (
        b"SELECT * FROM unnest(%(t)s::text[], %(i)s::bigint[], %(f)s::float8[], %(b)s::boolean[], %(at)s::timestamptz[])"
        b" AS given (t, i, f, b, at)"
    )
    given = {name: [row[n] for row in rows] for n, (name, _) in enumerate(columns)}
    taken = []

    with evkit_system.reading() as connection:
        postgres.copy_text(connection, query, given, columns, taken.append)

    assert [row for chunk in taken for row in rows_in(chunk, dict(columns)).rows()] == rows


@pytest.mark.parametrize("border", ["1900-01-01", "1970-01-01", "2026-11-27", "2038-01-19", "2099-12-31", "2100-01-01"])
def test_a_moment_is_exact_to_the_microsecond(evkit_system, border):
    day, apart = 86_400_000_000, 3_999_971
    (start,) = pl.Series([border]).str.to_datetime(time_unit="us").dt.epoch("us") - day // 2
    query = (
        b"SELECT i, 'epoch'::timestamptz + i * interval '1 microsecond' AS at"
        b"  FROM generate_series(%(first)s, %(last)s, %(apart)s) AS i"
    )
    given, taken = {"first": start, "last": start + day, "apart": apart}, []

    with evkit_system.reading() as connection:
        postgres.copy_text(connection, query, given, [("i", "int64"), ("at", "time")], taken.append)

    found = pl.concat([rows_in(chunk, {"i": "int64", "at": "time"}) for chunk in taken])
    assert found["at"].dt.epoch("us").to_list() == found["i"].to_list() == list(range(start, start + day + 1, apart))


def test_a_moment_that_no_frame_can_hold_is_null(evkit_system, past):
    past.fail("billing", "e1", 10)
    past.letter("billing", "e1", 10)
    past.sql("UPDATE evkit.dead_letter SET failed_at = 'infinity', created_at = '20000-01-01'")

    (row,) = views.dead_letters(evkit_system).to_dicts()

    assert (row["failed_at"], row["created_at"]) == (None, None)
    assert row["first_failed_at"] is not None


def test_chunks_break_no_row_and_keep_the_order(evkit_system, past, monkeypatch):
    monkeypatch.setattr(postgres, "_CHUNK_BYTES", 1000)
    past.sql(
        'INSERT INTO evkit.attempt (consumer_group, event_id, event_type, topic, partition, "offset", attempt, failed_at,'
        " duration_seconds, error_class, error_message, stack_trace, fingerprint, disposition)"
        " SELECT 'billing', i::text, 't', 't', 0, i, 1, %s::timestamptz - i * interval '1 ms', 0, 'E', E'a\\n\"b', '', 'f',"
        " 'retry' FROM generate_series(0, 2999) i",
        past.at(1),
    )

    made = views.errors(evkit_system, past.window(60))

    assert made["event_id"].to_list() == [str(i) for i in range(3000)]
    assert made["error_message"].unique().to_list() == ['a\n"b']


@pytest.mark.parametrize("frames", ["polars", "pandas"])
def test_a_limit_that_was_hit_is_said_and_no_row_above_it_is_shown(evkit_system, past, caplog, frames):
    for n in range(3):
        past.fail("billing", f"e{n}", n + 1)
        past.sql("INSERT INTO evkit.audit (actor, act, target, plan) VALUES ('ada', 'x', 'y', '{}')")

    errors = views.errors(evkit_system, past.window(60), rows_max=2, frames=frames)
    acts = views.acts(evkit_system, "1m", rows_max=2, frames=frames)

    assert (len(errors), len(acts)) == (2, 2)
    assert "only the newest 2 failed attempts" in caplog.text
    assert "only the newest 2 acts" in caplog.text


def test_an_unknown_group_is_named_as_for_any_view(evkit_system, past):
    past.handle("billing", "e1", 1)

    with pytest.raises(UnknownGroup, match="did you mean 'billing'"):
        views.errors(evkit_system, group="biling")


def test_a_server_that_goes_away_among_the_rows_is_an_error_and_no_shorter_frame(evkit_system, evkit_database):
    def cut(_: bytes) -> None:
        with psycopg.connect(evkit_database, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (pid,))

    with pytest.raises(DatabaseUnreachable), evkit_system.reading() as connection:  # noqa: PT012
        pid = connection.info.backend_pid
        postgres.copy_text(
            connection, b"SELECT repeat('x', 1000) AS a FROM generate_series(1, 100000)", {}, [("a", "string")], cut
        )


def test_a_query_that_takes_too_long_is_cancelled_and_says_so(evkit_system):
    quick = System(evkit_system.settings.model_copy(update={"statement_timeout_seconds": 1.0}))

    with pytest.raises(QueryTimeout, match="shorter window"), quick.reading() as connection:
        postgres.copy_text(connection, b"SELECT pg_sleep(600)::text AS a", {}, [("a", "string")], lambda _: None)


def test_rows_become_objects_when_no_snapshot_is_held_any_more(evkit_system, evkit_database, past, monkeypatch):
    past.fail("billing", "e1", 1)
    seen = []
    fetchall = psycopg.Cursor.fetchall

    def watched(cursor):
        if cursor._query and b"by_handler" in cursor._query.query:
            seen.append(cursor.connection.info.transaction_status)
        return fetchall(cursor)

    monkeypatch.setattr(psycopg.Cursor, "fetchall", watched)

    views.error_rate(evkit_system, past.window(60))

    assert set(seen) == {psycopg.pq.TransactionStatus.UNKNOWN}, "the connection should be closed by then"
