"""Two windows, or two versions in one: what differs is said with its interval, and what does not is left in peace."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from evkit import annotation, views
from evkit.errors import InvalidParameter, UnknownGroup, UnknownVersion
from evkit.window import Window


def fill(past, prefix, start, seconds, *, per_second=2, mean=0.2, dies=0, version=None, group="billing"):
    """Events from `start` seconds ago on, handled after about `mean` seconds; every `dies`-th becomes a dead letter.

    How long each takes is drawn, and the same in every run: of what does not differ, one in twenty looks as if it did.
    """
    past.sql("SELECT setseed(0.25)")
    past.sql(
        """
        WITH event AS (
            SELECT %(prefix)s || n AS id, n, %(at)s::timestamptz + n * %(step)s * interval '1 s' AS at,
                   %(mean)s * exp(0.8 * (random() + random() + random() - 1.5)) AS seconds,
                   %(dies)s > 0 AND n %% greatest(%(dies)s, 1) = 0 AS dead
              FROM generate_series(0, %(count)s - 1) AS n
        ), written AS (
            INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, created_at)
            SELECT id, 'order', id, 'order.placed', '{}', at FROM event ORDER BY at RETURNING position, created_at
        ), published AS (
            INSERT INTO evkit.publication SELECT position, 0, position, created_at FROM written
        ), failed AS (
            INSERT INTO evkit.attempt (consumer_group, event_id, event_type, topic, partition, "offset", attempt, failed_at,
                                       duration_seconds, error_class, error_message, stack_trace, fingerprint, disposition,
                                       code_version)
            SELECT %(group)s, id, 'order.placed', 'order', 0, 1, 1, at, 0.1, 'KeyError', 'x', 'T', 'f', 'dead', %(version)s
              FROM event WHERE dead
        )
        INSERT INTO evkit.inbox (consumer_group, event_id, event_type, topic, partition, "offset", outcome, created_at,
                                 received_at, processed_at, code_version)
        SELECT %(group)s, id, 'order.placed', 'order', 0, 1, CASE WHEN dead THEN 'dead' ELSE 'handled' END, at,
               at + seconds / 2 * interval '1 s', at + seconds * interval '1 s', %(version)s
          FROM event
        """,
        prefix=prefix, at=past.at(start), step=1 / per_second, mean=mean, dies=dies, count=seconds * per_second,
        version=version, group=group,
    )  # fmt: skip
    past.sql("ANALYZE")


def by_measure(frame):
    return {(r["measure"], r["group"] or r["topic"]): r for r in frame.to_dicts()}


def test_what_differs_is_significant_with_its_interval_and_the_rest_is_not(evkit_system, past):
    fill(past, "a", 1200, 590)
    fill(past, "b", 600, 590, per_second=6, mean=0.6, dies=4)

    found = by_measure(views.compare(evkit_system, "before", past.window(600)))

    published = found["published", "order"]
    assert (published["a"], published["b"]) == (pytest.approx(2, rel=0.03), pytest.approx(6, rel=0.03))
    assert published["low"] < published["difference"] < published["high"]
    assert published["ratio"] == pytest.approx(3, rel=0.05)
    ratio = found["attempt_error_ratio", "billing"]
    assert (ratio["a"], ratio["b"], ratio["ratio"]) == (0, pytest.approx(0.25, abs=0.01), None)
    p50 = found["latency_p50", "billing"]
    assert p50["b"] / p50["a"] == pytest.approx(3, rel=0.15)
    assert all(found[m, "billing"]["significant"] for m in (
        "handled", "failed", "dead", "attempt_error_ratio", "event_failure_ratio", "latency_p50", "latency_p95",
        "latency_p99", "handling_p50", "handling_p95", "handling_p99",
    ))  # fmt: skip
    assert found["latency_p50", "billing"]["text"].startswith("p50 of the end-to-end latency of billing rose from ")
    assert found["dead", "billing"]["a_n"] == 0


def test_windows_that_do_not_differ_have_no_significant_rate_or_ratio(evkit_system, past):
    fill(past, "a", 1200, 1200, dies=10)

    frame = views.compare(evkit_system, past.window(600), Window(past.at(1200), past.at(600)))

    significant = frame.filter(frame["significant"])
    assert significant["text"].to_list() == []


def test_windows_of_unequal_length_are_compared_by_rates(evkit_system, past):
    fill(past, "a", 1800, 1800)

    found = by_measure(views.compare(evkit_system, Window(past.at(1800), past.at(600)), past.window(600)))

    assert found["published", "order"]["a"] == pytest.approx(2, rel=0.02)
    assert found["published", "order"]["b"] == pytest.approx(2, rel=0.02)
    assert not found["published", "order"]["significant"]
    assert found["published", "order"]["a_n"] == pytest.approx(2 * found["published", "order"]["b_n"], rel=0.02)


def test_versions_that_ran_at_once_are_told_apart_where_the_clock_cannot(evkit_system, past):
    fill(past, "old", 600, 590, version="1.4.1")
    fill(past, "new", 600, 590, version="1.4.2", mean=1.0, dies=5)

    frame = views.compare(evkit_system, b=past.window(600), versions=("1.4.1", "1.4.2"))
    found = by_measure(frame)

    assert found["latency_p50", "billing"]["significant"]
    assert found["latency_p50", "billing"]["ratio"] == pytest.approx(5, rel=0.2)
    assert found["event_failure_ratio", "billing"]["b"] == pytest.approx(0.2, abs=0.01)
    assert "published" not in frame["measure"].to_list()
    assert "handled" not in frame["measure"].to_list()
    with pytest.raises(UnknownVersion, match="did you mean '1.4.2'"):
        views.compare(evkit_system, b=past.window(600), versions=("1.4.1", "1.4.20"))
    with pytest.raises(InvalidParameter, match="versions are two"):
        views.compare(evkit_system, versions=["1.4.1"])


def test_too_few_are_not_judged_and_nothing_is_no_zero(evkit_system, past):
    fill(past, "a", 600, 10, per_second=1)

    found = by_measure(views.compare(evkit_system, "before", past.window(600)))

    handled = found["handled", "billing"]
    assert (handled["a"], handled["b_n"], handled["ratio"]) == (0, 10, None)
    assert (handled["low"], handled["significant"]) == (None, None)
    assert "too few to judge" in handled["text"]
    assert found["latency_p50", "billing"]["a"] is None
    assert "was not measured in the first" in found["latency_p50", "billing"]["text"]


def test_the_same_hour_a_week_ago_and_an_incident_are_windows_too(evkit_system, past):
    week = 7 * 86400
    fill(past, "a", 600 + week, 590)
    fill(past, "b", 600, 590, per_second=4)
    annotation.add(evkit_system, "incident", name="INC-7", at=past.at(600), until=past.now)

    found = by_measure(views.compare(evkit_system, "week", "incident:INC-7"))

    assert found["published", "order"]["ratio"] == pytest.approx(2, rel=0.02)


def test_a_group_alone_and_bad_input(evkit_system, past):
    fill(past, "a", 600, 100)

    assert set(views.compare(evkit_system, group="billing")["group"].to_list()) == {"billing"}
    with pytest.raises(UnknownGroup, match="did you mean 'billing'"):
        views.compare(evkit_system, group="biling")
    with pytest.raises(InvalidParameter, match="it is in the future"):
        views.compare(evkit_system, b=Window(past.now + timedelta(hours=1), past.now + timedelta(hours=2)))
    with pytest.raises(InvalidParameter, match="a confidence is from"):
        views.compare(evkit_system, confidence=95)


def test_the_command_says_what_differs_and_json_has_every_row(evkit_system, past, streams):
    fill(past, "a", 1200, 590)
    fill(past, "b", 600, 600, per_second=6)

    code, printed, said = streams("compare", "--since", past.at(600).isoformat(), "--until", past.now.isoformat())
    _, document, _ = streams(
        "compare", "--since", past.at(600).isoformat(), "--until", past.now.isoformat(), "-f", "json"
    )

    assert code == 0
    assert "publish rate of order rose from " in printed
    assert "no more than chance" not in printed
    assert "of 20 that do not differ, one may seem to" in said
    assert len(json.loads(document)) == 12
    with pytest.raises(InvalidParameter, match="take week"):
        streams("compare", "--against", "weak")
