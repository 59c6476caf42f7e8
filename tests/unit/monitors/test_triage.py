"""The rules of triage on frames made by hand: what each says, what it does not say, and in which order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evkit import monitors
from evkit.errors import BrokerUnreachable
from evkit.monitors import Harm, Thresholds
from evkit.monitors.triage.evidence import VIEWS, Rates
from evkit.views.columns import COLUMNS
from evkit.views.frame import frame

NOW = datetime(2013, 2, 8, 14, tzinfo=UTC)


def measured(**rows):
    """Every frame that triage wants, empty where a test has no rows for it."""
    return {name: frame(view, rows.get(name, [])) for name, view in VIEWS.items()}


def causes(**rows):
    return monitors.triage(measured(**rows), limit=None).causes


def lag(partition=0, *, lag_seconds=400.0, lag_events=100, status="behind", group_state="stable", **more):
    return {"group": "billing", "topic": "order", "partition": partition, "lag_events": lag_events, "lost_events": 0,
            "lag_seconds": lag_seconds, "status": status, "group_state": group_state} | more  # fmt: skip


def flow(*buckets, group="billing"):
    """(published, dealt with) a second; the backlog is what is left."""
    rows, backlog = [], 0
    for n, (published, dealt_with) in enumerate(buckets):
        backlog += published - dealt_with
        rows.append({"bucket_at": NOW + timedelta(seconds=n), "bucket_seconds": 1.0, "group": group, "topic": "order",
                     "published": published, "dealt_with": dealt_with, "backlog": backlog, "partial": False})  # fmt: skip
    return rows


def letters(**more):
    return {"group": "billing", "fingerprint": "44f2", "title": "KeyError in bill", "error_class": "builtins.KeyError",
            "error_message": "'total'", "n_open": 30, "n_held": 0, "n_keys": 30, "spread": "systemic", "first_seen_at": NOW,
            "sample_letter_id": 7} | more  # fmt: skip


def names(found):
    return [cause.name for cause in found]


def test_of_a_calm_system_nothing_is_said():
    calm = causes(consumer_lag=[lag(lag_seconds=0.0, lag_events=0, status="ok")], throughput=flow(*[(20, 20)] * 9))

    assert calm == []
    assert monitors.triage(measured()).sentence == "nothing is wrong"


def test_lost_comes_before_wrong_before_late_before_noisy_and_the_greater_first():
    found = causes(
        consumer_lag=[
            lag(0, status="data_loss", lost_events=3),
            lag(0, group="small"),
            lag(0, group="great", lag_events=900),
        ],
        dead_letters=[letters(group="shipping")],
        error_rate=[{"group": "mail", "event_type": "order.placed", "attempts": 100, "failures": 30, "dead": 0,
                     "attempt_error_ratio": 0.3, "replay": False}],
    )  # fmt: skip

    assert [(c.harm, c.subject) for c in found] == [
        (Harm.lost, "billing"), (Harm.wrong, "shipping"), (Harm.late, "great"), (Harm.late, "small"), (Harm.noisy, "mail"),
    ]  # fmt: skip


def test_at_most_five_are_shown_and_the_others_are_counted():
    groups = [lag(0, group=f"g{n}", lag_events=n) for n in range(8)]

    found = monitors.triage(measured(consumer_lag=groups))

    assert len(found.causes) == 5
    assert found.more == 3
    assert found.sentence.startswith("8 things are wrong; g7 is")


def test_what_could_not_be_measured_is_told_and_is_not_taken_for_calm():
    away = BrokerUnreachable("127.0.0.1:1", "connection refused")
    found = monitors.triage(measured() | {"consumer_lag": away, "rebalances": None})

    assert found.causes == []
    assert found.unmeasured == {"consumer_lag": str(away), "rebalances": "nobody measured it"}
    assert found.sentence == "nothing is wrong in what could be measured; not measured: consumer_lag, rebalances"


def test_a_late_group_is_explained_by_the_plainest_thing_and_only_once():
    behind = {"consumer_lag": [lag(0), lag(1), lag(2)]}
    stopped = {"consumer_lag": [lag(n, group_state="empty") for n in range(3)]}
    slow = flow(*[(20, 20)] * 10, *[(20, 5)] * 10)
    surge = flow(*[(20, 20)] * 10, *[(200, 22)] * 10)
    hangs = flow(*[(20, 20)] * 10, *[(20, 0)] * 10)
    hot = {"consumer_lag": [lag(0, lag_events=1000), lag(1, lag_events=5), lag(2, lag_events=5)]}
    storm = [{"at": NOW + timedelta(seconds=n), "group": "billing", "kind": "joined"} for n in range(9)]
    failing = [{"group": "billing", "event_type": "order.placed", "attempts": 100, "failures": 60, "dead": 0,
                "attempt_error_ratio": 0.6, "replay": False}]  # fmt: skip
    held = [{"group": "billing", "handler": "bill", "state": "open", "keys": 12, "open_seconds": 40.0,
             "error_class": "ConnectionError", "error_message": "refused"}]  # fmt: skip

    assert names(causes(**stopped, throughput=slow)) == ["consumer_stopped"]
    assert names(causes(**behind, throughput=hangs)) == ["handler_hangs"]
    assert names(causes(**behind, throughput=slow)) == ["slow_consumer"]
    assert names(causes(**behind, throughput=surge)) == ["surge"]
    assert names(causes(**hot, throughput=slow)) == ["hot_key"]
    assert names(causes(**behind, throughput=slow, rebalances=storm)) == ["rebalance_storm"]
    assert names(causes(**behind, throughput=slow, breakers=held)) == ["dependency_down"]
    assert names(causes(**behind, throughput=slow, error_rate=failing)) == ["failing_handler", "flaky"]


def test_a_group_that_reads_again_what_its_inbox_has_is_not_late():
    assert causes(consumer_lag=[lag(0)], throughput=flow(*[(20, 20)] * 9)) == []


def test_a_group_of_another_framework_is_judged_by_its_lag_alone():
    assert names(causes(consumer_lag=[lag(0)])) == ["slow_consumer"]


def test_letters_are_told_apart_by_what_killed_them():
    versions = [
        {"group": "billing", "code_version": "1", "first_at": NOW - timedelta(hours=1), "handled": 90},
        {"group": "billing", "code_version": "2", "first_at": NOW, "handled": 60},
    ]
    released = letters(first_code_version="2", last_code_version="2")

    assert names(causes(dead_letters=[letters()])) == ["failing_handler"]
    assert names(causes(dead_letters=[letters(spread="poison", n_keys=1)])) == ["poison"]
    assert names(causes(dead_letters=[letters(error_class="evkit.errors.SchemaMismatch")])) == ["schema_break"]
    assert names(causes(dead_letters=[released], code_versions=versions)) == ["bad_release"]
    assert names(causes(dead_letters=[released], code_versions=versions[1:])) == ["failing_handler"]
    assert causes(dead_letters=[letters(n_open=0)]) == []
    assert causes(dead_letters=[letters(n_held=30)]) == []


def test_a_relay_that_hangs_one_that_is_gone_and_one_that_says_why_are_three_things():
    row = {"pending": 50, "oldest_pending_seconds": 90.0, "leader_pid": 7, "unpublishable": 0, "held": 0}
    refused = {"failing_error": "no authorisation", "failing_since": NOW}

    assert names(causes(relay_lag=[row])) == ["relay_stuck"]
    assert names(causes(relay_lag=[row | {"leader_pid": None}])) == ["relay_stopped"]
    assert names(causes(relay_lag=[row | refused])) == ["relay_failing"]
    assert causes(relay_lag=[row | {"oldest_pending_seconds": 3.0}]) == []


def test_a_hot_key_is_named_where_the_tables_know_it():
    key = {"group": "billing", "topic": "order", "of": "unread", "key": "customer-7", "partition": 1, "n": 80,
           "share_ratio": 0.8, "of_n": 100, "keys": 9}  # fmt: skip

    (found,) = causes(consumer_lag=[lag(0)], throughput=flow(*[(20, 20)] * 10, *[(20, 5)] * 10), hot_keys=[key])

    assert found.name == "hot_key"
    assert "80% of what is unread in order is of key 'customer-7'" in found.sentence
    few = key | {"n": 4}
    assert names(causes(consumer_lag=[lag(0)], throughput=flow((20, 5)), hot_keys=[few])) == ["slow_consumer"]


def test_events_that_end_before_they_begin_are_a_clock_and_some_milliseconds_are_not():
    row = {"group": "billing", "segment": "transit", "from_clock": "record", "to_clock": "client", "n": 200,
           "negative_ratio": 0.1, "min_seconds": -300.0, "replay": False}  # fmt: skip

    (found,) = causes(latency_segments=[row])

    assert (found.name, found.harm, found.events) == ("clock_skew", Harm.noisy, 20)
    assert causes(latency_segments=[row | {"min_seconds": -0.02}]) == []
    assert causes(latency_segments=[row | {"negative_ratio": 0.001}]) == []


def test_what_the_audit_found_is_told_where_it_was_asked_for():
    row = {"topic": "order", "group": "billing", "not_consumed_n": 3, "skipped_by_reset_n": 2, "out_of_order_n": 1}
    audited = measured() | {"audit_counts": frame("audit_counts", [row])}

    found = monitors.triage(audited).causes

    assert [(c.name, c.harm, c.events) for c in found] == [
        ("events_lost", Harm.lost, 5),
        ("events_wrong", Harm.wrong, 1),
    ]
    assert found[0].next_step == "evkit audit --topic order --group billing"
    assert "audit_counts" not in monitors.triage(measured()).unmeasured


def test_a_group_is_judged_by_its_own_thresholds():
    patient = Thresholds.of({"group": {"billing": {"lag_seconds_warning": 900, "lag_seconds_critical": 1000}}})

    assert names(causes(consumer_lag=[lag(0)])) == ["slow_consumer"]
    assert monitors.triage(measured(consumer_lag=[lag(0)]), patient).causes == []


def test_offsets_that_went_back_harm_only_a_group_without_an_inbox():
    move = {"at": NOW, "group": "billing", "topic": "order", "partition": 0, "from_offset": 90, "to_offset": 10,
            "moved_events": -80, "direction": "back", "moved_by": "outside"}  # fmt: skip

    (foreign,) = causes(offset_resets=[move])
    (known,) = causes(offset_resets=[move], throughput=flow((20, 20)))

    assert (foreign.harm, known.harm) == (Harm.wrong, Harm.noisy)
    assert foreign.events == known.events == 80
    (skipped,) = causes(offset_resets=[move | {"direction": "forward", "moved_events": 80}])
    assert (skipped.name, skipped.harm) == ("offset_skip", Harm.lost)


def test_the_onset_is_found_where_the_backlog_began_to_grow_for_good():
    rates = Rates(flow(*[(20, 20)] * 10, (40, 20), (0, 20), *[(20, 20)] * 5, *[(20, 5)] * 9))

    assert (rates.published_before, rates.dealt_with_before) == (20, 20)
    assert (rates.published, rates.dealt_with, rates.seconds) == (20, 5, 9)


def _value(column):
    return {
        "string": st.sampled_from(["billing", "ok", "behind", "open", "stop", "poison", "back", "forward", "a\nb", ""]),
        "int32": st.integers(0, 5),
        "int64": st.integers(-5, 1000),
        "float64": st.floats(0, 1e6),
        "bool": st.booleans(),
        "binary": st.binary(max_size=3),
        "time": st.just(NOW),
    }[column.dtype]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_the_frames_hold_every_cause_is_a_sentence_with_a_command(data):
    """Nulls only where the views may have them: identity columns and counts of the rows are always there."""
    rows = {}
    for name, view in VIEWS.items():
        row = st.fixed_dictionaries({c.name: _value(c) for c in COLUMNS[view]})
        rows[name] = data.draw(st.lists(row, max_size=3))

    for cause in monitors.triage(measured(**rows), Thresholds(), limit=None).causes:
        assert cause.sentence
        assert cause.likely
        assert cause.next_step.startswith("evkit ")
