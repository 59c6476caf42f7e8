"""evkit check with a service's thresholds: objectives, tables of groups, and what consumers do."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from evkit import Event
from evkit.cli import app
from tests.integration.handling import handle_all

PROMISED = """
[slo.freshness]
objective = 0.99
target_seconds = 300
events_min = 5
[slo.correctness]
objective = 0.99
[group.nobody.slo.freshness]
objective = 0.9
"""


@pytest.fixture
def cli(evkit_system, monkeypatch, tmp_path):
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", evkit_system.settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", evkit_system.settings.bootstrap_servers)
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, words)


@pytest.fixture
def billed(evkit_system, evkit_topic, evkit_group):
    """Twenty events, all handled; → their group."""
    topic, group = evkit_topic("order"), evkit_group("billing")
    handle_all(evkit_system, group, [Event("order.placed", f"k{i}", {}, topic=topic) for i in range(20)])
    return group


def test_check_judges_objectives_and_consumers_beside_the_six(cli, billed, tmp_path):
    (tmp_path / "thresholds.toml").write_text(PROMISED)

    done = cli("check", "--thresholds", "thresholds.toml", "--format", "json")

    document = json.loads(done.stdout)
    found = {(f["monitor"], f["subject"]): f for f in document["findings"]}
    assert found["slo", f"{billed}, freshness"]["severity"] == "ok"
    assert "100.00% of 20 events were handled within 5 min" in found["slo", f"{billed}, freshness"]["sentence"]
    assert found["slo", f"{billed}, correctness"]["severity"] == "ok"
    assert any(monitor == "consumer_status" for monitor, _ in found)
    assert document["thresholds"]["slo"]["freshness"]["objective"] == 0.99
    # What was promised for a group that nobody knows was not measured, and that is not ok.
    assert found["slo", "nobody, freshness"]["severity"] == "unknown"
    assert done.exit_code == document["exit_code"] != 0


def test_events_that_wait_burn_the_budget_and_the_check_turns_critical(cli, billed, evkit_system, tmp_path):
    (tmp_path / "thresholds.toml").write_text(
        "[slo.freshness]\nobjective = 0.99\ntarget_seconds = 0.001\nevents_min = 5\n"
    )

    done = cli("check", "--thresholds", "thresholds.toml", "--format", "json")

    burning = [f for f in json.loads(done.stdout)["findings"] if f["monitor"] == "slo"]
    assert [(f["severity"], f["threshold"]) for f in burning] == [("critical", 14.4)]
    assert "the budget burns" in burning[0]["sentence"]
    assert done.exit_code == 2


def test_the_thresholds_of_a_profile_are_those_beside_its_file(cli, evkit_system, tmp_path):
    (tmp_path / "evkit.toml").write_text('[profiles.shop]\nthresholds = "shop.toml"\n')
    (tmp_path / "shop.toml").write_text("lag_seconds_critical = 777\n[group.billing]\nlag_seconds_warning = 5\n")

    shown = cli("check", "--show-thresholds", "--format", "csv").stdout

    assert "all,lag_seconds_critical,777.0" in shown
    assert "group billing,lag_seconds_warning,5" in shown


def test_a_threshold_that_nobody_knows_is_unknown_with_its_neighbour(cli, tmp_path):
    (tmp_path / "thresholds.toml").write_text("lag_second_warning = 1\n")

    done = cli("check", "--thresholds", "thresholds.toml")

    assert done.exit_code == 3
    assert "did you mean 'lag_seconds_warning'" in done.stderr
