"""A redrive that a running consumer has taken up, and the consumer's own lane, take turns."""

from __future__ import annotations

import threading

from evkit.runtime.redriver import Turns
from evkit.testing.waiting import until


def test_whoever_waits_for_a_turn_has_it_before_the_one_who_had_it_last():
    turns = Turns()
    had = []

    def lane():
        with turns:
            had.append("lane")

    other = threading.Thread(target=lane)
    with turns:
        had.append("redrive")
        other.start()
        until(turns._next.locked)  # it is in line
    with turns:
        had.append("redrive")
    other.join()

    assert had == ["redrive", "lane", "redrive"]


def test_nobody_waits_for_a_turn_that_nobody_has():
    turns = Turns()
    for _ in range(3):
        with turns:
            assert turns._now.locked()
    assert not turns._now.locked()
