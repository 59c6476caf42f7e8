"""Offsets of a group that is not evkit's: planned, moved back while it stands still, and put back."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import TopicPartition

from evkit import Event, kafka
from evkit.errors import ReplayRefused, UnknownGroup, UnknownRewind, UsageError
from evkit.runtime import rewind

EVENTS = 10


@pytest.fixture
def foreign(evkit_system, evkit_topic, evkit_group):
    """A group of somebody else: ten records in each of two partitions, five before `middle`, all committed in both."""

    class Foreign:
        topic, group = evkit_topic(partitions=2), evkit_group()

        def write(self, records):
            producer = kafka.producer(evkit_system.settings)
            for partition in (0, 1):
                for _ in range(records):
                    producer.produce(self.topic, b"x", partition=partition)
            producer.flush()

        def client(self):
            return kafka.consumer(evkit_system.settings, self.group, **{"client.id": "somebody"})

        def commit(self, *offsets):
            client = self.client()
            client.assign([TopicPartition(self.topic, p) for p, _ in offsets])
            client.commit(offsets=[TopicPartition(self.topic, *at) for at in offsets], asynchronous=False)
            client.close()

        def committed(self):
            places = [TopicPartition(self.topic, p) for p in (0, 1)]
            found = kafka.committed(evkit_system.settings, self.group, places)
            return [found[self.topic, p] for p in (0, 1)]

    foreign = Foreign()
    foreign.write(EVENTS // 2)
    time.sleep(0.01)  # timestamps are milliseconds
    foreign.middle = datetime.now(UTC)
    time.sleep(0.01)
    foreign.write(EVENTS // 2)
    foreign.commit((0, EVENTS), (1, EVENTS))
    return foreign


def test_offsets_go_back_to_a_time_and_can_be_put_back(evkit_system, foreign, rows):
    plan = rewind.plan(evkit_system, foreign.group, foreign.middle)
    assert [(m.before, m.after, m.offsets) for m in plan.moves] == [(10, 5, 5)] * 2
    assert foreign.committed() == [10, 10], "planning moves nothing"

    rewind_id = rewind.carry_out(evkit_system, plan, reason="lost a day")

    assert foreign.committed() == [5, 5]
    undo = rewind.plan_undo(evkit_system, rewind_id)
    assert [(m.before, m.after) for m in undo.moves] == [(5, 10)] * 2
    rewind.carry_out(evkit_system, undo)
    assert foreign.committed() == [10, 10]
    assert [r["state"] for r in rewind.rewinds(evkit_system)] == ["undone"]
    assert rows("SELECT act, reason FROM evkit.audit ORDER BY audit_id") == [
        ("rewind.move", "lost a day"), ("rewind.undo", None),
    ]  # fmt: skip
    with pytest.raises(ReplayRefused, match="was undone at"):
        rewind.plan_undo(evkit_system, rewind_id)


def test_undo_leaves_a_partition_that_has_come_as_far_again(evkit_system, foreign):
    rewind_id = rewind.carry_out(evkit_system, rewind.plan(evkit_system, foreign.group, foreign.middle))
    foreign.write(5)
    foreign.commit((0, 12), (1, 7))

    undo = rewind.plan_undo(evkit_system, rewind_id)
    rewind.carry_out(evkit_system, undo)

    assert [m.note for m in undo.moves] == ["the group has come there again", None]
    assert foreign.committed() == [12, 10]


def test_offsets_never_go_forward(evkit_system, foreign):
    foreign.commit((0, 2), (1, 10))

    plan = rewind.plan(evkit_system, foreign.group, foreign.middle)
    rewind.carry_out(evkit_system, plan)

    assert [m.note for m in plan.moves] == ["it is there already, or before", None]
    assert foreign.committed() == [2, 5]
    with pytest.raises(ReplayRefused, match="nothing of group .* would go back"):
        rewind.plan(evkit_system, foreign.group, datetime.now(UTC) + timedelta(hours=1))


def test_group_that_is_alive_is_refused_when_planned_and_when_moved(evkit_system, foreign, rows):
    plan = rewind.plan(evkit_system, foreign.group, foreign.middle)
    client = foreign.client()
    client.subscribe([foreign.topic])
    while not client.assignment():
        client.poll(0.1)

    for refused in (
        lambda: rewind.plan(evkit_system, foreign.group, foreign.middle),
        lambda: rewind.carry_out(evkit_system, plan),
    ):
        with pytest.raises(ReplayRefused, match=r"is alive \(\w+, 1 members, the first is somebody at 127\.0\.0\.1\)"):
            refused()

    assert foreign.committed() == [10, 10]
    assert rows("SELECT count(*) FROM evkit.rewind") == [(0,)]
    client.close()


def test_plan_that_is_out_of_date_is_refused(evkit_system, foreign):
    plan = rewind.plan(evkit_system, foreign.group, foreign.middle)
    foreign.commit((0, 9))

    with pytest.raises(ReplayRefused, match="is at offset 9 of .* when it was at 10: it has consumed meanwhile"):
        rewind.carry_out(evkit_system, plan)

    assert foreign.committed() == [9, 10]


def test_what_retention_has_taken_is_refused_unless_it_is_allowed(evkit_system, foreign):
    (future,) = evkit_system.admin.delete_records([TopicPartition(foreign.topic, 0, 7)]).values()
    future.result()

    with pytest.raises(ReplayRefused, match="begins at offset 7, later than"):
        rewind.plan(evkit_system, foreign.group, foreign.middle)
    plan = rewind.plan(evkit_system, foreign.group, foreign.middle, allow_missing=True)

    assert [m.after for m in plan.moves] == [7, 5]


def test_undo_of_a_topic_that_was_made_anew_moves_nothing(evkit_system, foreign):
    rewind_id = rewind.carry_out(evkit_system, rewind.plan(evkit_system, foreign.group, foreign.middle))
    evkit_system.admin.delete_topics([foreign.topic])[foreign.topic].result()
    while foreign.topic in kafka.topics(evkit_system.settings, evkit_system.admin):
        time.sleep(0.05)
    kafka.create_topics(evkit_system.settings, {foreign.topic: 2})

    with pytest.raises(ReplayRefused, match="there is nothing to put back of .*: the topic was deleted and made anew"):
        rewind.plan_undo(evkit_system, rewind_id)


def test_what_cannot_be_rewound_is_one_sentence(evkit_system, foreign, evkit_topic, published, new_consumer, consumed):
    ours = evkit_topic("ours")
    published(Event("a.b", "k", {}, topic=ours))
    consumer = new_consumer(ours)
    consumer.handler("a.b")(lambda event, tx: None)
    consumed(consumer, 1)
    consumer.close()

    with pytest.raises(UnknownGroup, match=f"did you mean .*'{foreign.group}'"):
        rewind.plan(evkit_system, foreign.group + "s", foreign.middle)
    with pytest.raises(ReplayRefused, match="is an evkit group: its inbox knows what it has handled"):
        rewind.plan(evkit_system, consumer.group, foreign.middle)
    with pytest.raises(ReplayRefused, match="has committed no offsets of"):
        rewind.plan(evkit_system, foreign.group, foreign.middle, topics=[ours])
    with pytest.raises(UsageError, match="has no zone"):
        rewind.plan(evkit_system, foreign.group, datetime.fromisoformat("2013-02-08"))
    with pytest.raises(UnknownRewind, match="^rewind 'rewind-nothing' is not known here; there are no rewinds yet$"):
        rewind.plan_undo(evkit_system, "rewind-nothing")
