"""What the findings add up to, and what thresholds may say."""

from __future__ import annotations

import pytest

from evkit.errors import BrokerUnreachable, DatabaseUnreachable, SettingsError
from evkit.monitors import Finding, Severity, Thresholds, Verdict, judge
from evkit.views.frame import frame

GONE = BrokerUnreachable("localhost:9092", "timed out")


def finding(severity: str) -> Finding:
    return Finding("latency", Severity(severity), "billing", None, "s", None, f"it is {severity}")


@pytest.mark.parametrize(
    ("severities", "worst", "exit_code"),
    [
        (["ok", "ok"], "ok", 0),
        (["ok", "warning"], "warning", 1),
        (["warning", "unknown"], "unknown", 3),
        (["unknown", "critical", "warning"], "critical", 2),
        ([], "unknown", 3),
    ],
)
def test_the_worst_finding_decides_and_critical_outranks_unknown(severities, worst, exit_code):
    verdict = Verdict.of([finding(s) for s in severities])

    assert verdict.severity == worst
    assert verdict.exit_code == exit_code
    assert [f.severity.rank for f in verdict.findings] == sorted(
        (f.severity.rank for f in verdict.findings), reverse=True
    )


def test_what_nobody_measured_is_unknown_for_each_of_the_six():
    verdict = judge({})

    assert verdict.exit_code == 3
    assert len(verdict.findings) == 6
    assert all("could not be measured" in f.sentence for f in verdict.findings)


def test_a_broker_that_is_away_leaves_what_the_database_knows_judged():
    measured = {name: frame(view, []) for name, view in (("publish_rate", "publish_rate"), ("latency", "latency"),
                ("error_rate", "error_rate"), ("dead_letters", "dead_letter_groups"))}  # fmt: skip
    measured["relay_lag"] = frame("relay_lag", [{"pending": 9, "oldest_pending_seconds": 500.0}])

    verdict = judge(measured | {"consumer_lag": GONE})

    assert verdict.severity == "critical"
    by_monitor = {f.monitor: f for f in verdict.findings}
    assert by_monitor["consumer_lag"].severity == "unknown"
    assert "no Kafka broker answers at localhost:9092" in by_monitor["consumer_lag"].sentence
    assert by_monitor["relay_lag"].severity == "critical"


def test_with_nothing_critical_seen_an_unreachable_server_is_unknown():
    gone = DatabaseUnreachable("localhost:5432/shop", "connection refused")

    verdict = judge(dict.fromkeys(("publish_rate", "relay_lag", "latency", "error_rate", "dead_letters"), gone))

    assert verdict.exit_code == 3
    assert verdict.sentence.startswith("unknown (6 unknown): publish_rate could not be measured: PostgreSQL does not")


def test_thresholds_are_read_from_a_file_and_the_rest_keep_their_defaults(tmp_path):
    path = tmp_path / "thresholds.toml"
    path.write_text("lag_seconds_warning = 5\nlag_seconds_critical = 15.5\n")

    bounds = Thresholds.read(path)

    assert (bounds.lag_seconds_warning, bounds.lag_seconds_critical) == (5, 15.5)
    assert bounds.relay_seconds_warning == Thresholds().relay_seconds_warning


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("lag_second_warning = 5", "unknown threshold 'lag_second_warning'; did you mean 'lag_seconds_warning'?"),
        ("lag_seconds_warning = 'soon'", "lag_seconds_warning: Input should be a valid number"),
        ("lag_seconds_warning = 500", "lag_seconds_warning must not be above lag_seconds_critical"),
        ("attempt_error_ratio_warning = 7", "attempt_error_ratio_warning: Input should be less than or equal to 1"),
        ("lag_seconds_warning", "cannot be read"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(tmp_path, content, sentence):
    path = tmp_path / "thresholds.toml"
    path.write_text(content)

    with pytest.raises(SettingsError) as refused:
        Thresholds.read(path)

    assert sentence in str(refused.value)
    assert "thresholds.toml" in str(refused.value)


def test_a_thresholds_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"no\.toml"):
        Thresholds.read(tmp_path / "no.toml")


def test_every_threshold_says_its_unit_in_its_name():
    for name in Thresholds().numbers():
        assert any(unit in name for unit in ("seconds", "ratio", "letters", "events", "attempts", "keys", "rebalances"))
