"""What evkit reads in the records that Spring Kafka, Kafka Connect, Kafka Streams and Arroyo write."""

from __future__ import annotations

import pytest

from evkit import dead_letters, foreign

LISTENER = "org.springframework.kafka.listener.ListenerExecutionFailedException"
SERIALIZATION = "org.apache.kafka.common.errors.SerializationException"
CONTROL = "\x1b[31mred\x1b[0m\nCaused by: nothing\x07"


def letters(written, name):
    return [foreign.read(record) for record in written.records(name)]


def originals(written, name, *offsets):
    return [written.records(name)[offset] for offset in offsets]


def as_polled(record):
    """A record without what only a broker or a clock of the reader's knows."""
    return record._replace(leader_epoch=None, received_at=None)


def test_springs_letters_are_the_original_records_with_place_time_and_group(written):
    found = letters(written, "orders-dlt")

    assert [letter.dialect for letter in found] == ["spring"] * 4
    assert [as_polled(letter.record) for letter in found] == [
        as_polled(record) for record in originals(written, "orders", 0, 1, 2, 4)
    ]
    assert {letter.group for letter in found} == {written.topic("billing")}
    assert all(letter.failed_at > letter.timestamp for letter in found)
    assert [letter.problems for letter in found] == [()] * 4


def test_springs_error_is_what_the_listener_raised_and_not_the_wrapper(written):
    found = letters(written, "orders-dlt")

    assert {letter.facts["exception_class"] for letter in found} == {LISTENER}
    assert [(letter.error_class, letter.error_message) for letter in found] == [
        ("java.lang.IllegalStateException", "cannot bill the order"),
        ("java.lang.IllegalArgumentException", "the order is odd: Größe 日本"),
        ("java.lang.NullPointerException", None),
        ("java.lang.IllegalArgumentException", CONTROL),
    ]
    assert [letter.root_cause for letter in found] == [
        'java.lang.NumberFormatException: For input string: "a lot"', None, None, None,
    ]  # fmt: skip
    assert all(f"Caused by: {letter.error_class}" in letter.stack_trace for letter in found)


def test_springs_keys_and_values_that_could_not_be_deserialized_are_the_bytes_they_were(written):
    value, key, both = letters(written, "numbers-dlt")

    assert [(letter.key, letter.found.value) for letter in (value, key, both)] == [
        (b"\0\0\0\1", b"no number"), (b"no key", b"\0\0\0\1"), (b"no key", b"no number"),
    ]  # fmt: skip
    for letter in (value, key, both):
        assert (letter.error_class, letter.error_message) == (
            SERIALIZATION,
            "Size of data received by IntegerDeserializer is not 4",
        )
        assert (letter.group, letter.problems) == (written.topic("counting"), ())
    assert [letter.facts.get("of") for letter in (value, key, both)] == [None, "key", None]
    assert both.facts["key_exception_message"] == "failed to deserialize"


def test_springs_retry_topics_have_other_names_and_count_deliveries(written):
    (letter,) = letters(written, "trips-dlt")

    assert as_polled(letter.record) == as_polled(originals(written, "trips", 0)[0])
    assert (letter.group, letter.attempts) == (written.topic("tripping"), 2)
    assert (letter.error_class, letter.error_message) == ("java.lang.IllegalStateException", "cannot bill the order")
    assert letter.problems == ()


def test_springs_letter_of_a_letter_is_the_event_of_the_group_that_gave_it_up_last(written):
    (letter,) = letters(written, "orders-dlt-dlt")

    assert as_polled(letter.record) == as_polled(originals(written, "orders", 1)[0])
    assert letter.group == written.topic("desk")
    assert letter.error_message == "the desk cannot read it either"
    assert (letter.facts["given_up"], letter.facts["last_topic"]) == (2, written.topic("orders-dlt"))


def test_connects_letters_are_the_original_records_of_the_connectors_group(written):
    found = letters(written, "connect-dlq")

    assert [as_polled(letter.record) for letter in found] == [
        as_polled(record) for record in originals(written, "orders", 0, 1, 2, 4, 5)
    ]
    assert {letter.group for letter in found} == {f"connect-{written.topic('sink')}"}
    assert [(letter.facts["stage"], letter.handler.rpartition(".")[2]) for letter in found] == [
        *[("TASK_PUT", "SinkTask")] * 4,
        ("VALUE_CONVERTER", "JsonConverter"),
    ]
    assert {letter.failed_at for letter in found} == {None}  # its timestamp is the original record's
    assert [letter.problems for letter in found] == [()] * 5


def test_connects_error_is_the_cause_of_what_says_only_that_something_failed(written):
    found = letters(written, "connect-dlq")

    assert [(letter.error_class, letter.error_message) for letter in found[:4]] == [
        ("java.lang.IllegalStateException", "cannot bill the order"),
        ("java.lang.IllegalArgumentException", "the order is odd: Größe 日本"),
        ("java.lang.NullPointerException", None),
        ("java.lang.IllegalArgumentException", CONTROL),
    ]
    assert found[4].facts["exception_class"] == "org.apache.kafka.connect.errors.DataException"
    assert found[4].error_class == "com.fasterxml.jackson.core.JsonParseException"
    assert "Unexpected character" in found[4].error_message


def test_streams_letters_are_the_original_records_of_no_group(written):
    found = letters(written, "streams-dlq")
    numbers = [letter for letter in found if letter.topic == written.topic("numbers")]
    orders = [letter for letter in found if letter.topic == written.topic("orders")]

    for letter, original in [
        *zip(numbers, originals(written, "numbers", 0, 2), strict=True),
        *zip(orders, originals(written, "orders", 0, 1, 2, 4), strict=True),
    ]:
        # Its timestamp is the original record's, but this topic has the broker's.
        unknown = {"timestamp": None, "timestamp_type": "none"}
        assert as_polled(letter.record) == as_polled(original)._replace(**unknown)
        assert (letter.group, letter.failed_at, letter.problems) == (None, letter.found.timestamp, ())
    assert {letter.error_class for letter in numbers} == {SERIALIZATION}
    assert [(letter.error_class, letter.error_message) for letter in orders] == [
        ("java.lang.IllegalStateException", "cannot bill the order"),
        ("java.lang.IllegalArgumentException", "the order is odd: Größe 日本"),
        ("java.lang.NullPointerException", None),
        ("java.lang.IllegalArgumentException", CONTROL),
    ]


def test_same_class_from_the_same_function_is_one_fingerprint_and_another_cause_is_another(written):
    """The second and the fourth are raised by two lines of one function, with two messages."""
    for name in ("orders-dlt", "connect-dlq", "streams-dlq"):
        found = [letter for letter in letters(written, name) if letter.topic == written.topic("orders")]
        first, second, third, fourth = [letter.fingerprint for letter in found][:4]
        assert second == fourth
        assert len({first, second, third}) == 3


def test_arroyos_letters_are_the_original_records_where_the_topic_is_said(evkit_system, evkit_topic):
    """Written by its own KafkaDlqProducer."""
    from arroyo.backends.kafka import KafkaPayload, KafkaProducer
    from arroyo.dlq import KafkaDlqProducer
    from arroyo.types import BrokerValue, Partition, Topic

    orders, dlq = evkit_topic("orders"), evkit_topic("dlq")
    producer = KafkaProducer({"bootstrap.servers": evkit_system.settings.bootstrap_servers})
    payload = KafkaPayload(b"order-1", b"{}", [("ce_id", b"1")])
    value = BrokerValue(payload, Partition(Topic(orders), 3), 1234, None)
    KafkaDlqProducer(producer, Topic(dlq)).produce(value).result(30)
    producer.close().result(30)

    (letter,) = dead_letters.foreign(evkit_system, dlq, original_topic=orders)

    assert letter.dialect == "arroyo"
    assert letter.record[:6] == (orders, 3, 1234, b"order-1", b"{}", [("ce_id", b"1")])
    assert letter.problems == ()


@pytest.mark.parametrize("name", ["orders-dlt", "connect-dlq", "streams-dlq"])
def test_dialect_is_found_by_the_headers_and_another_one_finds_no_place(written, name):
    for record in written.records(name):
        found = foreign.dialect_of(record)
        for other in set(foreign.DIALECTS) - {found}:
            letter = foreign.read(record, other)
            assert not letter.is_placed
            assert letter.record[:3] == record[:3]
