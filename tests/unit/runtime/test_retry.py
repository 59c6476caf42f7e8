"""How often, and how long between."""

from __future__ import annotations

import errno

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.errors import DatabaseUnreachable, SchemaMismatch, TryLater, Undecodable
from evkit.runtime.retry import Retry


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0.001, 5), st.floats(5, 100))
def test_wait_grows_and_stays_within_its_bound(attempt, chance, first, most):
    retry = Retry(backoff_seconds=first, backoff_seconds_max=most)

    wait = retry.wait_seconds(attempt, uniform=chance)

    assert 0 <= wait <= most
    assert wait <= retry.wait_seconds(attempt + 1, uniform=chance)


def test_attempts_count_the_first_delivery():
    assert [Retry(attempts=3).again(ValueError(), n) for n in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("error", [Undecodable("x"), SchemaMismatch("x"), KeyError("x")])
def test_what_no_repetition_cures_is_not_repeated(error):
    assert not Retry(attempts=9, never=(KeyError,)).again(error, 1)


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"backoff_seconds": -1}, {"backoff_seconds": 9, "backoff_seconds_max": 1}, {"seconds_max": -1}],
)
def test_impossible_policy_is_refused(wrong):
    with pytest.raises(ValueError, match="a retry policy needs"):
        Retry(**wrong)


class Busy(TimeoutError):
    pass


def test_policy_of_the_nearest_class_decides():
    retry = Retry(attempts=2, by_class={OSError: Retry(attempts=4), TimeoutError: Retry(attempts=9)})

    last = {
        kind: max(n for n in range(1, 20) if n == 1 or retry.again(kind(), n - 1))
        for kind in (ValueError, OSError, Busy)
    }

    assert last == {ValueError: 2, OSError: 4, Busy: 9}


def test_wait_is_that_of_the_errors_policy():
    retry = Retry(backoff_seconds=1, by_class={TimeoutError: Retry(backoff_seconds=7)})

    assert retry.wait_seconds(1, Busy(), uniform=1.0) == 7
    assert retry.wait_seconds(1, ValueError(), uniform=1.0) == 1


@given(st.floats(0, 100), st.floats(0, 100))
def test_no_attempt_later_than_the_total_time(most, failing):
    assert Retry(attempts=99, seconds_max=most).again(ValueError(), 1, failing_seconds=failing) == (failing < most)


def test_never_of_the_whole_policy_holds_for_the_classes_too():
    retry = Retry(never=(Busy,), by_class={TimeoutError: Retry(attempts=9)})

    assert not retry.again(Busy(), 1)
    assert retry.again(TimeoutError(), 1)


def test_total_time_of_the_whole_policy_bounds_the_classes_without_one():
    retry = Retry(
        seconds_max=10, by_class={TimeoutError: Retry(attempts=99), OSError: Retry(attempts=99, seconds_max=50)}
    )

    assert not retry.again(Busy(), 1, failing_seconds=10)
    assert retry.again(OSError(), 1, failing_seconds=10)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 1))
def test_wait_does_not_reach_beyond_the_total_time(most, failing, chance):
    retry = Retry(attempts=99, backoff_seconds=60, backoff_seconds_max=60, seconds_max=most)

    assert (
        failing + retry.wait_seconds(3, ValueError(), failing_seconds=failing, uniform=chance)
        <= max(most, failing) + 1e-9
    )


def test_policy_can_be_a_key():
    assert len({Retry(), Retry(), Retry(attempts=4, by_class={OSError: Retry()})}) == 2


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ConnectionRefusedError(), "nobody"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "nobody"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "nobody"),
        (OSError(errno.ENOENT, "No such file or directory"), "the event"),
        (caused(RuntimeError("the library's own"), ConnectionResetError()), "nobody"),
        (TryLater("maintenance"), "nobody"),
        (DatabaseUnreachable("db:5432/orders", "no answer"), "nobody"),
        (psycopg.OperationalError("connection failed"), "nobody"),
        (psycopg.errors.AdminShutdown(), "nobody"),
        (TimeoutError(), "the event"),
        (ValueError(), "the event"),
        (psycopg.errors.UniqueViolation(), "the event"),
    ],
)
def test_network_and_servers_that_are_away_are_nobodys_fault(error, fault):
    assert Retry().is_nobodys_fault(error) == (fault == "nobody")


def test_who_says_never_is_obeyed_even_for_the_network():
    assert not Retry(never=(ConnectionError,)).is_nobodys_fault(ConnectionResetError())
    assert not Retry(nobodys_fault=()).is_nobodys_fault(OSError(errno.EHOSTUNREACH, "No route to host"))
