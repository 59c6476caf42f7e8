"""A redrive that a running consumer has taken up, and the consumer's own lane, take turns."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from evkit.runtime.redriver import Redriver, Turns
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


def test_a_redrive_is_at_it_while_its_own_thread_has_the_turn():
    redriver = Redriver(SimpleNamespace(group="billing"), lanes=1)
    with redriver.turn:  # a lane
        assert redriver.at_it is None
    redriver._thread = threading.current_thread()

    with redriver.turn:
        assert redriver.at_it is threading.current_thread()
    assert redriver.at_it is None
    assert Redriver(SimpleNamespace(group="billing"), lanes=2).at_it is None, "lanes do not wait for it"
