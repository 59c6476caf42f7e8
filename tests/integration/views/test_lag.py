"""Lag against a real broker: what the difference of two offsets hides."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from evkit import kafka, kafka_admin, monitors, views
from evkit.errors import BrokerUnreachable, DatabaseUnreachable, UnknownGroup
from evkit.kafka import TopicPartition
from evkit.runtime.sampler import Sampler
from evkit.system import System
from evkit.testing.waiting import until
from tests.integration.views.groups import commit, joined


def produce(system, topic, n, *, partition=0, ago=0.0, **properties):
    producer = kafka.producer(system.settings, **properties)
    if "transactional.id" in properties:
        producer.init_transactions(60)
        producer.begin_transaction()
    for i in range(n):
        producer.produce(topic, f"{i}", partition=partition, timestamp=int((time.time() - ago) * 1000) + i)
    assert producer.flush(60) == 0
    return producer


def transactional(name):
    # evkit's producers try for five minutes; a transaction must not end before its messages do.
    return {"transactional.id": name, "transaction.timeout.ms": 400_000}


def rows(system, group):
    return views.lag(system, group).to_dicts()


@pytest.fixture
def topic(evkit_topic):
    """A topic that keeps the producer's timestamps, so that a test can say how old a record is."""
    return evkit_topic("order", **{"message.timestamp.type": "CreateTime"})


def test_lag_is_counted_and_its_age_is_that_of_the_oldest_unread_record(evkit_system, topic, evkit_group):
    group = evkit_group("billing")
    produce(evkit_system, topic, 2, ago=5000)
    produce(evkit_system, topic, 3, ago=100)
    commit(evkit_system, group, topic, 2)

    (row,) = rows(evkit_system, group)

    assert (row["committed_offset"], row["end_offset"], row["lag_events"], row["status"]) == (2, 5, 3, "behind")
    assert row["lag_seconds"] == pytest.approx(100, abs=40)
    assert row["lag_seconds_method"] == "record"
    assert row["group_state"] == "empty"
    assert abs((datetime.now(UTC) - row["measured_at"]).total_seconds()) < 120


def test_a_group_that_has_read_everything_has_zero_of_both(evkit_system, topic, evkit_group):
    group = evkit_group()
    produce(evkit_system, topic, 3, ago=1000)
    commit(evkit_system, group, topic, 3)

    (row,) = rows(evkit_system, group)

    assert (row["lag_events"], row["lag_seconds"], row["status"]) == (0, 0.0, "ok")


def test_a_group_is_summed_up_by_topic_and_a_partition_without_a_commit_is_no_lag(
    evkit_system, topic, evkit_topic, evkit_group
):
    wide, group = evkit_topic("wide", partitions=3), evkit_group()
    produce(evkit_system, topic, 3)
    for partition, n in ((0, 8), (1, 2), (2, 5)):
        produce(evkit_system, wide, n, partition=partition)
    commit(evkit_system, group, topic, 3)
    commit(evkit_system, group, wide, 0)
    commit(evkit_system, group, wide, 0, partition=1)
    consumer = kafka.consumer(evkit_system.settings, group)
    consumer.subscribe([wide])
    try:
        while len(consumer.assignment()) < 3:
            consumer.poll(0.1)
        found = {row["topic"]: row for row in views.lag_groups(evkit_system, group).to_dicts()}
    finally:
        consumer.close()

    of_wide, of_topic = found[wide], found[topic]
    assert (of_topic["lag_events"], of_topic["skew"], of_topic["status"], of_topic["members"]) == (0, None, "ok", 0)
    assert (of_wide["partitions"], of_wide["partitions_behind"], of_wide["partitions_without_commit"]) == (3, 2, 1)
    assert (of_wide["lag_events"], of_wide["lag_events_max"], of_wide["lag_events_max_partition"]) == (10, 8, 0)
    assert (of_wide["skew"], of_wide["members"], of_wide["status"]) == (1.6, 1, "behind")


def test_groups_at_different_offsets_of_one_partition_each_get_their_own_age(evkit_system, topic, evkit_group):
    first, second = evkit_group("a"), evkit_group("b")
    for ago in (300, 200, 100):
        produce(evkit_system, topic, 1, ago=ago)
    commit(evkit_system, first, topic, 0)
    commit(evkit_system, second, topic, 2)

    frame = views.lag(evkit_system)

    ages = {r["group"]: r["lag_seconds"] for r in frame.to_dicts() if r["topic"] == topic}
    assert ages == {first: pytest.approx(300, abs=40), second: pytest.approx(100, abs=40)}


def test_a_member_that_never_committed_has_no_lag_but_a_backlog(evkit_system, topic, evkit_group):
    group = evkit_group()
    produce(evkit_system, topic, 4)
    with joined(evkit_system, group, topic):
        (row,) = rows(evkit_system, group)

    assert (row["committed_offset"], row["lag_events"], row["lag_seconds"]) == (None, None, None)
    assert (row["backlog_events"], row["status"], row["group_state"]) == (4, "no_commit", "stable")


def test_records_that_retention_took_are_lost_not_lag(evkit_system, topic, evkit_group):
    group = evkit_group()
    produce(evkit_system, topic, 10, ago=50)
    commit(evkit_system, group, topic, 1)
    for future in evkit_system.admin.delete_records([TopicPartition(topic, 0, 7)]).values():
        future.result()

    (row,) = rows(evkit_system, group)

    assert (row["lag_events"], row["lag_readable_events"], row["lost_events"]) == (9, 3, 6)
    assert row["retention_used_ratio"] == 1.0, "the next that retention takes is unread"
    assert row["status"] == "data_loss"
    assert row["lag_seconds"] == pytest.approx(50, abs=40)


def test_an_offset_beyond_the_end_is_shown_as_it_is(evkit_system, topic, evkit_group):
    group = evkit_group()
    produce(evkit_system, topic, 2)
    commit(evkit_system, group, topic, 50)

    (row,) = rows(evkit_system, group)

    assert (row["lag_events"], row["lag_seconds"], row["status"]) == (-48, None, "ahead")


def test_the_marker_of_a_transaction_is_an_offset_and_nothing_to_wait_for(evkit_system, topic, evkit_group):
    group = evkit_group()
    produce(evkit_system, topic, 3, **transactional(group)).commit_transaction(60)
    commit(evkit_system, group, topic, 3)

    (row,) = rows(evkit_system, group)

    assert (row["end_offset"], row["lag_events"]) == (4, 1)
    assert (row["lag_seconds"], row["lag_seconds_method"], row["status"]) == (0.0, "empty", "ok")


def test_what_waits_for_the_end_of_a_transaction_is_not_the_consumers_and_has_an_age(evkit_system, topic, evkit_group):
    group = evkit_group()
    produce(evkit_system, topic, 2, ago=500)
    open_one = produce(evkit_system, topic, 3, ago=100, **transactional(group))
    commit(evkit_system, group, topic, 2)

    (held,) = rows(evkit_system, group)
    commit(evkit_system, group, topic, 1)
    (behind,) = rows(evkit_system, group)
    open_one.abort_transaction(60)

    assert (held["stable_offset"], held["end_offset"], held["open_events"]) == (2, 5, 3)
    assert (held["lag_events"], held["lag_stable_events"], held["status"]) == (3, 0, "open_transaction")
    assert (held["lag_seconds"], held["lag_seconds_method"]) == (pytest.approx(100, abs=40), "open_transaction")
    assert (behind["lag_stable_events"], behind["status"], behind["lag_seconds_method"]) == (1, "behind", "record")
    assert behind["lag_seconds"] == pytest.approx(500, abs=40)


def test_what_waits_in_an_idle_topic_grows_older(evkit_system, topic, evkit_group):
    group = evkit_group()
    produce(evkit_system, topic, 2, ago=100)
    commit(evkit_system, group, topic, 1)
    (first,) = rows(evkit_system, group)

    (later,) = rows(evkit_system, group)

    assert (later["lag_events"], later["end_offset"]) == (first["lag_events"], first["end_offset"])
    passed = (later["measured_at"] - first["measured_at"]).total_seconds()
    assert passed > 0
    assert later["lag_seconds"] - first["lag_seconds"] == pytest.approx(passed, abs=0.001)


def test_lag_of_a_paused_partition_is_the_brokers(evkit_system, topic, evkit_group):
    """Its consumer fetches nothing, and so sees the end where it was."""
    group = evkit_group()
    produce(evkit_system, topic, 2)
    with joined(evkit_system, group, topic) as consumer:
        consumer.commit(offsets=[TopicPartition(topic, 0, 2)], asynchronous=False)
        consumer.pause(consumer.assignment())
        (before,) = rows(evkit_system, group)
        produce(evkit_system, topic, 3, ago=100)
        (paused,) = rows(evkit_system, group)

    assert (before["lag_events"], before["status"]) == (0, "ok")
    assert (paused["lag_events"], paused["status"], paused["group_state"]) == (3, "behind", "stable")
    assert paused["lag_seconds"] == pytest.approx(100, abs=40)


def test_a_group_in_the_middle_of_a_rebalance_has_its_lag_and_says_so(evkit_system, topic, evkit_group):
    """The second member waits for the first, which does not poll: until then nobody has the partition."""
    group = evkit_group()
    produce(evkit_system, topic, 5, ago=100)
    members = [kafka.consumer(evkit_system.settings, group, **{"group.protocol": "classic"}) for _ in range(2)]
    try:
        members[0].subscribe([topic])
        while not members[0].assignment():
            members[0].poll(0.1)
        members[0].commit(offsets=[TopicPartition(topic, 0, 2)], asynchronous=False)
        members[1].subscribe([topic])
        until(lambda: members[1].poll(0.1) or kafka.groups(evkit_system.settings)[group] != "stable")
        (row,) = rows(evkit_system, group)
    finally:
        for member in members:
            member.close()

    assert "rebalanc" in row["group_state"]
    assert (row["committed_offset"], row["lag_events"], row["status"]) == (2, 3, "behind")
    assert row["lag_seconds"] == pytest.approx(100, abs=40)


def test_a_partition_names_the_member_that_has_it(evkit_system, topic, evkit_group):
    group = evkit_group()
    produce(evkit_system, topic, 2)
    with joined(evkit_system, group, topic, **{"client.id": "billing-7"}):
        (held,) = rows(evkit_system, group)
    commit(evkit_system, group, topic, 1)
    (free,) = rows(evkit_system, group)

    assert held["client_id"] == "billing-7"
    assert held["member_id"]
    assert "127.0.0.1" in held["client_host"]
    assert (free["member_id"], free["client_id"], free["client_host"]) == (None, None, None)


def test_a_compacted_topic_says_so_for_its_offsets_are_no_events(evkit_system, evkit_topic, evkit_group):
    kept, compacted = evkit_topic("kept"), evkit_topic("table", **{"cleanup.policy": "compact"})
    group = evkit_group()
    for name in (kept, compacted):
        produce(evkit_system, name, 2)
        commit(evkit_system, group, name, 1)

    assert {row["topic"]: row["compacted"] for row in rows(evkit_system, group)} == {kept: False, compacted: True}


def test_a_topic_that_is_gone_is_unknown_and_hides_no_other(evkit_system, past, topic, evkit_group):
    group = evkit_group()
    produce(evkit_system, topic, 3)
    commit(evkit_system, group, topic, 1)
    past.handle(group, "e1", 10, topic="deleted-topic")

    gone, there = rows(evkit_system, group)

    assert (gone["topic"], gone["end_offset"], gone["lag_events"], gone["status"]) == (
        "deleted-topic",
        None,
        None,
        "unknown",
    )
    assert there["lag_events"] == 2


def test_a_group_the_broker_has_forgotten_is_known_from_the_inbox(evkit_system, past, topic, evkit_group):
    group = evkit_group()
    produce(evkit_system, topic, 3)
    past.handle(group, "e1", 10, topic=topic)

    (row,) = rows(evkit_system, group)

    assert (row["status"], row["group_state"], row["backlog_events"]) == ("no_commit", "dead", 3)


def test_a_group_or_topic_that_is_gone_is_known_for_an_hour_from_what_was_sampled(
    evkit_system, past, topic, evkit_topic, evkit_group
):
    gone, stays, deleted = evkit_group("gone"), evkit_group("stays"), evkit_topic("deleted")
    produce(evkit_system, topic, 3)
    produce(evkit_system, deleted, 2)
    commit(evkit_system, gone, topic, 1)
    commit(evkit_system, stays, topic, 2)
    commit(evkit_system, stays, deleted, 1)
    sampler = Sampler(evkit_system, groups=[gone, stays])
    sampler.once()
    sampler.close()
    for future in evkit_system.admin.delete_consumer_groups([gone]).values():
        future.result()
    for future in evkit_system.admin.delete_topics([deleted]).values():
        future.result()

    (of_gone,), of_stays = rows(evkit_system, gone), rows(evkit_system, stays)
    listed = set(views.lag(evkit_system)["group"])
    past.sql("UPDATE evkit.lag_sample SET sampled_at = sampled_at - interval '61 minutes'")
    forgotten = set(views.lag(evkit_system)["group"])

    assert (of_gone["group_state"], of_gone["status"], of_gone["committed_offset"], of_gone["end_offset"]) == (
        "dead",
        "no_commit",
        None,
        3,
    )
    assert {(row["topic"], row["status"], row["lag_events"]) for row in of_stays} == {
        (topic, "behind", 1),
        (deleted, "unknown", None),
    }
    assert {gone, stays} <= listed
    assert forgotten & {gone, stays} == {stays}
    with pytest.raises(UnknownGroup):
        views.lag(evkit_system, gone)


def test_an_unknown_group_is_answered_with_the_ones_like_it(evkit_system, topic, evkit_group):
    group = evkit_group("punctuality")
    commit(evkit_system, group, topic, 0)

    with pytest.raises(UnknownGroup) as refused:
        views.lag(evkit_system, group[:-1])

    assert group in refused.value.suggestions
    assert evkit_system.settings.bootstrap_servers in str(refused.value)


def test_looking_makes_no_group_and_moves_no_offset(evkit_system, topic, evkit_group):
    group = evkit_group()
    produce(evkit_system, topic, 3)
    commit(evkit_system, group, topic, 1)
    before = kafka.groups(evkit_system.settings), kafka_admin.committed_offsets(evkit_system.settings, group)

    views.lag(evkit_system)

    assert (kafka.groups(evkit_system.settings), kafka_admin.committed_offsets(evkit_system.settings, group)) == before


def test_lag_needs_no_database(evkit_settings, topic, evkit_group):
    group = evkit_group()
    without = System(evkit_settings.model_copy(update={"postgres_dsn": "postgresql://127.0.0.1:1/none"}))
    produce(without, topic, 3)
    commit(without, group, topic, 1)

    measured = views.measure(without)

    by_group = {r["group"]: r for r in measured["consumer_lag"].to_dicts()}
    assert by_group[group]["lag_events"] == 2
    assert isinstance(measured["latency"], DatabaseUnreachable)
    unknown = {f.monitor for f in monitors.judge(measured).findings if f.severity == "unknown"}
    assert unknown >= {"publish_rate", "relay_lag", "latency", "error_rate", "dead_letters"}


def test_without_a_broker_everything_else_is_measured(evkit_settings):
    alone = System(
        evkit_settings.model_copy(update={"kafka": {"bootstrap.servers": "127.0.0.1:1"}, "kafka_timeout_seconds": 1.0})
    )

    measured = views.measure(alone)

    assert isinstance(measured["consumer_lag"], BrokerUnreachable)
    assert "127.0.0.1:1" in str(measured["consumer_lag"])
    verdict = monitors.judge(measured)
    assert verdict.exit_code == 3
    assert {f.monitor for f in verdict.findings if f.severity == "unknown"} == {"consumer_lag"}
