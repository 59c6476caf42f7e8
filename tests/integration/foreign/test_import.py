"""Dead letters of the Java libraries, taken over: once, by the group that they name, and handled like any other."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from evkit import Consumer, Event, dead_letters, foreign, kafka
from evkit.errors import ImportRefused, UnknownTopic, UsageError
from evkit.runtime.dead_letters import Selection


def imported(system, topic, **choice):
    """Plan and import; returns what became of the records."""
    return dead_letters.import_foreign(system, dead_letters.plan_import(system, topic, **choice))


def full(system):
    """All letters with their records, by their place."""
    found = dead_letters.letters(system, Selection(states=None))
    letters = [dead_letters.show(system, letter.letter_id) for letter in found]
    return sorted(letters, key=lambda letter: (letter.topic, letter.offset))


def ends(system, topic):
    return kafka.offsets(system.settings, kafka.partitions_of(system.settings, [topic]))


def test_imported_letter_is_the_original_record_of_the_failing_group_with_a_marked_source(evkit_system, written):
    counts = imported(evkit_system, written.topic("orders-dlt"))

    assert (counts.imported, counts.records) == (4, 4)
    letters = full(evkit_system)
    originals = [written.records("orders")[offset] for offset in (0, 1, 2, 4)]
    found = written.records("orders-dlt")
    for letter, original, record in zip(letters, originals, found, strict=True):
        assert (letter.topic, letter.partition, letter.offset) == original[:3]
        assert (letter.raw_key, letter.raw_value, letter.headers) == original[3:6]
        assert (letter.appended_at, letter.timestamp_type) == (original.timestamp, "create")
        assert (letter.event_id, letter.event_type) == (dict(original.headers)["ce_id"].decode(), "order.placed")
        assert (letter.consumer_group, letter.state) == (written.topic("billing"), "open")
        assert (letter.first_failed_at, letter.failed_at) == (record.timestamp, record.timestamp)
        where = (letter.source_dialect, letter.source_topic, letter.source_partition, letter.source_offset)
        assert where == ("spring", record.topic, 0, record.offset)
    assert letters[0].error_class == "java.lang.IllegalStateException"
    assert letters[0].source_facts["root_cause"].startswith("java.lang.NumberFormatException")


def test_importing_twice_adds_nothing_and_every_import_is_on_record(evkit_system, written):
    imported(evkit_system, written.topic("orders-dlt"))
    before = full(evkit_system)

    again = imported(evkit_system, written.topic("orders-dlt"), as_group="another")

    assert (again.imported, again.known) == (0, 4)
    assert full(evkit_system) == before
    with evkit_system.reading() as connection:
        acts = connection.execute(
            "SELECT act, target, result->'imported' FROM evkit.audit ORDER BY audit_id"
        ).fetchall()
    topic = written.topic("orders-dlt")
    assert acts == [("dead_letters.import", topic, 4), ("dead_letters.import", topic, 0)]


def test_letter_that_was_purged_for_good_is_not_imported_again(evkit_system, evkit_topic, written):
    """Nor is another record of its event, which its framework may have sent twice."""
    topic = written.topic("orders-dlt")
    imported(evkit_system, topic)
    first, *others = [letter.letter_id for letter in full(evkit_system)]
    dead_letters.purge(evkit_system, [first], reason="nobody wants it")
    dead_letters.archive(evkit_system, others, note="known")
    purged = imported(evkit_system, topic)
    gone = dead_letters.delete_expired(evkit_system, dead_letters.plan_expiry(evkit_system, timedelta(0)))
    again, dlq = imported(evkit_system, topic), evkit_topic("dlq")
    (record, *_) = written.records("orders-dlt")
    produce(evkit_system, dlq, record)

    copy = imported(evkit_system, dlq)

    assert (purged.imported, purged.known) == (0, 4)
    assert gone == 1
    assert (again.imported, again.known, again.deleted, again.records) == (0, 3, 1, 4)
    assert (copy.imported, copy.same_event) == (0, 1)
    assert [letter.letter_id for letter in full(evkit_system)] == others


def produce(system, topic, *records):
    """Write copies of records."""
    producer = kafka.producer(system.settings)
    for record in records:
        producer.produce(topic, record.value, record.key, headers=record.headers)
    assert producer.flush(30) == 0


def test_planning_and_looking_change_nothing(evkit_system, written):
    before = {name: ends(evkit_system, written.topic(name)) for name in ("orders", "orders-dlt")}
    groups = kafka.groups(evkit_system.settings)

    plan = dead_letters.plan_import(evkit_system, written.topic("orders-dlt"))
    found = dead_letters.foreign(evkit_system, written.topic("orders-dlt"))

    assert (plan.counts.imported, len(found)) == (4, 4)
    assert full(evkit_system) == []
    assert {name: ends(evkit_system, written.topic(name)) for name in before} == before
    assert kafka.groups(evkit_system.settings).keys() == groups.keys()
    with evkit_system.reading() as connection:
        assert connection.execute("SELECT count(*) FROM evkit.audit").fetchone() == (0,)


def test_looking_needs_no_postgresql(evkit_system, written):
    elsewhere = replace_dsn(evkit_system, "postgresql://nobody@127.0.0.1:1/none")

    found = dead_letters.foreign(elsewhere, written.topic("numbers-dlt"), letters_max=2)

    assert [letter.found.offset for letter in found] == [0, 1]
    assert dead_letters.foreign(elsewhere, written.topic("numbers-dlt"), group="other") == []


def replace_dsn(system, dsn):
    return type(system)(system.settings.model_copy(update={"postgres_dsn": dsn}))


def test_event_that_several_topics_hold_is_one_letter_of_each_group(evkit_system, written):
    """Spring's and Connect's letters are of the same events; and one event is in two of Spring's topics, of two groups."""
    imported(evkit_system, written.topic("orders-dlt"))
    imported(evkit_system, written.topic("connect-dlq"))
    imported(evkit_system, written.topic("orders-dlt-dlt"))

    again = imported(evkit_system, written.topic("orders-dlt-dlt"), as_group=written.topic("billing"))

    assert (again.known, again.same_event) == (1, 0)  # the record is a letter already, whoever it belongs to
    groups = {}
    for letter in full(evkit_system):
        groups[letter.consumer_group] = groups.get(letter.consumer_group, 0) + 1
    assert groups == {
        written.topic("billing"): 4,
        written.topic("desk"): 1,
        f"connect-{written.topic('sink')}": 5,
    }


def test_second_record_of_an_event_stays_in_the_topic(evkit_system, evkit_topic, written):
    """A framework that died after sending sends again."""
    dlq = evkit_topic("dlq")
    (record, *_) = written.records("orders-dlt")
    produce(evkit_system, dlq, record, record)

    plan = dead_letters.plan_import(evkit_system, dlq)
    counts = dead_letters.import_foreign(evkit_system, plan)

    for found in (plan.counts, counts):
        assert (found.imported, found.same_event) == (1, 1)


def test_group_is_the_one_that_is_given_where_the_dialect_names_none(evkit_system, written):
    topic = written.topic("streams-dlq")

    nobodys = dead_letters.plan_import(evkit_system, topic).counts
    counts = imported(evkit_system, topic, group="orders-app")

    assert (nobodys.imported, nobodys.no_group) == (0, 6)
    assert (counts.imported, dict(counts.groups)) == (6, {"orders-app": 6})
    assert counts.unreadable == 2  # numbers are no events


def test_group_that_is_given_leaves_out_the_letters_of_others_unless_it_takes_them_over(evkit_system, written):
    topic, billing = written.topic("orders-dlt"), written.topic("billing")

    others = imported(evkit_system, topic, group="shipping")
    taken = imported(evkit_system, topic, group=billing, as_group="billing")

    assert (others.imported, others.other_group, dict(others.named)) == (0, 4, {billing: 4})
    assert dict(taken.groups) == {"billing": 4}
    assert {letter.source_facts["group"] for letter in full(evkit_system)} == {billing}


def test_records_of_no_dialect_are_left_out_unless_one_is_given(evkit_system, written):
    topic = written.topic("orders")  # no dead letters at all

    left = imported(evkit_system, topic, group="billing")
    taken = imported(evkit_system, topic, group="billing", dialect="karafka")

    assert (left.imported, left.no_dialect) == (0, 6)
    assert taken.examples[0].startswith("0/0: where the record was is not said: there is no 'source_topic'")
    assert (taken.imported, taken.incomplete, taken.unreadable) == (6, 6, 1)
    letters = full(evkit_system)
    assert {letter.error_class for letter in letters} == {"(not said)"}
    assert "there is no 'source_topic'" in letters[0].source_facts["problems"][0]


def test_what_comes_after_the_plan_is_not_in_it_and_a_topic_made_anew_is_another(evkit_system, evkit_topic, written):
    dlq = evkit_topic("dlq")
    produce(evkit_system, dlq, *written.records("trips-dlt"))
    plan = dead_letters.plan_import(evkit_system, dlq)
    produce(evkit_system, dlq, *written.records("numbers-dlt"))

    counts = dead_letters.import_foreign(evkit_system, plan)

    assert (counts.imported, counts.records) == (1, 1)
    with pytest.raises(ImportRefused, match="was deleted and made anew since the import was planned"):
        dead_letters.import_foreign(evkit_system, replace(plan, topic_id="another"))


@pytest.fixture
def billing(evkit_system, written):
    """An evkit consumer of the group that had given the orders up in Java; it counts its effects."""
    consumer = Consumer(written.topic("billing"), [written.topic("orders")], system=evkit_system)
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE bill (id text PRIMARY KEY, n int)")
    consumer.seen = []

    @consumer.handler("order.placed")
    def bill(event, tx):
        consumer.seen.append((event.id, event.key, event.payload, tx.topic, tx.partition, tx.offset, tx.record.headers))
        tx.execute("INSERT INTO bill VALUES (%s, 1) ON CONFLICT (id) DO UPDATE SET n = bill.n + 1", (event.id,))

    yield consumer
    consumer.close()


def test_redrive_of_imported_letters_runs_the_groups_handler_with_the_original_records_once(
    evkit_system, written, billing
):
    imported(evkit_system, written.topic("orders-dlt"))
    before = ends(evkit_system, written.topic("orders"))
    plan = dead_letters.plan_redrive(evkit_system, Selection(group=billing.group))

    result = dead_letters.redrive(evkit_system, plan, billing)

    assert len(result.resolved) == 4
    assert billing.seen == [
        (
            dict(record.headers)["ce_id"].decode(),
            record.key.decode(),
            json.loads(record.value),
            *record[:3],
            record.headers,
        )
        for record in (written.records("orders")[offset] for offset in (0, 1, 2, 4))
    ]
    assert ends(evkit_system, written.topic("orders")) == before
    assert imported(evkit_system, written.topic("orders-dlt")).known == 4
    assert {letter.state for letter in full(evkit_system)} == {"resolved"}
    with evkit_system.reading() as connection:
        assert connection.execute("SELECT DISTINCT n FROM bill").fetchall() == [(1,)]
        outcomes = connection.execute("SELECT DISTINCT consumer_group, outcome FROM evkit.inbox").fetchall()
    assert outcomes == [(billing.group, "handled")]


def test_redriven_letters_without_ids_of_their_own_are_handled_each(evkit_system, evkit_topic, evkit_group):
    """Records of Watermill have neither an id nor a place: two of them must not be taken for one event."""
    dlq, group = evkit_topic("dlq", partitions=2), evkit_group()
    producer = kafka.producer(evkit_system.settings)
    headers = [("topic_poisoned", b"orders"), ("reason_poisoned", b"no"), ("handler_poisoned", b"h")]
    for number in range(4):
        producer.produce(dlq, json.dumps({"number": number}).encode(), partition=number % 2, headers=headers)
    producer.flush(30)
    seen = []
    consumer = Consumer(
        group,
        ["orders"],
        system=evkit_system,
        decode=lambda record: Event("order.placed", key="", payload=json.loads(record.value), id=place_of(record)),
    )
    consumer.handler("order.placed")(lambda event, tx: seen.append(event.payload["number"]))

    counts = imported(evkit_system, dlq, group=group, decode=consumer.handlers.decode)
    plan = dead_letters.plan_redrive(evkit_system, Selection(group=group))
    result = dead_letters.redrive(evkit_system, plan, consumer)

    assert (counts.imported, counts.unreadable) == (4, 0)
    assert len(result.resolved) == 4
    assert sorted(seen) == [0, 1, 2, 3]
    consumer.close()


def place_of(record):
    return f"{record.topic}:{record.partition}:{record.offset}"


def test_letter_that_fails_again_is_the_same_letter_with_one_more_attempt(evkit_system, written, billing):
    imported(evkit_system, written.topic("connect-dlq"), as_group=billing.group)
    broken = next(letter for letter in full(evkit_system) if letter.raw_value == b"{broken")
    plan = dead_letters.plan_redrive(evkit_system, Selection(ids=(broken.letter_id,)))

    result = dead_letters.redrive(evkit_system, plan, billing)

    assert result.failed == [broken.letter_id]
    letter = dead_letters.show(evkit_system, broken.letter_id)
    assert (letter.state, letter.retry_count, len(letter.attempts)) == ("open", 1, 1)
    assert letter.error_class == "evkit.errors.Undecodable"
    assert letter.first_failed_at == broken.first_failed_at
    # What Connect had said of it is not what it fails by now.
    headers = dict(foreign.to_dialect(letter, "connect").headers)
    assert headers["__connect.errors.exception.class.name"] == b"evkit.errors.Undecodable"


def test_hostile_headers_are_imported_as_what_they_are(evkit_system, evkit_topic):
    """What PostgreSQL cannot hold, what overflows, what is too long for an index."""
    dlq = evkit_topic("dlq")
    producer = kafka.producer(evkit_system.settings)
    spring = "kafka_dlt-original-"
    hostile = [
        [(f"{spring}topic", b"\x00"), (f"{spring}consumer-group", b"g" * 5000)],
        [(f"{spring}topic", b"orders"), (f"{spring}partition", b"99999999999"), (f"{spring}offset", b"9" * 19)],
        [
            (f"{spring}topic", b"orders"),
            (f"{spring}timestamp", b"\x7f" * 8),
            ("retry_topic-attempts", b"\x7f\xff\xff\xff"),
        ],
        [("__connect.errors.connector.name", b"c" * 255), ("__connect.errors.exception.message", b"\x00\xff")],
        [("__streams.errors.stacktrace", b"a.B: \x00\n\tat a.B.c(D.java:1)\n" * 20_000)],
        [("reason_poisoned", None), ("topic_poisoned", b"\xff"), ("handler_poisoned", b"\x1b[2J")],
        [("original_partition", b""), ("original_offset", None), ("id", b"\x00" * 500), ("type", b"\x00")],
        [
            ("source_consumer_group", b"g" * 255),
            ("source_attempts", b"-1"),
            ("ce_id", b"\x00" * 512),
            ("ce_type", b"t"),
        ],
    ]
    for headers in hostile:
        producer.produce(dlq, b"\x00\xff", b"\x00", headers=headers)
    producer.flush(30)

    counts = imported(evkit_system, dlq, group="billing", as_group="billing")

    assert (counts.imported, counts.other_group) == (7, 1)
    assert counts.incomplete == 7
    assert {letter.raw_value for letter in full(evkit_system)} == {b"\x00\xff"}


def test_bad_input_is_one_sentence_and_nothing_is_changed(evkit_system, written):
    with pytest.raises(UnknownTopic, match=re.escape(f"did you mean '{written.topic('orders')}")):
        dead_letters.plan_import(evkit_system, written.topic("order"))
    with pytest.raises(UnknownTopic):
        dead_letters.foreign(evkit_system, "nothing-like-it")
    for more in ({"dialect": "rabbit"}, {"group": ""}, {"as_group": "a\nb"}, {"group": "g" * 256}):
        with pytest.raises(UsageError):
            dead_letters.plan_import(evkit_system, written.topic("orders-dlt"), **more)
    with evkit_system.reading() as connection:
        assert connection.execute("SELECT count(*) FROM evkit.audit").fetchone() == (0,)
