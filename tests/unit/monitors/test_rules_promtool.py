"""The alert rules as Prometheus reads them: promtool checks the file, and plays series that must alarm or must not.

Series are a value a minute; `exp` is what fires at a minute, with the sentence that people get.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from evkit.monitors import Thresholds
from evkit.monitors.rules import rule_file

PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(
    PROMTOOL is None,
    reason="promtool is missing; it is in the package prometheus, and .ci/run shows how to get it alone",
)
SHIPPED = Path(__file__).parents[3] / "reports" / "alerts.yml"
# Five hours, longer than any rule waits.
MINUTES = 300


def steady(value):
    return f"{value}x{MINUTES}"


# An endpoint that measures every minute: without it the rule about that fires, as it must.
MEASURED = {"evkit_measured_timestamp_seconds": f"0+60x{MINUTES}"}
BILLING = 'slo="freshness",group="billing",topic=""'


def burning(rates, *, enough=1):
    """Series of an objective: how fast it burns in each of its windows, and whether these have enough events."""
    found = {f'evkit_slo_burn_rate{{{BILLING},window="{w}"}}': steady(rate) for w, rate in rates.items()}
    return found | {f'evkit_slo_enough_events{{{BILLING},window="{w}"}}': steady(enough) for w in rates}


def run(*arguments, cwd):
    return subprocess.run([PROMTOOL, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def played(tmp_path):
    """Plays series against rules; returns what promtool says is otherwise than expected, or nothing."""

    def play(series, expected, minute, rules=None):
        """`expected`: by alert, (labels, summary, command) of what fires; alerts that are not named must not."""
        text = SHIPPED.read_text(encoding="utf-8") if rules is None else rules
        (tmp_path / "rules.yml").write_text(text, encoding="utf-8")
        names = {line.split(": ")[1] for line in text.splitlines() if line.lstrip().startswith("- alert: ")}
        assert expected.keys() <= names
        test = {
            "rule_files": ["rules.yml"],
            "evaluation_interval": "1m",
            "tests": [{
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in (MEASURED | series).items()],
                "alert_rule_test": [{
                    "eval_time": f"{minute}m",
                    "alertname": name,
                    "exp_alerts": [
                        {"exp_labels": labels, "exp_annotations": {"summary": summary, "command": command}}
                        for labels, summary, command in expected.get(name, ())
                    ],
                } for name in sorted(names)],
            }],
        }  # fmt: skip
        (tmp_path / "test.yml").write_text(json.dumps(test), encoding="utf-8")
        done = run("test", "rules", "test.yml", cwd=tmp_path)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    return play


def burns(window, severity, rate, of):
    summary = f"freshness of billing burns its budget {rate} times too fast over {of}"
    labels = {"slo": "freshness", "group": "billing", "topic": "", "window": window, "severity": severity}
    return [({k: v for k, v in labels.items() if v}, summary, "evkit check")]


def test_prometheus_takes_the_shipped_rules_without_a_word():
    done = run("check", "rules", "--lint-fatal", str(SHIPPED), cwd=SHIPPED.parent)

    assert done.returncode == 0, done.stderr


def test_prometheus_takes_rules_of_groups_whatever_their_names(tmp_path):
    """Alerts of several groups have one name, which a lint warns of: it would matter for recording rules."""
    odd = {'odd "name"\\ {{ $x }} $1 ´%': {"lag_seconds_critical": 700}, "b*": {"lag_seconds_critical": 800}}
    (tmp_path / "rules.yml").write_text(rule_file(Thresholds.of({"group": odd})), encoding="utf-8")

    done = run("check", "rules", "--lint=none", "rules.yml", cwd=tmp_path)

    assert done.returncode == 0, done.stderr


def test_a_calm_system_alarms_nobody(played):
    calm = {
        'evkit_consumer_lag_seconds{group="billing",topic="order",partition="0"}': steady(5),
        'evkit_latency_p99_seconds{group="billing"}': steady(1),
        'evkit_dead_letters_open{group="billing"}': steady(0),
        'evkit_attempt_error_ratio{group="billing",event_type="order.placed"}': steady(0.01),
        'evkit_attempts{group="billing",event_type="order.placed"}': steady(1000),
        "evkit_outbox_oldest_pending_seconds": steady(0),
        'evkit_monitor_measured{monitor="slo"}': steady(1),
        'evkit_consumer_status{group="billing",status="ok"}': steady(12),
        "evkit_measuring_failed": steady(0),
    }

    assert played(calm | burning(dict.fromkeys(("5m", "30m", "1h", "6h", "3d"), 0.5)), {}, MINUTES) == ""


def test_a_fast_burn_pages_after_two_minutes_and_not_before(played):
    fast = burning({"5m": 20, "30m": 1, "1h": 15, "6h": 2, "3d": 0.2})

    assert played(fast, {}, 1) == ""
    assert played(fast, {"EvkitSloBurns1h": burns("1h", "critical", 15, "1h and 5m")}, 2) == ""
    assert "EvkitSloBurns1h" in played(fast, {}, 2)


def test_a_slow_burn_is_a_warning_after_a_quarter_of_an_hour(played):
    slow = burning({"5m": 2, "30m": 2, "1h": 2, "6h": 2, "3d": 1.5})

    assert played(slow, {}, 14) == ""
    assert played(slow, {"EvkitSloBurns3d": burns("3d", "warning", 1.5, "3d and 6h")}, 15) == ""


@pytest.mark.parametrize(
    "rates",
    [
        {"5m": 0, "30m": 30, "1h": 30, "6h": 0.1, "3d": 0.1},
        {"5m": 100, "30m": 0.1, "1h": 2, "6h": 0.5, "3d": 0.1},
        {"5m": 14.3, "30m": 5.9, "1h": 14.3, "6h": 5.9, "3d": 0.9},
    ],
    ids=["over: only the long window burns", "a blip: only the short window burns", "all just below"],
)
def test_one_window_alone_or_a_rate_below_alarms_nobody(played, rates):
    assert played(burning(rates), {}, MINUTES) == ""


def test_too_few_events_alarm_nobody_however_bad_they_are(played):
    few = burning(dict.fromkeys(("5m", "30m", "1h", "6h", "3d"), 100), enough=0)

    assert played(few, {}, MINUTES) == ""


def test_windows_of_two_objectives_are_not_mixed_up(played):
    """The long window of one and the short one of the other burn: neither objective does."""
    other = 'slo="freshness",group="mail",topic=""'
    mixed = burning({"1h": 20, "5m": 0}) | {
        f'evkit_slo_burn_rate{{{other},window="5m"}}': steady(20),
        f'evkit_slo_burn_rate{{{other},window="1h"}}': steady(0),
        f'evkit_slo_enough_events{{{other},window="1h"}}': steady(1),
    }

    assert played(mixed, {}, MINUTES) == ""


def test_failed_attempts_alarm_when_there_are_enough_of_them(played):
    def failing(attempts):
        return {
            'evkit_attempt_error_ratio{group="billing",event_type="order.placed"}': steady(0.1),
            'evkit_attempts{group="billing",event_type="order.placed"}': steady(attempts),
        }

    labels = {"group": "billing", "event_type": "order.placed", "severity": "warning"}
    said = "billing: 10% of the attempts of order.placed fail"
    alarm = {"EvkitAttemptErrorsWarning": [(labels, said, "evkit view errors --group billing")]}
    assert played(failing(19), {}, MINUTES) == ""
    assert played(failing(20), alarm, MINUTES) == ""


def test_a_group_with_bounds_of_its_own_is_judged_by_them_alone(played):
    rules = rule_file(Thresholds.of({"group": {"bill*": {"lag_seconds_warning": 200, "lag_seconds_critical": 600}}}))

    def behind(group):
        return {f'evkit_consumer_lag_seconds{{group="{group}",topic="order",partition="0"}}': steady(100)}

    labels = {"group": "mail", "topic": "order", "partition": "0", "severity": "warning"}
    said = "mail is 1m 40s behind in order/0"
    alarm = {"EvkitConsumerLagWarning": [(labels, said, "evkit view lag --group mail")]}
    assert played(behind("billing"), {}, MINUTES, rules) == ""
    assert played(behind("mail"), alarm, MINUTES, rules) == ""


def test_what_measures_no_more_alarms(played):
    stopped = {"evkit_measured_timestamp_seconds": "0+60x10 600x290"}
    gone = {"evkit_measured_timestamp_seconds": f"0+60x10 stale _x{MINUTES - 11}"}
    critical = [({"severity": "critical"}, "nobody scrapes evkit metrics serve, or it is not running",
                 "evkit metrics serve")]  # fmt: skip
    stale = [({"severity": "warning"}, "nothing was measured for 10m 0s", "evkit check")]

    assert played(stopped, {"EvkitMeasuringStale": stale}, 20) == ""
    assert played(gone, {"EvkitMetricsGone": critical}, 20) == ""
