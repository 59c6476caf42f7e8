"""The six judges on frames made by hand."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evkit import monitors
from evkit.monitors import Severity, Thresholds
from evkit.views.frame import frame

NOW = datetime(2013, 2, 8, 14, tzinfo=UTC)
EVERY = st.floats(min_value=0, max_value=1e7, allow_nan=False)


def lag_row(**more):
    row = {"group": "billing", "topic": "order", "partition": 0, "committed_offset": 10, "start_offset": 0,
           "end_offset": 10, "lag_events": 0, "lag_readable_events": 0, "lost_events": 0, "backlog_events": 10,
           "lag_seconds": 0.0, "lag_seconds_method": "empty", "group_state": "stable", "status": "ok",
           "measured_at": NOW}  # fmt: skip
    return row | more


def behind(seconds, **more):
    return lag_row(lag_events=5, lag_seconds=seconds, lag_seconds_method="record", status="behind", **more)


def judged(monitor, view, rows, thresholds=None):
    return monitor(frame(view, rows), thresholds)


# --- consumer lag -----------------------------------------------------------------------------------------------------


def test_lag_is_judged_by_the_age_of_the_oldest_unread_record_and_names_its_partition():
    rows = [behind(2.0, partition=0), behind(90.0, partition=3)]

    (found,) = judged(monitors.consumer_lag, "lag", rows)

    assert found.severity == "warning"
    assert (found.value, found.threshold, found.unit) == (90.0, 60, "s")
    assert found.sentence == "billing is 90 s behind, 10 events unread, the oldest in order/3"
    assert found.next_step == "evkit view lag --group billing"


def test_a_group_that_never_committed_is_unknown_and_has_no_value():
    row = lag_row(committed_offset=None, lag_events=None, lag_seconds=None, status="no_commit", group_state=None)

    (found,) = judged(monitors.consumer_lag, "lag", [row])

    assert found.severity == "unknown"
    assert found.value is None
    assert "has committed nothing in order/0, where 10 events can be read" in found.sentence
    assert "no consumer is running" in found.sentence


def test_lost_records_are_critical_whatever_the_age():
    (found,) = judged(monitors.consumer_lag, "lag", [behind(1.0) | {"status": "data_loss", "lost_events": 600}])

    assert found.severity == "critical"
    assert "lost up to 600 events" in found.sentence


def held(seconds, **more):
    more |= {"lag_seconds_method": "open_transaction", "status": "open_transaction"}
    return lag_row(lag_events=5, lag_seconds=seconds, **more)


def test_what_waits_for_the_end_of_a_transaction_is_no_lag_of_the_group_and_is_told_when_it_is_old():
    (short,) = judged(monitors.consumer_lag, "lag", [lag_row(), held(0.5, partition=1)])
    (hanging,) = judged(monitors.consumer_lag, "lag", [lag_row(), held(900.0, partition=1)])

    assert (short.severity, short.value) == ("ok", 0.0)
    assert short.sentence == (
        "billing has read everything; 5 events in order/1 wait for the end of a transaction, since 0.5 s"
    )
    assert (hanging.severity, hanging.value, hanging.threshold) == ("critical", 900.0, 300)
    assert hanging.sentence.endswith("since 15 min: its writer hangs, or was killed")


def test_an_offset_beyond_the_end_is_a_warning_and_not_a_negative_lag():
    row = lag_row(lag_events=-40, lag_seconds=None, status="ahead")

    (found,) = judged(monitors.consumer_lag, "lag", [row])

    assert found.severity == "warning"
    assert found.value is None
    assert "beyond the end in order/0" in found.sentence


def test_what_is_seen_critical_is_not_hidden_by_a_partition_that_could_not_be_measured():
    rows = [behind(900.0), lag_row(partition=1, end_offset=None, lag_events=None, lag_seconds=None, status="unknown")]

    (found,) = judged(monitors.consumer_lag, "lag", rows)

    assert found.severity == "critical"
    assert "order/1 could not be measured" in found.sentence


def test_a_group_name_from_outside_is_quoted_in_the_next_command():
    hostile = "x; rm -rf ~ $(id)"

    (found,) = judged(monitors.consumer_lag, "lag", [behind(500.0, group=hostile)])

    assert shlex.split(found.next_step) == ["evkit", "view", "lag", "--group", hostile]


@settings(deadline=None)  # the first frame of a run loads its library
@given(st.lists(EVERY, min_size=2, max_size=2))
def test_more_lag_is_never_less_severe(ages):
    low, high = sorted(ages)
    (less,) = judged(monitors.consumer_lag, "lag", [behind(low)])
    (more,) = judged(monitors.consumer_lag, "lag", [behind(high)])
    assert less.severity.rank <= more.severity.rank


# --- publish rate -----------------------------------------------------------------------------------------------------


def buckets(written, published, seconds=10.0):
    return [
        {"bucket_at": NOW + timedelta(seconds=i * seconds), "bucket_seconds": seconds, "topic": "order", "written": w,
         "published": p, "partial": False}
        for i, (w, p) in enumerate(zip(written, published, strict=True))
    ]  # fmt: skip


def test_written_and_not_published_for_a_minute_is_critical():
    (found,) = judged(monitors.publish_rate, "publish_rate", buckets([5] * 12, [5] * 6 + [0] * 6))

    assert found.severity == "critical"
    assert (found.value, found.threshold) == (60.0, 60)
    assert found.sentence == "order: 30 events written in the last 60 s, none published"


def test_a_hold_that_is_over_is_ok():
    (found,) = judged(monitors.publish_rate, "publish_rate", buckets([5] * 12, [5, *[0] * 10, 55]))

    assert found.severity == "ok"


def test_silence_before_the_first_write_does_not_count_as_a_stop():
    (found,) = judged(monitors.publish_rate, "publish_rate", buckets([0] * 30 + [4], [0] * 31))

    assert found.severity == "ok"


def test_writing_that_was_steady_and_fell_to_zero_is_a_warning():
    rows = buckets([5] * 60 + [0] * 12, [5] * 60 + [0] * 12)

    (found,) = judged(monitors.publish_rate, "publish_rate", rows)

    assert found.severity == "warning"
    assert found.sentence == "order: nothing was written for 2 min, it had been 0.5 events/s before"


def test_a_window_too_short_to_know_what_is_usual_does_not_alarm():
    (found,) = judged(monitors.publish_rate, "publish_rate", buckets([5] * 30 + [0] * 30, [5] * 30 + [0] * 30))

    assert found.severity == "ok"


def test_buckets_before_the_first_event_are_not_zero():
    (found,) = judged(monitors.publish_rate, "publish_rate", buckets([None, None, 10], [None, None, 10]))

    assert found.value == pytest.approx(1.0)  # per second of the one bucket that is known


def test_a_topic_younger_than_the_window_is_unknown():
    (found,) = judged(monitors.publish_rate, "publish_rate", buckets([None], [None]))

    assert found.severity == "unknown"


# --- relay lag --------------------------------------------------------------------------------------------------------


def relay_row(**more):
    row = {"measured_at": NOW, "relay": "default", "pending": 0, "oldest_pending_seconds": 0.0, "moved_at": NOW,
           "published": 100, "p50_seconds": 0.02, "p95_seconds": 0.05, "p99_seconds": 0.1, "max_seconds": 0.2,
           "p99_is_lower_bound": False}  # fmt: skip
    return row | more


def test_a_relay_that_is_held_is_judged_by_what_waits_now():
    (found,) = judged(monitors.relay_lag, "relay_lag", [relay_row(pending=40, oldest_pending_seconds=130.0)])

    assert found.severity == "critical"
    assert found.sentence.startswith("40 events wait in the outbox, the oldest for 2 min 10 s; is the relay running?")
    assert found.next_step == "evkit outbox status"


def test_what_was_late_and_is_through_by_now_is_a_warning_at_most():
    (found,) = judged(monitors.relay_lag, "relay_lag", [relay_row(p99_seconds=5000.0, max_seconds=6000.0)])

    assert found.severity == "warning"
    assert found.value == 5000.0
    assert found.sentence.startswith("everything that was written is published")


def test_a_relay_that_stands_at_an_event_says_which_and_why():
    row = relay_row(pending=1, oldest_pending_seconds=3.0, failing_since=NOW, failing_error="Unknown topic",
                    failing_position=42)  # fmt: skip

    (found,) = judged(monitors.relay_lag, "relay_lag", [row])

    assert found.severity == "warning"
    assert "relay 'default' stands at position 42: Unknown topic" in found.sentence


def test_an_outbox_no_relay_ever_served_says_so():
    row = relay_row(relay=None, pending=3, oldest_pending_seconds=70.0, published=0, p50_seconds=None,
                    p95_seconds=None, p99_seconds=None, max_seconds=None)  # fmt: skip

    (found,) = judged(monitors.relay_lag, "relay_lag", [row])

    assert "no relay has ever run" in found.sentence


def test_a_relay_that_leads_and_is_late_is_not_asked_whether_it_runs():
    row = relay_row(pending=40, oldest_pending_seconds=130.0, leader_pid=4711)

    (found,) = judged(monitors.relay_lag, "relay_lag", [row])

    assert "running" not in found.sentence


def test_a_relay_that_waits_for_a_server_stands_at_no_event():
    row = relay_row(failing_since=NOW, failing_error="Kafka at b:9092 has not confirmed a batch yet: no answer")

    (found,) = judged(monitors.relay_lag, "relay_lag", [row])

    assert found.severity == "warning"
    assert "relay 'default' waits: Kafka at b:9092 has not confirmed a batch yet" in found.sentence


def test_scheduled_events_that_are_due_count_from_when_they_were():
    row = relay_row(due=2, oldest_due_seconds=130.0)

    (found,) = judged(monitors.relay_lag, "relay_lag", [row])

    assert (found.severity, found.value) == ("critical", 130.0)
    assert found.sentence.startswith("2 scheduled events are due, the oldest for 2 min 10 s")


def test_an_event_that_cannot_be_published_is_at_least_a_warning_with_the_commands_to_deal_with_it():
    row = relay_row(unpublishable=1, held=3, oldest_unpublishable_seconds=90.0)

    outbox, stuck = judged(monitors.relay_lag, "relay_lag", [row])

    assert (outbox.severity, outbox.sentence.split(";")[0]) == ("ok", "everything that can be published is")
    assert (stuck.severity, stuck.subject, stuck.value, stuck.unit) == ("warning", "unpublishable events", 4, "events")
    assert stuck.sentence == (
        "1 event cannot be published, for 90 s, and 3 later ones of the same keys wait behind: "
        "see why, then `evkit outbox retry` or `evkit outbox skip`"
    )
    assert stuck.next_step == "evkit outbox status"


def test_many_unpublishable_events_are_critical():
    row = relay_row(unpublishable=2, held=18, oldest_unpublishable_seconds=90.0)

    assert [f.severity for f in judged(monitors.relay_lag, "relay_lag", [row])] == ["ok", "critical"]


HOLE = {"hole_position": 42, "hole_seconds": 400.0, "hole_pid": 4711, "hole_pid_seconds": 500.0, "hole_database": "hr",
        "hole_state": "idle in transaction", "hole_application": "payroll"}  # fmt: skip


def test_an_old_hole_names_the_backend_that_holds_it_and_its_database():
    _, hole = judged(monitors.relay_lag, "relay_lag", [relay_row(**HOLE)])

    assert (hole.severity, hole.subject, hole.value, hole.threshold) == ("warning", "oldest hole", 400.0, 300)
    assert hole.sentence == (
        "outbox position 42 may still be filled, for 6 min 40 s now: backend 4711 (payroll) in database hr "
        "is idle in transaction, its transaction 8 min 20 s old"
    )
    assert hole.evidence["hole_pid"] == 4711


@pytest.mark.parametrize(
    ("hidden", "end"),
    [
        (("hole_pid_seconds", "hole_state", "hole_application"), "backend 4711 in database hr has a transaction open"),
        (tuple(HOLE)[2:], "no transaction that could fill it is seen: the relay has not looked again; is it running?"),
    ],
)
def test_what_is_not_known_of_the_holder_is_not_made_up(hidden, end):
    _, hole = judged(monitors.relay_lag, "relay_lag", [relay_row(**(HOLE | dict.fromkeys(hidden)))])

    assert hole.sentence.endswith(end)


def test_a_prepared_transaction_has_no_pid_and_is_named_by_what_it_is():
    row = relay_row(**(HOLE | {"hole_pid": None, "hole_state": "prepared transaction tx-7", "hole_application": None}))

    _, hole = judged(monitors.relay_lag, "relay_lag", [row])

    assert "prepared transaction tx-7 in database hr is neither committed nor rolled back" in hole.sentence


def test_a_young_hole_is_every_days_business():
    assert len(judged(monitors.relay_lag, "relay_lag", [relay_row(**(HOLE | {"hole_seconds": 299.0}))])) == 1


@settings(deadline=None)  # the first frame of a run loads its library
@given(st.lists(EVERY, min_size=2, max_size=2), EVERY)
def test_more_relay_lag_is_never_less_severe(ages, late):
    low, high = sorted(ages)
    for column in ("oldest_pending_seconds", "oldest_due_seconds", "p99_seconds"):
        other = {"oldest_pending_seconds": late, "p99_seconds": late, "max_seconds": 1e9, "pending": 1}
        (less,) = judged(monitors.relay_lag, "relay_lag", [relay_row(**(other | {column: low}))])
        (more,) = judged(monitors.relay_lag, "relay_lag", [relay_row(**(other | {column: high}))])
        assert less.severity.rank <= more.severity.rank


# --- latency ----------------------------------------------------------------------------------------------------------


def latency_row(**more):
    row = {"group": "billing", "n": 1000, "pending_n": 0, "overdue_n": 0, "unmeasured_n": 0, "p50_seconds": 0.1,
           "p95_seconds": 0.2, "p99_seconds": 0.4, "max_seconds": 0.9, "p99_is_lower_bound": False,
           "replay": False}  # fmt: skip
    return row | more


def test_a_group_that_stands_still_is_judged_by_what_waits():
    row = latency_row(n=0, pending_n=70, overdue_n=70, p50_seconds=400.0, p95_seconds=500.0, p99_seconds=600.0,
                      max_seconds=600.0, p99_is_lower_bound=True, oldest_pending_seconds=600.0)  # fmt: skip

    (found,) = judged(monitors.latency, "latency", [row])

    assert found.severity == "critical"
    assert found.sentence == "billing: no event was handled; 70 events still waiting, the oldest for 10 min"


def test_one_stuck_event_of_thousands_is_a_warning_although_no_percentile_shows_it():
    (found,) = judged(monitors.latency, "latency", [latency_row(pending_n=1, oldest_pending_seconds=3600.0)])

    assert found.severity == "warning"
    assert found.value == 3600.0


def test_a_percentile_of_few_events_says_so():
    (found,) = judged(monitors.latency, "latency", [latency_row(n=12)])

    assert "p99 of fewer than 100 is the slowest" in found.sentence


def test_handled_events_without_a_time_of_writing_are_unknown_not_fast():
    row = latency_row(n=0, unmeasured_n=9, p50_seconds=None, p95_seconds=None, p99_seconds=None, max_seconds=None)

    (found,) = judged(monitors.latency, "latency", [row])

    assert found.severity == "unknown"
    assert found.value is None


def test_replayed_events_are_not_judged():
    (found,) = judged(monitors.latency, "latency", [latency_row(p99_seconds=1e6, replay=True)])

    assert found.severity == "ok"


@settings(deadline=None)  # the first frame of a run loads its library
@given(st.lists(EVERY, min_size=2, max_size=2), st.one_of(st.none(), EVERY))
def test_more_latency_is_never_less_severe(values, oldest):
    low, high = sorted(values)
    (less,) = judged(monitors.latency, "latency", [latency_row(p99_seconds=low, oldest_pending_seconds=oldest)])
    (more,) = judged(monitors.latency, "latency", [latency_row(p99_seconds=high, oldest_pending_seconds=oldest)])
    assert less.severity.rank <= more.severity.rank


# --- error rate -------------------------------------------------------------------------------------------------------


def error_row(**more):
    row = {"bucket_at": NOW, "bucket_seconds": 600.0, "group": "billing", "event_type": "order.placed",
           "handler": "shop.bill", "attempts": 100, "failures": 30, "failures_dealt_with": 0, "events": 80, "dead": 10,
           "held": 0, "replay": False}  # fmt: skip
    return row | more


def test_a_quarter_of_failed_attempts_is_critical_and_names_the_handler():
    (found,) = judged(monitors.error_rate, "error_rate", [error_row()])

    assert found.severity == "critical"
    assert found.sentence == ("billing, order.placed: 30 of 100 attempts failed (30.0%), 10 events died, in shop.bill")


def test_failures_that_are_nobodys_fault_are_named_with_the_command_that_shows_who_is_held():
    (found,) = judged(monitors.error_rate, "error_rate", [error_row(held=12)])

    assert "12 of them held: a dependency was away" in found.sentence
    assert found.next_step.startswith("evkit breaker list --group ")


def test_failures_whose_letters_are_all_resolved_or_archived_are_dealt_with():
    (found,) = judged(monitors.error_rate, "error_rate", [error_row(failures_dealt_with=30)])

    assert found.severity == "ok"
    assert "all of it is dealt with" in found.sentence
    assert found.next_step == ""


def test_what_is_not_dealt_with_is_still_judged():
    (found,) = judged(monitors.error_rate, "error_rate", [error_row(failures=60, failures_dealt_with=30)])

    assert found.severity == "critical"
    assert found.value == pytest.approx(30 / 70)
    assert "30 of these failures are dealt with" in found.sentence


def test_a_ratio_of_too_few_attempts_fails_nothing():
    (found,) = judged(monitors.error_rate, "error_rate", [error_row(attempts=3, failures=2, events=3, dead=1)])

    assert found.severity == "ok"
    assert "too few attempts to judge" in found.sentence


def test_few_dead_events_among_many_attempts_count_more_than_their_attempts():
    row = error_row(attempts=1000, failures=10, events=1000, dead=10)

    (found,) = judged(monitors.error_rate, "error_rate", [row])

    assert found.severity == "warning"
    assert found.value == pytest.approx(0.01)


def test_failures_of_a_replay_are_not_the_live_groups():
    (found,) = judged(monitors.error_rate, "error_rate", [error_row(replay=True)])

    assert found.severity == "ok"


# --- dead letters -----------------------------------------------------------------------------------------------------


def failure_row(**more):
    row = {"group": "billing", "fingerprint": "f1", "title": "KeyError in shop.bill", "error_class": "KeyError",
           "error_message": "'total'", "handler": "shop.bill", "n_open": 2, "n_new": 2, "n_resolved": 0,
           "n_archived": 0, "n_held": 0, "n_keys": 1, "n_event_types": 1, "first_seen_at": NOW, "last_seen_at": NOW,
           "oldest_open_seconds": 60.0, "sample_letter_id": 7, "spread": "poison", "replay": False}  # fmt: skip
    return row | more


def test_a_poison_event_is_a_warning_and_points_at_the_data():
    (found,) = judged(monitors.dead_letters, "dead_letter_groups", [failure_row()])

    assert found.severity == "warning"
    assert found.sentence == (
        "billing: 2 open dead letters of 1 key, KeyError in shop.bill: 'total'; few keys: look at the data; "
        "the oldest waits for 60 s"
    )
    assert found.next_step == "evkit dlq show 7"


@pytest.mark.parametrize(
    "more",
    [{"n_open": 20}, {"n_keys": 4, "spread": "systemic"}, {"oldest_open_seconds": 90_000.0}],
    ids=["many letters", "many keys", "a day old"],
)
def test_many_letters_many_keys_or_an_old_letter_are_critical(more):
    (found,) = judged(monitors.dead_letters, "dead_letter_groups", [failure_row(**more)])

    assert found.severity == "critical"


def test_letters_that_were_redriven_or_archived_do_not_alarm():
    row = failure_row(n_open=0, n_resolved=40, n_archived=2, oldest_open_seconds=None)

    (found,) = judged(monitors.dead_letters, "dead_letter_groups", [row])

    assert found.severity == "ok"
    assert found.value == 0
    assert found.sentence == "no open dead letter; 42 letters resolved or archived"


@pytest.mark.parametrize(
    ("n_held", "severity", "words"),
    [(20, "ok", "; all are on hold"), (19, "warning", "; 19 of them are on hold"), (0, "critical", "waits for 60 s")],
)
def test_letters_on_hold_are_counted_and_do_not_alarm(n_held, severity, words):
    (found,) = judged(monitors.dead_letters, "dead_letter_groups", [failure_row(n_open=20, n_held=n_held)])

    assert (found.severity, found.value) == (severity, 20)
    assert found.sentence.endswith(words)


def test_single_letters_are_judged_as_their_groups_are():
    letters = [
        {"letter_id": i, "group": "billing", "state": state, "event_type": "order.placed", "key": f"o-{i}",
         "error_class": "KeyError", "error_message": "'total'", "fingerprint": "f1", "handler": "shop.bill",
         "first_failed_at": NOW, "failed_at": NOW, "age_seconds": 60.0, "replay": False}
        for i, state in enumerate(["open", "open", "archived", "open", "retrying", "resolved"])
    ]  # fmt: skip

    (found,) = judged(monitors.dead_letters, "dead_letters", letters)

    assert found.severity == "critical"  # four keys are open
    assert found.evidence["n_open"] == 4
    assert found.evidence["spread"] == "systemic"


def test_thresholds_move_the_verdict():
    rows = [behind(5.0)]

    assert judged(monitors.consumer_lag, "lag", rows)[0].severity == "ok"
    assert judged(monitors.consumer_lag, "lag", rows, Thresholds(lag_seconds_warning=4))[0].severity == "warning"
    assert Severity.critical.exit_code == 2
