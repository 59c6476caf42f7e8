"""Letters that are sent to a topic: as new events, for their group alone, each once."""

from __future__ import annotations

import pytest

from evkit import Event, Relay, Retry, dead_letters, kafka
from evkit.errors import RedriveRefused, UnknownTopic
from evkit.event import CE_CAUSATION_ID, REPLAY_ID, TARGET_GROUP
from evkit.runtime.dead_letters import Selection
from evkit.runtime.release import parked_keys


@pytest.fixture
def ledger(evkit_topic, new_consumer):
    """`ledger(group)`: a consumer of one topic that books what has an amount; `.booked` is (key, amount, event)."""
    topic = evkit_topic()

    def make(group=None, **more):
        consumer = new_consumer(topic, group, retry=Retry(attempts=1), breaker=None, **more)
        consumer.topic, consumer.booked, consumer.broken = topic, [], True

        @consumer.handler("paid")
        def book(event, tx):
            if consumer.broken:
                raise ValueError("the bug")
            consumer.booked.append((event.key, event.payload["amount"], event))

        return consumer

    return make


@pytest.fixture
def relayed(evkit_system):
    """`relayed()`: publish what is in the outbox."""

    def relay():
        found = Relay(evkit_system)
        while found.step():
            pass
        found.close()

    return relay


def test_sent_letters_are_new_events_that_their_group_handles_and_evkits_other_groups_skip(
    evkit_system, ledger, published, consumed, relayed, rows
):
    """P4, P6: once, for one group, also in a topic that others read."""
    ours, other = ledger(), ledger()
    other.broken = False
    ids = published(
        *[
            Event("paid", f"k{i}", {"amount": i}, topic=ours.topic, correlation_id="c", headers={"shop": "7"})
            for i in range(3)
        ]
    )
    consumed(ours, 3)
    consumed(other, 3)
    ours.broken = False
    plan = dead_letters.plan_redrive(evkit_system, Selection(group=ours.group))

    result = dead_letters.send(evkit_system, plan, ours.topic, reason="nobody can run billing here")
    relayed()
    consumed(ours, 6)
    consumed(other, 6)

    assert (result.sent, result.skipped, result.not_tried, result.state) == (list(plan.ids), [], [], "done")
    assert [(key, amount) for key, amount, _ in ours.booked] == [("k0", 0), ("k1", 1), ("k2", 2)]
    assert [(key, amount) for key, amount, _ in other.booked] == [("k0", 0), ("k1", 1), ("k2", 2)]
    assert other.counts.skipped == 3
    for event_id, (_, _, event) in zip(ids, ours.booked, strict=True):
        assert (event.causation_id, event.correlation_id) == (event_id, "c")
        assert event.id not in ids
        assert event.headers == {"shop": "7", TARGET_GROUP: ours.group, REPLAY_ID: result.redrive_id}
    assert {letter.state for letter in dead_letters.letters(evkit_system, Selection(states=None))} == {"resolved"}
    assert parked_keys(evkit_system) == []
    outcomes = "SELECT outcome, count(*)::int FROM evkit.inbox WHERE consumer_group = '{}' GROUP BY 1 ORDER BY 1"
    assert rows(outcomes.format(ours.group)) == [("handled", 3), ("skipped", 3)]
    assert rows(outcomes.format(other.group)) == [("handled", 3), ("skipped", 3)]
    ((act, reason, said),) = rows("SELECT act, reason, result FROM evkit.audit")
    assert (act, reason, said["sent"], said["to_topic"]) == (
        "dead_letters.redrive", "nobody can run billing here", 3, ours.topic,
    )  # fmt: skip
    with pytest.raises(RedriveRefused, match="nothing to redrive"):
        dead_letters.plan_redrive(evkit_system, Selection(group=ours.group))


def test_letters_that_cannot_be_sent_stay_open_with_the_reason_and_the_others_go(
    evkit_system, ledger, published, consumed, evkit_topic
):
    consumer = ledger()
    published(
        Event("paid", "alone", {"amount": 1}, topic=consumer.topic),
        Event("paid", "followed", {"amount": 2}, topic=consumer.topic),
        Event("paid", "followed", {"amount": 3}, topic=consumer.topic),
    )
    producer = kafka.producer(evkit_system.settings)
    producer.produce(consumer.topic, key=b"raw", value=b"no JSON", headers={"ce_id": b"x", "ce_type": b"paid"})
    producer.flush()
    consumed(consumer, 4)
    elsewhere = evkit_topic()
    plan = dead_letters.plan_redrive(evkit_system, Selection(group=consumer.group))

    result = dead_letters.send(evkit_system, plan, elsewhere)

    by_key = {letter.key: letter for letter in plan.letters}
    assert result.sent == [by_key["alone"].letter_id]
    assert set(result.skipped) == {by_key["followed"].letter_id, by_key["raw"].letter_id}
    why = {x["letter_id"]: x["why"] for x in dead_letters.run_letters(evkit_system, result.redrive_id)}
    assert "wait behind it" in why[by_key["followed"].letter_id]
    assert "cannot be sent" in why[by_key["raw"].letter_id]
    assert {letter.key for letter in dead_letters.letters(evkit_system)} == {"followed", "raw"}
    assert [key.key for key in parked_keys(evkit_system)] == ["followed"]


def test_topic_that_does_not_exist_is_one_sentence_and_nothing_is_sent(evkit_system, ledger, published, consumed):
    consumer = ledger()
    published(Event("paid", "k", {"amount": 1}, topic=consumer.topic))
    consumed(consumer, 1)
    plan = dead_letters.plan_redrive(evkit_system, Selection(group=consumer.group))

    with pytest.raises(UnknownTopic, match="topic 'nowhere' is not known"):
        dead_letters.send(evkit_system, plan, "nowhere")

    assert dead_letters.runs(evkit_system) == []
    assert len(dead_letters.letters(evkit_system)) == 1


def test_event_for_another_group_is_skipped_also_when_it_cannot_be_read_or_is_decoded_by_the_consumers_own_function(
    evkit_system, ledger, consumed
):
    def decode(record):
        return Event("paid", "k", {"amount": 1}, id=f"own-{record.offset}")

    ours, own = ledger(), ledger(decode=decode)
    ours.broken = own.broken = False
    producer = kafka.producer(evkit_system.settings)
    for target in (b"somebody-else", ours.group.encode()):
        headers = {"ce_id": target, "ce_type": b"paid", TARGET_GROUP: target, CE_CAUSATION_ID: b"x"}
        value = b"no JSON" if target == b"somebody-else" else b'{"amount": 1}'
        producer.produce(ours.topic, key=b"k", value=value, headers=headers)
    producer.flush()

    assert (consumed(ours, 2).skipped, ours.counts.handled, ours.counts.dead) == (1, 1, 0)
    assert (consumed(own, 2).skipped, own.booked) == (2, [])
