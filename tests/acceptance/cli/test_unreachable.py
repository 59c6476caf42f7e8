"""A server that is away: one sentence with the address that was tried and without the password, and exit code 3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

NOWHERE = {
    "EVKIT_POSTGRES_DSN": "postgresql://ops:s3cret@127.0.0.1:1/orders",
    "EVKIT_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
}


def environment(tmp_path, **more):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("EVKIT_")}
    return clean | {"EVKIT_LOCAL_HOME": str(tmp_path / "none"), "XDG_CONFIG_HOME": str(tmp_path)} | more


def evkit(tmp_path, *arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "evkit", *arguments],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment(tmp_path, **more), timeout=90,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate"],
        ["migrate", "--check"],
        ["outbox", "status"],
        ["dlq", "list"],
        ["dlq", "show", "1"],
        ["dlq", "redrive", "1", "--app", "x:y", "--yes"],
        ["replay", "plan", "--group", "g", "--from", "now-1h"],
        ["view", "dead_letters"],
    ],
)
def test_database_that_is_away_is_one_sentence_without_the_password(tmp_path, arguments):
    done = evkit(tmp_path, *arguments, **NOWHERE)

    assert done.returncode == 3, done.stderr
    assert "PostgreSQL does not answer at 127.0.0.1:1/orders" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["lag"], ["lag-history", "--group", "g"], ["rebalances", "--group", "g"]])
def test_broker_that_is_away_is_one_sentence(tmp_path, evkit_database, arguments):
    (tmp_path / "evkit.toml").write_text(
        f'[profiles.p]\npostgres_dsn = "{evkit_database}"\nkafka_timeout_seconds = 1\n'
        '[profiles.p.kafka]\n"bootstrap.servers" = "127.0.0.1:1"\n'
    )

    done = evkit(tmp_path, "view", *arguments)

    assert (done.returncode, "no Kafka broker answers at 127.0.0.1:1" in done.stderr) == (3, True), done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_configured_says_what_to_do(tmp_path):
    done = evkit(tmp_path, "check")

    assert (done.returncode, "evkit up" in done.stderr) == (3, True)


@pytest.mark.parametrize("arguments", [["relay", "run"], ["consume", "evkit.demo.groups:turnaround"]])
def test_relay_and_consumer_wait_say_why_and_stop_when_asked(tmp_path, arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "evkit", *arguments],
        stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment(tmp_path, **NOWHERE),
    )  # fmt: skip
    for line in process.stderr:
        if "waits: " in line:
            break

    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[1]

    assert process.returncode == 0
    assert "127.0.0.1:1" in line
    assert "s3cret" not in line + rest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["consume", "nothing"], "names no consumer"),
        (["view", "lag-history"], "is of one consumer group: add --group NAME"),
        (["consume", "no.such:thing"], "cannot be imported"),
        (["dlq", "list", "--state", "opne"], "is no state"),
        (["dlq", "archive", "1"], "--note"),
        (
            ["replay", "run", "--group", "g", "--from", "now", "--app", "a:b", "--dedupe", "maybe"],
            "honour, again or dry",
        ),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_two(tmp_path, arguments, says):
    done = evkit(tmp_path, *arguments, **NOWHERE)

    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
