"""What psycopg is spared on the hot path arrives in PostgreSQL as it would by psycopg; and a wait for an answer is used."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evkit.postgres import Array, Times, copy_text, integer_array, micros, text_array

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")) | st.sampled_from(
    ['"', "\\", '\\"', "NULL", "null", "{a,b}", "{}", "", " a ", "a,b", "'", "\n", "%s", "é\U0001f600"]
)


@pytest.fixture
def arrived(evkit_system):
    """`arrived(parameter, "text[]")` → the list that PostgreSQL takes it for."""
    with evkit_system.writing() as connection:
        yield lambda parameter, kind: connection.execute(f"SELECT %s::{kind}", [parameter]).fetchone()[0]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.none() | TEXT))
def test_a_text_array_arrives_as_it_was(arrived, values):
    assert arrived(text_array(values), "text[]") == values


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_an_integer_array_arrives_as_it_was(arrived, values):
    assert arrived(integer_array(values), "bigint[]") == values


TIMES = st.datetimes(timezones=st.just(UTC))
WHOLE = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    times=st.lists(TIMES) | st.lists(st.none() | TIMES, max_size=4),
    numbers=st.lists(WHOLE) | st.lists(st.none() | WHOLE, max_size=4),
)
def test_times_and_numbers_arrive_as_they_were_in_binary(evkit_system, times, numbers):
    sent = Times([None if at is None else micros(at) for at in times]), Array(numbers)
    with evkit_system.writing() as connection:
        found = connection.execute("SELECT %b::timestamptz[], %b::bigint[]", sent).fetchone()

    assert found == (times, numbers)


@pytest.mark.parametrize(("kind", "value"), [("int8[]", [1, 2]), ("timestamptz[]", [datetime(2013, 2, 8, tzinfo=UTC)])])
def test_lists_of_others_are_still_psycopgs_in_a_binary_copy(evkit_system, kind, value):
    """A dumper that is registered may take over a type of the server for the whole process."""
    with evkit_system.writing() as connection:
        connection.execute(f"CREATE TEMP TABLE theirs (value {kind})")
        with connection.cursor().copy("COPY theirs FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types([kind])
            copy.write_row([value])
        assert connection.execute("SELECT value FROM theirs").fetchone() == (value,)


@pytest.mark.parametrize("values", [["a\x00b"], ["a\x00b", "c"], ["a\x00b", None], ["\x00"]])
def test_a_nul_does_not_become_the_border_of_two_texts(values):
    with pytest.raises(ValueError, match="NUL"):
        text_array(values)


def test_other_work_is_done_until_the_answer_is_there_and_no_longer(evkit_system):
    calls = []
    with evkit_system.writing(autocommit=True) as keeper, evkit_system.writing(autocommit=True) as connection:
        keeper.execute("SELECT pg_advisory_lock(7)")

        def work():
            calls.append(len(calls))
            if len(calls) == 3:
                keeper.execute("SELECT pg_advisory_unlock(7)")
            return True

        connection.meanwhile = work
        found = connection.execute("SELECT 'got it' FROM pg_advisory_lock(7)").fetchone()
        connection.meanwhile = None
        n = len(calls)
        connection.execute("SELECT")

    assert found == ("got it",)
    assert n >= 3
    assert len(calls) == n


def test_who_has_no_more_work_is_not_asked_again(evkit_system):
    calls = []
    with evkit_system.writing(autocommit=True) as connection:
        connection.meanwhile = lambda: bool(calls.append(1))
        found = [connection.execute("SELECT %s", [n]).fetchone()[0] for n in range(3)]

    assert found == [0, 1, 2]
    assert len(calls) == 1


def test_what_the_other_work_raises_comes_up_when_the_statement_is_through(evkit_system):
    def work():
        raise MemoryError("no room")

    with evkit_system.writing() as connection:
        connection.execute("CREATE TEMP TABLE one (n integer)")
        connection.meanwhile = work
        with pytest.raises(MemoryError, match="no room"):
            connection.execute("INSERT INTO one VALUES (1)")
        connection.meanwhile = None

        assert connection.execute("SELECT n FROM one").fetchall() == [(1,)]


@pytest.mark.parametrize("in_pipeline", [True, False])
def test_errors_and_answers_are_the_same_beside_other_work(evkit_system, in_pipeline):
    with evkit_system.writing(autocommit=True) as connection:
        connection.meanwhile = lambda: True
        with connection.pipeline() if in_pipeline else nullcontext():
            found = [connection.execute("SELECT %s, repeat('x', 100000)", [n]) for n in range(30)]
            assert [of.fetchone()[0] for of in found] == list(range(30))
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
            connection.execute("SELECT 1 / 0")
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_error_of_who_takes_the_rows_comes_up_and_not_what_it_does_to_the_connection(evkit_system):
    def take(chunk):
        raise MemoryError("no room")

    def read():
        with evkit_system.reading() as connection:
            try:
                copy_text(
                    connection, b"SELECT i AS n FROM generate_series(1, 1000000) AS i", {}, [("n", "int64")], take
                )
            finally:
                if not connection.closed:
                    connection.rollback()

    with pytest.raises(MemoryError, match="no room"):
        read()
