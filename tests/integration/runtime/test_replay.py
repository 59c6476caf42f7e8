"""Replay: a stretch of topic to one group's handlers, marked, resumable, and unknown to everybody else."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from evkit import Consumer, Event, Relay, Retry, dead_letters, kafka, outbox, replay
from evkit.errors import ReplayRefused, UnknownGroup, UnknownReplay, UnknownTopic
from tests.relaying import drain

EVENTS = 40


@pytest.fixture
def orders(evkit_system, evkit_topic, evkit_group):
    """Forty events in two partitions, all handled by one group; returns a namespace to replay with."""
    topic = evkit_topic(partitions=2)
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE effect (id text PRIMARY KEY, n int)")
        ids = outbox.write_many(connection, [Event("a.b", f"k{i}", {"i": i}, topic=topic) for i in range(EVENTS)])
    relay = Relay(evkit_system, batch_events_max=10)
    relay.step()
    with evkit_system.reading() as connection:
        (middle,) = connection.execute("SELECT clock_timestamp()").fetchone()
    drain(relay)
    relay.close()
    consumer = Consumer(evkit_group(), [topic], system=evkit_system, retry=Retry(attempts=1))

    class Orders:
        seen: list[tuple[int, bool, str | None]] = []
        failing: set[int] = set()

    @consumer.handler("a.b")
    def handle(event, tx):
        Orders.seen.append((event.payload["i"], tx.is_replay, event.headers.get("evkit-replay-id")))
        tx.execute("INSERT INTO effect VALUES (%s, 1) ON CONFLICT (id) DO UPDATE SET n = effect.n + 1", (event.id,))
        if event.payload["i"] in Orders.failing:
            raise ValueError("not this one")

    Orders.consumer, Orders.ids, Orders.topic, Orders.middle = consumer, ids, topic, middle
    while consumer.counts.total < EVENTS:
        consumer.step(1.0)
    consumer.close()
    Orders.seen = []
    return Orders


def effects(system):
    with system.reading() as connection:
        return dict(connection.execute("SELECT id, n FROM effect").fetchall())


def hour_ago():
    return datetime.now(UTC) - timedelta(hours=1)


def test_honour_handles_only_what_is_missing(evkit_system, orders):
    """As after a loss: the inbox lacks five events, and they are all that is handled."""
    lost = orders.ids[3:8]
    with evkit_system.writing() as connection:
        connection.execute("DELETE FROM evkit.inbox WHERE event_id = ANY(%s)", (lost,))
        connection.execute("DELETE FROM effect WHERE id = ANY(%s)", (lost,))
    plan = replay.plan(evkit_system, orders.consumer.group, hour_ago())
    assert (plan.offsets, plan.known_handled) == (EVENTS, EVENTS - 5)

    result = replay.run(evkit_system, plan, orders.consumer)

    assert (result.state, result.counts.handled, result.counts.duplicate) == ("done", 5, EVENTS - 5)
    assert effects(evkit_system) == dict.fromkeys(orders.ids, 1)
    assert sorted(i for i, *_ in orders.seen) == [3, 4, 5, 6, 7]


def test_again_handles_everything_again_once_and_marks_it(evkit_system, orders):
    plan = replay.plan(evkit_system, orders.consumer.group, hour_ago(), dedupe="again")

    result = replay.run(evkit_system, plan, orders.consumer, reason="new tax rule")

    assert effects(evkit_system) == dict.fromkeys(orders.ids, 2)
    assert {(is_replay, mark) for _, is_replay, mark in orders.seen} == {(True, result.replay_id)}
    with evkit_system.reading() as connection:
        rows = connection.execute(
            "SELECT generation, replay_id IS NOT NULL, count(*) FROM evkit.inbox GROUP BY 1, 2 ORDER BY 1"
        ).fetchall()
        assert rows == [(0, False, EVENTS), (1, True, EVENTS)]
        act = connection.execute("SELECT act, target, reason, result ->> 'state' FROM evkit.audit").fetchone()
        planned = connection.execute("SELECT plan FROM evkit.audit").fetchone()[0]
    assert act == ("replay.run", result.replay_id, "new tax rule", "done")
    assert {name: planned[name] for name in ("topics", "from_time", "until_time", "keys", "types", "offsets")} == {
        "topics": list(plan.topics), "from_time": plan.from_time.isoformat(), "until_time": None, "keys": None,
        "types": None, "offsets": EVENTS,
    }  # fmt: skip


def test_failing_event_does_not_stop_a_replay_and_becomes_a_marked_letter(evkit_system, orders, caplog):
    orders.failing = {7, 9}
    plan = replay.plan(evkit_system, orders.consumer.group, hour_ago(), dedupe="again")

    result = replay.run(evkit_system, plan, orders.consumer)

    assert (result.state, result.counts.handled, result.counts.dead) == ("done", EVENTS - 2, 2)
    assert {x.replay_id for x in dead_letters.letters(evkit_system)} == {result.replay_id}
    assert sum(result.replay_id in line for line in caplog.messages if "is a dead letter" in line) == 2


def test_replay_is_unknown_to_the_cluster_and_moves_no_offset(evkit_system, orders):
    """P6."""
    places = kafka.partitions_of(evkit_system.settings, [orders.topic], evkit_system.admin)
    before = kafka.committed(evkit_system.settings, orders.consumer.group, places)
    groups = kafka.groups(evkit_system.settings)
    plan = replay.plan(evkit_system, orders.consumer.group, hour_ago(), dedupe="again")

    replay.run(evkit_system, plan, orders.consumer)

    assert kafka.committed(evkit_system.settings, orders.consumer.group, places) == before
    assert set(kafka.groups(evkit_system.settings)) - set(groups) == set()


def test_replay_reads_only_its_window(evkit_system, orders):
    until = replay.plan(evkit_system, orders.consumer.group, hour_ago(), orders.middle)
    since = replay.plan(evkit_system, orders.consumer.group, orders.middle)

    assert (until.offsets, since.offsets) == (10, EVENTS - 10)


def test_stopped_replay_goes_on_where_it_ended_and_handles_nothing_twice(evkit_system, orders):
    plan = replay.plan(evkit_system, orders.consumer.group, hour_ago(), dedupe="again")
    stop = threading.Event()
    stop.set()
    stopped = replay.run(evkit_system, plan, orders.consumer, stop=stop)
    assert stopped.state == "stopped"

    result = replay.resume(evkit_system, stopped.replay_id, orders.consumer, stop=threading.Event())

    assert (result.state, result.counts.handled) == ("done", EVENTS)
    assert effects(evkit_system) == dict.fromkeys(orders.ids, 2)
    with pytest.raises(ReplayRefused, match="is done"):
        replay.resume(evkit_system, stopped.replay_id, orders.consumer)


def test_plan_refuses_what_cannot_be_replayed_in_a_sentence(evkit_system, orders):
    group = orders.consumer.group
    now = datetime.now(UTC)

    with pytest.raises(UnknownGroup, match=f"did you mean '{group}'"):
        replay.plan(evkit_system, group + "s", hour_ago())
    with pytest.raises(UnknownTopic, match=f"did you mean '{orders.topic}'"):
        replay.plan(evkit_system, group, hour_ago(), topics=[orders.topic + "s"])
    with pytest.raises(ReplayRefused, match="nothing to replay"):
        replay.plan(evkit_system, group, now + timedelta(hours=1))
    with pytest.raises(ReplayRefused, match="before it begins"):
        replay.plan(evkit_system, group, now, now - timedelta(hours=1))
    with pytest.raises(UnknownReplay):
        replay.resume(evkit_system, "replay-nothing", orders.consumer)
    with pytest.raises(ReplayRefused, match="'other'"):
        replay.run(
            evkit_system, replay.plan(evkit_system, group, hour_ago()), Consumer("other", ["t"], system=evkit_system)
        )
