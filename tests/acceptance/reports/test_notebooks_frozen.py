"""Every shipped notebook runs on a freeze, when the live system is gone."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from evkit import reporting
from evkit.freeze import take
from evkit.freeze.opened import open_freeze
from evkit.window import Window

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def frozen(incident, monkeypatch):
    """The incident, frozen and opened; the folder of loaded freezes is one that PostgreSQL's account can reach."""
    home = Path(tempfile.mkdtemp(prefix="evkit-freezes-"))
    home.chmod(0o755)
    monkeypatch.setenv("EVKIT_FREEZES_HOME", str(home))
    folder = home / "evidence"
    take.run(incident.system, take.plan(incident.system, Window.last("1h"), folder))
    system = open_freeze(folder)
    yield system
    system.close()
    shutil.rmtree(home, ignore_errors=True)


def told(summary, incident):
    """What a report says of the incident; ages and the moment of the run are those of the run."""
    ours = [f for f in summary.findings if incident.group in f.subject or incident.topic in f.subject]
    return [(f.monitor, f.severity, f.subject) for f in ours], [chart.name for chart in summary.charts]


def test_every_notebook_runs_on_a_freeze_when_the_live_system_is_gone(frozen, incident):
    live = {name: reporting.run(name, system=incident.system).summary for name in ("health_report", "what_is_wrong")}
    for future in incident.system.admin.delete_topics([incident.topic]).values():
        future.result()
    with incident.system.writing() as connection:
        connection.execute("TRUNCATE evkit.outbox, evkit.publication, evkit.inbox, evkit.attempt, evkit.dead_letter")

    runs = {spec.name: reporting.run(spec.name, system=frozen) for spec in reporting.notebooks()}
    again = reporting.run("health_report", system=frozen).summary

    assert [(name, run.error) for name, run in runs.items() if run.error is not None] == []
    assert all(run.summary.charts for run in runs.values())
    for name, summary in live.items():
        assert told(runs[name].summary, incident) == told(summary, incident)
    assert ("dead_letters", "critical", incident.group) in told(again, incident)[0]
    seen = {"monitors", "findings", "charts", "window", "verdict"}
    assert again.model_dump(include=seen) == runs["health_report"].summary.model_dump(include=seen)
