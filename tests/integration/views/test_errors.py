from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from evkit import figures, monitors, views
from evkit.cli import app
from evkit.errors import InvalidParameter, UnknownGroup
from evkit.views.frame import rows_of
from tests.integration.views.rows import deal, fail


def test_failures_are_counted_against_all_attempts_and_events_once(evkit_system, past):
    past.fail("billing", "e1", 30)
    past.fail("billing", "e1", 29, attempt=2)
    past.handle("billing", "e1", 28, written=31)
    past.fail("billing", "e2", 20, dead=True)
    past.handle("billing", "e2", 20, written=21, outcome="dead")
    past.handle("billing", "e3", 10, written=11)

    (row,) = views.error_rate(evkit_system, past.window(60)).to_dicts()

    assert (row["attempts"], row["failures"], row["events"], row["dead"]) == (5, 3, 3, 1)
    assert row["attempt_error_ratio"] == pytest.approx(3 / 5)
    assert row["event_failure_ratio"] == pytest.approx(1 / 3)
    assert row["handler"] == "shop.bill"
    assert row["bucket_seconds"] == pytest.approx(60)


def test_what_a_replay_did_is_left_out_or_a_row_of_its_own(evkit_system, past):
    past.handle("billing", "e1", 10, written=11)
    past.fail("billing", "e2", 10, replay_id="r-1")

    live = views.error_rate(evkit_system, past.window(60))
    every = views.error_rate(evkit_system, past.window(60), replays=True)

    assert live["failures"].to_list() == [0]
    assert [(r["replay"], r["failures"]) for r in every.to_dicts()] == [(False, 0), (True, 1)]


@pytest.mark.parametrize("state", ["resolved", "archived", "purged", "open"])
def test_failures_of_decided_letters_are_counted_as_dealt_with(evkit_system, past, state):
    past.fail("billing", "e1", 30, dead=True)
    past.letter("billing", "e1", 30, state=state)

    (row,) = views.error_rate(evkit_system, past.window(60)).to_dicts()

    assert row["failures"] == 1
    assert row["failures_dealt_with"] == (0 if state == "open" else 1)


def test_buckets_add_up_to_the_window(evkit_system, past):
    for i in range(20):
        past.fail("billing", f"e{i}", 3 * i + 1)
        past.handle("billing", f"e{i}", 3 * i + 0.5, written=3 * i + 2)

    whole = views.error_rate(evkit_system, past.window(60))
    cut = views.error_rate(evkit_system, past.window(60), bucket="7s")

    assert cut.height > 5
    assert cut["attempts"].sum() == whole["attempts"].sum() == 40
    assert cut["bucket_at"].min() >= past.at(60)


def test_every_failed_attempt_is_a_row_and_a_limit_keeps_the_newest(evkit_system, past, caplog):
    for i in range(5):
        past.fail("billing", f"e{i}", 10 + i)

    every = views.errors(evkit_system, past.window(60))
    two = views.errors(evkit_system, past.window(60), rows_max=2)

    assert every["event_id"].to_list() == ["e0", "e1", "e2", "e3", "e4"]
    assert two["event_id"].to_list() == ["e0", "e1"]
    assert "only the newest 2" in caplog.text


def test_an_unknown_group_is_named_with_the_ones_like_it(evkit_system, past):
    past.handle("billing", "e1", 10)

    with pytest.raises(UnknownGroup, match="did you mean 'billing'"):
        views.errors(evkit_system, group="biling")


def test_by_handler_and_version_each_has_attempts_of_its_own_and_they_add_up(evkit_system, past):
    """e1 fails in version 1 and succeeds in version 2; e2 and e3 are other handlers'."""
    fail(past, "billing", "e1", 30, code_version="1", disposition="dead")
    deal(past, "billing", "e1", 20, handler="shop.bill", code_version="2")
    deal(past, "billing", "e2", 10, handler="shop.bill", code_version="2")
    deal(past, "billing", "e3", 10, handler="shop.mail", code_version="1")
    deal(past, "billing", "e4", 10, handler="shop.mail")

    def counted(by):
        return [
            (r["handler"], r["code_version"], r["attempts"], r["failures"], r["events"], r["attempt_error_ratio"])
            for r in views.error_rate(evkit_system, past.window(60), by=by).to_dicts()
        ]

    assert counted("handler") == [("shop.bill", None, 3, 1, 2, 1 / 3), ("shop.mail", None, 2, 0, 2, 0.0)]
    assert counted(["code_version"]) == [
        ("shop.bill", "1", 2, 1, 2, 0.5), (None, "2", 2, 0, 2, 0.0), (None, None, 1, 0, 1, 0.0)
    ]  # fmt: skip
    assert sorted(counted("handler, code_version"), key=str) == sorted([
        ("shop.bill", "1", 1, 1, 1, 1.0), ("shop.bill", "2", 2, 0, 2, 0.0),
        ("shop.mail", "1", 1, 0, 1, 0.0), ("shop.mail", None, 1, 0, 1, 0.0),
    ], key=str)  # fmt: skip


def test_by_class_and_fingerprint_the_ratios_are_of_all_attempts_of_the_type(evkit_system, past):
    fail(past, "billing", "e1", 30, fingerprint="f1", disposition="dead")
    fail(past, "billing", "e2", 30, fingerprint="f2")
    fail(past, "billing", "e2", 29, fingerprint="f3", error_class="TimeoutError", attempt=2)
    deal(past, "billing", "e2", 28, handler="shop.bill")
    deal(past, "mail", "e1", 28, handler="shop.mail")

    by_class = views.error_rate(evkit_system, past.window(60), by="error_class").to_dicts()
    by_fingerprint = views.error_rate(evkit_system, past.window(60), by=["fingerprint"]).to_dicts()

    assert [(r["group"], r["error_class"], r["failures"], r["attempts"], r["dead"], r["events"]) for r in by_class] == [
        ("billing", "KeyError", 2, 4, 1, 2), ("billing", "TimeoutError", 1, 4, 0, 2), ("mail", None, 0, 1, 0, 1)
    ]  # fmt: skip
    assert by_class[0]["attempt_error_ratio"] == 0.5
    assert by_class[0]["event_failure_ratio"] == 0.5
    assert {(r["fingerprint"], r["error_class"], r["attempts"]) for r in by_fingerprint if r["group"] == "billing"} == {
        ("f1", "KeyError", 4), ("f2", "KeyError", 4), ("f3", "TimeoutError", 4)
    }  # fmt: skip


def test_attempts_of_a_handler_are_null_where_successes_have_none_written_down(evkit_system, past):
    """Rows from before evkit wrote handlers down: whose they were, nobody knows. Other buckets are known."""
    fail(past, "billing", "e1", 50)
    deal(past, "billing", "e2", 50)
    fail(past, "billing", "e3", 10)
    deal(past, "billing", "e4", 10, handler="shop.bill")

    old, _of_nobody, new = views.error_rate(evkit_system, past.window(60), by="handler", bucket="30s").to_dicts()

    assert (old["handler"], old["failures"], old["attempts"], old["attempt_error_ratio"]) == (
        "shop.bill",
        1,
        None,
        None,
    )
    assert (new["handler"], new["failures"], new["attempts"], new["attempt_error_ratio"]) == ("shop.bill", 1, 2, 0.5)


@given(
    attempts=st.lists(
        st.tuples(
            st.sampled_from(["handled", "retry", "dead"]), st.sampled_from(["shop.bill", "shop.mail"]),
            st.sampled_from(["1", "2", None]), st.sampled_from(["f1", "f2"]), st.floats(1, 59),
        ), max_size=12,
    ),
    by=st.sets(st.sampled_from(["handler", "code_version", "error_class", "fingerprint"])),
)  # fmt: skip
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_it_is_by_no_failure_is_lost_or_counted_twice(evkit_system, past, attempts, by):
    past.sql("TRUNCATE evkit.attempt, evkit.inbox")
    for i, (outcome, handler, version, fingerprint, ago) in enumerate(attempts):
        if outcome == "handled":
            deal(past, "billing", f"e{i}", ago, handler=handler, code_version=version)
        else:
            fail(past, "billing", f"e{i}", ago, handler=handler, code_version=version, fingerprint=fingerprint,
                 disposition=outcome)  # fmt: skip

    whole = views.error_rate(evkit_system, past.window(60), bucket="20s")
    told_apart = views.error_rate(evkit_system, past.window(60), bucket="20s", by=sorted(by))

    for column in ("failures", "dead", "held", "failures_dealt_with"):
        assert told_apart[column].sum() == whole[column].sum()
    shared = [c for c in ("bucket_at", "handler", "code_version") if c == "bucket_at" or c in by]
    of_attempts = told_apart.unique(shared) if {"error_class", "fingerprint"} & by else told_apart
    assert of_attempts["attempts"].sum() == whole["attempts"].sum() == len(attempts)
    assert of_attempts["events"].sum() == whole["events"].sum()


def test_by_something_else_is_refused_with_what_is_like_it(evkit_system):
    with pytest.raises(InvalidParameter, match=r"by 'handlr' is nothing .* did you mean 'handler'\?"):
        views.error_rate(evkit_system, by="handlr")
    with pytest.raises(InvalidParameter, match="take handler, error_class, fingerprint, code_version"):
        views.error_rate(evkit_system, by="")


def test_rows_that_share_their_attempts_are_drawn_but_not_judged(evkit_system, past):
    fail(past, "billing", "e1", 30, fingerprint="f1")
    fail(past, "billing", "e2", 30, fingerprint="f2", error_class="TimeoutError")
    deal(past, "billing", "e3", 28, handler="shop.bill")
    frame = views.error_rate(evkit_system, past.window(60), by="error_class")

    drawn = figures.error_rate(frame)

    assert drawn.layout.title.text.startswith(
        "billing · order.placed · shop.bill · KeyError failed most: 1 of 3 attempts"
    )
    assert len(set(drawn.data[0].y)) == len(rows_of(frame)) == 2
    with pytest.raises(InvalidParameter, match="without by="):
        monitors.error_rate(frame)


def test_the_command_shows_what_it_tells_failures_apart_by(evkit_system, past, monkeypatch):
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", evkit_system.settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", evkit_system.settings.bootstrap_servers)
    fail(past, "billing", "e1", 30, code_version="1.2.3")

    printed = CliRunner().invoke(app, ["view", "error_rate", "--by", "code_version,error_class"]).stdout

    assert "1.2.3" in printed
    assert "KeyError" in printed
