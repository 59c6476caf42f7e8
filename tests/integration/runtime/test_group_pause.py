"""The live group stands still while a replay handles its events, and goes on when the replay is over, stopped or dead."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from evkit import Event, kafka, replay
from evkit.errors import ReplayRefused
from evkit.runtime import group_pause
from evkit.testing.waiting import until

EVENTS = 20


def hour_ago():
    return datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def billing(evkit_system, evkit_topic, published, new_consumer, rows):
    """Twenty events in two partitions; consumers of one group that handle them on threads of their own."""
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE effect (i int, replay boolean, at timestamptz DEFAULT clock_timestamp())")
    topic = evkit_topic(partitions=2)

    class Billing:
        def __init__(self):
            self.running, self.group = [], None
            self.more = lambda event, tx: None

        def write(self, first, events):
            published(*[Event("a.b", f"k{i % 4}", {"i": i}, topic=topic) for i in range(first, first + events)])

        def consumer(self, **options):
            consumer = new_consumer(topic, group=self.group, **options)

            @consumer.handler("a.b")
            def handle(event, tx):
                tx.execute("INSERT INTO effect (i, replay) VALUES (%s, %s)", (event.payload["i"], tx.is_replay))
                self.more(event, tx)

            self.group = consumer.group
            return consumer

        def start(self, **options):
            consumer = self.consumer(**options)
            thread = threading.Thread(target=consumer.run)
            thread.start()
            self.running.append((consumer, thread))
            assert consumer.assigned.wait(60)
            return consumer

        def effects(self, replay=False):
            return [i for (i,) in rows("SELECT i FROM effect WHERE replay = %s ORDER BY at", replay)]

        def committed(self):
            places = kafka.partitions_of(evkit_system.settings, [topic], evkit_system.admin)
            return kafka.committed(evkit_system.settings, self.group, places)

        def stop(self):
            for consumer, thread in self.running:
                consumer.stop()
                thread.join(60)
            self.running = []

    billing = Billing()
    billing.topic = topic
    yield billing
    billing.stop()


def test_live_group_handles_nothing_while_a_replay_has_paused_it_and_goes_on_after(evkit_system, billing, rows):
    """Both members keep their place: the group is not rebalanced, and what was written meanwhile is handled afterwards."""
    billing.write(0, EVENTS)
    first, second = billing.start(), billing.start()
    until(lambda: len(billing.effects()) == EVENTS)
    inside, go_on = threading.Event(), threading.Event()

    def more(event, tx):
        if tx.is_replay and not inside.is_set():
            inside.set()
            assert go_on.wait(60)

    billing.more = more
    plan = replay.plan(evkit_system, billing.group, hour_ago(), dedupe="again")
    results = []
    thread = threading.Thread(
        target=lambda: results.append(replay.run(evkit_system, plan, billing.consumer(), mode="paused"))
    )
    thread.start()
    assert inside.wait(60)
    first.assigned.clear()
    second.assigned.clear()
    paused_for = first.standing().paused_for
    members = rows("SELECT in_hand, count(*) FROM evkit.group_pause_member GROUP BY 1")
    billing.write(EVENTS, EVENTS)
    before = rows("SELECT clock_timestamp()")
    beat = rows("SELECT alive_at FROM evkit.group_pause")
    until(lambda: rows("SELECT alive_at FROM evkit.group_pause") > beat)  # the consumers look as often
    during = len(billing.effects())
    go_on.set()
    thread.join(60)
    until(lambda: len(billing.effects()) == 2 * EVENTS)

    (result,) = results
    assert (result.state, result.counts.handled) == ("done", plan.records)
    assert members == [(0, 2)]
    assert paused_for == result.replay_id
    until(lambda: first.standing().paused_for is None)
    assert during == EVENTS, "nothing was handled meanwhile, although there was something"
    assert not any(consumer.assigned.is_set() for consumer in (first, second)), "no rebalance"
    (last_of_replay,) = rows("SELECT max(at) FROM effect WHERE replay")
    (first_after,) = rows("SELECT min(at) FROM effect WHERE NOT replay AND at > %s", before[0][0])
    assert first_after > last_of_replay
    assert rows("SELECT count(*) FROM evkit.group_pause") == [(0,)]
    until(lambda: rows("SELECT count(*) FROM evkit.group_pause_member") == [(0,)])


def test_replay_waits_for_what_consumers_have_in_hand(evkit_system, billing, rows):
    billing.write(0, 1)
    inside, go_on = threading.Event(), threading.Event()

    def more(event, tx):
        if not tx.is_replay and event.payload["i"] == 1:
            inside.set()
            assert go_on.wait(60)

    billing.more = more
    billing.start()
    until(lambda: len(billing.effects()) == 1)
    until(billing.committed)
    billing.write(1, 1)
    assert inside.wait(60)
    plan = replay.plan(evkit_system, billing.group, hour_ago(), dedupe="again")
    results = []
    thread = threading.Thread(
        target=lambda: results.append(replay.run(evkit_system, plan, billing.consumer(), mode="paused"))
    )
    thread.start()
    until(lambda: rows("SELECT in_hand FROM evkit.group_pause_member") == [(1,)])
    assert billing.effects(replay=True) == []
    go_on.set()
    thread.join(60)

    assert results[0].state == "done"
    (live,) = rows("SELECT at FROM effect WHERE i = 1 AND NOT replay")
    assert rows("SELECT min(at) FROM effect WHERE replay")[0] > live


def test_consumer_that_does_not_finish_keeps_a_replay_from_beginning_and_goes_on(evkit_system, billing, rows):
    billing.write(0, 1)
    billing.start()
    until(lambda: len(billing.effects()) == 1)
    until(billing.committed)
    inside, go_on = threading.Event(), threading.Event()

    def more(event, tx):
        inside.set()
        assert go_on.wait(60)

    billing.more = more
    billing.write(1, 1)
    assert inside.wait(60)
    plan = replay.plan(evkit_system, billing.group, hour_ago(), dedupe="again")
    replay_id = replay.prepare(evkit_system, plan, billing.consumer(), mode="paused")

    with pytest.raises(
        ReplayRefused, match=r"was asked to pause 2 s ago, and its consumer .* still has 1 events in hand"
    ):
        replay.resume(evkit_system, replay_id, billing.consumer(), drain_seconds_max=2)
    go_on.set()

    until(lambda: len(billing.effects()) == 2)
    assert billing.effects(replay=True) == []
    assert rows("SELECT count(*) FROM evkit.group_pause") == [(0,)]


def test_member_that_knows_nothing_of_pauses_keeps_a_replay_from_beginning(evkit_system, billing):
    billing.write(0, EVENTS)
    consumer = billing.start()
    until(lambda: len(billing.effects()) == EVENTS)
    billing.stop()
    stranger = kafka.consumer(evkit_system.settings, consumer.group, **{"client.id": "stranger"})
    stranger.subscribe([billing.topic])
    until(lambda: stranger.poll(0.1) is None and stranger.assignment())
    plan = replay.plan(evkit_system, billing.group, hour_ago(), dedupe="again")
    replay_id = replay.prepare(evkit_system, plan, billing.consumer(), mode="paused")

    with pytest.raises(ReplayRefused, match=r"its member .* \(stranger at 127\.0\.0\.1\) has not answered"):
        replay.resume(evkit_system, replay_id, billing.consumer(), drain_seconds_max=2)
    stranger.close()


def test_consumers_go_on_when_the_replay_that_paused_them_is_dead(evkit_system, billing, rows):
    """As after kill -9: nobody takes the row away, and nobody gives a sign of life."""
    billing.write(0, EVENTS)
    billing.start()
    until(lambda: len(billing.effects()) == EVENTS)
    with evkit_system.writing(autocommit=True) as connection:
        group_pause.request(connection, billing.group, "replay-dead")
    until(lambda: rows("SELECT in_hand FROM evkit.group_pause_member") == [(0,)])
    billing.write(EVENTS, 1)
    with evkit_system.writing() as connection:
        connection.execute("UPDATE evkit.group_pause SET alive_at = clock_timestamp() - interval '15 s'")

    until(lambda: len(billing.effects()) == EVENTS + 1)
    assert rows("SELECT count(*) FROM evkit.group_pause_member") == [(0,)]


def paused_for_long(system, group):
    """Pause a group as a replay does whose next sign of life is an hour away: a consumer may take its time to start."""
    with system.writing(autocommit=True) as connection:
        group_pause.request(connection, group, "replay-1")
        connection.execute("UPDATE evkit.group_pause SET alive_at = clock_timestamp() + interval '1 hour'")


def test_consumer_that_starts_in_a_paused_group_handles_nothing_before_it_is_over(evkit_system, billing, rows):
    billing.write(0, EVENTS)
    billing.consumer()
    paused_for_long(evkit_system, billing.group)
    billing.start()
    until(lambda: rows("SELECT kafka_member IS NOT NULL FROM evkit.group_pause_member") == [(True,)])
    assert billing.effects() == []
    with evkit_system.writing(autocommit=True) as connection:
        group_pause.release(connection, billing.group, "replay-1")

    until(lambda: len(billing.effects()) == EVENTS)


def test_replay_that_was_asleep_for_too_long_commits_nothing_more(evkit_system, billing, rows):
    """Its hold has lapsed, and the consumers may have gone on."""
    billing.write(0, EVENTS)
    consumer = billing.consumer()
    while consumer.counts.total < EVENTS:
        consumer.step(1.0)
    consumer.close()
    slept = []

    def more(event, tx):
        if not slept:
            slept.append(event)
            with psycopg.connect(evkit_system.settings.postgres_dsn, autocommit=True) as other:
                other.execute("UPDATE evkit.group_pause SET alive_at = clock_timestamp() - interval '16 s'")

    billing.more = more
    plan = replay.plan(evkit_system, billing.group, hour_ago(), dedupe="again")

    result = replay.run(evkit_system, plan, billing.consumer(), mode="paused")

    assert (result.state, result.why) == ("stopped", "its hold on the paused group has lapsed")
    assert result.counts.handled == 0
    assert billing.effects(replay=True) == []


def test_group_is_paused_by_one_replay_at_a_time(evkit_system, billing):
    billing.consumer()
    with evkit_system.writing(autocommit=True) as connection:
        group_pause.request(connection, billing.group, "replay-1")
        with pytest.raises(ReplayRefused, match=f"group '{billing.group}' is paused by replay-1"):
            group_pause.request(connection, billing.group, "replay-2")
        assert group_pause.beat(connection, billing.group, "replay-1")
        connection.execute("UPDATE evkit.group_pause SET alive_at = clock_timestamp() - interval '15 s'")
        group_pause.request(connection, billing.group, "replay-2")
        assert not group_pause.beat(connection, billing.group, "replay-1")


def test_paused_consumer_stops_at_once_when_told_to(evkit_system, billing, rows):
    billing.write(0, EVENTS)
    billing.consumer()
    paused_for_long(evkit_system, billing.group)
    billing.start()

    billing.stop()

    assert billing.effects() == []
    assert rows("SELECT count(*) FROM evkit.group_pause_member") == [(0,)]
