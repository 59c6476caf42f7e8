"""What was when is drawn where it was, and what lasted as long as it did."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from evkit import figures
from evkit.figures import rules, template
from evkit.views.frame import frame

AT = datetime(2013, 2, 8, 14, tzinfo=UTC)


def minutes(n):
    return AT + timedelta(minutes=n)


def naive(moment):
    return moment.replace(tzinfo=None)


KNOWN = [
    {"at": minutes(0), "until": minutes(30), "kind": "incident", "text": "incident INC-1"},
    {"at": minutes(5), "kind": "deploy", "text": "deploy of 1.4.2 <b>", "version": "1.4.2"},
    {"at": minutes(6), "until": minutes(7), "kind": "rebalance", "text": "3 rebalances"},
]
CHANGES = [
    {"at": minutes(8), "kind": "change", "text": "lag rose from 3 to 900", "before": 3.0, "after": 900.0},
    {"at": minutes(20), "kind": "change", "text": "lag fell from 900 to 2", "before": 900.0, "after": 2.0},
]


def test_each_kind_has_a_lane_changes_two_and_the_first_change_is_the_title():
    drawn = figures.timeline(frame("timeline", [*KNOWN, *CHANGES]))

    lanes = {trace.y[0]: trace for trace in drawn.data if trace.mode == "markers"}
    assert list(lanes) == ["incident", "deploy", "rebalance", "a number rose", "a number fell"]
    assert lanes["a number rose"].marker.symbol == "triangle-up"
    assert lanes["deploy"].customdata[0] == "deploy of 1.4.2 &lt;b&gt;"
    assert drawn.layout.title.text == "14:08:00: lag rose from 3 to 900"
    bar = next(trace for trace in drawn.data if trace.mode == "lines" and trace.y[0] == "incident")
    assert list(bar.x[:2]) == [naive(minutes(0)), naive(minutes(30))]


def test_what_is_not_over_reaches_the_last_moment():
    still = {"at": minutes(1), "kind": "breaker", "text": "shop.bill was held, and still is"}

    drawn = figures.annotations(frame("annotations", [still, {"at": minutes(9), "kind": "note", "text": "x"}]))

    bar = next(trace for trace in drawn.data if trace.mode == "lines")
    assert bar.x[1] == naive(minutes(9))


def test_rules_are_drawn_into_another_figure_and_shade_what_lasted():
    rate = figures.publish_rate(frame("publish_rate", [
        {"bucket_at": minutes(i), "bucket_seconds": 60.0, "topic": "order", "written": 60, "published": 60,
         "written_per_second": 1.0, "published_per_second": 1.0, "partial": False} for i in range(30)
    ]))  # fmt: skip
    before = len(rate.layout.shapes)

    drawn = rules(rate, frame("annotations", KNOWN), row=1, col=1)

    lines = [s for s in drawn.layout.shapes if s.type == "line"]
    shades = [s for s in drawn.layout.shapes if s.type == "rect"]
    assert (before, len(lines), len(shades)) == (0, 3, 2)
    assert {line.x0 for line in lines} == {naive(minutes(n)) for n in (0, 5, 6)}


def test_of_many_rules_those_that_people_did_are_kept():
    many = [{"at": minutes(n), "kind": "rebalance", "text": "r"} for n in range(60)]

    drawn = rules(template.go.Figure(),
                  frame("annotations", [*many, KNOWN[1]]))  # fmt: skip

    assert len(drawn.layout.shapes) == 24
    assert naive(minutes(5)) in {s.x0 for s in drawn.layout.shapes if s.line.color == "#0072B2"}


def test_the_overview_has_a_strip_of_time_with_a_rule_for_each_annotation():
    findings = [{"severity": "ok", "monitor": "latency", "subject": "billing", "sentence": "p99 is 20 ms"}]

    plain = figures.overview(findings)
    told = figures.overview(findings, annotations=frame("timeline", [*KNOWN, *CHANGES]))

    assert [trace.type for trace in plain.data] == ["table"]
    assert [trace.type for trace in told.data] == ["table", "scatter"]
    assert len([s for s in told.layout.shapes if s.type == "line"]) == 3
    assert told.layout.height > plain.layout.height
    assert figures.overview(findings, annotations=frame("annotations", [])).layout.height == plain.layout.height
