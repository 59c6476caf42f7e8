"""How the relay tells the time of a broker's answer on the database's clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evkit.runtime.marker import DatabaseClock

QUESTIONS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5), st.integers(0, 10**5)), min_size=1)


def test_an_answer_that_was_long_on_its_way_moves_nothing_to_before_it_was_written():
    clock = DatabaseClock()

    assert clock.shift(told=1_000_100, asked_at=0, answered_at=100) == 1_000_000
    assert clock.shift(told=1_500_000, asked_at=499_900, answered_at=590_000) == 1_000_000


def test_a_clock_that_was_set_is_followed_at_once():
    clock = DatabaseClock()
    clock.shift(told=1_000_100, asked_at=0, answered_at=100)

    assert clock.shift(told=5_000_000, asked_at=200, answered_at=300) == 4_999_700
    assert clock.shift(told=1_000, asked_at=400, answered_at=500) == 600


@given(QUESTIONS, st.integers(-(10**9), 10**9))
def test_it_is_never_ahead_and_no_further_behind_than_the_soonest_answer_of_all(questions, truth):
    clock, now, soonest = DatabaseClock(), 0, 10**9

    for pause, there, back in questions:
        asked_at = now + pause
        now = asked_at + there + back
        soonest = min(soonest, back)

        assert clock.shift(truth + asked_at + there, asked_at, now) == truth - soonest
