"""Which function gets which event."""

from __future__ import annotations

import functools
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit import Event
from evkit.errors import Undecodable, UsageError
from evkit.event import REPLAY_ID, unread
from evkit.kafka import Record
from evkit.runtime.handler import Handler, Handlers, Tx


def handlers(*registered):
    """(type or None, name, filter) each."""
    made = Handlers()
    for event_type, name, where in registered:
        function = lambda event, tx: None  # noqa: E731
        function.__qualname__ = name
        made.add([] if event_type is None else [event_type], function, None, False, where=where)
    return made


def gets(made, event):
    handler = made.of(event)
    return None if handler is None else handler.function.__qualname__


def placed(total):
    return Event("order.placed", "k", {"total": total})


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_first_handler_whose_filter_lets_an_event_pass_gets_it(total, one, two):
    made = handlers(
        ("order.placed", "one", lambda event: event.payload["total"] < one),
        ("order.placed", "two", lambda event: event.payload["total"] < two),
        ("order.placed", "rest", None),
    )

    assert gets(made, placed(total)) == ("one" if total < one else "two" if total < two else "rest")


def test_event_that_no_filter_lets_pass_is_nobodys_also_beside_a_default():
    made = handlers(("order.placed", "large", lambda event: event.payload["total"] > 10), (None, "default", None))

    assert gets(made, placed(11)) == "large"
    assert gets(made, placed(1)) is None
    assert gets(made, Event("order.paid", "k", {})) == "default"
    assert made.knows("order.placed")


def test_handler_behind_one_that_takes_all_is_refused():
    with pytest.raises(UsageError, match="the one with a filter goes before the one without"):
        handlers(("a.b", "all", None), ("a.b", "some", lambda event: True))
    with pytest.raises(UsageError, match="two handlers for 'a.b'"):
        handlers(("a.b", "all", None), ("a.b", "again", None))
    with pytest.raises(UsageError, match="two default handlers"):
        handlers((None, "all", None), (None, "again", None))


class Biller:
    def __call__(self, event, tx):
        pass

    def bill(self, event, tx):
        pass


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (functools.partial(Biller.bill, Biller()), "Biller.bill"),
        (Biller(), "Biller"),
        (Biller().bill, "Biller.bill"),
        (functools.partial(Biller()), "Biller"),
    ],
)
def test_whatever_can_be_called_has_a_name(function, name):
    handlers = Handlers()

    handlers.add(["a.b"], function, None, False)

    assert handlers.of(Event("a.b", "k", {})).name.endswith(f".{name}")


@given(
    st.fixed_dictionaries(
        {"type": st.text(), "key": st.text(), "payload": st.dictionaries(st.text(), st.integers())},
        optional={
            "topic": st.text(), "id": st.text(), "headers": st.dictionaries(st.text(), st.text()),
            "ordered": st.booleans(), "schema_version": st.integers(), "created_at": st.datetimes(),
            "correlation_id": st.text(), "causation_id": st.text(), "due_at": st.datetimes(),
        },
    )
)  # fmt: skip
def test_replayed_event_is_the_same_but_for_its_mark(attributes):
    event = Event(**attributes)
    given_headers = dict(event.headers)
    handler = Handler(print, None, batch=False)

    again = handler.prepared(event, "replay-1")

    assert again == replace(event, headers={**given_headers, REPLAY_ID: "replay-1"})
    assert dict(event.headers) == given_headers
    assert handler.prepared(event, None) is event


def test_payload_that_nobody_has_looked_at_is_not_looked_at_for_the_mark():
    def read(value):
        raise Undecodable(value)

    again = Handler(print, None, batch=False).prepared(
        unread(read, "broken", "a.b", "k", "a", "id", {}, 1, None, None, None), "replay-1"
    )

    assert again.headers == {REPLAY_ID: "replay-1"}
    with pytest.raises(Undecodable, match="broken"):
        again.payload  # noqa: B018


def test_service_can_make_a_transaction_of_its_own_to_test_a_handler():
    record = Record("orders", 3, 7, b"k", b"{}", [], None, "none", None, datetime(2013, 2, 8, tzinfo=UTC))

    tx = Tx(connection=None, group="billing", event=Event("order.placed", "k", {}, id="e-1"), record=record)

    assert (tx.topic, tx.partition, tx.offset, tx.record) == ("orders", 3, 7, record)
    assert (tx.attempt, tx.is_replay, tx.stale, tx.dry) == (1, False, False, False)
    assert repr(tx) == "Tx(group='billing', event='e-1', attempt=1, replay_id=None)"
