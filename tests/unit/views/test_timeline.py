"""A change names what was just before it, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.views.change_points import amount, sentence
from evkit.views.timeline import merged, nearby

AT = datetime(2013, 2, 8, 14, tzinfo=UTC)


def change(seconds=0, group="billing", text="lag of billing rose from 3 to 900"):
    return {"at": AT + timedelta(seconds=seconds), "until": None, "measure": "lag", "group": group, "topic": "orders",
            "before": 3.0, "after": 900.0, "bucket_seconds": 30.0, "source": "inbox", "text": text}  # fmt: skip


def known(seconds, kind="deploy", group="billing", version="1.4.2", until=None, text="x"):
    return {"at": AT + timedelta(seconds=seconds), "kind": kind, "group": group, "topic": None, "version": version,
            "until": None if until is None else AT + timedelta(seconds=until), "text": text, "source": "cli",
            "actor": "ada"}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (known(-120), "2 min after deploy 1.4.2 of billing"),
        (known(-40, group=None), "40 s after deploy 1.4.2"),
        (known(20), "at the time of deploy 1.4.2 of billing"),
        (known(30), None),
        (known(-601), None),
        (known(-7200, kind="replay", until=60), "2.0 h after the start of replay of billing"),
        (known(-7200, kind="replay", until=-60), None),
        (known(-60, kind="rebalance"), "60 s after rebalance of billing"),
        (known(-60, kind="offset_reset"), "60 s after offsets of billing went back"),
        (known(-60, kind="config", text="flag on"), "60 s after config 'flag on'"),
        (known(-60, kind="incident"), None),
        (known(-60, kind="note"), None),
    ],
)
def test_what_was_just_before_is_said_in_a_few_words(what, said):
    assert nearby(change(), [what]) == said


def test_a_deploy_comes_before_a_rebalance_and_the_own_group_before_another():
    rebalance, other, own = known(-10, kind="rebalance"), known(-20, group="audit"), known(-400, version="1.5")

    assert nearby(change(), [rebalance, other, own]) == (
        "7 min after deploy 1.5 of billing and 20 s after deploy 1.4.2 of audit"
    )


def test_both_are_on_one_axis_and_what_was_done_stands_before_what_changed():
    rows = merged([known(-60), known(5)], [change(0), change(5, text="lag fell")])

    assert [r["source"] for r in rows] == ["cli", "inbox", "cli", "inbox"]
    assert [(r["kind"], r["text"]) for r in rows] == [
        ("deploy", "x"),
        (
            "change",
            "lag of billing rose from 3 to 900, at the time of deploy 1.4.2 of billing and 60 s after deploy 1.4.2 of billing",  # noqa: E501
        ),
        ("deploy", "x"),
        ("change", "lag fell, at the time of deploy 1.4.2 of billing and 65 s after deploy 1.4.2 of billing"),
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(-5000, 5000), st.sampled_from(["deploy", "note", "rebalance"])), max_size=20))
def test_nothing_is_lost_and_the_order_is_that_of_time(given_):
    rows = merged([known(s, kind=k) for s, k in given_], [change(s) for s, _ in given_])

    assert len(rows) == 2 * len(given_)
    assert [r["at"] for r in rows] == sorted(r["at"] for r in rows)
    assert all(r["near"] is None or " after " in r["near"] or "at the time" in r["near"] for r in rows if "near" in r)


def test_sentences_have_numbers_with_units():
    assert (
        sentence("publish_rate", None, "orders", "rose", 20, 95.4) == "publish rate of orders rose from 20/s to 95.4/s"
    )
    assert (
        sentence("lag", "billing", "orders", "fell", 1204, 0)
        == "lag of billing on orders fell from 1,204 events to 0 events"
    )
    assert sentence("relay_lag", None, None, "rose", 0.02, 90) == "p99 of the relay lag rose from 20 ms to 90 s"
    assert amount(0.031, "0..1") == "3.1 %"
    assert amount(600, "s") == "10 min"
