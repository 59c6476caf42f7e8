"""What is decoded ahead: each record once, and nothing handed out that a handler had in its hands. Without a server."""

from __future__ import annotations

from datetime import UTC, datetime

from evkit.kafka import Record
from evkit.runtime.handler import Handlers
from evkit.runtime.look_ahead import LookAhead

NOW = datetime(2013, 2, 8, tzinfo=UTC)


def record(n):
    headers = [("ce_id", b"%d" % n), ("ce_type", b"order.placed")]
    return Record("t", 0, n, b"k", b'{"n": %d}' % n, headers, NOW, "append", None, NOW)


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


def test_what_was_decoded_ahead_is_not_decoded_again_and_the_rest_is():
    records = [record(n) for n in range(4)]
    ahead, seen = looking(lambda: records[:2])
    ahead.look()
    assert seen == ["0", "1"]

    deliveries = ahead.deliveries(records[1:])

    assert [delivery.event_id for delivery in deliveries] == ["1", "2", "3"]
    assert seen == ["0", "1", "2", "3"]


def test_nothing_is_handed_out_twice():
    records = [record(0)]
    ahead, _ = looking(lambda: records)
    ahead.look()

    (first,), (second,) = ahead.deliveries(records), ahead.deliveries(records)

    assert first.event is not second.event, "a handler may have changed the first one"


def test_what_did_not_come_is_forgotten():
    records = [record(n) for n in range(2)]
    ahead, _ = looking(lambda: [records.pop(0)])
    ahead.look()
    ahead.look()

    assert len(ahead._decoded) == 1
