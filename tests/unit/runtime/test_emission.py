"""What becomes of a handler's follow-up events in a replay; without a server."""

from __future__ import annotations

import pytest

from evkit import Event
from evkit.runtime.emission import Emission, emitting, written

MARK = "evkit-replay-id"


class Connection:
    """Stands for a psycopg connection, of which only the identity counts here."""


@pytest.mark.parametrize(
    ("emit", "headers", "expected"),
    [
        ("marked", {}, {MARK: "replay-1"}),
        ("marked", {MARK: "replay-1"}, {MARK: "replay-1"}),
        ("normal", {MARK: "replay-1", "tenant": "north"}, {"tenant": "north"}),
        ("normal", {MARK: "of somebody else"}, {MARK: "of somebody else"}),
        ("none", {}, None),
    ],
)
def test_follow_up_event_is_written_as_the_replay_says(emit, headers, expected):
    emission, connection = Emission("replay-1", emit), Connection()

    with emitting(connection, emission):
        event = written(connection, Event("bill.sent", "k", {}, headers=headers))

    assert (None if event is None else dict(event.headers)) == expected
    assert emission.events == 1


def test_other_connections_and_later_events_are_left_alone():
    emission, connection = Emission("replay-1", "none"), Connection()
    event = Event("bill.sent", "k", {})

    with emitting(connection, emission):
        assert written(Connection(), event) is event
    assert written(connection, event) is event
    assert emission.events == 0
