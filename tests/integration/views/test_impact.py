from __future__ import annotations

import pytest

from evkit import views
from evkit.errors import InvalidParameter, UnknownGroup
from evkit.views.frame import frame
from tests.integration.views.rows import deal, fail, letter, write


@pytest.fixture
def hurt(past):
    """Customer 1 is well; 2 had one late event; 3 one dead and one that waits behind it; 4 failed once and was handled."""
    for i, customer in enumerate((1, 1, 2, 3, 3, 4)):
        event, created = f"e{i}", 200 - i
        write(past, event, created, key=f"k{customer}", payload={"customer": {"id": customer}}, published=created - 1)
        common = {"created": created, "key": f"k{customer}"}
        match event:
            case "e2":
                deal(past, "billing", event, created - 30, **common)
            case "e3":
                deal(past, "billing", event, created - 2, outcome="dead", **common)
                letter(past, "billing", event, created - 2, key="k3")
                fail(past, "billing", event, created - 2, key="k3", disposition="dead")
            case "e4":
                deal(past, "billing", event, created - 2, outcome="parked", **common)
            case "e5":
                fail(past, "billing", event, created - 1, key="k4")
                deal(past, "billing", event, created - 2, **common)
            case _:
                deal(past, "billing", event, created - 2, **common)
    return past


COUNTS = ("value", "n_events", "n_harmed", "n_late", "n_failed", "n_dead", "n_dead_open", "n_pending")
EXPECTED = [(3, 2, 2, 2, 1, 1, 1, 1), (2, 1, 1, 1, 0, 0, 0, 0), (4, 1, 1, 0, 1, 0, 0, 0)]


def test_the_worst_hurt_come_first_and_who_was_not_hurt_has_no_row(evkit_system, hurt):
    frame = views.impact(evkit_system, hurt.window(600))

    assert frame.select(COUNTS).rows() == [(f"k{value}", *counts) for value, *counts in EXPECTED]
    worst = frame.to_dicts()[0]
    assert worst["delay_max_seconds"] == pytest.approx(197)
    assert worst["oldest_pending_seconds"] == pytest.approx(196)
    assert (worst["first_at"], worst["last_at"]) == (hurt.at(197), hurt.at(196))


def test_a_path_into_the_payload_and_a_function_tell_customers_apart_alike(evkit_system, hurt):
    def customer(event):
        return event["payload"]["customer"]["id"]

    by_path = views.impact(evkit_system, hurt.window(600), "$.customer.id")
    by_function = views.impact(evkit_system, hurt.window(600), customer, payload=True)

    assert by_path.select(COUNTS).rows() == [(str(value), *counts) for value, *counts in EXPECTED]
    assert by_function.drop("dimension").equals(by_path.drop("dimension"))
    assert by_function["dimension"].unique().to_list() == ["customer"]


def test_a_function_is_given_no_payload_unless_it_is_asked_for_and_its_error_is_a_sentence(evkit_system, hurt):
    given = []
    views.impact(evkit_system, hurt.window(600), given.append)

    assert len(given) == 6
    assert "payload" not in given[0]
    with pytest.raises(InvalidParameter, match="raised KeyError at e5"):
        views.impact(evkit_system, hurt.window(600), lambda event: event["customer"])


def test_limits_are_said(evkit_system, hurt, caplog):
    assert len(views.impact(evkit_system, hurt.window(600), rows_max=1)) == 1
    assert "only the 1 values with the most harm" in caplog.text
    caplog.clear()
    views.impact(evkit_system, hurt.window(600), lambda event: event["key"], events_max=2)
    assert "only the newest 2 events" in caplog.text


def test_an_event_counts_once_by_what_the_worst_group_did(evkit_system, past):
    write(past, "e1", 100, published=99)
    deal(past, "shipping", "e1", 98, created=100)
    deal(past, "billing", "e1", 50, created=100)

    both = views.impact(evkit_system, past.window(600), "event_type")
    one = views.impact(evkit_system, past.window(600), "event_type", group="shipping")

    assert both.select("n_events", "n_late").rows() == [(1, 1)]
    assert one.is_empty()
    with pytest.raises(UnknownGroup, match="did you mean 'billing'"):
        views.impact(evkit_system, group="biling")


def test_an_event_that_nobody_reads_is_pending_until_it_is_published(evkit_system, past):
    write(past, "e1", 100, topic="silent", key="a")
    write(past, "e2", 100, topic="silent", key="b", published=99)

    frame = views.impact(evkit_system, past.window(600))

    assert frame.select("value", "n_pending", "n_late").rows() == [("a", 1, 1)]


def test_events_of_another_producer_count_by_the_time_of_handling(evkit_system, past):
    deal(past, "billing", "foreign", 50, created=100, topic="theirs", key="f")

    assert views.impact(evkit_system, past.window(60)).select("value", "n_late").rows() == [("f", 1)]


def test_a_redriven_letter_is_dead_and_late_but_not_open(evkit_system, past):
    write(past, "e1", 100, published=99)
    deal(past, "billing", "e1", 40, created=100, replay_id="r-1")
    letter(past, "billing", "e1", 98, state="resolved")

    frame = views.impact(evkit_system, past.window(600))

    assert frame.select("n_late", "n_failed", "n_dead", "n_dead_open", "n_pending").rows() == [(1, 1, 1, 0, 0)]


def test_a_payload_that_jsonb_cannot_hold_has_no_value_and_breaks_nothing(evkit_system, past):
    write(past, "e1", 100)
    past.sql("UPDATE evkit.outbox SET payload = %s", '{"a": "\\u0000", "customer": 1}')

    assert views.impact(evkit_system, past.window(600), "$.customer")["value"].to_list() == [None]


@pytest.mark.parametrize("by", ["custmer", "kye", "$.a ? (@ > 1)", "$..a"])
def test_a_dimension_that_is_none_is_refused(evkit_system, by):
    with pytest.raises(InvalidParameter, match=r"did you mean 'key'|take key, event_type|is no path"):
        views.impact(evkit_system, by=by)


@pytest.mark.parametrize("frames", ["polars", "pandas"])
def test_what_an_audit_says_is_lost_counts_as_lost_and_not_as_pending(evkit_system, past, frames):
    for i in range(4):
        write(past, f"e{i}", 200 - i, key=f"k{i}", published=199 - i)
        if i != 1:
            deal(past, "billing", f"e{i}", 198 - i, created=200 - i, key=f"k{i}")
    write(past, "never", 100, key="k0")
    rows = [("e1", "billing", "not_consumed"), ("never", None, "not_published"), ("e2", "billing", "processed_twice")]
    rows.append(("e3", "shipping", "not_consumed"))
    audit = frame("audit", [{"event_id": e, "group": g, "verdict": v} for e, g, v in rows], frames)

    def found(by="key", **how):
        columns = ("value", "n_lost", "n_pending", "n_harmed")
        return views.impact(evkit_system, past.window(600), by, **how).select(columns).sort("value").rows()

    assert found() == found(lambda event: event["key"]) == [("k0", None, 1, 1), ("k1", None, 1, 1)]
    assert found(audit=audit) == [("k0", 1, 0, 1), ("k1", 1, 0, 1), ("k3", 1, 0, 1)]
    assert found(lambda event: event["key"], audit=audit) == found(audit=audit)
    assert found(audit=audit, group="billing") == [("k0", 1, 0, 1), ("k1", 1, 0, 1)]
    with pytest.raises(InvalidParameter, match=r"views\.audit"):
        found(audit=["e0"])
