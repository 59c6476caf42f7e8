"""An edited event takes a dead one's place: once, in the key's order, for the failing group alone, counted once."""

from __future__ import annotations

import json

import pytest

from evkit import Event, Retry, dead_letters, kafka, views
from evkit.errors import EditRefused, UsageError
from evkit.runtime.dead_letters import Selection
from evkit.views.frame import rows_of


@pytest.fixture
def ledger(evkit_system, evkit_topic, new_consumer):
    """A consumer whose handler books `amount` by key, and cannot without one; `.booked` is what it booked, in order."""
    topic = evkit_topic()

    def make(**more):
        consumer = new_consumer(topic, retry=Retry(attempts=1), **more)
        consumer.booked, consumer.topic = [], topic

        @consumer.handler("paid")
        def book(event, tx):
            consumer.booked.append((event.key, event.payload["amount"], event.id))

        return consumer

    return make


def only(system, **more):
    (found,) = dead_letters.letters(system, Selection(**more))
    return found


def outcomes(rows):
    return dict(rows("SELECT event_id, outcome FROM evkit.inbox WHERE generation = 0"))


def test_an_edited_event_is_handled_once_before_what_waited_behind_the_one_it_replaces(
    evkit_system, ledger, published, consumed, rows
):
    """P3, P4, P6: the old event is never handled, the topic is as it was, and so are all counts of it."""
    consumer = ledger()
    bad, second, third = published(
        Event("paid", "k", {"amont": 1}, topic=consumer.topic, correlation_id="c"),
        Event("paid", "k", {"amount": 2}, topic=consumer.topic),
        Event("paid", "k", {"amount": 3}, topic=consumer.topic),
    )
    consumed(consumer, 3)
    old = only(evkit_system)
    ends = kafka.offsets(evkit_system.settings, kafka.partitions_of(evkit_system.settings, [consumer.topic]))

    plan = dead_letters.plan_edit(evkit_system, old.letter_id, payload=b'{"amount": 1}')
    assert [(c.kind, c.path) for c in plan.difference] == [("removed", "amont"), ("added", "amount")]
    new_id = dead_letters.edit(evkit_system, plan, reason="a typo of the app")

    before, after = dead_letters.show(evkit_system, old.letter_id), dead_letters.show(evkit_system, new_id)
    assert (before.state, before.replaced_by, after.state, after.edited_from) == (
        "resolved",
        new_id,
        "open",
        old.letter_id,
    )
    assert (after.first_failed_at, after.fingerprint, after.event_id) == (
        old.first_failed_at,
        old.fingerprint,
        plan.event_id,
    )
    assert after.edit["reason"] == "a typo of the app"
    assert after.edit["difference"] == [change.document() for change in plan.difference]
    headers = dict(after.headers)
    assert headers["ce_causationid"] == headers["evkit-edited-from"] == bad.encode()
    assert headers["ce_correlationid"] == b"c"
    assert dead_letters.story(evkit_system, new_id).behind == 2
    assert outcomes(rows) == {bad: "skipped", second: "parked", third: "parked", plan.event_id: "dead"}

    result = dead_letters.redrive(evkit_system, dead_letters.plan_redrive(evkit_system, Selection()), consumer)

    assert (result.resolved, result.released) == ([new_id], 2)
    assert consumer.booked == [("k", 1, plan.event_id), ("k", 2, second), ("k", 3, third)]
    assert outcomes(rows) == {bad: "skipped", second: "handled", third: "handled", plan.event_id: "handled"}
    assert kafka.offsets(evkit_system.settings, kafka.partitions_of(evkit_system.settings, [consumer.topic])) == ends
    stops = rows_of(views.journey(evkit_system, bad), "journey")
    assert f"the event of dead letter {new_id} took its place" in next(
        s["detail"] for s in stops if s["stage"] == "skipped"
    )
    # P8: the events of the topic have a row each, and the one that is none is told apart.
    of_topic = rows(
        "SELECT count(*) FROM evkit.inbox i WHERE NOT EXISTS (SELECT FROM evkit.dead_letter l"
        " WHERE l.edited_from IS NOT NULL"
        " AND (l.consumer_group, l.event_id, l.generation) = (i.consumer_group, i.event_id, i.generation))"
    )
    assert of_topic == [(3,)]


def test_a_record_that_is_no_event_is_edited_into_one(evkit_system, ledger, consumed):
    consumer = ledger()
    producer = kafka.producer(evkit_system.settings)
    producer.produce(consumer.topic, b"\xff\x00no json", "k", headers=[("x", b"\xfe")])
    producer.flush()
    consumed(consumer, 1)
    old = only(evkit_system)
    with pytest.raises(EditRefused, match="cannot be read .*: give a whole new one"):
        dead_letters.plan_edit(evkit_system, old.letter_id, settings={"amount": 1})

    plan = dead_letters.plan_edit(evkit_system, old.letter_id, payload=b'{"amount": 1}', event_type="paid")
    dead_letters.edit(evkit_system, plan, reason="r")
    dead_letters.redrive(evkit_system, dead_letters.plan_redrive(evkit_system, Selection()), consumer)

    assert consumer.booked == [("k", 1, plan.event_id)]
    assert dict(plan.headers)["x"] == b"\xfe"


@pytest.mark.parametrize("text", ["\\u0000", "\\ud800"])
def test_what_postgresql_cannot_hold_is_edited_out_of_a_payload_and_left_in_it(
    evkit_system, ledger, consumed, rows, text
):
    """The usual end of such a text: a handler that writes it to a table fails, and somebody takes it out."""
    consumer = ledger()
    value = b'{"a": "' + text.encode() + b'", "b": {"' + text.encode() + b'": 1}}'
    headers = [("ce_specversion", b"1.0"), ("ce_id", b"e1"), ("ce_type", b"paid"), ("ce_source", b"/s")]
    producer = kafka.producer(evkit_system.settings)
    producer.produce(consumer.topic, value, "k", headers=headers)
    producer.flush()
    consumed(consumer, 1)

    plan = dead_letters.plan_edit(evkit_system, only(evkit_system).letter_id, settings={"a": 1e300, "amount": 1})
    first = dead_letters.edit(evkit_system, plan, reason="no text")
    plan = dead_letters.plan_edit(evkit_system, first, settings={"b": json.loads(f'"{text}"')})
    second = dead_letters.edit(evkit_system, plan, reason="no object")
    dead_letters.redrive(evkit_system, dead_letters.plan_redrive(evkit_system, Selection()), consumer)

    assert consumer.booked == [("k", 1, plan.event_id)]
    assert dead_letters.show(evkit_system, first).edit["difference"][0]["before"] == {"\\u0000": "\\x00"}.get(
        text, text
    )
    assert dead_letters.story(evkit_system, second).problem is None
    assert rows("SELECT count(*) FROM evkit.audit WHERE act = 'dead_letters.edit' AND result IS NOT NULL") == [(2,)]


@pytest.mark.parametrize("form", ["structured", "debezium"])
def test_records_of_other_writers_are_edited_too(evkit_system, ledger, consumed, form):
    consumer = ledger()
    value, headers = {
        "structured": (
            b'{"specversion":"1.0","id":"e1","type":"paid","source":"/s","correlationid":"c","data":{"amont":1}}',
            [("content-type", b"application/cloudevents+json; charset=utf-8")],
        ),
        "debezium": (b'{"amont":1}', [("id", b"e1"), ("eventType", b"paid")]),
    }[form]
    producer = kafka.producer(evkit_system.settings)
    producer.produce(consumer.topic, value, "k", headers=headers)
    producer.flush()
    consumed(consumer, 1)

    plan = dead_letters.plan_edit(evkit_system, only(evkit_system).letter_id, settings={"amount": 4})
    dead_letters.edit(evkit_system, plan, reason="r")
    dead_letters.redrive(evkit_system, dead_letters.plan_redrive(evkit_system, Selection()), consumer)

    assert plan.value == b'{"amont":1,"amount":4}'
    assert consumer.booked == [("k", 4, plan.event_id)]


def test_a_decode_function_that_finds_the_old_id_in_the_payload_does_not_make_the_edited_event_a_copy(
    evkit_system, ledger, consumed, rows
):
    """It would be taken for handled, and its letter resolved without a handler having seen it."""

    def decode(record):
        found = kafka_json(record.value)
        return Event("paid", "k", found, id=found["order"])

    consumer = ledger(decode=decode)
    producer = kafka.producer(evkit_system.settings)
    producer.produce(consumer.topic, b'{"order": "o1"}', "k")
    producer.flush()
    consumed(consumer, 1)
    assert only(evkit_system).event_id == "o1"

    plan = dead_letters.plan_edit(evkit_system, only(evkit_system).letter_id, settings={"amount": 4})
    dead_letters.edit(evkit_system, plan, reason="r")
    result = dead_letters.redrive(evkit_system, dead_letters.plan_redrive(evkit_system, Selection()), consumer)

    assert len(result.resolved) == 1
    assert [(key, amount) for key, amount, _ in consumer.booked] == [("k", 4)]
    assert outcomes(rows) == {"o1": "skipped", plan.event_id: "handled"}


def kafka_json(value):

    return json.loads(value)


def test_nothing_is_edited_that_is_not_open_or_was_handled_or_would_be_the_same(
    evkit_system, ledger, published, consumed, rows
):
    consumer = ledger()
    published(Event("paid", "k", {"amont": 1}, topic=consumer.topic))
    consumed(consumer, 1)
    letter_id = only(evkit_system).letter_id

    with pytest.raises(EditRefused, match="is the old one"):
        dead_letters.plan_edit(evkit_system, letter_id, settings={"amont": 1})
    with pytest.raises(UsageError, match="not both"):
        dead_letters.plan_edit(evkit_system, letter_id, payload=b"{}", settings={"a": 1})
    with pytest.raises(UsageError, match="cannot be an event's: the value is not JSON"):
        dead_letters.plan_edit(evkit_system, letter_id, payload=b"{")
    with pytest.raises(UsageError, match="has no place 'x'"):
        dead_letters.plan_edit(evkit_system, letter_id, settings={"amont.x": 1})
    for nothing in (float("nan"), float("inf")):
        with pytest.raises(UsageError, match="NaN and infinity are not JSON"):
            dead_letters.plan_edit(evkit_system, letter_id, settings={"amount": nothing})
    with pytest.raises(UsageError, match="NaN and infinity are not JSON"):
        dead_letters.plan_edit(evkit_system, letter_id, payload=b'{"amount": 1e999}')
    plan = dead_letters.plan_edit(evkit_system, letter_id, settings={"amount": 1})
    with pytest.raises(EditRefused, match="needs a reason"):
        dead_letters.edit(evkit_system, plan, reason=" ")
    with evkit_system.writing() as connection:
        connection.execute("UPDATE evkit.inbox SET outcome = 'handled'")
    with pytest.raises(EditRefused, match="was handled meanwhile"):
        dead_letters.edit(evkit_system, plan, reason="r")
    assert rows("SELECT count(*) FROM evkit.dead_letter") == rows("SELECT count(*) FROM evkit.inbox") == [(1,)]
    assert rows("SELECT count(*) FROM evkit.audit") == [(0,)]
    with evkit_system.writing() as connection:
        connection.execute("UPDATE evkit.inbox SET outcome = 'dead'")
    dead_letters.edit(evkit_system, plan, reason="r")
    with pytest.raises(EditRefused, match="is resolved, only open ones"):
        dead_letters.edit(evkit_system, plan, reason="r")  # a second time, from a second terminal
