"""What is said of consumers against a real broker: the commits come from its own log. The rules: tests/unit/views."""

from __future__ import annotations

import pytest

from evkit import kafka, views
from evkit.errors import InvalidParameter, UnknownGroup
from evkit.kafka import TopicPartition
from evkit.offsets_log import OFFSETS_TOPIC
from evkit.runtime.sampler import Sampler
from evkit.system import System
from evkit.views.broker import LiveBroker
from tests.integration.views.groups import commit, produce


def said(system, group):
    return {row["partition"]: row for row in views.consumer_status(system, group).to_dicts()}


def test_each_partition_is_judged_by_all_that_was_committed_to_it(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(partitions=5), evkit_group()
    for partition in range(5):
        produce(evkit_system, topic, 200, partition=partition)
    commit(evkit_system, group, topic, 50, 100, 150, 200, partition=0)
    commit(evkit_system, group, topic, 50, 100, 150, 20, partition=1)
    commit(evkit_system, group, topic, 500, partition=2)
    commit(evkit_system, group, topic, 40, partition=3)
    for future in evkit_system.admin.delete_records([TopicPartition(topic, 3, 90)]).values():
        future.result()

    rows = said(evkit_system, group)

    assert {p: (row["status"], row["alarm"]) for p, row in rows.items()} == {
        0: ("ok", False), 1: ("rewind", True), 2: ("ahead", True), 3: ("data_loss", True),
    }  # fmt: skip
    assert (rows[1]["rewind_from"], rows[1]["rewind_to"]) == (150, 20)
    assert rows[1]["rewind_at"] is not None
    assert "150" in rows[1]["reason"]
    assert "20" in rows[1]["reason"]
    assert (rows[3]["lost_events"], rows[2]["lag_events"], rows[0]["drain_seconds"]) == (50, -300, 0.0)


def test_a_partition_that_holds_most_of_the_lag_is_hot(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(partitions=4), evkit_group()
    for partition, n in enumerate((900, 20, 30, 25)):
        produce(evkit_system, topic, n, partition=partition)
        commit(evkit_system, group, topic, 0, partition=partition)

    assert [row["hot"] for _, row in sorted(said(evkit_system, group).items())] == [True, False, False, False]


def test_where_the_log_may_not_be_read_the_reason_says_so(evkit_secured_kafka):
    topic = group = "guarded"
    owner = System(evkit_secured_kafka.open_settings)
    kafka.create_topics(owner.settings, {topic: 1})
    produce(owner, topic, 10)
    commit(owner, group, topic, 4)
    analyst = evkit_secured_kafka.settings("analyst")
    evkit_secured_kafka.allow("analyst", ["DESCRIBE", "READ"], topic=topic)
    evkit_secured_kafka.allow("analyst", ["DESCRIBE", "READ"], group=group)

    (row,) = views.consumer_status(System(analyst), group).to_dicts()

    assert (row["covered"], row["lag_events"], row["status"]) == (False, 6, "unknown")
    assert "its past commits are not known" in row["reason"]
    assert OFFSETS_TOPIC in row["reason"]


def test_bad_input_is_answered_with_one_sentence(evkit_system):
    with pytest.raises(UnknownGroup, match="nobody"):
        views.consumer_status(evkit_system, "nobody-has-this-name")
    with pytest.raises(InvalidParameter, match="soon"):
        views.consumer_status(evkit_system, window="soon")


def test_where_the_log_may_not_be_read_its_copy_is_judged(evkit_secured_kafka):
    topic = group = "copied"
    owner = System(evkit_secured_kafka.open_settings)
    kafka.create_topics(owner.settings, {topic: 1})
    produce(owner, topic, 200)
    commit(owner, group, topic, 50, 100, 150, 20)
    sampler = Sampler(owner)
    sampler.once()
    sampler.close()
    analyst = evkit_secured_kafka.settings("analyst")
    for kind in ("topic", "group"):
        evkit_secured_kafka.allow("analyst", ["DESCRIBE", "READ"], **{kind: topic})

    (row,) = views.consumer_status(System(analyst), group).to_dicts()
    (whole,) = views.consumer_status(owner, group).to_dicts()

    assert (row["status"], row["rewind_from"], row["rewind_to"]) == ("rewind", 150, 20)
    assert row["covered"] == whole["covered"], "the copy begins where the log does"
    assert "had copied by" in row["reason"]
    assert views.rebalances(System(analyst), group).is_empty()


@pytest.mark.parametrize("ask", [lambda s, g: views.measure(s, "10m", group=g, consumer_status_too=True),
                                 lambda s, g: views.symptoms(s, "10m", group=g)])  # fmt: skip
def test_views_measured_together_ask_kafka_once_for_the_log_and_for_lag_the_log_first(
    evkit_system, evkit_topic, evkit_group, monkeypatch, ask
):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 5)
    commit(evkit_system, group, topic, 1, 2)
    asked = []
    for name in ("offsets_log", "committed", "offsets"):
        done = getattr(LiveBroker, name)

        def told(self, *given, name=name, done=done):
            asked.append(name)
            return done(self, *given)

        monkeypatch.setattr(LiveBroker, name, told)

    found = ask(evkit_system, group)

    assert asked == ["offsets_log", "committed", "offsets", "offsets", "offsets"]
    alone = views.consumer_status(evkit_system, group).to_dicts()
    assert [(r["status"], r["lag_events"]) for r in found["consumer_status"].to_dicts()] == [
        (r["status"], r["lag_events"]) for r in alone
    ]
    assert found["consumer_lag"]["lag_events"].to_list() == [3]


def test_lag_is_measured_though_the_log_cannot_be_read_and_status_says_why(
    evkit_system, evkit_topic, evkit_group, monkeypatch
):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 5)
    commit(evkit_system, group, topic, 2)

    def breaks(*_):
        raise RuntimeError("of another make")

    monkeypatch.setattr(LiveBroker, "offsets_log", breaks)

    found = views.measure(evkit_system, "10m", group=group, consumer_status_too=True)

    assert found["consumer_lag"]["lag_events"].to_list() == [3]
    assert str(found["consumer_status"]) == "of another make"
