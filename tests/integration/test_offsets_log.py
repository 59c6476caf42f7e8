"""The offsets log of a real broker: what groups of both protocols leave in it, and what its cleaner leaves of that."""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from evkit import kafka, kafka_admin, offsets_log, views
from evkit.errors import OffsetsLogRefused, UnknownGroup
from evkit.kafka import TopicPartition
from evkit.offsets_log import OFFSETS_TOPIC
from evkit.offsets_records import ClassicGroup, Commit, CurrentMember, GroupEpoch, Member, decode_key
from evkit.records import scan
from evkit.settings import Settings
from evkit.system import System
from evkit.window import Window

# EVKIT_RECORD_OFFSETS=1 writes what tests/unit/test_offsets_records.py reads.
RECORDED = Path(__file__).parents[1] / "data/consumer_offsets.json"


@pytest.fixture
def system(own_stack):
    """A cluster whose offsets topic a test may set up as it likes."""
    kafka_settings = {"bootstrap.servers": own_stack.kafka_bootstrap_servers}
    return System(Settings(profile="test", postgres_dsn=own_stack.postgres_dsn, kafka=kafka_settings))


def play(settings, topic, group, protocol):
    """Two members join one after the other, commit 3 and 2, and leave one after the other."""
    one, two = (
        kafka.consumer(settings, group, **{"group.protocol": protocol, "client.id": f"evkit-{name}"})
        for name in ("one", "two")
    )
    members = [one]
    one.subscribe([topic])
    wait_for(members, lambda: len(one.assignment()) == 2)
    members.append(two)
    two.subscribe([topic])
    wait_for(members, lambda: len(one.assignment()) == len(two.assignment()) == 1)
    for member in members:
        (held,) = member.assignment()
        offset = 3 - held.partition
        member.commit(offsets=[TopicPartition(topic, held.partition, offset)], asynchronous=False)
    two.close()
    wait_for([one], lambda: len(one.assignment()) == 2)
    one.close()


def wait_for(members, happened):
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        for member in members:
            member.poll(0.05)


@pytest.fixture(scope="module")
def played(own_stack):
    settings = Settings(
        profile="test",
        postgres_dsn=own_stack.postgres_dsn,
        kafka={"bootstrap.servers": own_stack.kafka_bootstrap_servers},
    )
    kafka.create_topics(settings, {"orders": 2})
    started_at = datetime.now(UTC) - timedelta(seconds=1)
    for protocol in ("classic", "consumer"):
        play(settings, "orders", protocol, protocol)
    if os.environ.get("EVKIT_RECORD_OFFSETS") == "1":
        record(settings)
    return started_at


def record(settings):
    client = kafka.admin(settings)
    count = kafka_admin.partitions_count(settings, OFFSETS_TOPIC, client)
    places = [TopicPartition(OFFSETS_TOPIC, p) for p in range(count)]
    every = sorted(scan(settings, OFFSETS_TOPIC, client, ends=kafka.offsets(settings, places)), key=lambda r: r.offset)
    kept = [r for r in every if (key := decode_key(r.key)) and key.group in ("classic", "consumer")]
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text(
        json.dumps(
            {
                "kafka": "4.3.1",
                "topic_id": kafka_admin.topic_ids(settings, ["orders"], client)["orders"],
                "records": [[b64encode(r.key).decode(), r.value and b64encode(r.value).decode()] for r in kept],
            },
            indent=1,
        )
        + "\n"
    )


def test_both_protocols_are_read_live_without_a_remainder(system, played):
    parts = offsets_log.read(system.settings, system.admin)

    values = {
        group: {type(e.value) for part in parts for e in part.entries if e.key.group == group}
        for group in ("classic", "consumer")
    }
    assert {Commit, ClassicGroup} <= values["classic"]
    assert {Commit, GroupEpoch, Member, CurrentMember} <= values["consumer"]
    assert not [part.passed_over for part in parts if part.passed_over]
    assert len(parts) == kafka_admin.partitions_count(system.settings, OFFSETS_TOPIC, system.admin)


@pytest.mark.parametrize("group", ["classic", "consumer"])
def test_one_group_is_found_in_the_partition_that_its_name_says(system, played, group):
    (part,) = offsets_log.read(system.settings, system.admin, group)

    assert {e.key.group for e in part.entries} == {group}
    commits = offsets_log.commits_of(part, group)
    assert {place: c.offsets[-1] for place, c in commits.items()} == {("orders", 0): 3, ("orders", 1): 2}
    assert kafka_admin.committed(system.settings, group, system.admin) == {("orders", 0): 3, ("orders", 1): 2}


@pytest.mark.parametrize("group", ["classic", "consumer"])
def test_rebalances_tell_who_came_and_who_went(system, played, group):
    rows = views.rebalances(system, group, Window(played, datetime.now(UTC))).to_dicts()

    assert [r["at"] for r in rows] == sorted(r["at"] for r in rows)
    assert {(r["group"], r["protocol"]) for r in rows} == {(group, group)}
    epochs = [r["epoch"] for r in rows]
    assert epochs == sorted(epochs)
    assert rows[0]["members_before"] == 0
    assert [(r["members_before"], r["members_after"], r["kind"]) for r in rows if r["kind"] not in ("made", "changed")] == [
        (0, 1, "joined"), (1, 2, "joined"), (2, 1, "left"), (1, 0, "emptied"),
    ]  # fmt: skip


def test_reading_the_log_leaves_no_group_behind(system, played):
    before = kafka.groups(system.settings)

    offsets_log.read(system.settings, system.admin)

    assert kafka.groups(system.settings) == before


def test_an_unknown_group_is_told_with_its_near_matches(system, played):
    for view in (views.lag_history, views.rebalances):
        with pytest.raises(UnknownGroup, match="did you mean 'classic'"):
            view(system, "clasic")


def test_after_compaction_the_covered_is_as_it_was_and_the_rest_is_null(system, played):
    """The cleaner is made to run on what was written; commits since then are all there, one that stood still as well."""
    settings, group = system.settings, "compacted"
    kafka.create_topics(settings, {"payments": 2})
    consumer = kafka.consumer(settings, group)
    consumer.assign([TopicPartition("payments", p) for p in (0, 1)])
    steady_at = commit(consumer, 1, 700)[1]
    truth = [commit(consumer, 0, n) for n in range(1, 101)]
    started_at = truth[0][0]
    history = Window(started_at - timedelta(seconds=1), datetime.now(UTC))
    whole = views.lag_history(system, group, window=history, step="10ms").to_dicts()
    assert all(r["covered"] for r in whole)
    assert (
        max(r["committed_offset"] or 0 for r in whole if r["partition"] == 0) >= 90
    )  # the grid ends up to 10 ms before now
    clean_offsets_at_once(system)

    n, deadline = 100, time.monotonic() + 180
    while kept(system, group) == n:  # each commit may roll the segment; the cleaner looks every 15 s
        assert time.monotonic() < deadline, "the cleaner has not run"
        time.sleep(0.5)
        n += 1
        truth.append(commit(consumer, 0, n))
    for _ in range(20):
        n += 1
        truth.append(commit(consumer, 0, n))
    consumer.close()

    history = Window(started_at - timedelta(seconds=1), datetime.now(UTC))
    rows = views.lag_history(system, group, window=history, step="100ms").to_dicts()
    busy = [r for r in rows if r["partition"] == 0]
    covered = [r for r in busy if r["covered"]]
    assert covered
    assert covered == busy[-len(covered) :]
    assert not busy[0]["covered"]
    assert busy[0]["committed_offset"] is None
    assert all(r["committed_offset"] is None and r["lag_events"] is None for r in busy if not r["covered"])
    for row in covered:
        # The broker's time of a commit lies within the call: as long as that lasts, either answer is right.
        done = sum(ended_at <= row["at"] for _, ended_at in truth)
        begun = sum(begun_at <= row["at"] for begun_at, _ in truth)
        assert done <= row["committed_offset"] <= begun
    steady = [r for r in rows if r["partition"] == 1]
    assert all(r["committed_offset"] == 700 for r in steady if r["at"] >= steady_at and r["covered"])
    assert kept(system, group) < n
    (part,) = offsets_log.read(settings, system.admin, group)
    assert part.first_hole is not None
    assert offsets_log.commits_of(part, group)["payments", 1].times[0] < covered[0]["at"]
    assert steady[-1]["committed_offset"] == 700
    assert steady[len(steady) // 2]["covered"]


def commit(consumer, partition, offset):
    """The times before and after the call, the former in whole milliseconds, as the broker counts."""
    begun_at = datetime.now(UTC)
    consumer.commit(offsets=[TopicPartition("payments", partition, offset)], asynchronous=False)
    return begun_at.replace(microsecond=begun_at.microsecond // 1000 * 1000), datetime.now(UTC)


def kept(system, group):
    (part,) = offsets_log.read(system.settings, system.admin, group)
    return len([e for e in part.entries if e.key.partition == 0])


def clean_offsets_at_once(system):
    changes = {
        "segment.ms": "400",
        "segment.bytes": "1048576",
        "min.cleanable.dirty.ratio": "0.0001",
        "min.compaction.lag.ms": "0",
    }
    entries = [ConfigEntry(n, v, incremental_operation=AlterConfigOpType.SET) for n, v in changes.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, OFFSETS_TOPIC, incremental_configs=entries)
    for future in system.admin.incremental_alter_configs([resource]).values():
        future.result()


def test_without_the_right_to_read_the_log_one_sentence_says_so(evkit_secured_kafka):
    open_settings = evkit_secured_kafka.open_settings
    kafka.create_topics(open_settings, {"refused": 1})
    consumer = kafka.consumer(open_settings, "refused")
    consumer.commit(offsets=[TopicPartition("refused", 0, 1)], asynchronous=False)
    consumer.close()
    analyst = evkit_secured_kafka.settings("analyst")
    for allowed in (None, "DESCRIBE"):
        if allowed:
            evkit_secured_kafka.allow("analyst", allowed, topic=OFFSETS_TOPIC)

        with pytest.raises(OffsetsLogRefused, match="does not let us read __consumer_offsets") as refused:
            views.lag_history(System(analyst), "refused")
        assert refused.value.cause.name() == "TOPIC_AUTHORIZATION_FAILED"

    evkit_secured_kafka.allow("analyst", "READ", topic=OFFSETS_TOPIC)
    (part,) = offsets_log.read(analyst, System(analyst).admin, "refused")
    assert [e.value.offset for e in part.entries if isinstance(e.value, Commit)] == [1]
