"""The alert rules: valid YAML whatever a name holds, with the bounds that the check has."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from hypothesis import given, strategies

from evkit.monitors import Thresholds
from evkit.monitors.exported import GAUGES, window_label
from evkit.monitors.rules import rule_file

NAME = re.compile(r"\b(?:evkit|kafka)_\w+")


def loaded(values):
    return yaml.safe_load(rule_file(Thresholds.of(values)))["groups"][0]["rules"]


def test_the_rules_have_the_services_bounds_and_those_of_its_groups():
    rules = loaded(
        {
            "lag_seconds_critical": 777,
            "lag_seconds_warning": 1,
            "group": {"bill*": {"lag_seconds_critical": 70}, "billing": {"lag_seconds_critical": 7}},
        }
    )

    lag = [r["expr"] for r in rules if r["alert"] == "EvkitConsumerLagCritical"]
    assert lag == [
        'evkit_consumer_lag_seconds{group!~"bill.*|billing"} >= 777',
        'evkit_consumer_lag_seconds{group=~"bill.*",group!~"billing"} >= 70',
        'evkit_consumer_lag_seconds{group=~"billing"} >= 7',
    ]


def test_every_rule_says_what_is_so_and_what_to_type_next():
    for rule in loaded({}):
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["command"].startswith("evkit ")
        assert re.fullmatch(r"\d+m", rule["for"])
        assert NAME.findall(rule["expr"])
        assert set(NAME.findall(rule["expr"])) <= {g.name for g in GAUGES}


@given(strategies.text(min_size=1, max_size=30))
def test_a_name_cannot_break_the_file_or_an_expression(name):
    rules = loaded({"group": {name: {"lag_seconds_critical": 1000}}})

    exprs = [r["expr"] for r in rules if r["alert"] == "EvkitConsumerLagCritical"]
    assert len(exprs) == 2
    for expr in exprs:  # the label's value is one string from its quote to the end of the matchers
        assert re.fullmatch(r'evkit_consumer_lag_seconds\{group[=!]~"(?:[^"\\]|\\.)*"\} >= \d+', expr, re.DOTALL)


def test_names_of_metrics_are_of_the_fields_form_with_their_unit_last():
    for gauge in GAUGES:
        assert re.fullmatch(r"[a-z][a-z_0-9]*", gauge.name)
        assert gauge.name.endswith("_total") == ("since the server started" in gauge.meaning)


def test_the_shipped_rules_are_those_of_the_default_thresholds():
    """Written anew by `evkit metrics rules > reports/alerts.yml`, where no profile has thresholds."""
    shipped = Path(__file__).parents[3] / "reports" / "alerts.yml"

    assert shipped.read_text(encoding="utf-8") == rule_file()


def test_windows_are_written_as_prometheus_writes_durations():
    assert [window_label(s) for s in (300, 1800, 3600, 21_600, 259_200, 90)] == ["5m", "30m", "1h", "6h", "3d", "90s"]
