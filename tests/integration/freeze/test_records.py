"""Records of topics, read again in a freeze when the topics are gone: scans, hot keys, what came in, the audit."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pyarrow.parquet
import pytest
from polars.testing import assert_frame_equal

from evkit import kafka, views
from evkit.errors import BrokerUnreachable, NotInFreeze
from evkit.event import CE_ID, CE_TYPE, CONTENT_TYPE
from evkit.freeze import records
from evkit.masking import Policy
from evkit.system import System
from evkit.window import Window
from tests.integration.freeze.test_answers import transaction
from tests.integration.views.groups import commit, produce
from tests.integration.views.test_audit import Shop, ids


def put(system, topic, *records):
    """Records as (key, value, headers, partition)."""
    producer = kafka.producer(system.settings)
    for key, value, headers, partition in records:
        producer.produce(topic, value, key, partition=partition, headers=headers)
    assert producer.flush(30) == 0


def event(n):
    return [(CE_ID, f"e-{n}".encode()), (CE_TYPE, b"order.placed"), ("tenant", b"SECRET")]


STRUCTURED = {"specversion": "1.0", "id": "s-1", "source": "/shop", "type": "order.paid", "data": {"é": "SECRET"}}


@pytest.fixture
def scene(evkit_system, evkit_topic, evkit_group):
    """A topic with events of each format, transactions, tombstones, and a group that has read a part; and one with none."""

    class Scene:
        topic, odd, group = evkit_topic("order", partitions=2), evkit_topic("odd"), evkit_group("busy")
        quiet = evkit_topic("quiet")

    began_at = datetime.now(UTC)
    time.sleep(0.05)
    put(evkit_system, Scene.topic, *((f"k{n % 4}", b'{"a": "SECRET"}' * (n % 3), event(n), n % 2) for n in range(30)))
    transaction(evkit_system, Scene.topic, 3)
    transaction(evkit_system, Scene.topic, 3, abort=True)
    put(
        evkit_system, Scene.topic, ("k1", None, event(31), 0),
        (None, json.dumps(STRUCTURED).encode(), [(CONTENT_TYPE, b"application/cloudevents+json")], 0),
        (b"\xff", b"SECRET", [("id", b"d-1"), ("eventType", b"routed"), ("odd", None)], 0),
    )  # fmt: skip
    produce(evkit_system, Scene.odd, 5)
    commit(evkit_system, Scene.group, Scene.topic, 3, partition=0)
    commit(evkit_system, Scene.group, Scene.odd, 2)
    Scene.window = Window(began_at, datetime.now(UTC))
    return Scene


def gone(system, *topics):
    for future in system.admin.delete_topics(list(topics)).values():
        future.result()


def rows_of(frame):
    return frame.sort("partition", "offset") if "offset" in frame.columns else frame


def test_what_reads_topics_is_the_same_frozen_also_when_the_topics_are_gone(scene, evkit_system, frozen, still):
    system = frozen(scene.window)
    live = still(evkit_system, system.now())
    window = Window(scene.window.start, system.now())
    asked = [
        (views.scan, (scene.topic, window), {}),
        (views.scan, (scene.topic, window), {"where": ["key=k1", "event_type!=x"]}),
        (views.scan, (scene.topic, window), {"headers": [CE_ID]}),
        (views.scan, (scene.topic,), {"offsets": {0: (2, 9)}}),
        (views.scan, (scene.odd, window), {}),
        (views.scan, (scene.quiet, window), {}),
        (views.scan_plan, (scene.topic, window), {}),
        (views.scan_coverage, (scene.topic, window), {"where": "key=k1"}),
        (views.unread_keys, (scene.group,), {}),
        (views.unread_keys, (scene.group, scene.odd), {}),
        (views.appended, (window, scene.topic), {}),
        (views.appended, (window, scene.quiet), {}),
    ]
    shown = [view(live, *given, **more) for view, given, more in asked]
    gone(evkit_system, scene.topic, scene.odd, scene.quiet)

    for (view, given, more), frame in zip(asked, shown, strict=True):
        assert_frame_equal(rows_of(view(system, *given, **more)), rows_of(frame))
    assert len(shown[0]) == 36
    assert shown[0]["event_id"].to_list().count("s-1") == 1
    assert shown[0]["event_id"].to_list().count("d-1") == 1
    assert shown[0]["value_bytes"].null_count() == 1
    assert sum(shown[10]["appended"]) == 30 + 4 + 4 + 3
    assert {name: len(frame) for name, frame in zip("abc", shown[7:], strict=False)} == {"a": 2, "b": 6, "c": 1}


def test_without_payloads_none_is_in_the_files_and_who_asks_for_one_is_refused(scene, evkit_system, frozen, tmp_path):
    system = frozen(scene.window)

    for file in (tmp_path / "evidence").rglob("*.parquet"):
        assert "SECRET" not in str(pyarrow.parquet.read_table(file).to_pylist()), file
    for more in ({"payload": True}, {"fields": ["a"]}, {"headers": ["tenant"]}, {"where": "header:tenant=SECRET"}):
        with pytest.raises(NotInFreeze, match=r"payloads and headers of events \(it was made without --payloads\)"):
            views.scan(system, scene.topic, system.manifest.window, **more)


def test_with_payloads_they_are_shown_as_policies_let_them(scene, evkit_system, frozen, still):
    policies = (Policy(field="a"), Policy(header="tenant"))
    masked = System(evkit_system.settings.model_copy(update={"masking": policies}))
    system = frozen(scene.window, system=masked, payloads=True)
    window = Window(scene.window.start, system.now())
    more = {"payload": True, "headers": ["tenant", "odd"], "fields": ["a", "é"]}

    shown = views.scan(still(masked, system.now()), scene.topic, window, **more)

    assert_frame_equal(rows_of(views.scan(system, scene.topic, window, **more)), rows_of(shown))
    assert set(shown["header:tenant"].drop_nulls()) == {"***"}
    assert shown["field:é"].drop_nulls().to_list() == ["SECRET"]


def test_an_audit_of_a_freeze_finds_what_the_live_one_finds(evkit_system, evkit_topic, evkit_group, frozen, still):
    shop = Shop(evkit_system, evkit_topic, evkit_group)
    shop.fails = {"e003"}
    shop.write(*ids(40))
    shop.publish()
    shop.consume(shop.billing, 30)
    shop.sql("DELETE FROM evkit.inbox WHERE event_id = 'e007'")
    shop.sql("DELETE FROM evkit.publication p USING evkit.outbox o WHERE o.position = p.position AND o.id = 'e011'")
    put(evkit_system, shop.topic, ("ke005", b"{}", [(CE_ID, b"e005"), (CE_TYPE, b"order.placed")], 0))
    shop.write("waits")
    system = frozen(Window(datetime.now(UTC) - timedelta(minutes=5), datetime.now(UTC)))
    live = still(evkit_system, system.now())
    window = Window(system.manifest.since, system.now())
    asked = [(window, {"settle": "0s"}), (window, {"settle": "0s", "every": True, "topic": shop.topic}),
             (window, {"settle": "0s", "group": shop.billing})]  # fmt: skip

    counts = views.audit_counts(live, window, settle="0s")
    shown = [views.audit(live, given, **more) for given, more in asked]
    gone(evkit_system, shop.topic)

    assert_frame_equal(views.audit_counts(system, window, settle="0s"), counts)
    for (given, more), frame in zip(asked, shown, strict=True):
        assert_frame_equal(views.audit(system, given, **more), frame)
    verdicts = {(row["event_id"], row["verdict"]) for row in shown[0].iter_rows(named=True)}
    assert {("e005", "published_twice"), ("e007", "not_consumed")} <= verdicts


def test_what_is_older_than_the_freeze_is_refused_and_not_empty(scene, evkit_system, frozen, monkeypatch):
    monkeypatch.setattr(records, "LOOKBACK", timedelta(0))
    time.sleep(0.05)
    late = datetime.now(UTC)
    time.sleep(0.05)
    put(evkit_system, scene.topic, ("k1", b"x", event(99), 1))

    system = frozen(Window(late, datetime.now(UTC)))

    assert views.scan(system, scene.topic, system.manifest.window)["event_id"].to_list() == ["e-99"]
    # Of what the group has not read all is there, however old.
    assert views.unread_keys(system, scene.group)["scanned_events"].to_list()
    with pytest.raises(NotInFreeze, match=rf"records of {scene.topic} \[1\] from offset 0 on: it has those from 15 on"):
        views.scan(system, scene.topic, offsets={1: (0, 3)})
    with pytest.raises(NotInFreeze, match="it has .* and asked is"):
        views.scan(system, scene.topic, scene.window)


def test_a_topic_with_more_records_than_are_copied_is_said_and_refused(scene, evkit_system, frozen, monkeypatch):
    monkeypatch.setattr(records, "RECORDS_MAX", 10)
    chosen, ours = records.chosen, {scene.topic, scene.odd}
    # Topics of other tests are smaller, and would be copied first.
    monkeypatch.setattr(
        records,
        "chosen",
        lambda system, starts, ends, *how: chosen(
            system, starts, {p: n for p, n in ends.items() if p[0] in ours}, *how
        ),
    )

    system = frozen(scene.window)

    assert f"records of topic {scene.topic}" in {m.what for m in system.manifest.missing}
    with pytest.raises(NotInFreeze, match="it has more records in the window than are copied"):
        views.scan(system, scene.topic, system.manifest.window)
    assert len(views.scan(system, scene.odd, system.manifest.window)) == 5


def test_a_broker_that_goes_away_in_the_middle_leaves_the_records_out_and_the_rest_in(
    scene, evkit_system, frozen, monkeypatch, tmp_path
):
    def away(*_):
        yield from ()
        raise BrokerUnreachable("127.0.0.1:1", "it went away")

    monkeypatch.setattr(records.Reader, "__iter__", away)

    system = frozen(scene.window)

    assert "records of topics" in {m.what for m in system.manifest.missing}
    assert not list((tmp_path / "evidence").rglob("records*.parquet"))
    with pytest.raises(NotInFreeze, match=r"records of topics \(.*127.0.0.1:1"):
        views.scan(system, scene.topic, system.manifest.window)
    assert views.lag(system, scene.group)["lag_events"].sum() > 0
