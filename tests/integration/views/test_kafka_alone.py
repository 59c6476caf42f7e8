"""A Kafka without a PostgreSQL, and groups that know nothing of evkit: what can be seen, and what is said of the rest."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from evkit import monitors, views
from evkit.cli import app
from evkit.errors import EvkitError, NoPostgres, UnknownTopic
from evkit.settings import Settings
from evkit.system import System
from evkit.window import Window
from tests.integration.views.groups import commit, produce

KAFKA = {"lag", "lag_groups", "lag_history", "consumer_status", "rebalances", "offset_resets", "scan", "scan_plan",
         "scan_coverage", "unread_keys", "appended"}  # fmt: skip


@pytest.fixture
def alone(evkit_stack):
    return System(Settings(kafka={"bootstrap.servers": evkit_stack.kafka_bootstrap_servers}))


@pytest.fixture
def cli(evkit_stack, monkeypatch, tmp_path):
    """Runs a command with nothing configured but Kafka; returns the exit code and what it printed."""
    for name in ("EVKIT_POSTGRES_DSN", "EVKIT_CONFIG", "EVKIT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", evkit_stack.kafka_bootstrap_servers)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        done = CliRunner().invoke(app, words)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout

    return run


def given(name, topic, group):
    if name in ("lag_history", "rebalances", "offset_resets", "unread_keys", "consumer_status", "lag", "lag_groups"):
        return {"group": group}
    return {"topic": topic} if name.startswith("scan") or name == "appended" else {}


def test_every_view_is_either_measured_or_says_in_a_sentence_what_it_needs(alone, evkit_topic, evkit_group):
    topic, group = evkit_topic("order"), evkit_group("theirs")
    produce(alone, topic, 5)
    commit(alone, group, topic, 2)

    for name in views.COLUMNS:
        arguments = given(name, topic, group) | ({"event_id": "e1"} if name == "journey" else {})
        if name in KAFKA:
            frame = getattr(views, name)(alone, **arguments)
            assert frame.columns[: len(views.COLUMNS[name])] == [c.name for c in views.COLUMNS[name]]
            assert frame.height or name in ("rebalances", "offset_resets"), name
        else:
            with pytest.raises(NoPostgres, match=f"not available here: views.{name} needs PostgreSQL"):
                getattr(views, name)(alone, **arguments)


def test_check_judges_what_can_be_measured_and_the_rest_is_unknown_and_says_why(alone, cli, evkit_topic, evkit_group):
    topic, group = evkit_topic("order"), evkit_group("theirs")
    produce(alone, topic, 5)
    commit(alone, group, topic, 2)

    measured = views.measure(alone, group=group)
    code, printed = cli("check", "--group", group, "--format", "json")

    assert {name for name, frame in measured.items() if not isinstance(frame, EvkitError)} == {"consumer_lag"}
    findings = {f.monitor: f for f in monitors.judge(measured).findings}
    assert findings["consumer_lag"].evidence["lag_events"] == 3
    assert findings["latency"].severity == "unknown"
    assert "not available here: views.latency needs PostgreSQL" in findings["latency"].sentence
    assert code == 3
    assert json.loads(printed)["verdict"] == "unknown"


def test_commands_say_the_sentence_and_end_with_1(cli, evkit_topic):
    topic = evkit_topic("order")

    for words in (("view", "latency"), ("journey", "e1"), ("outbox", "status"), ("dlq", "list"), ("dlq", "groups"),
                  ("migrate", "--check"), ("replay", "status")):  # fmt: skip
        with pytest.raises(NoPostgres, match="not available here") as refused:
            cli(*words)
        assert refused.value.exit_code == 1
    for words in (
        ("view", "lag"),
        ("scan", topic),
        ("view", "appended", "--topic", topic),
        ("dlq", "foreign", "--topic", topic),
    ):
        assert cli(*words)[0] == 0


def test_events_appended_are_counted_by_the_bucket_they_came_in(alone, evkit_topic):
    topic = evkit_topic(partitions=2, **{"message.timestamp.type": "CreateTime"})
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=100)
    for seconds, n, partition in ((-5, 1, 0), (0, 2, 0), (9.999, 3, 1), (10, 4, 0), (25, 5, 1)):
        produce(alone, topic, n, partition=partition, at=start + timedelta(seconds=seconds))

    found = views.appended(alone, Window(start, start + timedelta(seconds=28)), topic, bucket="10s")

    assert found["appended"].to_list() == [5, 4, 5]
    assert found["bucket_seconds"].to_list() == [10, 10, 8]
    assert found["appended_per_second"].to_list() == [0.5, 0.4, 0.625]
    assert found["partial"].to_list() == [False, False, True]
    with pytest.raises(UnknownTopic):
        views.appended(alone, topic=topic + "-no")
