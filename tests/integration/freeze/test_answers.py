"""What Kafka said, seen again in a freeze: lag of then and of the past, for groups in all states."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from polars.testing import assert_frame_equal

from evkit import kafka, views
from evkit.errors import NotInFreeze
from evkit.freeze import ends
from evkit.kafka import TopicPartition
from evkit.window import Window
from tests.integration.views.groups import commit, joined, produce
from tests.integration.views.test_journey import FROM_KAFKA

# Those that read topics: test_records.py
READS_TOPICS = {"scan", "scan_plan", "scan_coverage", "unread_keys", "appended"}


def transaction(system, topic, n, *, abort=False, partition=0):
    producer = kafka.producer(
        system.settings, **{"transactional.id": f"{topic}-{time.monotonic_ns()}", "transaction.timeout.ms": 400_000}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for _ in range(n):
        producer.produce(topic, b"x", partition=partition)
    producer.flush(60)
    time.sleep(0.02)
    (producer.abort_transaction if abort else producer.commit_transaction)(30)


@pytest.fixture
def scene(evkit_system, evkit_topic, evkit_group):
    """A group at work in a topic with transactions, one gone, one ahead; records stamped ahead, and deleted ones."""

    class Scene:
        topic, odd = evkit_topic("order", partitions=3), evkit_topic("odd", **{"message.timestamp.type": "CreateTime"})
        busy, gone, lost = evkit_group("busy"), evkit_group("gone"), evkit_group("lost")

    began_at = datetime.now(UTC)
    time.sleep(0.05)
    produce(evkit_system, Scene.topic, 40)
    commit(evkit_system, Scene.gone, Scene.topic, 3, 10)
    for n in range(4):
        transaction(evkit_system, Scene.topic, 3, abort=n == 2)
        produce(evkit_system, Scene.topic, n, partition=1)
    produce(evkit_system, Scene.odd, 4)
    produce(evkit_system, Scene.odd, 1, at=datetime.now(UTC) + timedelta(seconds=300))
    produce(evkit_system, Scene.odd, 3)
    commit(evkit_system, Scene.lost, Scene.odd, 2)
    commit(evkit_system, Scene.lost, Scene.topic, 900, partition=1)
    for future in evkit_system.admin.delete_records([TopicPartition(Scene.odd, 0, 3)]).values():
        future.result()
    with joined(evkit_system, Scene.busy, Scene.topic, **{"group.protocol": "consumer"}) as consumer:
        for offset in (5, 20, 45):
            consumer.commit(offsets=[TopicPartition(Scene.topic, 0, offset)], asynchronous=False)
            time.sleep(0.03)
        Scene.window = Window(began_at, datetime.now(UTC))
        yield Scene


def test_every_view_of_kafka_is_the_same_frozen_also_when_the_topics_are_gone(scene, evkit_system, frozen, still):
    system = frozen(scene.window)
    live = still(evkit_system, system.now())
    window = Window(scene.window.start, system.now())
    asked = {}
    for name in sorted(FROM_KAFKA - READS_TOPICS):
        for group in (scene.busy, scene.gone, scene.lost):
            asked[name, group] = {"group": group}
            if name in ("lag_history", "rebalances", "offset_resets"):
                asked[name, group]["window"] = window
            if name == "consumer_status":
                asked[name, group]["window"] = window.end - window.start
            if name == "lag_history":
                asked[name, group]["step"] = timedelta(milliseconds=max(window.seconds * 1000 / 900, 7))
    shown = {of: getattr(views, of[0])(live, **given) for of, given in asked.items()}
    for future in evkit_system.admin.delete_topics([scene.topic, scene.odd]).values():
        future.result()

    for (name, group), frame in shown.items():
        assert_frame_equal(getattr(views, name)(system, **asked[name, group]), frame)
        assert len(frame) > 0 or name == "offset_resets" or (name == "rebalances" and group != scene.busy)
    assert set(shown["lag", scene.busy]["group_state"]) == {"stable"}
    history = shown["lag_history", scene.gone]
    assert history["end_offset"].n_unique() >= 5
    assert set(shown["lag_history", scene.lost]["truncated"]) == {True, False}
    assert False in shown["lag_history", scene.lost]["exact"].to_list()


def test_the_end_at_every_millisecond_is_what_the_broker_says_of_it(scene, evkit_system, frozen):
    system = frozen(scene.window)
    place = (scene.topic, 0)
    span = int((system.now() - scene.window.start).total_seconds() * 1000)
    instants = [scene.window.start + timedelta(milliseconds=n) for n in range(0, span, max(span // 4000, 1))]

    from evkit.views.broker import LiveBroker

    assert system.recorded.ends([place], instants) == LiveBroker(evkit_system).ends([place], instants)


def test_what_is_left_out_for_its_size_is_said_and_refused(scene, evkit_system, frozen, monkeypatch):
    monkeypatch.setattr(ends, "RECORDS_MAX", 10)

    system = frozen(scene.window)

    assert f"ends of topic {scene.topic} over time" in {m.what for m in system.manifest.missing}
    with pytest.raises(NotInFreeze, match=r"ended over time \(it has more records in the window than are read"):
        views.lag_history(system, scene.gone, scene.topic, system.manifest.window)
    assert len(views.lag(system, scene.gone)) == 1
