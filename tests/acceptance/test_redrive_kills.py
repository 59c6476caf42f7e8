"""P3, P4, P6 when a redrive is killed: kill -9 at random points, in the process of `evkit dlq` and in running consumers.

    uv run pytest tests/acceptance/test_redrive_kills.py -s --kills 20 --seed 7

Two groups read one topic. One of them has a bug: a third of its events die, and others wait behind them. After the fix its
letters are redriven, and whoever runs the redrive is killed again and again. At the end every event has taken effect once,
in the order of its key, and of the other group nothing has changed: rows, inbox, offsets.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evkit import Event, Relay, dead_letters, kafka, outbox
from evkit.runtime.dead_letters import Selection
from evkit.runtime.release import parked_keys
from tests.relaying import drain

APP = Path(__file__).parent / "redrive_kills"
KEYS, EVENTS = 300, 450
LETTERS, BEHIND = 100, 50
KILLS = 2
# After a point is reached, so much later comes the kill: anywhere in a transaction, which takes 5 ms a letter.
SECONDS_MAX = 0.05


class Redriven:
    """Both groups, and processes that redrive for one of them."""

    def __init__(self, system, topic, groups):
        self.system, self.topic, (self.ours, self.other) = system, topic, groups
        self.chance = random.Random()
        self.processes = []

    def start(self, *arguments, group=None, broken=False):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EVKIT_")} | {
            "EVKIT_POSTGRES_DSN": self.system.settings.postgres_dsn,
            "EVKIT_KAFKA_BOOTSTRAP_SERVERS": self.system.settings.bootstrap_servers,
            "REDRIVE_GROUP": group or self.ours,
            "REDRIVE_TOPIC": self.topic,
            "REDRIVE_BROKEN": "1" if broken else "0",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "evkit", *arguments],
            env=environment, cwd=APP, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def end(self, process, how=signal.SIGTERM):
        process.send_signal(how)
        _, said = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), said.decode()

    def rows(self, query, *values):
        with self.system.reading() as connection:
            return connection.execute(query, values).fetchall()

    def consumed(self):
        """Both groups handle all events; ours has the bug."""
        running = {group: self.start("consume", "billing:consumer", group=group, broken=group == self.ours)
                   for group in (self.other, self.ours)}  # fmt: skip
        for group, process in running.items():
            while self.rows("SELECT count(*) FROM evkit.inbox WHERE consumer_group = %s", group) != [(EVENTS,)]:
                assert process.poll() is None, process.stderr.read().decode()
                time.sleep(0.1)
        for process in running.values():
            self.end(process)

    def state_of_other(self):
        partitions = kafka.partitions_of(self.system.settings, [self.topic])
        client = kafka.consumer(self.system.settings, self.other)
        offsets = [(tp.partition, tp.offset) for tp in client.committed(partitions)]
        client.close()
        return (
            offsets,
            self.rows("SELECT md5(string_agg(b::text, ' ' ORDER BY n)) FROM bill b WHERE grp = %s", self.other),
            self.rows(
                "SELECT md5(string_agg(i::text, ' ' ORDER BY event_id)) FROM evkit.inbox i WHERE consumer_group = %s",
                self.other,
            ),
        )

    def reached(self, process, point):
        """Wait until so many letters and events behind them are through; False: all are, or the process has ended."""
        query = "SELECT count(*) FILTER (WHERE settled_at IS NOT NULL) + sum(released) FROM evkit.redrive_letter"
        running = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        with self.system.writing(autocommit=True) as connection:
            while True:
                done = connection.execute(query).fetchone()[0]
                if done >= LETTERS + BEHIND or process.poll() is not None:
                    return False
                if done >= point and connection.execute(running).fetchone()[0]:
                    return True
                time.sleep(0.005)


@pytest.fixture
def redriven(evkit_system, evkit_topic, evkit_group, request):
    """450 events of 300 keys, handled by both groups; every third key of ours has a letter, every other of them a tail."""
    seed = request.config.getoption("--seed") or random.randrange(10**6)
    print(f"seed {seed}")  # shown when the test fails
    redriven = Redriven(evkit_system, evkit_topic(partitions=3), (evkit_group("ours"), evkit_group("other")))
    redriven.chance.seed(seed)
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE bill (n bigserial, grp text, key text, i int)")
        connection.execute("CREATE TABLE total (grp text, key text, n bigint, PRIMARY KEY (grp, key))")
        outbox.write_many(
            connection,
            [
                Event("order.placed", f"k{i % KEYS}", {"i": i, "bad": i < KEYS and i % 3 == 0}, topic=redriven.topic)
                for i in range(EVENTS)
            ],
        )
    relay = Relay(evkit_system)
    drain(relay)
    relay.close()
    redriven.consumed()
    yield redriven
    for process in redriven.processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("by", ["process", "consumers"])
def test_redrive_that_is_killed_again_and_again_loses_nothing_and_repeats_nothing(redriven, by, request):
    kills = request.config.getoption("--kills") or KILLS
    before = redriven.state_of_other()
    plan = dead_letters.plan_redrive(redriven.system, Selection(group=redriven.ours))
    assert (len(plan.letters), sum(key.events for key in plan.keys)) == (LETTERS, BEHIND)
    redrive_id = dead_letters.queue(redriven.system, plan)
    goals = sorted(redriven.chance.sample(range(LETTERS + BEHIND), kills))
    points = []

    for n in range(kills + 1):
        if by == "consumers":
            process = redriven.start("consume", "billing:consumer")
        else:
            process = redriven.start("dlq", "resume", redrive_id, "--app", "billing:consumer", "--yes")
        if n == kills or not redriven.reached(process, goals[n]):
            break
        time.sleep(redriven.chance.random() * SECONDS_MAX)
        redriven.end(process, signal.SIGKILL)
        run = dead_letters.run(redriven.system, redrive_id)
        points.append((run.resolved, run.released))
    while dead_letters.run(redriven.system, redrive_id).state != "done":
        time.sleep(0.05)
    if by == "consumers":
        redriven.end(process)
    print(f"killed {len(points)} times, at (letters, events behind them): {points}")

    run = dead_letters.run(redriven.system, redrive_id)
    assert (run.resolved, run.released, run.failed, run.skipped, run.not_tried) == (LETTERS, BEHIND, 0, 0, 0)
    assert redriven.rows("SELECT state, count(*) FROM evkit.dead_letter GROUP BY 1") == [("resolved", LETTERS)]
    assert redriven.rows(
        "SELECT outcome, count(*) FROM evkit.inbox WHERE consumer_group = %s GROUP BY 1", redriven.ours
    ) == [("handled", EVENTS)]
    assert redriven.rows("SELECT count(*), sum(n) FROM total WHERE grp = %s", redriven.ours) == [
        (KEYS, sum(range(EVENTS)))
    ]
    effects = redriven.rows("SELECT i FROM bill WHERE grp = %s ORDER BY n", redriven.ours)
    assert sorted(i for (i,) in effects) == list(range(EVENTS))
    inversions = "SELECT count(*) FROM bill a JOIN bill b USING (grp, key) WHERE grp = %s AND a.n < b.n AND a.i > b.i"
    assert redriven.rows(inversions, redriven.ours) == [(0,)]
    assert parked_keys(redriven.system) == []
    assert redriven.state_of_other() == before


def test_letters_that_are_sent_to_a_topic_are_sent_once_however_often_that_is_killed(redriven, request):
    """Half of the letters: those that nothing waits behind. Whoever comes next plans anew."""
    kills = request.config.getoption("--kills") or KILLS
    before = redriven.state_of_other()
    wanted = LETTERS - BEHIND
    sent = "SELECT count(*) FROM evkit.redrive_letter WHERE state = 'sent'"
    goals = sorted(redriven.chance.sample(range(wanted), kills))
    points = []

    for n in range(kills + 1):
        process = redriven.start(
            "dlq", "redrive", "--group", redriven.ours, "--to-topic", redriven.topic, "--rate", "20",
            "--reason", "by hand", "--yes",
        )  # fmt: skip
        while n < kills and process.poll() is None and redriven.rows(sent) < [(goals[n],)]:
            time.sleep(0.005)
        if n < kills and process.poll() is None:
            time.sleep(redriven.chance.random() * SECONDS_MAX)
            process.kill()
            points += redriven.rows(sent)
        process.communicate()
    print(f"killed {len(points)} times, at (letters): {points}")

    assert redriven.rows("SELECT state, count(*) FROM evkit.dead_letter GROUP BY 1 ORDER BY 1") == [
        ("open", BEHIND), ("resolved", wanted),
    ]  # fmt: skip
    copies = "SELECT causation_id FROM evkit.outbox WHERE headers ->> 'evkit-target-group' = %s ORDER BY 1"
    resolved = "SELECT event_id FROM evkit.dead_letter WHERE state = 'resolved' ORDER BY 1"
    assert redriven.rows(copies, redriven.ours) == redriven.rows(resolved)
    assert redriven.rows(
        "SELECT outcome, count(*) FROM evkit.inbox WHERE consumer_group = %s GROUP BY 1 ORDER BY 1", redriven.ours
    ) == [("dead", BEHIND), ("handled", EVENTS - LETTERS - BEHIND), ("parked", BEHIND), ("skipped", wanted)]
    assert redriven.state_of_other() == before
