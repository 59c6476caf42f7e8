"""The health report of a real incident: what it says, what it leaves, and how it looks without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from evkit import dead_letters, reporting
from evkit.runtime.dead_letters import Selection

DRAWN = "[...document.querySelectorAll('.chart')].filter(c => c.querySelector('.main-svg')).length"


@pytest.fixture
def health(incident):
    return reporting.run("health", system=incident.system, since="now-10m")


def test_report_names_the_incident(incident, health):
    of_group = [f for f in health.summary.findings if f.monitor == "dead_letters" and f.subject == incident.group]

    assert health.error is None
    assert (health.verdict, health.exit_code) == ("critical", 2)
    assert "5 open dead letters of 5 keys" in of_group[0].sentence
    assert [m.monitor for m in health.summary.monitors] == [
        "publish_rate", "relay_lag", "consumer_lag", "latency", "error_rate", "dead_letters",
    ]  # fmt: skip
    assert health.summary.unmeasured == []


@pytest.mark.needs_browser
def test_page_draws_every_chart_without_a_network_and_without_a_word_on_the_console(health, offline):
    declared = json.loads((health.path / "summary.json").read_text())["charts"]
    assert len(declared) == 7
    for scheme in ("light", "dark"):
        page, wrong = offline(health.path / "report.html", color_scheme=scheme)

        page.wait_for_function(f"{DRAWN} == {len(declared)}")

        assert page.locator(".table tbody tr").count() > 10
        assert page.locator(".tile").count() == 6
        assert page.locator("header .badge").inner_text() == "CRITICAL"
        assert wrong == []

    page.emulate_media(media="print", color_scheme="dark")  # paper is light
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


@pytest.mark.needs_browser
def test_what_an_event_says_is_never_run_nor_markup(health, offline):
    page, wrong = offline(health.path / "report.html")
    page.wait_for_function(f"{DRAWN} == 7")

    bar = page.locator("#chart-dead_letters .bars path").first
    bar.scroll_into_view_if_needed()
    box = bar.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#chart-dead_letters .hoverlayer text:has-text('onerror')")  # the error message, as text

    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert "<img src=x onerror=" in page.locator("#findings").inner_text()
    assert wrong == []


def test_looking_changes_nothing(incident):
    """P9: no row is written, no offset committed, no group made."""
    from evkit import kafka

    tables = ("evkit.outbox", "evkit.inbox", "evkit.dead_letter", "evkit.attempt", "evkit.audit", "evkit.replay_run")
    settings, admin = incident.system.settings, incident.system.admin
    before = [incident.count(t) for t in tables]
    groups = set(kafka.groups(settings, admin))

    reporting.run("health", system=incident.system, since="now-10m")

    assert [incident.count(t) for t in tables] == before
    assert not [g for g in set(kafka.groups(settings, admin)) - groups if g.startswith("evkit")]


def test_second_report_shows_what_was_done_since(incident, health):
    letters = [x.letter_id for x in dead_letters.letters(incident.system, Selection(group=incident.group))]
    dead_letters.archive(incident.system, letters, note="test data")

    second = reporting.run("health", system=incident.system, since="now-10m")

    compared = second.summary.compared_with
    assert compared["path"] == str(health.path)
    assert ("dead_letters", incident.group) in [(f["monitor"], f["subject"]) for f in compared["gone"]]
    assert "test data" in (second.path / "report.html").read_text()


def test_command_line_exits_with_the_verdict_and_compares(incident):
    evkit = [sys.executable, "-m", "evkit", "report"]

    def call(*arguments):
        return subprocess.run(
            [*evkit, *arguments], env=os.environ | incident.environment, capture_output=True, text=True, check=False
        )

    first = call("run", "health", "--since", "now-10m", "--format", "json")
    second = call("run", "health", "--since", "now-10m")
    compared = call("diff", "health", "--format", "json")
    listed = call("list", "--format", "json")

    assert (first.returncode, first.stderr) == (2, "")
    summary = json.loads(first.stdout)
    assert (summary["verdict"], summary["exit_code"], len(summary["monitors"])) == ("critical", 2, 6)
    assert (second.returncode, second.stderr) == (2, "")
    assert "since the report before: critical → critical" in second.stdout
    assert len(json.loads(compared.stdout)["monitors"]) == 6
    assert json.loads(listed.stdout)[0]["verdict"] == "critical"
