"""dlq.<group>.<topic>: an event for each dead letter, in the letter's transaction, and never in its way."""

from __future__ import annotations

import json

import pytest

from evkit import Event, Relay, Retry, System, dead_letters, kafka, records
from evkit.decoding import decode
from evkit.runtime.mirror import topic_of
from tests.relaying import drain


@pytest.fixture
def failing(evkit_topic, new_consumer):
    def make(**more):
        topic = evkit_topic(partitions=2)
        consumer = new_consumer(topic, retry=Retry(attempts=1), mirror=True, **more)
        consumer.topic = topic

        @consumer.handler("a.b")
        def handle(event, tx):
            raise ValueError("no")

        return consumer

    return make


def relayed(system):
    relay = Relay(system)
    drain(relay)
    relay.close()


def test_each_letter_is_an_event_in_the_mirror_topic_with_its_record(evkit_system, failing, published, consumed):
    consumer = failing()
    (bad,) = published(Event("a.b", "k1", {"x": 1}, topic=consumer.topic))
    producer = kafka.producer(evkit_system.settings)
    producer.produce(consumer.topic, b"\xff\x00", b"\xfe", headers=[("h", b"\xfd")])
    producer.flush()
    consumed(consumer, 2)

    relayed(evkit_system)

    mirror = f"dlq.{consumer.group}.{consumer.topic}"
    assert kafka.topics(evkit_system.settings)[mirror] == 2
    events = {e.payload["key"]: e for e in map(decode, records.scan(evkit_system.settings, mirror))}
    letters = {x.key: x for x in dead_letters.letters(evkit_system)}
    assert set(events) == set(letters) == {"k1", "\\xfe"}
    first, second = events["k1"], events["\\xfe"]
    assert (first.type, first.key, first.payload["event_id"]) == ("evkit.dead_letter", "k1", bad)
    assert (first.payload["letter_id"], first.payload["fingerprint"]) == (
        letters["k1"].letter_id,
        letters["k1"].fingerprint,
    )
    assert json.loads(first.payload["record"]["value"]["text"]) == {"x": 1}
    assert second.payload["record"]["value"] == {"base64": "/wA="}
    assert second.payload["record"]["raw_key"] == {"base64": "/g=="}
    assert second.payload["record"]["headers"] == [{"name": "h", "base64": "/Q=="}]
    assert first.payload["left_out"] == []


def test_a_letter_too_large_for_the_outbox_is_mirrored_without_its_value(
    evkit_system, failing, published, consumed, rows
):
    small = System(evkit_system.settings.model_copy(update={"event_bytes_max": 3_000}))
    consumer = failing(system=small)
    published(Event("a.b", "k1", {"x": "y" * 10_000}, topic=consumer.topic))
    consumed(consumer, 1)

    ((payload,),) = rows("SELECT payload FROM evkit.outbox WHERE type = 'evkit.dead_letter'")
    assert payload["record"]["value"] is None
    assert payload["left_out"][0] == "value"
    assert len(dead_letters.letters(evkit_system)) == 1


def test_a_letter_is_buried_though_its_mirror_cannot_be_written(
    evkit_system, failing, published, consumed, rows, caplog
):
    """P5 comes first: the service may not write to the outbox, and its events die all the same."""
    consumer = failing()
    published(Event("a.b", "k1", {}, topic=consumer.topic))
    with evkit_system.writing() as connection:
        connection.execute("ALTER TABLE evkit.outbox ADD CONSTRAINT closed CHECK (type <> 'evkit.dead_letter')")

    consumed(consumer, 1)

    assert len(dead_letters.letters(evkit_system)) == 1
    assert rows("SELECT outcome FROM evkit.inbox") == [("dead",)]
    assert "is not mirrored" in caplog.text


def test_a_group_whose_name_is_no_name_of_a_topic_has_a_mirror_topic_of_its_own():
    assert topic_of("billing", "order") == "dlq.billing.order"
    assert topic_of("bil ling", "order") != topic_of("bil_ling", "order")
    assert topic_of("bil ling", "order").startswith("dlq.bil_ling.order-")
    long = topic_of("g" * 240, "order")
    assert len(long) == 249
    assert long != topic_of("g" * 241, "order")
