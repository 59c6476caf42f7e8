"""Thresholds of a service: its own, those of groups and topics, and what is promised."""

from __future__ import annotations

import pytest

from evkit.errors import SettingsError
from evkit.monitors import Thresholds

FILE = """
lag_seconds_critical = 600

[group."bill*"]
lag_seconds_warning = 5
[group."bill*".slo.freshness]
objective = 0.999
[group.billing]
lag_seconds_warning = 7

[topic.audit]
publish_silent_seconds_warning = 86400

[slo.freshness]
objective = 0.99
target_seconds = 30
[slo.relay]
objective = 0.9999
"""


@pytest.fixture
def read(tmp_path):
    def written(text):
        path = tmp_path / "thresholds.toml"
        path.write_text(text)
        return Thresholds.read(path)

    return written


def test_a_group_is_judged_by_its_own_table_else_by_the_longest_pattern_else_as_all(read):
    bounds = read(FILE)

    assert bounds.of_group("billing").lag_seconds_warning == 7
    assert bounds.of_group("bill-2").lag_seconds_warning == 5
    assert bounds.of_group("shipping").lag_seconds_warning == 60
    assert {bounds.of_group(g).lag_seconds_critical for g in ("billing", "bill-2", "shipping")} == {600}
    assert bounds.of_topic("audit").publish_silent_seconds_warning == 86400
    assert bounds.of_topic("order").publish_silent_seconds_warning == 120


def test_every_group_is_promised_one_thing_and_takes_from_the_service_what_its_own_table_leaves_out(read):
    objectives = read(FILE).objectives()

    fresh = {g: [o for o in objectives if o.slo == "freshness" and o.applies(g)] for g in ("billing", "shipping")}
    assert [(o.objective, o.target_seconds) for o in fresh["billing"]] == [(0.999, 30)]
    assert [(o.objective, o.target_seconds) for o in fresh["shipping"]] == [(0.99, 30)]
    assert [(o.slo, o.subject, o.target_seconds) for o in objectives if o.slo == "relay"] == [("relay", "*", 10)]


def test_nothing_is_promised_by_default():
    assert Thresholds().objectives() == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lag_second_warning = 1", "unknown threshold 'lag_second_warning'; did you mean 'lag_seconds_warning'"),
        (
            "[group.billing]\nlag_second_warning = 1",
            r"\[group.billing\] has an unknown threshold 'lag_second_warning'; did",
        ),
        ("[group.billing]\nlag_seconds_warning = 900", r"\[group.billing\]: lag_seconds_warning must not be above"),
        ("[groups.billing]\nlag_seconds_warning = 9", "unknown threshold 'groups'; did you mean 'group'"),
        ("[slo.freshnes]\nobjective = 0.9", r"\[slo\] has an unknown threshold 'freshnes'; did you mean 'freshness'"),
        ("[slo.freshness]\nobjective = 99", r"slo.freshness.objective: Input should be less than 1"),
        ("[slo.freshness]\ntarget_seconds = 9", r"slo.freshness.objective: Field required"),
        ("[slo.freshness]\nobjectiv = 0.9", r"slo.freshness"),
        ("[group.a.slo.relay]\nobjective = 0.9", r"\[group.a.slo\] has an unknown threshold 'relay'"),
        ("[group.a.slo.freshness]\ntarget_seconds = 9", r"objective: Field required"),
        ("group = 3", "group: Input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_place(read, text, sentence):
    with pytest.raises(SettingsError, match=sentence):
        read(text)
