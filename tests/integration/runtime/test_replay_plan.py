"""What a plan tells before anything runs: counts, what is in the way, and what cannot be had any more."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import TopicPartition

from evkit import Consumer, Event, Retry, kafka, replay
from evkit.errors import ReplayRefused, UnknownGroup, UsageError

EVENTS = 12


def hour_ago():
    return datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def handled(evkit_system, new_consumer, consumed):
    """`handled(topic, events)`: a consumer, closed, that has handled so many events of a topic."""

    def handle(topic, events, **options):
        consumer = new_consumer(topic, retry=Retry(attempts=1), **options)
        consumer.handler("a.b")(lambda event, tx: None)
        consumed(consumer, events)
        consumer.close()
        return consumer

    return handle


@pytest.fixture
def orders(evkit_topic, published, handled):
    """A topic of twelve events on three keys in two partitions, its ids, and a consumer that has handled them."""
    topic = evkit_topic(partitions=2)
    ids = published(*[Event("a.b", f"k{i % 3}", {"i": i}, topic=topic) for i in range(EVENTS)])
    return topic, ids, handled(topic, EVENTS)


def delete_before(system, topic, partition, offset):
    """As retention does it, at once."""
    (future,) = system.admin.delete_records([TopicPartition(topic, partition, offset)]).values()
    future.result()


def _producer(system, transactional_id=None):
    more = {} if transactional_id is None else {"transactional.id": transactional_id, "delivery.timeout.ms": 60_000}
    return kafka.producer(system.settings, **more)


def produced(system, topic, *records, transactional=False):
    """Records of somebody else, each (key, milliseconds since the epoch)."""
    producer = _producer(system, topic if transactional else None)
    if transactional:
        producer.init_transactions()
    for key, millis in records:
        if transactional:
            producer.begin_transaction()
        headers = {"ce_id": f"{key}-{millis}", "ce_type": "a.b", "ce_source": "/test", "ce_specversion": "1.0"}
        producer.produce(topic, b"{}", key.encode(), headers=headers, timestamp=millis)
        if transactional:
            producer.commit_transaction()
    producer.flush()


def test_plan_counts_by_partition_what_the_inbox_knows_and_what_it_does_not(evkit_system, orders):
    _, ids, consumer = orders
    with evkit_system.writing() as connection:
        connection.execute("DELETE FROM evkit.inbox WHERE event_id = ANY(%s)", (ids[:4],))

    plan = replay.plan(evkit_system, consumer.group, hour_ago())

    parts = plan.by_partition()
    assert (plan.records, plan.known_handled, plan.missing) == (EVENTS, EVENTS - 4, 4)
    assert [sum(p[name] for p in parts) for name in ("records", "handled", "missing", "keys", "letters", "ahead")] == [
        EVENTS, EVENTS - 4, 4, 3, 0, 0,
    ]  # fmt: skip
    assert [p["gone"] for p in parts] == [None] * len(parts)
    assert plan.expected_seconds is not None
    assert "busiest second" in plan.expected_by


def test_stretch_that_is_too_long_to_read_is_planned_by_its_places(evkit_system, orders):
    _, ids, consumer = orders
    with evkit_system.writing() as connection:
        connection.execute("DELETE FROM evkit.inbox WHERE event_id = ANY(%s)", (ids[:4],))

    plan = replay.plan(evkit_system, consumer.group, hour_ago(), scan_records_max=EVENTS - 1)

    assert (plan.offsets, plan.records, plan.missing, plan.known_handled) == (EVENTS, None, None, EVENTS - 4)
    assert any("too many to read for a plan" in note for note in plan.notes)


def test_what_the_group_has_not_come_to_is_its_lag_and_is_left_to_it(evkit_system, orders, published):
    """A replay that ran ahead of the live group would handle later events of a key before earlier ones."""
    topic, _, consumer = orders
    published(*[Event("a.b", "k1", {"i": i}, topic=topic) for i in range(5)])

    plan = replay.plan(evkit_system, consumer.group, hour_ago())
    dry = replay.plan(evkit_system, consumer.group, hour_ago(), dedupe="dry")

    assert (plan.offsets, sum(r.ahead for r in plan.ranges), dry.offsets) == (EVENTS, 5, EVENTS + 5)
    assert any("5 offsets of the stretch are later than what the group has committed" in note for note in plan.notes)
    last = datetime.now(UTC) - timedelta(milliseconds=1)
    published(Event("a.b", "k1", {}, topic=topic))
    with pytest.raises(ReplayRefused, match="has not come to .* yet .* its consumers will handle it"):
        replay.plan(evkit_system, consumer.group, last)


def test_plan_from_long_before_there_was_kafka_takes_all_there_is(evkit_system, orders):
    _, _, consumer = orders

    assert replay.plan(evkit_system, consumer.group, datetime(1, 1, 1, tzinfo=UTC)).offsets == (
        replay.plan(evkit_system, consumer.group, hour_ago()).offsets
    )


def test_what_retention_has_taken_is_an_error_unless_it_is_allowed(evkit_system, orders):
    topic, _, consumer = orders
    ends = kafka.offsets(evkit_system.settings, kafka.partitions_of(evkit_system.settings, [topic]))
    partition = max(p for (_, p), end in ends.items() if end)
    delete_before(evkit_system, topic, partition, 3)

    with pytest.raises(
        ReplayRefused, match=r"begins at offset 3, later than .* \(3 events by evkit's outbox\); take a later"
    ):
        replay.plan(evkit_system, consumer.group, hour_ago())
    plan = replay.plan(evkit_system, consumer.group, hour_ago(), allow_missing=True)

    assert (plan.records, plan.retention_cut) == (EVENTS - 3, True)
    assert [r.gone for r in plan.ranges if r.cut] == [3]
    assert any(
        "of this time 3 events by evkit's outbox: what is gone cannot be replayed" in note for note in plan.notes
    )


def test_partition_that_is_empty_by_now_is_no_loss_unless_the_outbox_knows_of_one(evkit_system, evkit_topic, handled):
    topic = evkit_topic(partitions=2, **{"message.timestamp.type": "CreateTime"})
    now = round(time.time() * 1000)
    produced(evkit_system, topic, *[(f"k{i}", now - 1000) for i in range(20)])
    consumer = handled(topic, 20)
    ends = kafka.offsets(evkit_system.settings, kafka.partitions_of(evkit_system.settings, [topic]))
    delete_before(evkit_system, topic, 0, ends[topic, 0])

    plan = replay.plan(evkit_system, consumer.group, hour_ago())

    assert (plan.retention_cut, plan.records) == (False, ends[topic, 1])


@pytest.mark.parametrize("allow_missing", [False, True])
def test_retention_that_comes_between_plan_and_run_is_a_sentence_or_is_passed_over(evkit_system, orders, allow_missing):
    topic, _, consumer = orders
    plan = replay.plan(evkit_system, consumer.group, hour_ago(), dedupe="again", allow_missing=allow_missing)
    full = max(plan.ranges, key=lambda r: r.end)
    delete_before(evkit_system, topic, full.partition, 2)

    if not allow_missing:
        with pytest.raises(ReplayRefused, match="is gone, it begins at 2 now: retention has taken a part"):
            replay.run(evkit_system, plan, consumer)
        (row,) = replay.runs(evkit_system)
        assert (row["state"], "is gone" in row["why"]) == ("stopped", True)
        return
    result = replay.run(evkit_system, plan, consumer)
    assert (result.state, result.counts.handled) == ("done", EVENTS - 2)
    assert replay.status(evkit_system, result.replay_id)["offsets_done"] == EVENTS


def test_times_of_producers_are_asked_of_every_record(evkit_system, evkit_topic, handled, rows):
    """The first record of a time does not begin that time: earlier ones come after it, and later ones before the end."""
    topic = evkit_topic(**{"message.timestamp.type": "CreateTime"})
    minute = 60_000
    now = round(time.time() * 1000)
    ages = [50, 30, 55, 20, 5, 25, 1, 22, 58]
    produced(evkit_system, topic, *[("k", now - age * minute) for age in ages])
    consumer = handled(topic, len(ages))
    from_time = datetime.fromtimestamp(now / 1000, UTC) - timedelta(minutes=31)
    until_time = datetime.fromtimestamp(now / 1000, UTC) - timedelta(minutes=21)

    plan = replay.plan(evkit_system, consumer.group, from_time, until_time, dedupe="again")
    result = replay.run(evkit_system, plan, consumer)

    assert (plan.records, plan.contents.by_producer) == (3, 3), "30, 25 and 22 minutes old"
    assert any("are the producers' (CreateTime)" in note for note in plan.notes)
    assert (result.counts.handled, result.filtered) == (3, plan.offsets - 3)
    handled_again = rows('SELECT event_id FROM evkit.inbox WHERE generation > 0 ORDER BY "offset"')
    assert handled_again == [(f"k-{now - age * minute}",) for age in (30, 25, 22)]


def test_transaction_markers_are_offsets_without_events(evkit_system, evkit_topic, handled):
    topic = evkit_topic()
    produced(evkit_system, topic, *[("k", round(time.time() * 1000) + i) for i in range(4)], transactional=True)
    consumer = handled(topic, 4)

    plan = replay.plan(evkit_system, consumer.group, hour_ago(), dedupe="dry")
    result = replay.run(evkit_system, plan, consumer)

    assert (plan.offsets, plan.records) == (8, 4)
    assert any("4 of the 8 offsets have no record (transaction markers" in note for note in plan.notes)
    found = replay.status(evkit_system, result.replay_id)
    assert (result.counts.handled, found["offsets_done"]) == (4, 8)


def test_transaction_that_is_left_open_does_not_keep_a_replay_waiting(evkit_system, evkit_topic, handled):
    topic = evkit_topic()
    produced(evkit_system, topic, ("k", 1), ("k", 2), transactional=True)
    consumer = handled(topic, 2)
    hanging = _producer(evkit_system, f"{topic}-hangs")
    hanging.init_transactions()
    hanging.begin_transaction()
    hanging.produce(topic, b"{}", b"k")
    hanging.flush()

    plan = replay.plan(evkit_system, consumer.group, hour_ago(), dedupe="dry")
    result = replay.run(evkit_system, plan, consumer)

    assert (plan.offsets, result.state, result.counts.handled) == (4, "done", 2)
    hanging.abort_transaction()


def test_compacted_topic_is_said_to_be_one(evkit_system, evkit_topic, published, handled):
    topic = evkit_topic(**{"cleanup.policy": "compact"})
    published(Event("a.b", "k", {}, topic=topic))
    consumer = handled(topic, 1)

    plan = replay.plan(evkit_system, consumer.group, hour_ago())

    assert any(f"{topic} is compacted" in note for note in plan.notes)


def made_anew(system, topic, records):
    """The topic is deleted, and there is another one of its name."""
    system.admin.delete_topics([topic])[topic].result()
    while topic in kafka.topics(system.settings, system.admin):
        time.sleep(0.05)
    kafka.create_topics(system.settings, {topic: 2})
    produced(system, topic, *[(f"k{i}", 1) for i in range(records)])


def test_topic_that_was_made_anew_is_refused_when_planned_run_and_resumed(evkit_system, orders, rows):
    topic, _, consumer = orders
    plan = replay.plan(evkit_system, consumer.group, hour_ago(), dedupe="again")
    replay_id = replay.prepare(evkit_system, plan, consumer)
    made_anew(evkit_system, topic, 1)
    before = rows("SELECT count(*) FROM evkit.inbox"), rows("SELECT count(*) FROM evkit.replay_run")

    with pytest.raises(ReplayRefused, match="was deleted and made anew since this replay was planned"):
        replay.run(evkit_system, plan, consumer)
    with pytest.raises(ReplayRefused, match="was deleted and made anew since this replay was planned"):
        replay.resume(evkit_system, replay_id, consumer)
    with pytest.raises(
        ReplayRefused, match=r"has handled offset .* and the partition ends at .*: the topic was deleted"
    ):
        replay.plan(evkit_system, consumer.group, hour_ago())

    assert before == (rows("SELECT count(*) FROM evkit.inbox"), rows("SELECT count(*) FROM evkit.replay_run"))
    assert replay.status(evkit_system, replay_id)["state"] == "planned"


def test_group_that_only_kafka_knows_is_planned_by_its_offsets(evkit_system, evkit_topic, evkit_group, published):
    topic, group = evkit_topic(), evkit_group()
    published(*[Event("a.b", "k", {}, topic=topic) for _ in range(3)])
    client = kafka.consumer(evkit_system.settings, group)
    client.subscribe([topic])
    while client.poll(1.0) is None:
        pass
    client.commit(offsets=[TopicPartition(topic, 0, 2)], asynchronous=False)
    client.close()

    plan = replay.plan(evkit_system, group, hour_ago())

    assert (plan.topics, plan.offsets, plan.missing) == ((topic,), 2, 2)
    with pytest.raises(UnknownGroup, match=f"did you mean .*'{group}'"):
        replay.plan(evkit_system, group + "s", hour_ago())


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"keys": ["nobody"]}, ReplayRefused, "is of this time and of key 'nobody': nothing to replay"),
        ({"types": ["a.c"]}, ReplayRefused, "type 'a.c': nothing to replay"),
        ({"keys": []}, UsageError, "keys is a list of at least one"),
        ({"types": "a.b"}, UsageError, "types is a list"),
        ({"topics": []}, UsageError, "topics is a list"),
        ({"dedupe": "override"}, UsageError, "dedupe is honour, again or dry, not 'override'"),
        ({"scan_records_max": -1}, UsageError, "from 0 on"),
        ({"until_time": datetime.fromisoformat("2013-02-08")}, UsageError, "has no zone"),
        ({"until_time": datetime(2013, 2, 8, tzinfo=UTC)}, ReplayRefused, "before it begins"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(evkit_system, orders, arguments, error, says):
    _, _, consumer = orders

    with pytest.raises(error) as refused:
        replay.plan(evkit_system, consumer.group, hour_ago(), **arguments)

    assert says in str(refused.value)


def test_decode_function_of_the_consumer_says_what_the_records_are(evkit_system, evkit_topic, evkit_group, consumed):
    topic, group = evkit_topic(), evkit_group()
    producer = kafka.producer(evkit_system.settings)
    for i in range(4):
        producer.produce(topic, b'{"id": "o-%d"}' % i, b"k")
    producer.flush()

    def decode(record):
        return Event("order.placed", "k", {}, id=record.value.decode()[8:-2])

    consumer = Consumer(group, [topic], system=evkit_system, decode=decode)
    consumer.handler("order.placed")(lambda event, tx: None)
    consumed(consumer, 4)
    consumer.close()

    known = replay.plan(evkit_system, group, hour_ago(), types=["order.placed"], consumer=consumer)
    unknown = replay.plan(evkit_system, group, hour_ago())

    assert (known.records, known.known_handled, known.contents.undecodable) == (4, 4, 0)
    assert (unknown.missing, unknown.contents.undecodable) == (4, 4)
