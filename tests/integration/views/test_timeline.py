"""A deploy that broke something, as the tables have it: what changed is found, at its time and with its cause."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from evkit import annotation, kafka, views
from evkit.errors import InvalidParameter, UnknownGroup
from evkit.settings import Settings
from evkit.system import System
from evkit.testing.waiting import until
from tests.integration.views.groups import produce


@pytest.fixture
def incident(past):
    """Half an hour: 2 events a second, handled after 0.1 s; from minute 18 on 6, handled after 5 s, a third dies."""
    past.sql(
        """
        WITH event AS (
            SELECT 'e' || n AS id, %s::timestamptz + n * interval '0.5 s' AS at, false AS bad
              FROM generate_series(0, 2159) AS n
            UNION ALL
            SELECT 'f' || n, %s::timestamptz + n * interval '0.16666 s', true FROM generate_series(0, 4319) AS n
        ), written AS (
            INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, created_at)
            SELECT id, 'order', id, 'order.placed', '{}', at FROM event ORDER BY at RETURNING position, id, created_at
        ), published AS (
            INSERT INTO evkit.publication SELECT position, 0, position, created_at + interval '20 ms' FROM written
        ), failed AS (
            INSERT INTO evkit.attempt (consumer_group, event_id, event_type, topic, partition, "offset", attempt, failed_at,
                                       duration_seconds, error_class, error_message, stack_trace, fingerprint, disposition)
            SELECT 'billing', id, 'order.placed', 'order', 0, 1, 1, at + interval '5 s', 0.1, 'KeyError', 'x', 'T', 'f',
                   'dead'
              FROM event WHERE bad AND hashtext(id) %% 3 = 0
        )
        INSERT INTO evkit.inbox (consumer_group, event_id, event_type, topic, partition, "offset", outcome, created_at,
                                 received_at, processed_at)
        SELECT 'billing', id, 'order.placed', 'order', 0, 1,
               CASE WHEN bad AND hashtext(id) %% 3 = 0 THEN 'dead' ELSE 'handled' END, at, at,
               at + CASE WHEN bad THEN interval '5 s' ELSE interval '100 ms' END
          FROM event
        """,
        past.at(1800),
        past.at(720),
    )
    past.sql("ANALYZE")  # as autovacuum does soon after: rows that no statistics know of are joined one by one
    return past


def test_every_measure_that_changed_is_found_within_a_bucket(evkit_system, incident):
    rows = views.change_points(evkit_system, incident.window(1800), bucket="15s").to_dicts()

    assert {(r["measure"], r["group"], r["topic"], r["direction"]) for r in rows} == {
        ("publish_rate", None, "order", "rose"),
        ("error_ratio", "billing", None, "rose"),
        ("dead_letters", "billing", None, "rose"),
        ("latency_p50", "billing", None, "rose"),
        ("latency_p99", "billing", None, "rose"),
        ("lag", "billing", "order", "rose"),
    }
    for row in rows:
        assert abs((row["at"] - incident.at(720)).total_seconds()) <= 30, row
        assert row["confidence"] > 0.999
    assert {r["measure"]: r["source"] for r in rows} == {
        "publish_rate": "publication", "error_ratio": "attempt", "dead_letters": "attempt", "latency_p50": "inbox",
        "latency_p99": "inbox", "lag": "inbox",
    }  # fmt: skip
    (rate,) = [r for r in rows if r["measure"] == "publish_rate"]
    assert (rate["before"], rate["after"]) == (pytest.approx(2, rel=0.02), pytest.approx(6, rel=0.02))
    # a bucket that the change falls into is counted to one side or the other: 2.01/s is right as well
    assert re.fullmatch(r"publish rate of order rose from 2(\.0\d)?/s to (5\.9\d?|6(\.0\d)?)/s.*", rate["text"])
    (ratio,) = [r for r in rows if r["measure"] == "error_ratio"]
    assert (ratio["before"], ratio["after"]) == (pytest.approx(0, abs=0.01), pytest.approx(1 / 3, abs=0.04))


def test_the_timeline_names_the_deploy_that_was_just_before(evkit_system, incident):
    annotation.add(evkit_system, "deploy", version="1.4.2", group="billing", at=incident.at(840))
    annotation.add(evkit_system, "incident", name="INC-1", at=incident.at(1800), until=incident.now)

    rows = views.timeline(evkit_system, "incident:INC-1").to_dicts()

    kinds = [r["kind"] for r in rows]
    assert kinds == ["incident", "deploy", *["change"] * 6]
    for row in rows[2:]:
        assert row["near"] == "2 min after deploy 1.4.2 of billing"
        assert row["text"].endswith(", 2 min after deploy 1.4.2 of billing")


def test_a_group_that_nobody_but_an_act_knows_has_annotations_and_a_warning(evkit_system, past, caplog):
    past.sql("INSERT INTO evkit.rewind VALUES ('w-1', 'audit', '2013-02-08Z', '[]', 'done', 'eve', 'x', %s, %s)",
             past.at(51), past.at(50))  # fmt: skip

    rows = views.timeline(evkit_system, past.window(100), group="audit").to_dicts()

    assert [r["kind"] for r in rows] == ["offset_reset"]
    assert "change points are missing" in caplog.text


@pytest.fixture
def sampled(evkit_system, past, evkit_topic, evkit_group):
    """Ten minutes of a group that committed nothing and of its topic: ten records every 20 s, then sixty; it was sampled, 3
    behind, then 300. Returns group and topic."""
    topic, group = evkit_topic("bare", **{"message.timestamp.type": "CreateTime"}), evkit_group("theirs")
    cluster = kafka.cluster_id(evkit_system.settings)
    for n in range(30):
        produce(evkit_system, topic, 10 if n < 15 else 60, at=past.at(590 - 20 * n))
        past.sql(
            "INSERT INTO evkit.lag_sample (cluster_id, consumer_group, topic, partition, sampled_at, every_seconds,"
            " committed_offset, start_offset, stable_offset, end_offset) VALUES (%s, %s, %s, 0, %s, 20, %s, 0, %s, %s)",
            cluster, group, topic, past.at(600 - 20 * n), 1000, 1003, 1003 if n < 15 else 1300,
        )  # fmt: skip
    return group, topic


def test_of_a_group_that_only_samples_know_lag_and_append_rate_are_looked_at(evkit_system, past, sampled):
    group, topic = sampled

    rows = views.change_points(evkit_system, past.window(600), group=group, bucket="20s").to_dicts()
    timeline = views.timeline(evkit_system, past.window(600), group=group, bucket="20s").to_dicts()

    assert {(r["measure"], r["group"], r["topic"], r["direction"], r["source"]) for r in rows} == {
        ("lag", group, topic, "rose", "sample"),
        ("append_rate", None, topic, "rose", "topic"),
    }
    for row in rows:
        assert abs((row["at"] - past.at(300)).total_seconds()) <= 20
        assert (row["before"], row["after"]) == ((3, 300) if row["measure"] == "lag" else (0.5, 3))
    assert {(r["text"], r["source"]) for r in timeline if r["kind"] == "change"} == {
        (f"lag of {group} on {topic} rose from 3 events to 300 events", "sample"),
        (f"append rate of {topic} rose from 0.5/s to 3/s", "topic"),
    }
    only = views.change_points(evkit_system, past.window(600), group=group, bucket="20s", measures=["append_rate"])
    assert set(only["measure"]) == {"append_rate"}
    assert views.change_points(evkit_system, past.window(600), measures=["append_rate"]).is_empty()


def test_a_group_of_samples_whose_topic_is_gone_still_has_its_lag(evkit_system, past, sampled, caplog):
    group, topic = sampled
    for future in evkit_system.admin.delete_topics([topic]).values():
        future.result()
    until(lambda: topic not in kafka.topics(evkit_system.settings))

    rows = views.timeline(evkit_system, past.window(600), group=group, bucket="20s").to_dicts()

    assert [(r["measure"], r["source"]) for r in rows if r["kind"] == "change"] == [("lag", "sample")]
    assert f"the append rate of {topic} is missing" in caplog.text


def test_samples_know_a_group_while_kafka_is_away(evkit_system, past, sampled, caplog):
    group, _ = sampled
    settings = evkit_system.settings
    away = System(
        Settings(
            postgres_dsn=settings.postgres_dsn, kafka={"bootstrap.servers": "127.0.0.1:1"}, kafka_timeout_seconds=2
        )
    )

    rows = views.timeline(away, past.window(600), group=group, bucket="20s").to_dicts()

    assert [(r["kind"], r["measure"], r["source"]) for r in rows] == [("change", "lag", "sample")]
    assert "rebalances and offsets that went back are missing" in caplog.text
    with pytest.raises(UnknownGroup, match=f"did you mean '{group}'"):
        views.timeline(away, past.window(600), group=group + "s")


def test_looking_up_a_group_takes_no_connection_of_its_own(evkit_system, past, monkeypatch):
    past.handle("billing", "e0", 90)
    opened, reading = [], System.reading

    def counted(self):
        opened.append(self)
        return reading(self)

    monkeypatch.setattr(System, "reading", counted)
    views.error_rate(evkit_system, past.window(600), group="billing", bucket="20s")
    by_itself = len(opened)

    views.change_points(evkit_system, past.window(600), group="billing", bucket="20s", measures=["error_ratio"])

    assert len(opened) == 2 * by_itself
    for measures in (["relay_lag"], ["append_rate"]):
        with pytest.raises(UnknownGroup, match="did you mean 'billing'"):
            views.change_points(evkit_system, past.window(600), group="biling", measures=measures)


def test_a_calm_half_hour_has_no_change_point(evkit_system, past):
    for i in range(600):
        past.write(f"e{i}", 1800 - 3 * i, published=1799.9 - 3 * i)
        past.handle("billing", f"e{i}", 1799.8 - 3 * i, written=1800 - 3 * i)

    assert views.change_points(evkit_system, past.window(1800)).is_empty()


def test_measures_and_groups_can_be_chosen_and_wrong_ones_are_named(evkit_system, incident):
    chosen = views.change_points(evkit_system, incident.window(1800), group="billing", measures=["error_ratio"])

    assert chosen["measure"].to_list() == ["error_ratio"]
    with pytest.raises(InvalidParameter, match="take error_ratio"):
        views.change_points(evkit_system, measures=["error_rate"])
    with pytest.raises(InvalidParameter, match="above zero"):
        views.change_points(evkit_system, penalty=0)
    with pytest.raises(UnknownGroup, match="did you mean 'billing'"):
        views.change_points(evkit_system, timedelta(minutes=30), group="biling")
