"""How often, and how long between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.errors import SchemaMismatch, Undecodable
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
    "wrong", [{"attempts": 0}, {"backoff_seconds": -1}, {"backoff_seconds": 9, "backoff_seconds_max": 1}]
)
def test_impossible_policy_is_refused(wrong):
    with pytest.raises(ValueError, match="a retry policy needs"):
        Retry(**wrong)
