"""Letters written in Spring's and Connect's words: byte for byte what Java had written, and read by Spring."""

from __future__ import annotations

import pytest

from evkit import Consumer, Retry, dead_letters, foreign, kafka
from evkit.runtime.dead_letters import Selection


def full(system):
    found = dead_letters.letters(system, Selection(states=None))
    letters = [dead_letters.show(system, letter.letter_id) for letter in found]
    return sorted(letters, key=lambda letter: letter.offset)


@pytest.mark.parametrize(
    ("dialect", "name"), [("spring", "orders-dlt"), ("spring", "numbers-dlt"), ("connect", "connect-dlq")]
)
def test_letter_that_came_from_java_goes_out_byte_for_byte_as_it_came(evkit_system, written, dialect, name):
    """But for one where key and value could not be deserialized: of the key's stack trace there is no trace."""
    plan = dead_letters.plan_import(evkit_system, written.topic(name))
    dead_letters.import_foreign(evkit_system, plan)
    records = [record for record in written.records(name) if (record.key, record.value) != (b"no key", b"no number")]

    letters = {letter.source_offset: letter for letter in full(evkit_system)}
    outgoing = [foreign.to_dialect(letters[record.offset], dialect) for record in records]

    assert [(out.key, out.value, out.headers) for out in outgoing] == [
        (record.key, record.value, record.headers) for record in records
    ]
    if dialect == "connect":
        assert [out.timestamp for out in outgoing] == [record.timestamp for record in records]


@pytest.fixture
def own_letters(evkit_system, evkit_group, written):
    """Letters of evkit's own: the same orders, which a consumer in Python cannot bill."""
    consumer = Consumer(
        evkit_group("billing"), [written.topic("orders")], system=evkit_system, retry=Retry(attempts=1), park_key=False
    )

    @consumer.handler("order.placed")
    def bill(event, tx):
        raise ValueError(f"cannot bill {event.key}: Größe \x1b[31m")

    while consumer.counts.total < 6:
        consumer.step(1.0)
    consumer.close()
    return full(evkit_system)


def test_spring_application_reads_our_letters_as_it_reads_its_own(
    evkit_system, evkit_topic, written, own_letters, java
):
    """By @Header parameters of their types: a partition that is an int, an offset that is a long."""
    prefix = evkit_topic("spring")
    kafka.create_topics(evkit_system.settings, {f"{prefix}.exported": 1})
    producer = kafka.producer(evkit_system.settings)
    letters = [letter for letter in own_letters if letter.event_type == "order.placed"]
    for letter in letters:
        out = foreign.to_dialect(letter, "spring")
        producer.produce(f"{prefix}.exported", out.value, out.key, headers=out.headers)
    producer.flush(30)

    servers = evkit_system.settings.bootstrap_servers
    lines = java.run("orders.SpringDeadLetters", "read", servers, prefix, str(len(letters))).splitlines()

    assert [line.split("\t") for line in lines] == [
        [
            letter.topic, str(letter.partition), str(letter.offset), str(round(letter.appended_at.timestamp() * 1000)),
            "CreateTime", letter.consumer_group, "ValueError", "ValueError", letter.error_message,
            str(len(letter.stack_trace)), letter.raw_value.decode(),
        ]
        for letter in letters
    ]  # fmt: skip


@pytest.mark.parametrize("dialect", ["spring", "connect"])
def test_our_letters_come_back_as_they_went_out(own_letters, dialect):
    for letter in own_letters:
        out = foreign.to_dialect(letter, dialect)
        record = kafka.Record(
            "dlq", 0, 0, out.key, out.value, out.headers, out.timestamp, "create", None, letter.failed_at
        )

        back = foreign.read(record)

        assert back.dialect == dialect
        assert (back.topic, back.partition, back.offset) == (letter.topic, letter.partition, letter.offset)
        assert (back.key, back.found.value, back.headers) == (letter.raw_key, letter.raw_value, letter.headers)
        assert (back.timestamp, back.timestamp_type) == (letter.appended_at, letter.timestamp_type)
        assert (back.error_class, back.error_message) == (letter.error_class, letter.error_message)
        assert back.stack_trace == letter.stack_trace
        group = letter.consumer_group
        assert back.group == (group if dialect == "spring" else f"connect-{group}")
        assert back.problems == ()
