"""`evkit demo`, as a stranger runs it: the whole story on a stack of its own, and what its JSON says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from evkit.local import Stack


@pytest.fixture(scope="module")
def demo():
    """The default demo, run once for this module, and the environment in which its stack is found."""
    home = Path(tempfile.mkdtemp(prefix="evkit-demo-"))
    home.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EVKIT_")} | {"EVKIT_LOCAL_HOME": str(home)}

    def run(*arguments, timeout=800):
        command = [sys.executable, "-m", "evkit", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=home, timeout=timeout
        )

    run.done = run("demo", "--format", "json")
    run.home = home
    yield run
    Stack(home).delete()
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.timeout(900)
def test_demo_reconciles_to_the_event(demo):
    assert demo.done.returncode == 0, demo.done.stderr
    told = json.loads(demo.done.stdout)
    assert told["problems"] == []
    assert told["counts"]["flights"] == {"expected": 4304, "service": 4304}
    assert told["counts"]["events"]["outbox"] == told["counts"]["events"]["topic_events"] == 11935
    for outcomes in told["counts"]["inbox"].values():
        assert sum(outcomes.values()) == 11935
    assert told["check"] == {"during": "critical", "after": "ok"}
    assert {(of["title"], of["spread"]) for of in told["groups"]} == {
        ("KeyError in evkit.demo.groups.count_cancelled", "systemic"),
        ("evkit.demo.groups.NoAircraft in evkit.demo.groups.plan_aircraft", "poison"),
    }
    assert told["redriven"]["resolved"] > 0
    assert [line for line in demo.done.stderr.splitlines() if "redrive: 1 of " in line or "redrive: 11 of " in line]
    assert told["redriven"]["failed"] == 0
    assert told["archived"] == 365
    assert told["replayed"]["state"] == "done"
    assert (told["replayed"]["handled"], told["replayed"]["failed"]) == (0, 0)
    assert told["replayed"]["known"] > 5_000
    for report in told["reports"]:
        assert {f.name for f in Path(report).iterdir()} >= {"report.html", "report.ipynb", "summary.json"}


def test_first_report_names_each_incident_and_the_second_none(demo):
    """The bug, the poison, the relay that hung, and the group that a slow carrier held up."""
    during, after = (
        json.loads((Path(report) / "summary.json").read_text()) for report in json.loads(demo.done.stdout)["reports"]
    )

    bad = [f for f in during["findings"] if f["severity"] != "ok"]
    named = {(f["monitor"], f["subject"]) for f in bad}
    assert {("dead_letters", "punctuality"), ("dead_letters", "maintenance"), ("latency", "turnaround")} <= named
    assert "relay_lag" in {f["monitor"] for f in bad}
    sentences = " ".join(f["sentence"] for f in bad)
    assert "KeyError in evkit.demo.groups.count_cancelled" in sentences
    assert "NoAircraft" in sentences
    assert (during["verdict"], after["verdict"]) == ("critical", "ok")
    assert [f["severity"] for f in after["findings"] if f["severity"] != "ok"] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["check", "--window", "5m"], None, "dead"),
        (["dlq", "groups", "--state", "all"], 0, "NoAircraft"),
        (["dlq", "list", "--state", "archived"], 0, "maintenance"),
        (["dlq", "list", "--group", "punctualty"], 2, "did you mean 'punctuality'"),
        (["dlq", "show", "999999"], 2, "dead letter '999999' is not known"),
        (["view", "lag", "--group", "punctuality"], 0, "flight"),
        (["view", "lga"], 2, "did you mean 'lag'"),
        (["outbox", "status"], 0, "11,935"),
        (["replay", "plan", "--group", "maintenance", "--from", "now-1h"], 0, "11,935"),
        (["replay", "plan", "--group", "maintenance", "--from", "yesterday"], 2, "is no time"),
        (["migrate", "--check"], 0, "up to date"),
        (["consume", "evkit.demo.groups:punktuality"], 2, "has no consumer 'punktuality'; it has punctuality"),
        (["dlq", "redrive"], 2, "which letters"),
        (["dlq", "purge", "1"], 2, "add --yes"),
        (["status"], 0, "up since"),
    ],
)
def test_commands_that_come_next_answer_or_refuse_in_one_sentence(demo, arguments, code, says):
    done = demo(*arguments)

    assert code is None or done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("damage", "repair", "named"),
    [
        (
            "CREATE TABLE kept AS SELECT * FROM evkit.publication WHERE position = 7;"
            "DELETE FROM evkit.publication WHERE position = 7",
            "INSERT INTO evkit.publication SELECT * FROM kept; DROP TABLE kept",
            "publication rows",
        ),
        (
            "UPDATE flights.maintenance SET legs = legs + 1 WHERE tailnum = (SELECT min(tailnum) FROM flights.maintenance)",
            "UPDATE flights.maintenance SET legs = legs - 1 WHERE tailnum = (SELECT min(tailnum) FROM flights.maintenance)",
            "aircraft whose wear differs from polars'",
        ),
    ],
)
def test_number_that_is_broken_by_hand_makes_the_demo_exit_1(demo, damage, repair, named):
    """A publication row that is gone, an effect that happened twice."""
    import psycopg

    dsn = Stack(demo.home).status().info.postgres_dsn
    with psycopg.connect(dsn) as connection:
        connection.execute(damage)
    broken = demo("demo", "--reconcile", "--format", "json")
    with psycopg.connect(dsn) as connection:
        connection.execute(repair)
    whole = demo("demo", "--reconcile")

    assert (broken.returncode, json.loads(broken.stdout)["reconciles"]) == (1, False), broken.stderr
    assert any(named in mismatch for mismatch in json.loads(broken.stdout)["mismatches"])
    assert (whole.returncode, whole.stdout.strip()) == (0, "everything adds up"), whole.stderr


@pytest.mark.timeout(300)
def test_letter_that_was_archived_is_restored_and_redriven_by_hand(demo):
    """The maintenance letters are poison for ever: a redrive fails again, says so, and the letter stays open."""
    listed = json.loads(demo("dlq", "list", "--state", "archived", "--format", "json").stdout)
    letter = str(listed[0]["letter_id"])

    assert demo("dlq", "restore", letter, "--yes").returncode == 0
    failed = demo("dlq", "redrive", letter, "--app", "evkit.demo.groups:maintenance", "--yes")
    assert (failed.returncode, "1 failed" in failed.stdout) == (1, True), failed.stderr
    shown = demo("dlq", "show", letter).stdout
    assert "NoAircraft" in shown
    assert f"evkit dlq redrive {letter}" in shown
    assert demo("dlq", "archive", letter, "--note", "still no aircraft", "--yes").returncode == 0


def test_demo_refuses_a_database_with_events_of_others(demo):
    import psycopg

    from evkit import Event, outbox

    with psycopg.connect(Stack(demo.home).status().info.postgres_dsn) as connection:
        outbox.write(connection, Event("order.placed", "o-1", {}))
    try:
        done = demo("demo")
        assert (done.returncode, "has events of order, which are not the demo's" in done.stderr) == (1, True)
    finally:
        with psycopg.connect(Stack(demo.home).status().info.postgres_dsn) as connection:
            connection.execute("DELETE FROM evkit.outbox WHERE type = 'order.placed'")


def test_day_that_is_none_is_one_sentence(demo):
    assert "is no day" in demo("demo", "--from", "monday").stderr
    assert "there are no flights" in demo("demo", "--from", "2014-01-01", "--until", "2014-01-02").stderr
