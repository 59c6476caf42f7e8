"""Summaries are read again by the next report, and two of them are compared."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from evkit.errors import UsageError
from evkit.reporting.comparison import compare
from evkit.reporting.summary import FindingResult, MonitorResult, Summary


def a_finding(monitor="latency", severity="critical", subject="billing", **more):
    values = {"value": 14.0, "unit": "s", "threshold": 6.0, "sentence": f"{subject} is {severity}"}
    return FindingResult(monitor=monitor, severity=severity, subject=subject, **(values | more))


def a_summary(*findings, **more):
    monitors = [MonitorResult(**f.model_dump(exclude={"next_step", "evidence"}), findings=1) for f in findings]
    values = {
        "report": "health", "notebook": "health/90_health_report", "title": "Is it?", "verdict": "critical",
        "exit_code": 2, "sentence": "critical (1 critical): x", "generated_at": datetime(2026, 2, 8, tzinfo=UTC),
    }  # fmt: skip
    return Summary(findings=list(findings), monitors=monitors, **(values | more))


def test_summary_survives_its_file(tmp_path):
    summary = a_summary(a_finding(evidence={"fingerprint": "f1", "n": 3}))

    summary.write(tmp_path)

    assert Summary.read(tmp_path) == summary
    assert Summary.read(tmp_path / "summary.json") == summary


def test_summary_of_a_newer_evkit_is_refused(tmp_path):
    summary = a_summary()
    summary.schema_version = 99
    summary.write(tmp_path)

    with pytest.raises(UsageError, match="newer evkit .summary version 99"):
        Summary.read(tmp_path)


def test_unknown_fields_of_a_later_writer_do_no_harm(tmp_path):
    path = a_summary(a_finding()).write(tmp_path)
    document = json.loads(path.read_text())
    document["moon"] = "full"
    document["findings"][0]["moon"] = "full"
    path.write_text(json.dumps(document))

    assert Summary.read(path).findings[0].subject == "billing"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 1}', "\x00"])
def test_file_that_is_no_summary_is_refused_with_its_path(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)

    with pytest.raises(UsageError, match=r"summary\.json is no summary"):
        Summary.read(tmp_path)


def test_report_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no report at"):
        Summary.read(tmp_path / "nowhere")


def test_findings_are_gone_new_or_still_there():
    before = a_summary(a_finding(subject="billing"), a_finding(subject="shipping"), a_finding("relay_lag", "ok"))
    after = a_summary(a_finding(subject="shipping", value=7.0), a_finding("relay_lag", "warning"), verdict="warning")

    found = compare(before, after)

    assert [f.subject for f in found.gone] == ["billing"]
    assert [f.monitor for f in found.new] == ["relay_lag"]
    assert [f.value for f in found.still] == [7.0]
    assert found.sentence == ("critical → warning; findings that need attention: 1 gone, 1 new, 1 still there")


def test_two_failures_of_one_group_are_two_findings():
    first, second = (a_finding("dead_letters", evidence={"fingerprint": f}) for f in ("f1", "f2"))

    found = compare(a_summary(first), a_summary(second))

    assert (len(found.gone), len(found.new), found.still) == (1, 1, [])


@pytest.mark.parametrize(
    ("before", "after", "direction"),
    [
        ("critical", "ok", "better"),
        ("ok", "unknown", "worse"),
        ("unknown", "critical", "worse"),
        ("warning", "warning", "same"),
    ],
)
def test_direction_of_a_monitor_is_that_of_its_severity(before, after, direction):
    found = compare(a_summary(a_finding(severity=before)), a_summary(a_finding(severity=after)))

    assert [change.direction for change in found.monitors] == [direction]


def test_monitor_of_one_report_only_is_new_or_gone():
    found = compare(a_summary(a_finding("latency")), a_summary(a_finding("relay_lag")))

    assert {c.monitor: c.direction for c in found.monitors} == {"relay_lag": "new", "latency": "gone"}
