"""The consumer on a topic that anybody may write to: nothing of it ends the consumer, and nothing of it is lost.

Every test puts a good event behind the bad record, in the same partition: that one takes effect.
"""

from __future__ import annotations

import logging
import os

import pytest
from pydantic import BaseModel

from evkit import Consumer, Event, Retry, dead_letters, decoding, event_types, kafka
from evkit.runtime.dead_letters import Selection

GOOD = [("ce_id", b"good"), ("ce_type", b"a.b")]
QUICK = Retry(attempts=2, backoff_seconds=0.001)


@pytest.fixture
def topic(evkit_topic):
    return evkit_topic()


@pytest.fixture
def put(evkit_system, topic):
    """Put a record into the topic as it is."""

    def put_record(value, headers, key=b"k"):
        producer = kafka.producer(evkit_system.settings)
        producer.produce(topic, value, key, headers=headers)
        assert producer.flush(60) == 0

    return put_record


@pytest.fixture
def consumer(evkit_system, evkit_group, topic):
    """Makes a consumer whose handler of 'a.b' keeps what it is given."""
    made = []

    def make(**more):
        # Bad records and good ones share a key here; that the good ones wait then is tested in test_parking.py.
        consumer = Consumer(evkit_group(), [topic], system=evkit_system, retry=QUICK, park_key=False, **more)
        consumer.handled = {}

        @consumer.handler("a.b")
        def keep(event, tx):
            consumer.handled[event.id] = event

        made.append(consumer)
        return consumer

    yield make
    for consumer in made:
        consumer.close()


def consume(consumer, records):
    while consumer.counts.total < records:
        consumer.step(1.0)
    return consumer.counts


def outcomes(system, group):
    with system.reading() as connection:
        return connection.execute(
            'SELECT "offset", event_id, event_type, outcome FROM evkit.inbox WHERE consumer_group = %s ORDER BY "offset"',
            (group,),
        ).fetchall()


def letter_of(system, group):
    (listed,) = dead_letters.letters(system, Selection(group=group))
    return dead_letters.show(system, listed.letter_id)


BAD = [("ce_id", b"bad"), ("ce_type", b"a.b")]


@pytest.mark.parametrize(
    ("value", "headers", "key", "reason", "event_id"),
    [
        pytest.param(None, BAD, b"k", "tombstone", "bad", id="tombstone"),
        pytest.param(None, [], b"k", "no header says", None, id="tombstone of a compacted topic"),
        pytest.param(b"", BAD, b"k", "value is empty", "bad", id="empty value"),
        pytest.param(b"", [], b"", "no header says", None, id="empty value, no headers"),
        pytest.param(os.urandom(300), BAD, b"k", "JSON", "bad", id="random bytes"),
        pytest.param(os.urandom(300), [("x", os.urandom(9))], os.urandom(9), "no header says", None, id="all random"),
        pytest.param(b'{"a": "\xff"}', BAD, b"k", "not JSON", "bad", id="value not UTF-8"),
        pytest.param(b"{}", BAD, b"\xff", "'key' is not UTF-8", "bad", id="key not UTF-8"),
        pytest.param(b"{}", [("ce_id", b"\xff"), ("ce_type", b"a.b")], b"k", "'id' is not", "\\xff", id="id not UTF-8"),
        pytest.param(b"{}", [("ce_id", None), ("ce_type", b"a.b")], b"k", "no 'ce_id'", None, id="id without a value"),
        pytest.param(b"{}", [("ce_id", os.urandom(5000)), ("ce_type", b"a.b")], b"k", "5000 bytes", None, id="long id"),
        pytest.param(b"{}", [*BAD, ("ce_schemaversion", b"9" * 30)], b"k", "version", "bad", id="version of 30 digits"),
        pytest.param(b'{"a":' * 90_000, BAD, b"k", "nested too deeply", "bad", id="deep nesting"),
        pytest.param(b'{"a": "' + b"x" * 900_000, BAD, b"k", "not JSON", "bad", id="900 kB and broken"),
        pytest.param(
            b"[]", [("content-type", b"application/cloudevents-batch+json")], b"k", "a batch", None, id="batch"
        ),
    ],
)
def test_what_is_no_event_is_a_dead_letter_with_the_record_as_it_was(
    evkit_system, topic, put, consumer, value, headers, key, reason, event_id
):
    put(value, headers, key)
    put(b"{}", GOOD)
    ours = consumer()

    counts = consume(ours, 2)

    assert (counts.handled, counts.dead, list(ours.handled)) == (1, 1, ["good"])
    letter = letter_of(evkit_system, ours.group)
    assert reason in letter.error_message
    assert letter.event_id == (event_id or f"{topic}/0/0")
    assert (letter.raw_key, letter.raw_value, letter.headers) == (key, value, headers)
    assert letter.retry_count == 0


def test_copy_of_what_is_no_event_is_a_copy_and_no_second_letter(evkit_system, put, consumer):
    for _ in range(3):
        put(b"broken", BAD)
    ours = consumer()

    counts = consume(ours, 3)

    assert (counts.dead, counts.duplicate, counts.conflicting) == (1, 2, 0)
    assert letter_of(evkit_system, ours.group).event_id == "bad"


def test_headers_that_are_no_text_cost_nothing(put, consumer):
    put(b"{}", [*BAD, ("photo", b"\xff\xd8"), ("nothing", None), ("ce_time", b"\x00")])
    ours = consumer()

    assert consume(ours, 1).handled == 1
    assert ours.handled["bad"].headers == {"photo": "\\xff\\xd8", "nothing": "", "ce_time": "\x00"}


@pytest.mark.parametrize("event_id", ["42", "order-1/7 č.", "a\x00b", "x" * 512, "\x00é" * 170])
def test_id_that_is_no_uuid_is_handled_once(evkit_system, put, consumer, event_id):
    headers = [("ce_id", event_id.encode()), ("ce_type", b"a.b")]
    put(b"{}", headers)
    put(b"{}", headers)
    ours = consumer()

    counts = consume(ours, 2)

    assert (counts.handled, counts.duplicate, counts.conflicting, list(ours.handled)) == (1, 1, 0, [event_id])


def test_payload_of_900_kb_is_handled(put, consumer):
    put(b'{"a": "' + b"x" * 900_000 + b'"}', BAD)
    ours = consumer()

    assert consume(ours, 1).handled == 1
    assert len(ours.handled["bad"].payload["a"]) == 900_000


def test_unknown_type_is_skipped_with_a_row_and_its_payload_is_not_looked_at(evkit_system, put, consumer):
    put(b'{"broken', [("ce_id", b"other"), ("ce_type", b"c.d")])
    put(b"{}", GOOD)
    ours = consumer()

    counts = consume(ours, 2)

    assert (counts.handled, counts.skipped, counts.dead) == (1, 1, 0)
    assert outcomes(evkit_system, ours.group) == [(0, "other", "c.d", "skipped"), (1, "good", "a.b", "handled")]


def test_unknown_type_is_a_dead_letter_where_the_consumer_says_so_and_redriven_once_there_is_a_handler(
    evkit_system, put, consumer
):
    put(b'{"n": 1}', [("ce_id", b"other"), ("ce_type", b"c.d")])
    put(b"{}", GOOD)
    ours = consumer(unknown="dead")

    counts = consume(ours, 2)

    assert (counts.handled, counts.skipped, counts.dead) == (1, 0, 1)
    letter = letter_of(evkit_system, ours.group)
    assert "no handler for 'c.d' (there are: a.b)" in letter.error_message
    assert (letter.error_class, letter.retry_count) == ("evkit.errors.NoHandler", 0)

    seen = []
    ours.handler("c.d")(lambda event, tx: seen.append(event.payload))
    redriven = dead_letters.redrive(
        evkit_system, dead_letters.plan_redrive(evkit_system, Selection(group=ours.group)), consumer=ours
    )

    assert (redriven.resolved, seen) == ([letter.letter_id], [{"n": 1}])


def test_version_newer_than_the_handler_knows_is_read_as_far_as_it_fits_and_else_dead(evkit_system, put, consumer):
    registry = event_types.registry

    class OrderShipped(BaseModel):
        total: int

    if "bad.input.shipped" not in registry.types:
        event_types.event_type("bad.input.shipped", version=1)(OrderShipped)
    for event_id, value in ((b"v2", b'{"total": 3, "more": 1}'), (b"v9", b'{"sum": 3}')):
        headers = [("ce_id", event_id), ("ce_type", b"bad.input.shipped"), ("ce_schemaversion", event_id[1:])]
        put(value, headers)
    ours = consumer()
    totals = []
    model = registry.model("bad.input.shipped", 1)
    ours.handler("bad.input.shipped", model=model)(lambda event, tx: totals.append((event.id, event.payload.total)))

    counts = consume(ours, 2)

    assert (counts.handled, counts.dead, totals[-1]) == (1, 1, ("v2", 3))
    letter = letter_of(evkit_system, ours.group)
    assert (letter.event_id, letter.schema_version) == ("v9", 9)
    assert "deploy the handler with the newer model, then redrive" in letter.error_message


# --- an id that comes twice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_events_max", [1, 500])
def test_id_that_comes_again_with_another_payload_is_flagged_and_not_handled(
    evkit_system, topic, put, consumer, caplog, batch_events_max
):
    put(b'{"n": 1}', BAD, b"k1")
    put(b'{"n": 2}', BAD, b"k2")
    put(b'{"n": 1}', [("ce_id", b"bad"), ("ce_type", b"a.c")], b"k3")
    put(b'{"n": 1}', BAD, b"k1")  # a copy
    put(b"", BAD, b"k4")  # not even an event
    ours = consumer(batch_events_max=batch_events_max)

    with caplog.at_level(logging.WARNING, logger="evkit"):
        counts = consume(ours, 5)

    assert (counts.handled, counts.duplicate, counts.conflicting, counts.dead) == (1, 4, 3, 0)
    assert ours.handled["bad"].payload == {"n": 1}
    with evkit_system.reading() as connection:
        (flagged,) = connection.execute(
            'SELECT event_id, event_type, topic, partition, "offset", key, records FROM evkit.id_conflict'
            " WHERE consumer_group = %s",
            (ours.group,),
        ).fetchall()
    assert flagged == ("bad", "a.b", topic, 0, 4, "k4", 3)
    assert "came under ids that it has dealt with" in caplog.text
    assert f"One is 'bad' at {topic}/0/1" in caplog.text


def test_row_of_before_the_checksum_flags_nothing(evkit_system, put, consumer):
    put(b'{"n": 1}', BAD)
    ours = consumer()
    consume(ours, 1)
    with evkit_system.writing() as connection:
        connection.execute("UPDATE evkit.inbox SET payload_crc32 = NULL")

    put(b'{"n": 2}', BAD)
    counts = consume(ours, 2)

    assert (counts.duplicate, counts.conflicting) == (1, 0)


# --- other writers ----------------------------------------------------------------------------------------------------


def test_writers_of_three_formats_share_a_topic(put, consumer):
    put(b'{"n": 1}', BAD)
    body = b'{"specversion": "1.0", "id": "s-1", "type": "a.b", "source": "/s", "data": {"n": 2}}'
    put(body, [("content-type", b"application/cloudevents+json")])
    put(b'"{\\"n\\": 3}"', [("id", b"d-1"), ("type", b"a.b")])
    ours = consumer()

    assert consume(ours, 3).handled == 3
    assert {i: e.payload for i, e in ours.handled.items()} == {"bad": {"n": 1}, "s-1": {"n": 2}, "d-1": {"n": 3}}


def test_decode_function_reads_what_evkit_does_not_and_may_pass_records_over(evkit_system, topic, put, consumer):
    def from_json(record):
        order = decoding.json_object(record.value)
        if order.get("kind") == "heartbeat":
            return None
        return Event("a.b", key=order["number"], payload=order, id=f"o-{order['number']}")

    put(b'{"number": "7"}', [("id", b"customer-1")])
    put(b'{"kind": "heartbeat"}', [])
    put(b'{"kind": "order"}', [("id", b"customer-1")])  # the function raises KeyError
    put(b"nonsense", [("id", b"customer-1")])
    ours = consumer(decode=from_json)

    counts = consume(ours, 4)

    assert (counts.handled, counts.skipped, counts.dead, list(ours.handled)) == (1, 1, 2, ["o-7"])
    assert outcomes(evkit_system, ours.group) == [
        (0, "o-7", "a.b", "handled"),
        (1, f"{topic}/0/1", "(passed over)", "skipped"),
        (2, f"{topic}/0/2", "(unknown)", "dead"),
        (3, f"{topic}/0/3", "(unknown)", "dead"),
    ]
    messages = {x.error_message for x in dead_letters.letters(evkit_system, Selection(group=ours.group))}
    assert "the consumer's decode function raised KeyError: 'number'" in messages


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ({"id": 1}, "returned a dict, not an Event"),
        (Event("a.b", "k", {}, id=""), "whose id is ''"),
        (Event("a.b", "k", {}, id=7), "whose id is 7"),
        (Event("a.b", None, {}), "whose key is None"),
        (Event("a.b", "k", {}, id="x" * 600), "600 bytes"),
        (Event("a.b", "k", {}, schema_version="2"), "TypeError"),
    ],
)
def test_decode_function_that_returns_no_good_event_makes_dead_letters(evkit_system, put, consumer, returned, reason):
    put(b"{}", [])
    ours = consumer(decode=lambda record: returned)

    assert consume(ours, 1).dead == 1
    assert reason in letter_of(evkit_system, ours.group).error_message
