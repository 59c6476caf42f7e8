"""An outage is told once, not in each attempt of each client."""

from __future__ import annotations

import logging

import pytest

from evkit import client_log
from evkit.client_log import Repeats

FAIL = (
    "FAIL [evkit#consumer-%d] [thrd:b:9092/bootstrap]: b:9092/bootstrap: "
    "Connect to ipv4#10.0.0.1:9092 failed: %s (after %dms in state CONNECT)"
)


@pytest.fixture
def told(monkeypatch):
    """`told(text)`: what reaches the log of a line, or None; `told.now` is the time."""
    filters = Repeats()

    def tell(text):
        record = logging.LogRecord("evkit.kafka.client", logging.ERROR, "", 0, text, (), None)
        return record.getMessage() if filters.filter(record) else None

    tell.now = 100.0
    monkeypatch.setattr(client_log.time, "monotonic", lambda: tell.now)
    return tell


def test_the_same_outage_is_told_once_whichever_client_meets_it(told):
    assert told(FAIL % (1, "Connection refused", 0)) == FAIL % (1, "Connection refused", 0)
    assert [told(FAIL % (n, "Connection refused", n)) for n in range(2, 50)] == [None] * 48


def test_another_reason_is_told_at_once(told):
    told(FAIL % (1, "Connection refused", 0))
    assert told(FAIL % (1, "No route to host", 0)) is not None


def test_it_is_told_again_after_a_while_with_how_many_were_left_out(told):
    told(FAIL % (1, "Connection refused", 0))
    for n in range(1200):
        told(FAIL % (n, "Connection refused", n))
    told.now += client_log.QUIET_SECONDS

    assert told(FAIL % (2, "Connection refused", 1)).endswith("(and 1,200 more of these since)")
    assert told(FAIL % (2, "Connection refused", 1)) is None


def test_percent_signs_are_text(told):
    told("50 % done")
    told("50 % done")
    told.now += client_log.QUIET_SECONDS
    assert told("50 % done") == "50 % done (and 1 more of these since)"


def test_memory_is_bounded_by_the_number_of_different_lines(told):
    filters = Repeats()
    for n in range(5000):
        filters.filter(logging.LogRecord("x", logging.ERROR, "", 0, f"line {'a' * (n % 50)} {n}", (), None))
    assert len(filters._told) <= 1000
