"""When failures are suspicious, and how long a held handler waits: what a process knows by itself, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.runtime.breaker import Breaker, Breakers, HandlerHeld, Suspicion


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    times = [1000.0]
    monkeypatch.setattr("evkit.runtime.breaker.time.monotonic", lambda: times[0])
    return times


@pytest.fixture
def breakers(clock):
    return Breakers("billing", Breaker(keys_min=5, share_min=0.5, window_seconds=60))


def test_half_of_a_handlers_events_must_fail_and_at_least_so_many(breakers):
    breakers.count("bill", failed=4)
    assert not breakers.suspicion("bill", OSError()), "four are too few"
    breakers.count("bill", done=6)
    breakers.count("bill", failed=1)
    assert not breakers.suspicion("bill", OSError()), "5 of 11"
    breakers.count("bill", failed=1)
    assert breakers.suspicion("bill", OSError()), "6 of 12"


def test_other_handlers_do_not_count_unless_the_error_is_the_codes_own(breakers):
    breakers.count("bill", failed=10)
    breakers.count("ship", done=100)

    assert breakers.suspicion("bill", OSError())
    assert not breakers.suspicion("bill", TypeError())


def test_error_whose_cause_is_the_codes_own_is_too(breakers):
    breakers.count("bill", failed=10)
    breakers.count("ship", done=100)
    error = RuntimeError("wrapped")
    error.__cause__ = KeyError("total")

    assert not breakers.suspicion("bill", error)


def test_what_is_older_than_the_window_does_not_count(breakers, clock):
    breakers.count("bill", failed=10)
    clock[0] += 61

    assert not breakers.suspicion("bill", OSError())


def test_handler_that_the_database_holds_is_held_until_the_database_lets_it_go(breakers):
    with pytest.raises(HandlerHeld):
        breakers.require_free(["bill"], ["bill", "ship"])
    assert breakers.open == ["bill"]
    assert breakers.wait_seconds("bill") == 0, "the database is asked"
    breakers.require_free(["bill"], ["ship"])
    breakers.require_free([], ["bill", "ship"])

    assert breakers.open == []
    assert breakers.wait_seconds("bill") is None


# What becomes of one event, and how many seconds after the one before: done, or failed in one of two ways.
COURSE = st.lists(st.tuples(st.sampled_from(["done", "f", "g"]), st.integers(0, 40)), max_size=12)


@given(course=COURSE)
def test_a_streak_is_when_all_events_failed_alike_for_as_long_as_the_window(course):
    """Compared with the rule read off the whole course, as one would by hand."""
    now = [1000.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evkit.runtime.breaker.time.monotonic", lambda: now[0])
        breakers = Breakers("billing", Breaker(keys_min=100, window_seconds=60, streak_keys_min=3))
        times = []
        for what, seconds in course:
            now[0] += seconds
            times.append(now[0])
            if what == "done":
                breakers.count("bill", done=1)
            else:
                breakers.count("bill", failed=1)
                breakers.failed_alike("bill", what)
        found = breakers.suspicion("bill", OSError())
        own = breakers.suspicion("bill", TypeError())

    kinds = [what for what, _ in course]
    first = next((i for i in range(len(kinds)) if len(set(kinds[i:])) == 1), None)  # of the last stretch of equal ones
    lasted = None if first is None or kinds[-1] == "done" else now[0] - times[first]
    assert found == (Suspicion(3, lasted + 1, streak=True) if lasted is not None and lasted >= 60 else None)
    assert own is None


def test_a_breaker_without_a_streak_looks_at_many_keys_alone(clock):
    breakers = Breakers("billing", Breaker(keys_min=5, streak_keys_min=None))
    breakers.failed_alike("bill", "f")
    clock[0] += 3600

    assert breakers.suspicion("bill", OSError()) is None
