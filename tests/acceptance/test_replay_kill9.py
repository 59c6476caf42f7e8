"""P6 under kill -9: a replay is killed at random points and started again, and every total is exact: nothing lost, nothing
twice, nothing counted as known that the replay itself had handled; and no other group has noticed.

    uv run pytest tests/acceptance/test_replay_kill9.py --kills 20 --seed 7
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evkit import Consumer, kafka, replay
from evkit.event import new_id
from evkit.runtime.outcome import Counts
from evkit.testing.faults import kill9

APP = Path(__file__).parent / "replay_kills" / "app.py"
EVENTS, KEYS, PARTITIONS = 4000, 50, 3
KILLS = {"again": 1, "honour": 2}  # in the usual suite, where time counts
FAILS_EACH = 97  # as in app.py
EFFECTS = "SELECT id, key, i, replay_id FROM effect WHERE consumer_group = %s ORDER BY n"


class World:
    """A topic whose events two groups have handled; one of them replays."""

    def __init__(self, system, topic, groups, chance):
        self.system, self.topic, self.chance = system, topic, chance
        self.group, self.other = groups
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("EVKIT_")} | {
            "EVKIT_POSTGRES_DSN": system.settings.postgres_dsn,
            "EVKIT_KAFKA_BOOTSTRAP_SERVERS": system.settings.bootstrap_servers,
            "KILLS_GROUP": self.group, "KILLS_TOPIC": topic,
        }  # fmt: skip
        self.number = {}

    def fill(self):
        producer = kafka.producer(self.system.settings, **{"linger.ms": 5})
        for i in range(EVENTS):
            event_id = new_id()
            self.number[event_id] = i
            headers = {
                "ce_specversion": b"1.0", "ce_id": event_id.encode(), "ce_type": b"order.placed", "ce_source": b"/test",
                "ce_time": datetime.now(UTC).isoformat().encode(), "content-type": b"application/json",
            }  # fmt: skip
            producer.produce(self.topic, b'{"i": %d}' % i, b"k%d" % (i % KEYS), headers=headers)
        assert producer.flush(60) == 0

    def handle(self, group):
        """As a live group does, whose handlers have no fault yet."""
        consumer = Consumer(group, [self.topic], system=self.system)

        @consumer.handler("order.placed", pipeline=True)
        def place(event, tx):
            tx.execute(
                "INSERT INTO effect (consumer_group, id, key, i) VALUES (%s, %s, %s, %s)",
                (tx.group, event.id, event.key, event.payload["i"]),
            )

        while consumer.counts.total < EVENTS:
            consumer.step(1.0)
        consumer.close()
        assert consumer.counts == Counts(handled=EVENTS)
        return consumer

    def ask(self, query, *values):
        with self.system.reading() as connection:
            return connection.execute(query, values).fetchall()

    def seen_by(self, group):
        """Everything that a group has: effects, inbox rows, committed offsets."""
        inbox = "SELECT * FROM evkit.inbox WHERE consumer_group = %s AND generation = 0 ORDER BY event_id"
        offsets = kafka.committed(
            self.system.settings, group, kafka.partitions_of(self.system.settings, [self.topic], self.system.admin)
        )
        return self.ask(EFFECTS, group), self.ask(inbox, group), offsets

    def start(self, replay_id, folder):
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, APP, replay_id], stdout=log, stderr=log, cwd=folder, env=self.environment
            )

    def done(self, replay_id):
        """Events that the replay has brought to their end so far, and how many processes have had it in hand."""
        query = "SELECT handled + known + skipped + failed + parked, epoch FROM evkit.replay_run WHERE replay_id = %s"
        return self.ask(query, replay_id)[0]


@pytest.fixture
def world(evkit_system, evkit_topic, evkit_group, request):
    """Two groups, everything handled."""
    seed = request.config.getoption("--seed")
    seed = random.randrange(10**6) if seed is None else seed
    print(f"seed {seed}")  # shown when the test fails
    made = World(
        evkit_system, evkit_topic(partitions=PARTITIONS), (evkit_group("a"), evkit_group("b")), random.Random(seed)
    )
    with evkit_system.writing() as connection:
        connection.execute(
            "CREATE TABLE effect (n bigserial, consumer_group text, id text, key text, i int, replay_id text)"
        )
    made.fill()
    for group in (made.group, made.other):
        made.handle(group)
    return made


def killed_and_done(world, replay_id, kills, events, folder):
    """Run the replay to its end, with so many kills at random points on the way."""
    # In the first two thirds: what is left is to take longer than this process may stand still before it kills.
    moments = sorted(world.chance.sample(range(events * 2 // 3), kills))
    for n, moment in enumerate(moments, 1):
        process = world.start(replay_id, folder)
        while not all(is_at >= wanted for is_at, wanted in zip(world.done(replay_id), (moment, n), strict=True)):
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.001)
        time.sleep(world.chance.random() * 0.02)
        kill9(process.pid)
        assert process.wait() == -9, "it was over before it could be killed"
    process = world.start(replay_id, folder)
    assert process.wait(120) == 0, (folder / "log").read_text()


@pytest.mark.parametrize("dedupe", ["again", "honour"])
@pytest.mark.timeout(600)
def test_replay_that_is_killed_again_and_again_has_exact_totals_and_no_other_group_has_noticed(
    world, dedupe, request, tmp_path
):
    kills = request.config.getoption("--kills") or KILLS[dedupe]
    lost = set()
    if dedupe == "honour":  # a third of the events is as if the group had never seen it
        lost = {event_id for event_id in world.number if world.chance.random() < 1 / 3}
        with world.system.writing() as connection:
            for query in (
                "DELETE FROM evkit.inbox WHERE consumer_group = %s AND event_id = ANY(%s)",
                "DELETE FROM effect WHERE consumer_group = %s AND id = ANY(%s)",
            ):
                connection.execute(query, (world.group, list(lost)))
    before, others_before = world.seen_by(world.group), world.seen_by(world.other)
    consumer = Consumer(world.group, [world.topic], system=world.system)
    consumer.handler("order.placed")(lambda event, tx: None)
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    plan = replay.plan(world.system, world.group, hour_ago, dedupe=dedupe)
    replay_id = replay.prepare(world.system, plan, consumer, errors_max=None)

    killed_and_done(world, replay_id, kills, EVENTS, tmp_path)

    wanted = lost if dedupe == "honour" else set(world.number)
    failing = {event_id for event_id in wanted if world.number[event_id] % FAILS_EACH == 0}
    parked = set()
    if dedupe == "honour":  # behind a dead letter the later ones of its key wait, as in live handling
        first = {}
        for event_id in sorted(failing, key=world.number.get):
            first.setdefault(world.number[event_id] % KEYS, world.number[event_id])
        parked = {e for e in wanted if world.number[e] > first.get(world.number[e] % KEYS, EVENTS)}
    failing, handled = failing - parked, wanted - failing - parked
    status = replay.status(world.system, replay_id)
    assert status["state"] == "done"
    assert {name: status[name] for name in ("handled", "failed", "parked", "known", "skipped", "emitted", "epoch")} == {
        "handled": len(handled), "failed": len(failing), "parked": len(parked), "known": EVENTS - len(wanted),
        "skipped": 0, "emitted": len(handled), "epoch": kills + 1,
    }  # fmt: skip
    assert status["offsets_done"] == status["offsets"] == EVENTS
    effects = world.ask(EFFECTS, world.group)
    replayed = [row for row in effects if row[3] is not None]
    assert Counter(row[0] for row in replayed) == Counter(handled), "each once, and no other"
    assert {row[3] for row in replayed} == {replay_id}
    by_key = {}
    for _, key, number, _ in replayed:
        by_key.setdefault(key, []).append(number)
    assert all(numbers == sorted(numbers) for numbers in by_key.values()), "each key in its order"
    letters = world.ask("SELECT event_id, replay_id, consumer_group FROM evkit.dead_letter")
    assert Counter(letters) == Counter((event_id, replay_id, world.group) for event_id in failing)
    follow_ups = world.ask("SELECT (payload ->> 'i')::int, headers ->> 'evkit-replay-id' FROM evkit.outbox")
    assert Counter(follow_ups) == Counter((world.number[event_id], replay_id) for event_id in handled)
    assert world.seen_by(world.other) == others_before
    effects_before, inbox_before, offsets_before = before
    _, inbox, offsets = world.seen_by(world.group)
    assert [row for row in effects if row[3] is None] == effects_before
    assert offsets == offsets_before
    assert set(inbox_before) <= set(inbox) if dedupe == "honour" else inbox_before == inbox
