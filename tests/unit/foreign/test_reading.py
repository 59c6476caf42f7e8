"""Dead letters of other frameworks, read from their headers. Records that the Java libraries and Arroyo write are in
tests/integration/foreign; those of Watermill were written by it once and are kept here; Karafka's follow its source."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evkit import foreign
from evkit.errors import UsageError
from evkit.foreign.letter import GROUP_BYTES_MAX, STACK_CHARACTERS_MAX
from evkit.kafka import Record

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def a_record(*headers, key=b"k", value=b"{}", timestamp=AT, timestamp_type="append"):
    """A record of a dead-letter topic; headers are (name, text or bytes or None)."""
    raw = [(name, value.encode() if isinstance(value, str) else value) for name, value in headers]
    return Record("dlq", 1, 7, key, value, raw, timestamp, timestamp_type, 0, AT)


def spring(*more, topic="orders", partition=b"\0\0\0\2", offset=b"\0\0\0\0\0\0\1\0", **record):
    """A record with the place that Spring writes."""
    place = ("topic", topic), ("partition", partition), ("offset", offset)
    return a_record(*((f"kafka_dlt-original-{name}", value) for name, value in place), *more, **record)


# --- which dialect ----------------------------------------------------------------------------------------------------


def test_last_header_decides_in_a_record_that_has_been_through_several_hands():
    """A connector's dead letter, sent again, that a Spring application has given up: Connect's headers are the record's."""
    record = a_record(("__connect.errors.topic", "orders"), ("kafka_dlt-original-topic", "orders-again"))

    letter = foreign.read(record)

    assert letter.dialect == "spring"
    assert letter.topic == "orders-again"
    assert letter.headers == [("__connect.errors.topic", b"orders")]


def test_names_that_anybody_might_use_are_no_dialect():
    for names in (["id"], ["source_topic"], ["original_topic", "original_partition", "original_offset"], ["kafka_key"]):
        letter = foreign.read(a_record(*((name, "1") for name in names)))

        assert letter.dialect is None
        assert letter.problems[0].startswith("no header says who has given this record up")
        assert (letter.record.topic, letter.record.offset) == ("dlq", 7)
        assert [name for name, _ in letter.headers] == names


def test_dialect_that_is_given_reads_a_record_that_does_not_say_it():
    letter = foreign.read(a_record(), "karafka")

    assert letter.dialect == "karafka"
    assert "there is no 'source_topic'" in letter.problems[0]


def test_unknown_dialect_is_one_sentence():
    with pytest.raises(UsageError, match="'rabbit' is no dialect of dead letters: spring, connect, streams"):
        foreign.read(a_record(), "rabbit")
    with pytest.raises(UsageError, match="'karafka' is no dialect of dead letters: spring, connect$"):
        foreign.to_dialect(None, "karafka")


# --- Karafka, Watermill -----------------------------------------------------------------------------------------------


def test_karafka_says_place_group_and_attempts():
    letter = foreign.read(a_record(
        ("ce_id", "1"), ("source_topic", "orders"), ("source_partition", "2"), ("source_offset", "256"),
        ("source_consumer_group", "billing"), ("source_attempts", "3"), ("source_trace_id", "8f2c"), key=b"order-1",
    ))  # fmt: skip

    assert (letter.topic, letter.partition, letter.offset) == ("orders", 2, 256)
    assert (letter.group, letter.attempts, letter.facts) == ("billing", 3, {"trace_id": "8f2c"})
    assert letter.record.key == b"order-1"
    assert letter.headers == [("ce_id", b"1")]
    assert (letter.error_class, letter.failed_at, letter.problems) == (None, AT, ())


def test_older_karafka_has_the_key_in_a_header():
    headers = [
        ("original_topic", "orders"), ("original_partition", "2"), ("original_offset", "256"),
        ("original_consumer_group", "billing"), ("original_key", "order-1"), ("original_attempts", "3"),
    ]  # fmt: skip
    letter = foreign.read(a_record(*headers, key=b"2"))
    without_key = foreign.read(a_record(*headers[:4], ("original_key", ""), headers[5], key=b"2"))

    assert (letter.dialect, letter.topic, letter.partition, letter.offset) == ("karafka", "orders", 2, 256)
    assert (letter.group, letter.key, letter.headers) == ("billing", b"order-1", [])
    assert without_key.key is None


@pytest.fixture(scope="module")
def watermill():
    """What Watermill has written; see the file."""
    kept = json.loads(Path(__file__).with_name("watermill.json").read_text())
    return [
        a_record(*((name, value) for name, value in found["headers"]), key=None, value=found["value"].encode())
        for found in kept["records"]
    ]


def test_watermill_says_topic_handler_and_the_errors_text(watermill):
    letter = foreign.read(watermill[0])

    assert (letter.dialect, letter.topic, letter.handler) == ("watermill", "orders", "billing")
    assert letter.error_message == "cannot bill order 17 of 'north'"
    assert letter.facts == {"subscriber": "kafka.Subscriber"}
    assert not letter.is_placed
    assert (letter.record.topic, letter.record.partition, letter.record.offset) == ("dlq", 1, 7)
    assert sorted(letter.headers) == [
        ("ce_id", b"event-17"), ("ce_specversion", b"1.0"), ("ce_type", b"order.placed"),
        ("content-type", b"application/json"),
    ]  # fmt: skip
    assert [problem.partition(":")[0] for problem in letter.problems] == [
        "where the record was is not said",
        "the record has no key",
    ]


def test_watermills_own_uuid_is_a_part_of_the_record_when_watermill_has_written_that(watermill):
    assert dict(foreign.read(watermill[1]).headers) == {
        "_watermill_message_uuid": b"0b7a1f3c-2f0e-4c8e-9f4e-5a8f1d2c3b4a",
        "tenant": b"north",
    }


def test_arroyos_topic_is_where_somebody_says_it_was():
    record = a_record(("original_partition", "2"), ("original_offset", "256"))

    assert foreign.read(record, original_topic="orders").record[:3] == ("orders", 2, 256)
    assert foreign.read(record).record[:3] == ("dlq", 1, 7)
    assert "Arroyo keeps no topic" in foreign.read(record).problems[0]


# --- headers of anybody -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "value", "problem"),
    [
        ("partition", b"\0\0\0", r"'kafka_dlt-original-partition' is no number of 4 bytes: b'\x00\x00\x00'"),
        ("partition", b"\xff\xff\xff\xff", "'kafka_dlt-original-partition' is -1, below 0"),
        ("offset", b"99999999999999999999", "is no number of 8 bytes"),
        ("offset", b"", "is no number of 8 bytes: b''"),
        ("topic", "\x1b[31m", r"'kafka_dlt-original-topic' is no topic's name: '\x1b[31m'"),
        ("topic", "t" * 250, "is no topic's name"),
        ("topic", b"\xff", r"is no topic's name: '\\xff'"),
    ],
)
def test_place_that_cannot_be_read_is_a_sentence_and_the_rest_is_read(part, value, problem):
    letter = foreign.read(spring(("kafka_dlt-original-consumer-group", "billing"), **{part: value}))

    assert getattr(letter, part) is None
    assert problem in letter.problems[0]
    assert letter.group == "billing"
    assert letter.record[:3] == ("dlq", 1, 7)


def test_numbers_in_digits_are_read_too():
    """Spring writes four and eight bytes; others write its names with text."""
    letter = foreign.read(spring(("kafka_dlt-original-timestamp", "1772366400000"), partition=b"12", offset=b"345"))

    assert (letter.partition, letter.offset, letter.timestamp) == (12, 345, AT)


def test_time_of_no_year_and_no_time_at_all_are_none():
    late = foreign.read(spring(("kafka_dlt-original-timestamp", b"\x7f" + b"\xff" * 7)))
    none = foreign.read(spring(("kafka_dlt-original-timestamp", b"\xff" * 8)))

    assert (late.timestamp, none.timestamp, none.problems) == (None, None, ())
    assert "no time of the years 1 to 9999" in late.problems[0]


def test_group_that_no_index_can_hold_is_not_taken():
    for group in ("g" * (GROUP_BYTES_MAX + 1), "a\nb", b"\xff\x00"):
        letter = foreign.read(spring(("kafka_dlt-original-consumer-group", group)))

        assert letter.group is None
        assert letter.problems


def test_long_stack_trace_keeps_its_beginning_and_its_end():
    stack = "java.lang.IllegalStateException: top\n" + "\tat orders.Billing.bill(Billing.java:1)\n" * 10_000 + "end"
    letter = foreign.read(spring(("kafka_dlt-exception-stacktrace", stack)))

    assert len(letter.stack_trace) == STACK_CHARACTERS_MAX
    assert letter.stack_trace.startswith("java.lang.IllegalStateException: top\n")
    assert letter.stack_trace.endswith("\nend")


def test_record_that_was_given_up_twice_keeps_its_first_place_and_its_last_group():
    again = spring(topic="orders-dlt", offset=b"\0" * 8).headers
    record = spring(
        ("kafka_dlt-original-consumer-group", "billing"), *again, ("kafka_dlt-original-consumer-group", "desk")
    )

    letter = foreign.read(record)

    assert (letter.topic, letter.offset, letter.group) == ("orders", 256, "desk")
    assert letter.facts == {"given_up": 2, "last_topic": "orders-dlt"}


def test_timestamp_that_was_sent_along_is_the_original_records_and_not_the_time_of_giving_up():
    """Connect and Streams send it; a topic with the broker's clock has the time of giving up instead."""
    header = ("__connect.errors.topic", "orders")
    created = foreign.read(a_record(header, timestamp_type="create"))
    appended = foreign.read(a_record(header, timestamp_type="append"))

    assert (created.timestamp, created.timestamp_type, created.failed_at) == (AT, "create", None)
    assert (appended.timestamp, appended.timestamp_type, appended.failed_at) == (None, "none", AT)


NAMES = sorted(
    {
        "_watermill_message_uuid", "original_partition", "original_offset", "original_topic", "original_key", "other",
        "original_consumer_group", "original_attempts", "reason_poisoned", "topic_poisoned", "handler_poisoned",
        "subscriber_poisoned", "retry_topic-attempts", "kafka_deliveryAttempt", "source_trace_id", "source_attempts",
        *(f"source_{name}" for name in ("topic", "partition", "offset", "consumer_group")),
        *(f"kafka_{dlt}original-{name}" for dlt in ("", "dlt-")
          for name in ("topic", "partition", "offset", "timestamp", "timestamp-type", "consumer-group")),
        *(f"kafka_{dlt}{key}exception-{name}" for dlt in ("", "dlt-") for key in ("", "key-")
          for name in ("fqcn", "cause-fqcn", "message", "stacktrace")),
        *(f"__streams.errors.{name}" for name in ("topic", "partition", "offset", "exception", "message", "stacktrace")),
        *(f"__connect.errors.{name}" for name in ("topic", "partition", "offset", "connector.name", "task.id", "stage",
          "class.name", "exception.class.name", "exception.message", "exception.stacktrace")),
    }
)  # fmt: skip
STACKS = st.lists(
    st.sampled_from([
        "java.lang.IllegalStateException: x", "Caused by: a.B: c", "Caused by: ", "\tat a.B.c(D.java:1)", "\tat ",
        "\t... 3 more", "", "\x00", ": ", "at", "Caused by: a.B", "\u2028",
    ])
).map("\n".join)  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.binary(max_size=40),
    st.integers(0, 2**64).map(lambda number: str(number).encode()),
    st.integers(0, 2**64 - 1).map(lambda number: number.to_bytes(8, "big")),
    st.integers(0, 2**32 - 1).map(lambda number: number.to_bytes(4, "big")),
    STACKS.map(lambda text: text.encode()),
    st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
)


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=12),
    st.sampled_from([None, *foreign.DIALECTS]),
    st.none() | st.binary(max_size=10),
    st.sampled_from(["append", "create", "none"]),
)
def test_no_headers_at_all_bring_the_reading_down(headers, dialect, key, timestamp_type):
    found = a_record(*headers, key=key, timestamp_type=timestamp_type)

    letter = foreign.read(found, dialect)

    assert letter.found is found
    assert letter.is_placed == (letter.record.topic != "dlq")
    assert 0 <= letter.record.partition < 2**31
    assert 0 <= letter.record.offset < 2**63
    assert letter.group is None or (letter.group and letter.group.isprintable())
    assert letter.attempts is None or 0 <= letter.attempts < 2**31
    assert len(letter.fingerprint) == 16
    assert all(header in found.headers for header in letter.headers)
    assert all(problem.isprintable() for problem in letter.problems)
    json.dumps(letter.facts)
