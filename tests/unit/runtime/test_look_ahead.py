"""What is decoded ahead: each record once, and nothing handed out that a handler had in its hands. Without a server."""

from __future__ import annotations

from datetime import UTC, datetime

from evkit.kafka import Record
from evkit.runtime.assignment import Assignment
from evkit.runtime.fetched import of_records
from evkit.runtime.handler import Handlers
from evkit.runtime.look_ahead import A_FEW, SOME, SOME_BYTES, LookAhead

NOW = datetime(2013, 2, 8, tzinfo=UTC)


def in_line(*numbers, size=0):
    """Records as they stand in line at a partition."""
    assignment = Assignment()
    assignment.assign([("t", 0)], 1)
    headers = {n: [("ce_id", b"%d" % n), ("ce_type", b"order.placed")] for n in numbers}
    assignment.add(
        of_records(
            [
                Record("t", 0, n, b"k", b'{"n": %d}' % n + b" " * size, headers[n], NOW, "append", None, NOW)
                for n in numbers
            ]
        )
    )
    return assignment.upcoming(len(numbers))


def looking(upcoming):
    """A LookAhead, and the ids of the events that it has decoded, as its filter sees them."""
    seen = []
    handlers = Handlers()
    handlers.add(
        ["order.placed"], lambda event, tx: None, None, batch=False, where=lambda event: seen.append(event.id) or True
    )
    ahead = LookAhead(handlers)
    ahead.upcoming = upcoming
    return ahead, seen


def test_a_few_are_decoded_after_the_others_in_their_order_until_there_are_no_more():
    numbers = range(2 * SOME + 1)
    works = in_line(*numbers)
    ahead, seen = looking(lambda: works)

    assert [ahead.look_at_some() for _ in range(2)] == [True, True]
    assert len(seen) == 2 * SOME
    assert [ahead.look_at_some() for _ in range(3)] == [True, False, False]
    assert seen == [str(n) for n in numbers]


def test_where_answers_come_at_once_a_few_are_decoded_in_one_go():
    works = in_line(*range(2 * A_FEW))
    ahead, seen = looking(lambda: works)

    with ahead.in_short_waits():
        assert ahead.look_at_some()
    assert len(seen) == A_FEW
    assert ahead.look_at_some()
    assert len(seen) == 2 * A_FEW


def test_of_large_records_fewer_are_decoded_in_one_go():
    works = in_line(0, 1, 2, size=SOME_BYTES // 2)
    ahead, seen = looking(lambda: works)

    assert ahead.look_at_some()
    assert seen == ["0", "1"]


def test_what_was_decoded_ahead_is_not_decoded_again_and_the_rest_is():
    works = in_line(0, 1, 2, 3)
    ahead, seen = looking(lambda: works[:2])
    while ahead.look_at_some():
        pass
    assert seen == ["0", "1"]

    deliveries = ahead.deliveries(works[1:])

    assert [delivery.event_id for delivery in deliveries] == ["1", "2", "3"]
    assert seen == ["0", "1", "2", "3"]


def test_nothing_is_handed_out_twice():
    works = in_line(0)
    ahead, _ = looking(lambda: works)
    ahead.look_at_some()

    (first,), (second,) = ahead.deliveries(works), ahead.deliveries(works)

    assert first.event is not second.event, "a handler may have changed the first one"


def test_what_did_not_come_is_forgotten_and_what_may_still_come_is_not():
    works = in_line(0, 1, 2)
    expected = [works[:2], works[1:]]
    ahead, seen = looking(lambda: expected.pop(0))
    while ahead.look_at_some():
        pass
    ahead.deliveries([])

    while ahead.look_at_some():
        pass

    assert seen == ["0", "1", "2"]
    assert {delivery.event_id for delivery in ahead._decoded.values()} == {"1", "2"}


def test_where_nobody_knows_what_comes_nothing_is_decoded():
    ahead, seen = looking(None)

    assert not ahead.look_at_some()
    assert seen == []
