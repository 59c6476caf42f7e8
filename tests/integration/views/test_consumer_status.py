"""What is said of consumers against a real broker: the commits come from its own log. The rules: tests/unit/views."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from evkit import kafka, views, window
from evkit.errors import InvalidParameter, UnknownGroup
from evkit.kafka import TopicPartition
from evkit.monitors import Severity, Thresholds
from evkit.monitors.consumer_lag import consumer_lag
from evkit.offsets_log import OFFSETS_TOPIC, Part
from evkit.runtime import group_pause
from evkit.runtime.sampler import Sampler
from evkit.system import System
from evkit.views.broker import LiveBroker
from evkit.window import Window
from tests.integration.views.groups import commit, joined, produce


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


def test_a_consumer_that_stops_stands_falls_behind_or_catches_up_is_called_so_by_its_commits(
    evkit_system, evkit_topic, evkit_group
):
    """Second by second, until each has shown what it does."""
    topic, group = evkit_topic(partitions=4), evkit_group()
    wanted = {0: "stop", 1: "stall", 2: "catching_up", 3: "warn"}
    produce(evkit_system, topic, 40_000, partition=2)
    consumer = kafka.consumer(evkit_system.settings, group)
    at, seen, until = dict.fromkeys(wanted, 0), {}, time.monotonic() + 120
    while {p: row["status"] for p, row in seen.items()} != wanted:
        assert time.monotonic() < until, {p: (row["status"], row["reason"]) for p, row in seen.items()}
        began, works = time.monotonic(), at[1] < 50
        produce(evkit_system, topic, 10, partition=0)
        produce(evkit_system, topic, 10, partition=1)
        produce(evkit_system, topic, 60, partition=3)
        moves = {0: 10 if works else 0, 1: 10 if works else 0, 2: 100, 3: 10}
        at = {p: offset + moves[p] for p, offset in at.items()}
        committing = [p for p in at if works or p != 0]
        consumer.commit(offsets=[TopicPartition(topic, p, at[p]) for p in committing], asynchronous=False)
        seen = {row["partition"]: row for row in views.consumer_status(evkit_system, group, "1m").to_dicts()}
        time.sleep(max(1.0 - (time.monotonic() - began), 0.0))
    consumer.close()

    assert {p: row["alarm"] for p, row in seen.items()} == {0: True, 1: True, 2: False, 3: True}
    assert "no commit for" in seen[0]["reason"]
    assert "commits of the same offset" in seen[1]["reason"]
    assert seen[2]["drain_seconds"] > 60
    assert seen[3]["written_per_second"] > seen[3]["read_per_second"] > 0


def test_a_group_that_falls_behind_is_told_when_retention_will_delete_what_it_has_not_read(
    evkit_system, evkit_topic, evkit_group
):
    """Second by second, until the trend is clear. Each second 50 fewer of the records that are kept have been read."""
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 1_000)
    for future in evkit_system.admin.delete_records([TopicPartition(topic, 0, 200)]).values():
        future.result()
    consumer, at, row, until = kafka.consumer(evkit_system.settings, group), 700, {}, time.monotonic() + 120
    while not row.get("retention_seconds"):
        assert time.monotonic() < until, row
        began = time.monotonic()
        produce(evkit_system, topic, 60)
        at += 10
        consumer.commit(offsets=[TopicPartition(topic, 0, at)], asynchronous=False)
        (row,) = views.consumer_status(evkit_system, group, "20s").to_dicts()
        time.sleep(max(1.0 - (time.monotonic() - began), 0.0))
    consumer.close()

    assert row["retention_seconds"] == pytest.approx((at - 200) / row["velocity_per_second"])
    assert "as things go retention deletes unread records in about" in row["reason"]
    assert row["drain_seconds"] == float("inf")


def test_a_member_that_never_committed_is_called_so(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 7)

    with joined(evkit_system, group, topic, **{"enable.auto.commit": False}):
        (row,) = views.consumer_status(evkit_system, group).to_dicts()

    assert (row["status"], row["alarm"]) == ("no_commit", False)
    assert "7 events can be read" in row["reason"]


def test_a_transaction_that_stays_open_is_its_producers_and_has_an_age(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(**{"message.timestamp.type": "CreateTime"}), evkit_group()
    produce(evkit_system, topic, 2)
    open_long = {"transactional.id": group, "transaction.timeout.ms": 400_000}
    producer = kafka.producer(evkit_system.settings, **open_long)
    producer.init_transactions(60)
    producer.begin_transaction()
    stamp = evkit_system.now() - timedelta(seconds=300)
    for _ in range(3):
        producer.produce(topic, b"open", timestamp=int(stamp.timestamp() * 1000))
    producer.flush(60)
    commit(evkit_system, group, topic, 1, 2)

    (row,) = views.consumer_status(evkit_system, group).to_dicts()
    producer.abort_transaction(60)

    assert (row["status"], row["unread_events"], row["lag_events"]) == ("ok", 0, 3)
    assert "transaction that has been open for at least 5" in row["reason"]
    assert "its producer" in row["reason"]


def test_a_group_that_a_replay_has_paused_does_as_it_was_told(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 9)
    commit(evkit_system, group, topic, 1, 2, 3, 4, 5)
    with evkit_system.writing(autocommit=True) as connection:
        group_pause.request(connection, group, "replay-1")

        (paused,) = views.consumer_status(evkit_system, group).to_dicts()
        connection.execute("UPDATE evkit.group_pause SET alive_at = alive_at - interval '16 s'")
        (lapsed,) = views.consumer_status(evkit_system, group).to_dicts()

    assert (paused["status"], paused["alarm"]) == ("ok", False)
    assert "paused on purpose; 4 events wait; replay-1 has the group pause" in paused["reason"]
    assert "pause" not in lapsed["reason"]
    assert group_pause.DEAD_SECONDS == 15, "as in group_pause.sql"


def test_records_that_were_deleted_unread_are_known_from_samples_when_the_group_has_passed_over_them(
    evkit_system, evkit_topic, evkit_group
):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 100)
    commit(evkit_system, group, topic, 8, 9, 10)
    for future in evkit_system.admin.delete_records([TopicPartition(topic, 0, 70)]).values():
        future.result()
    sampler = Sampler(evkit_system, groups=[group])
    sampler.once()
    sampler.close()
    commit(evkit_system, group, topic, 75, 80)

    (row,) = views.consumer_status(evkit_system, group).to_dicts()

    assert row["lost_events"] == 60
    assert "up to 60 events were deleted unread before that" in row["reason"]


@pytest.mark.parametrize("whole", [True, False], ids=["whole-log", "log-with-holes"])
def test_at_the_end_of_a_past_window_things_are_as_they_were_then(
    evkit_system, evkit_topic, evkit_group, monkeypatch, whole
):
    """Where the log has holes, that a group had not committed by then is not known."""
    monkeypatch.setattr(window, "_JUST_NOW", timedelta(0))
    # The log is shared: whether transactions of other tests have left holes in it before this group is chance.
    monkeypatch.setattr(Part, "has_all_before", lambda *_: whole)
    word = "ok" if whole else "unknown"
    topic, group = evkit_topic(partitions=3), evkit_group()
    start = evkit_system.now()
    for partition in (0, 1):
        produce(evkit_system, topic, 50, partition=partition)
    commit(evkit_system, group, topic, 10, 20, 30, partition=0)
    commit(evkit_system, group, topic, 30, 40, 50, 5, partition=1)
    time.sleep(0.01)  # timestamps have milliseconds
    then = Window(start, evkit_system.now())
    time.sleep(0.01)
    for partition in (0, 1, 2):
        produce(evkit_system, topic, 100, partition=partition)
    commit(evkit_system, group, topic, 150, partition=0)
    commit(evkit_system, group, topic, 150, partition=1)
    commit(evkit_system, group, topic, 40, partition=2)

    rows = {row["partition"]: row for row in views.consumer_status(evkit_system, group, then).to_dicts()}
    now = said(evkit_system, group)
    measured = views.measure(evkit_system, then, group=group, consumer_status_too=True)
    lag = {row["partition"]: row for row in measured["consumer_lag"].to_dicts()}

    assert {p: (row["status"], row["lag_events"]) for p, row in rows.items()} == {
        0: ("ok", 20), 1: ("rewind", 45), 2: (word, None),
    }  # fmt: skip
    assert {(row["measured_at"], row["group_state"], row["covered"]) for row in rows.values()} == {
        (then.end, None, whole)
    }
    assert {p: row["lag_events"] for p, row in now.items()} == {0: 0, 1: 0, 2: 60}
    assert {p: (row["status"], row["lag_events"]) for p, row in lag.items()} == {
        0: ("behind", 20), 1: ("behind", 45), 2: (word, None),
    }  # fmt: skip
    assert measured["consumer_status"].to_dicts() == list(rows.values())
    assert [lag[p]["lag_seconds_method"] for p in (0, 1, 2)] == ["grid", "grid", "none"]
    assert 0 < lag[0]["lag_seconds"] <= then.seconds
    (found,) = consumer_lag(measured["consumer_lag"], Thresholds())
    assert (found.severity, found.evidence["lag_events"]) == (Severity.ok if whole else Severity.unknown, 65)


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
