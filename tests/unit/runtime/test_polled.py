"""When a full partition is paused, and when room is waited for. Without a server."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from evkit.kafka import Record
from evkit.runtime import polled
from evkit.runtime.assignment import Assignment
from evkit.runtime.fetched import of_records

NOW = datetime(2013, 2, 8, tzinfo=UTC)
FULL, OTHER = ("t", 0), ("t", 1)


def full_assignment():
    assignment = Assignment(10)
    assignment.assign([FULL, OTHER], epoch=1)
    assignment.add(of_records(Record("t", 0, n, b"k%d" % n, b"{}", [], NOW, "append", None, NOW) for n in range(10)))
    return assignment


def test_room_is_waited_for_and_nothing_paused_while_everybody_has_something_to_do():
    assignment, changed = full_assignment(), threading.Condition()
    batch = assignment.take(5, now=0)
    waits = threading.Event()

    def is_busy():
        waits.set()
        return True

    def finish():
        waits.wait()
        with changed:
            assignment.finish(batch[:1])
            changed.notify_all()

    finisher = threading.Thread(target=finish)
    finisher.start()
    assert polled.full(assignment, changed, set(), is_busy) == set()
    finisher.join()


def test_full_partition_is_paused_at_once_where_somebody_waits_for_records_of_another():
    assert polled.full(full_assignment(), threading.Condition(), set(), lambda: False) == {FULL}


def test_full_partition_is_paused_when_there_is_no_room_for_a_while(monkeypatch):
    monkeypatch.setattr(polled, "ROOM_SECONDS", 0.01)
    assert polled.full(full_assignment(), threading.Condition(), set(), lambda: True) == {FULL}


def test_nobody_waits_for_room_in_what_is_paused_already():
    def is_busy():
        raise AssertionError("asked whether to wait")

    assert polled.full(full_assignment(), threading.Condition(), {FULL}, is_busy) == {FULL}
