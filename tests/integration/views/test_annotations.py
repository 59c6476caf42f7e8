"""What is known of a time: written down, and told by the tables and by Kafka's own record of commits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evkit import annotation, views
from evkit.errors import UnknownGroup
from evkit.offsets_log import Commits, Entry, Part
from evkit.offsets_records import Commit, Key
from evkit.settings import Settings
from evkit.system import System
from evkit.views.annotations import rebalanced, went_back
from tests.integration.views.groups import commit_as_member

NOW = datetime(2013, 2, 8, 14, tzinfo=UTC)


def told(system, window, **more):
    return [(r["kind"], r["text"]) for r in views.annotations(system, window, **more).to_dicts()]


def version_of(past, group, event_id, ago, version, *, failed=False):
    if failed:
        past.fail(group, event_id, ago)
        past.sql("UPDATE evkit.attempt SET code_version = %s WHERE event_id = %s", version, event_id)
    else:
        past.handle(group, event_id, ago)
        past.sql("UPDATE evkit.inbox SET code_version = %s WHERE event_id = %s", version, event_id)


def test_what_was_written_down_is_there_when_it_reaches_into_the_window(evkit_system, past):
    for name, since, until in (("over", 500, 400), ("reaches", 500, 50), ("open", 500, None)):
        annotation.add(evkit_system, "incident", "x", name=name, at=past.at(since),
                       until=None if until is None else past.at(until))  # fmt: skip
    annotation.add(evkit_system, "note", "within", at=past.at(60), group="billing")
    annotation.add(evkit_system, "note", "before", at=past.at(160))
    annotation.add(evkit_system, "note", "after", at=past.at(-1))
    annotation.add(evkit_system, "deploy", "shipped", version="1.4.2", at=past.at(30))

    rows = views.annotations(evkit_system, past.window(100)).to_dicts()

    assert [r["text"] for r in rows] == ["incident open: x", "incident reaches: x", "within", "shipped (1.4.2)"]
    assert [r["until"] for r in rows][:2] == [None, past.at(50)]
    assert rows[3]["version"] == "1.4.2"
    assert rows[2]["annotation_id"] is not None


def test_a_version_that_nobody_annotated_is_a_deploy_once(evkit_system, past):
    version_of(past, "billing", "e1", 500, "1.4.1")
    version_of(past, "billing", "e2", 50, "1.4.2")
    version_of(past, "billing", "e3", 40, "1.4.2")
    version_of(past, "billing", "e4", 30, "1.4.3", failed=True)
    version_of(past, "shipping", "s1", 20, "7")  # its first event at all: nothing says that this is new

    found = told(evkit_system, past.window(100))
    annotation.add(evkit_system, "deploy", version="1.4.2", at=past.at(60))
    annotated = told(evkit_system, past.window(100))

    assert found == [
        ("deploy", "1.4.2 of billing had its first event, after 1.4.1"),
        ("deploy", "1.4.3 of billing had its first event, after 1.4.2"),
    ]
    assert annotated == [("deploy", "deploy of 1.4.2"), found[1]]
    assert told(evkit_system, past.window(35)) == [found[1]]


def test_a_new_version_of_a_schema_is_told(evkit_system, past):
    past.write("e1", 500)
    past.write("e2", 50)
    past.sql("UPDATE evkit.outbox SET schema_version = 2 WHERE id = 'e2'")

    assert told(evkit_system, past.window(100)) == [
        ("schema", "order.placed was written in version 2 for the first time, before in 1")
    ]


def test_what_the_tables_tell_is_there_with_who_and_until_when(evkit_system, past):
    past.sql(
        "INSERT INTO evkit.breaker (consumer_group, handler, state, fingerprint, error_class, error_message, keys,"
        " opened_at, probe_at) VALUES ('billing', 'shop.bill', 'open', 'f', 'Timeout', 'x', 12, %s, now())", past.at(90)
    )  # fmt: skip
    past.sql(
        "INSERT INTO evkit.replay_run (replay_id, consumer_group, topics, from_time, dedupe, generation, ranges, actor,"
        " state, started_at, finished_at, handled) VALUES ('r-1', 'billing', ARRAY['order'], '2013-02-08Z', 'honour', 0,"
        " '[]', 'ada', 'done', %s, %s, 7)", past.at(200), past.at(80)
    )  # fmt: skip
    past.sql(
        "INSERT INTO evkit.redrive_run (redrive_id, consumer_group, state, run_by, stop_at_failure, fingerprints, actor,"
        " started_at, finished_at) VALUES ('d-1', 'billing', 'done', 'process', true, '{}', 'bob', %s, %s)",
        past.at(70), past.at(60)
    )  # fmt: skip
    past.sql(
        "INSERT INTO evkit.rewind VALUES ('w-1', 'audit', '2013-02-08Z', '[]', 'done', 'eve', 'lost a day', %s, %s)",
        past.at(51), past.at(50)
    )  # fmt: skip
    for act in ("dead_letters.archive", "replay.run", "annotation.add", "rewind.move", "dead_letters.redrive"):
        past.sql("INSERT INTO evkit.audit (acted_at, actor, act, target, reason, plan) VALUES (%s, 'ada', %s, 'x', 'dup',"
                 " '{}')", past.at(40), act)  # fmt: skip

    rows = views.annotations(evkit_system, past.window(100)).to_dicts()

    assert [(r["kind"], r["text"], r["actor"]) for r in rows] == [
        ("replay", "replay r-1 of billing from 2013-02-08 00:00 (honour, done): 7 handled, 0 failed", "ada"),
        ("breaker", "shop.bill of billing was held: Timeout on 12 keys, and still is", None),
        ("redrive", "redrive d-1 of billing (done): 0 letters", "bob"),
        ("offset_reset", "offsets of audit were moved back to 2013-02-08 00:00: lost a day", "eve"),
        ("act", "dead_letters.archive of x: dup", "ada"),
    ]
    assert rows[0]["until"] == past.at(80)
    assert {r["group"] for r in views.annotations(evkit_system, past.window(100), group="audit").to_dicts()} == {
        "audit", None,
    }  # fmt: skip


def test_rebalances_and_rewinds_of_a_real_group_are_told(evkit_system, evkit_topic, evkit_group, past):
    topic, group = evkit_topic("orders"), evkit_group("billing")
    past.handle(group, "e1", 10)  # evkit's tables know it
    for offset in (100, 40):
        commit_as_member(evkit_system, group, topic, offset)

    rows = views.annotations(evkit_system, "10m", group=group).to_dicts()

    texts = {r["kind"]: r["text"] for r in rows}
    assert texts["offset_reset"] == f"offsets of {group} went back by 60 ({topic}, 1 partition)"
    assert "rebalances of" in texts["rebalance"]
    assert "joined" in texts["rebalance"]
    assert {r["source"] for r in rows} == {"offsets_log"}


def test_a_kafka_that_does_not_answer_is_said_and_hides_no_table(evkit_system, past, caplog):
    past.handle("billing", "e1", 10)
    annotation.add(evkit_system, "note", "x", at=past.at(5))
    settings = evkit_system.settings
    away = System(
        Settings(
            postgres_dsn=settings.postgres_dsn, kafka={"bootstrap.servers": "127.0.0.1:1"}, kafka_timeout_seconds=2
        )
    )

    assert told(away, past.window(60)) == [("note", "x")]
    assert "rebalances and offsets that went back are missing: no Kafka broker answers" in caplog.text


def test_a_group_that_nobody_knows_is_named_with_the_ones_like_it(evkit_system, evkit_group):
    with pytest.raises(UnknownGroup, match="is not known"):
        views.annotations(evkit_system, group=evkit_group("nobody"))


def test_a_limit_that_was_hit_is_said(evkit_system, past, caplog):
    for i in range(4):
        annotation.add(evkit_system, "note", f"n{i}", at=past.at(10 - i))

    assert told(evkit_system, past.window(60), rows_max=2) == [("note", "n2"), ("note", "n3")]
    assert "only the newest 2" in caplog.text


def test_rebalances_that_follow_one_another_are_one_line():
    def change(seconds, before, after, kind):
        return {"at": NOW + timedelta(seconds=seconds), "members_before": before, "members_after": after, "kind": kind,
                "source": "offsets_log"}  # fmt: skip

    storm = [change(10 * i, 3 + i, 4 + i, "joined") for i in range(5)] + [change(45, 8, 7, "left")]

    found = rebalanced([*storm, change(300, 7, 7, "changed")], "billing")

    assert [row["text"] for row in found] == [
        "6 rebalances of billing in 45 s: 3 → 7 members (joined, left)",
        "rebalance of billing: 7 → 7 members (changed)",
    ]
    assert found[0]["until"] == NOW + timedelta(seconds=45)
    assert found[1]["until"] is None


def test_offsets_of_several_partitions_that_went_back_together_are_one_line():
    def commits(*offsets):
        key = Key("commit", "billing", "orders", 0)
        times = [NOW + timedelta(seconds=i) for i in range(len(offsets))]
        part = Part(0)
        return Commits.of(
            part,
            [
                Entry(i, at, key, Commit(o, None, "", at, None, None))
                for i, (at, o) in enumerate(zip(times, offsets, strict=True))
            ],
        )

    found = went_back(
        {("orders", 0): commits(10, 4, 5), ("orders", 1): commits(20, 15), ("tax", 0): commits(1, 2)}, "g"
    )

    assert [row["text"] for row in found] == ["offsets of g went back by 11 (orders, 2 partitions)"]
