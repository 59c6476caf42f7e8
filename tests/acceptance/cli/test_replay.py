"""`evkit replay` as an operator runs it: plan, run, look, stop, go on, rewind and undo; one sentence for what cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from evkit import Consumer, Event, Relay, kafka, outbox
from evkit.kafka import TopicPartition
from tests.relaying import drain

APP = """
import os, sys, time
import evkit

billing = evkit.Consumer(os.environ["TEST_GROUP"], [os.environ["TEST_TOPIC"]], batch_events_max=5,
                         retry=evkit.Retry(attempts=1))

@billing.handler("order.placed")
def bill(event, tx):
    time.sleep(float(os.environ.get("TEST_SECONDS", "0")))
    tx.execute("INSERT INTO effect VALUES (%s, %s)", (event.payload["i"], tx.replay_id))
    if os.environ.get("TEST_FAILS") == str(event.payload["i"]):
        raise ValueError("no bill \\x1b[31mhere")
"""
EVENTS = 30


class Operator:
    """Runs `evkit`, on a topic of which a group has handled everything but what a test takes away."""

    def __init__(self, system, topic, group, folder):
        self.system, self.topic, self.group, self.folder = system, topic, group, folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("EVKIT_")} | {
            "EVKIT_POSTGRES_DSN": system.settings.postgres_dsn,
            "EVKIT_KAFKA_BOOTSTRAP_SERVERS": system.settings.bootstrap_servers,
            "TEST_GROUP": group, "TEST_TOPIC": topic, "COLUMNS": "200",
        }  # fmt: skip
        (folder / "app.py").write_text(APP)

    def command(self, *arguments):
        return [sys.executable, "-m", "evkit", "replay", *map(str, arguments)]

    def run(self, *arguments, code=0, **more):
        done = subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment | more, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments, **more):
        return json.loads(self.run(*arguments, "--format", "json", **more).stdout)

    def ask(self, query, *values):
        with self.system.reading() as connection:
            return connection.execute(query, values).fetchall()


@pytest.fixture
def operator(evkit_system, evkit_topic, evkit_group, tmp_path):
    topic, group = evkit_topic(partitions=2), evkit_group()
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE effect (i int, replay_id text)")
        events = [Event("order.placed", f"k{i % 4}", {"i": i}, topic=topic) for i in range(EVENTS)]
        outbox.write_many(connection, events)
    relay = Relay(evkit_system)
    drain(relay)
    relay.close()
    consumer = Consumer(group, [topic], system=evkit_system)
    consumer.handler("order.placed")(lambda event, tx: None)
    while consumer.counts.total < EVENTS:
        consumer.step()
    consumer.close()
    return Operator(evkit_system, topic, group, tmp_path)


def test_plan_is_shown_and_changes_nothing_then_it_runs_and_is_told_of_afterwards(operator):
    with operator.system.writing() as connection:
        connection.execute("DELETE FROM evkit.inbox WHERE key = 'k1'")
    lost = operator.ask("SELECT %s - count(*) FROM evkit.inbox", EVENTS)[0][0]
    where = ("--group", operator.group, "--topic", operator.topic, "--from", "now-1h")

    plan = operator.json("plan", *where)
    shown = operator.run("plan", *where)
    dry_run = operator.run("run", *where, "--app", "app:billing", "--dry-run")
    assert operator.ask("SELECT count(*) FROM evkit.replay_run") == [(0,)]
    done = operator.json(
        "run", *where, "--app", "app:billing", "--yes", "--reason", "lost a key", TEST_FAILS="5", code=1
    )
    status = operator.json("status", done["replay_id"])
    history = operator.json("status")
    failures = operator.run("status", done["replay_id"])

    assert (plan["records"], plan["known_handled"], plan["missing"]) == (EVENTS, EVENTS - lost, lost)
    assert sum(row["end"] - row["start"] for row in plan["by_partition"]) == plan["offsets"] == EVENTS
    assert (
        f"{EVENTS - lost} of them this group has handled and are left alone, {lost} its inbox does not know"
        in shown.stderr
    )
    assert f"{lost} its inbox does not know" in dry_run.stderr
    assert (done["state"], done["handled"], done["failed"], done["parked"], done["known"]) == (
        "done", 1, 1, lost - 2, EVENTS - lost
    )  # fmt: skip
    assert (status["state"], status["offsets_done"], status["reason"]) == ("done", EVENTS, "lost a key")
    assert [row["replay_id"] for row in history] == [done["replay_id"]]
    assert "ValueError" in failures.stdout
    assert operator.ask("SELECT act, reason FROM evkit.audit") == [("replay.run", "lost a key")]


def test_running_replay_is_stopped_from_elsewhere_and_goes_on(operator):
    where = ("--group", operator.group, "--from", "now-1h", "--dedupe", "again", "--app", "app:billing", "--yes")
    process = subprocess.Popen(
        operator.command("run", *where), cwd=operator.folder, env=operator.environment | {"TEST_SECONDS": "0.8"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not operator.ask("SELECT FROM evkit.replay_run WHERE handled > 0"):
        assert process.poll() is None
        time.sleep(0.02)
    ((replay_id,),) = operator.ask("SELECT replay_id FROM evkit.replay_run")

    stopped = operator.json("stop", replay_id, "--yes", "--reason", "not now")
    assert process.wait(60) == 1
    done = operator.json("resume", replay_id, "--app", "app:billing", "--yes")
    tried = operator.run("run", *where[:4], "--dedupe", "dry", "--app", "app:billing", "--yes").stdout

    assert f"is done: {EVENTS} handled and rolled back, 0 known" in tried
    assert stopped["state"] == "stopped"
    assert (done["state"], done["handled"]) == ("done", EVENTS)
    assert operator.ask("SELECT count(*), count(DISTINCT i) FROM effect") == [(EVENTS, EVENTS)]
    operator.run("stop", replay_id, "--yes", code=1)
    again = operator.run("resume", replay_id, "--app", "app:billing", "--yes", code=1).stderr
    assert f"replay {replay_id} is done: plan a new one" in again
    assert "runs" not in again


def test_offsets_of_a_group_that_is_not_evkits_are_rewound_and_put_back(operator, evkit_group):
    group = evkit_group("foreign")
    places = [TopicPartition(operator.topic, p) for p in (0, 1)]
    ends = kafka.offsets(operator.system.settings, places)
    client = kafka.consumer(operator.system.settings, group)
    client.commit(offsets=[TopicPartition(*place, end) for place, end in ends.items()], asynchronous=False)
    client.close()

    def committed():
        return kafka.committed(operator.system.settings, group, places)

    before = committed()
    preview = operator.json("rewind", "--group", group, "--to", "now-1h", "--dry-run")
    assert committed() == before == ends
    moved = operator.json("rewind", "--group", group, "--to", "now-1h", "--yes")
    back = committed()
    operator.run("rewind", "--undo", moved["rewind_id"], "--yes")

    assert preview["offsets"] == moved["offsets"] == EVENTS
    assert set(back.values()) == {0}
    assert committed() == before
    assert [row["state"] for row in operator.json("rewind", "--history")] == ["undone"]


def test_what_cannot_be_replayed_or_rewound_is_one_sentence(operator):
    now = datetime.now(UTC)
    group = ("--group", operator.group)
    for arguments, code, says in (
        (("plan", *group, "--from", "now", "--until", "now-1h"), 1, "before it begins"),
        (("plan", *group, "--from", "now-1h", "--topic", operator.topic + "x"), 2, "did you mean"),
        (("plan", "--group", operator.group + "x", "--from", "now-1h"), 2, "did you mean"),
        (("plan", *group, "--from", (now + timedelta(hours=1)).isoformat()), 1, "nothing to replay"),
        (("run", *group, "--from", "now-1h", "--app", "app:nothing", "--yes"), 2, "no consumer 'nothing'"),
        (
            ("run", *group, "--from", "now-1h", "--app", "app:billing", "--mode", "alone", "--yes"),
            2,
            "beside or paused",
        ),
        (("status", "replay-nothing"), 2, "is not known"),
        (("rewind", *group, "--to", "now-1h", "--yes"), 1, "is an evkit group"),
        (("rewind", *group), 2, "needs --group and --to"),
    ):
        done = operator.run(*arguments, code=code)
        assert says in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert operator.ask("SELECT (SELECT count(*) FROM evkit.replay_run) + (SELECT count(*) FROM evkit.rewind)") == [
        (0,)
    ]
