"""What many records become at once is what each of them becomes alone; without a server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit import decoding, kafka
from evkit.errors import Undecodable
from evkit.event import TARGET_GROUP
from evkit.kafka import Message
from evkit.runtime import claims
from evkit.runtime.assignment import Assignment
from evkit.runtime.delivery import Delivery
from evkit.runtime.fetched import stretches
from evkit.runtime.handler import Handlers

NOW = datetime(2013, 2, 8, tzinfo=UTC)
PLAIN = [
    ("ce_specversion", b"1.0"), ("ce_id", b"e-1"), ("ce_type", b"order.placed"), ("ce_source", b"/evkit/outbox"),
    ("ce_time", b"2013-02-08T12:00:00.123456Z"), ("content-type", b"application/json"),
]  # fmt: skip

names = st.sampled_from([
    "ce_id", "ce_type", "ce_time", "ce_schemaversion", "ce_correlationid", "ce_causationid", "ce_specversion", "id", "type",
    "content-type", "traceparent", "ours", TARGET_GROUP,
])  # fmt: skip
said = st.sampled_from([
    b"", b"1", b"7", b"\x00", b"\xff", b"e\x00", b"order.placed", b"order.filtered", b"order.unknown", b"billing", b"other",
    b"application/json", b"application/cloudevents+json", b"2013-02-08T12:00:00Z", b"2013-02-08T12:00:00+02:00",
    b"2013-02-08T12:00:00", b"x" * 600, "\N{SNOWMAN}".encode(),
])  # fmt: skip
values = st.sampled_from([
    None, b"", b"{}", b'{"i": 1}', b'{"i": 12345678901234567890123}', b'{"i": NaN}', b"{broken", b"[1]", b'"{"', b"\xff{",
])  # fmt: skip
some = st.tuples(
    st.sampled_from([PLAIN, PLAIN, []]),
    st.lists(st.tuples(names, st.none() | said), max_size=2),
    values | st.just(b'{"i": 2}'),
    st.none() | st.sampled_from([b"", b"k", b"\xff", b"k\x00", "\N{SNOWMAN}".encode()]),
)


def works(*records):
    """As they stand in line: (headers, value, key) each."""
    assignment = Assignment()
    assignment.assign([("t", 0)], 1)
    messages = [
        Message(
            topic="t", partition=0, offset=n, key=key, value=value, headers=headers,
            timestamp=(kafka.TIMESTAMP_LOG_APPEND_TIME, 1_360_324_800_000 + n),
        )
        for n, (headers, value, key) in enumerate(records)
    ]  # fmt: skip
    assignment.add(stretches(messages, NOW))
    return assignment.take(len(records), 0.0)


def handlers(unknown="skip", decode=None):
    found = Handlers(decode, unknown, "billing")
    for event_type, where in (("order.placed", None), ("order.filtered", lambda event: event.payload["i"] == 1)):
        found.add([event_type], lambda event, tx: None, None, batch=False, where=where)
    return found


def told(delivery):
    """All that is known of it; the payload, or why it cannot be read."""
    event = delivery.event
    if event is not None:
        try:
            payload = repr(event.payload)
        except Undecodable as error:
            payload = str(error)
        event = [getattr(event, name) for name in event.__slots__ if name not in ("payload", "_unread")] + [payload]
    return (
        delivery.event_id, delivery.event_type, delivery.key, delivery.place, delivery.offset, delivery.record, event,
        repr(delivery.problem), delivery.handler,
    )  # fmt: skip


@given(st.lists(some, min_size=1, max_size=5), st.sampled_from(["skip", "dead"]))
def test_many_at_once_become_what_each_becomes_alone(records, unknown):
    found = [(first + more, value, key) for first, more, value, key in records]
    theirs = handlers(unknown)

    together = Delivery.of_all(works(*found), theirs)
    alone = [Delivery.of(work.record, theirs) for work in works(*found)]

    assert [told(delivery) for delivery in together] == [told(delivery) for delivery in alone]


@pytest.mark.parametrize("without", [(), ("orjson",)])
def test_without_orjson_it_is_the_same(monkeypatch, without):
    if without:
        monkeypatch.setattr(decoding, "_orjson", None)
    (one,) = Delivery.of_all(works((PLAIN, b'{"i": 1}', b"k")), handlers())

    assert (one.event_id, one.event_type, one.key, one.problem) == ("e-1", "order.placed", "k", None)
    assert one.event.payload == {"i": 1}
    assert one.event.created_at == datetime(2013, 2, 8, 12, 0, 0, 123456, UTC)
    assert one.handler.where is None


def test_most_are_taken_the_short_way(monkeypatch):
    """Else the test above compares the long way with itself."""
    extended = [*PLAIN, ("ce_schemaversion", b"2"), ("ce_correlationid", b"c"), ("traceparent", b"00-0-0-01")]
    found = works((PLAIN, b'{"i": 1}', b"k"), (PLAIN, b'{"i": 1}', None), (extended, b"{}", b""))
    monkeypatch.setattr(Delivery, "of", None)

    deliveries = Delivery.of_all(found, handlers())

    assert [delivery.key for delivery in deliveries] == ["k", None, ""]
    assert deliveries[2].event.schema_version == 2
    assert deliveries[2].event.headers == {"traceparent": "00-0-0-01"}


def test_payload_of_a_type_that_nobody_handles_is_not_parsed(monkeypatch):
    unknown = [(name, b"order.unknown" if name == "ce_type" else value) for name, value in PLAIN]
    parsed = []
    monkeypatch.setattr(decoding, "json_objects", lambda values: parsed.extend(values) or [])
    monkeypatch.setattr(decoding, "json_object", parsed.append)

    (one,) = Delivery.of_all(works((unknown, b"{broken", b"k")), handlers())

    assert (one.handler, one.problem, parsed) == (None, None, [])


def test_those_beside_a_type_that_nobody_handles_and_those_with_filters_are_taken_the_short_way_too(monkeypatch):
    def typed(event_type):
        return [(name, event_type if name == "ce_type" else value) for name, value in PLAIN]

    found = works(
        (typed(b"order.unknown"), b"{broken", b"a"),
        (PLAIN, b'{"i": 1}', b"b"),
        (typed(b"order.filtered"), b'{"i": 1}', b"c"),
        (typed(b"order.filtered"), b'{"i": 2}', b"d"),
    )
    monkeypatch.setattr(Delivery, "of", None)

    unknown, plain, passed, kept_back = Delivery.of_all(found, handlers())

    assert (unknown.handler, plain.handler.where) == (None, None)
    assert passed.handler.where is not None
    assert (kept_back.handler, kept_back.problem) == (None, None)


def test_consumers_own_decode_function_is_asked_of_each():
    asked = []
    (one, two) = Delivery.of_all(
        works((PLAIN, b"{}", b"a"), (PLAIN, b"{}", b"b")), handlers(decode=lambda record: asked.append(record.key))
    )

    assert asked == [b"a", b"b"]
    assert (one.event, two.handler) == (None, None)


@given(st.lists(some, min_size=1, max_size=4))
def test_inbox_rows_are_the_same_whether_their_records_were_looked_at_or_not(records):
    found = [(first + more, value, key) for first, more, value, key in records]
    who = type(
        "Who", (), {"group": "billing", "generation": 0, "replay_id": None, "code_version": "1", "name": "billing"}
    )

    def rows(deliveries):
        values = claims._values(who, deliveries, 1, None, 0.0)
        return {name: getattr(value, "of", value) for name, value in values.items()}

    fetched = rows(Delivery.of_all(works(*found), handlers()))
    read = rows([Delivery.of(work.record, handlers()) for work in works(*found)])

    assert fetched | {"handler": None} == read | {"handler": None}
