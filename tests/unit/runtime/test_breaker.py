"""When failures are suspicious, and how long a held handler waits: what a process knows by itself, without a server."""

from __future__ import annotations

import pytest

from evkit.runtime.breaker import Breaker, Breakers, HandlerHeld


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
    assert not breakers.is_suspicious("bill", OSError()), "four are too few"
    breakers.count("bill", done=6)
    breakers.count("bill", failed=1)
    assert not breakers.is_suspicious("bill", OSError()), "5 of 11"
    breakers.count("bill", failed=1)
    assert breakers.is_suspicious("bill", OSError()), "6 of 12"


def test_other_handlers_do_not_count_unless_the_error_is_the_codes_own(breakers):
    breakers.count("bill", failed=10)
    breakers.count("ship", done=100)

    assert breakers.is_suspicious("bill", OSError())
    assert not breakers.is_suspicious("bill", TypeError())


def test_error_whose_cause_is_the_codes_own_is_too(breakers):
    breakers.count("bill", failed=10)
    breakers.count("ship", done=100)
    error = RuntimeError("wrapped")
    error.__cause__ = KeyError("total")

    assert not breakers.is_suspicious("bill", error)


def test_what_is_older_than_the_window_does_not_count(breakers, clock):
    breakers.count("bill", failed=10)
    clock[0] += 61

    assert not breakers.is_suspicious("bill", OSError())


def test_handler_that_the_database_holds_is_held_until_the_database_lets_it_go(breakers):
    with pytest.raises(HandlerHeld):
        breakers.require_free(["bill"], ["bill", "ship"])
    assert breakers.open == ["bill"]
    assert breakers.wait_seconds("bill") == 0, "the database is asked"
    breakers.require_free(["bill"], ["ship"])
    breakers.require_free([], ["bill", "ship"])

    assert breakers.open == []
    assert breakers.wait_seconds("bill") is None
