from __future__ import annotations

import json

import pytest

from evkit import dead_letters, monitors, views
from evkit.error_texts import HIDDEN, HIDDEN_STACK
from evkit.errors import InvalidParameter, UnknownGroup
from evkit.masking import Policy
from evkit.system import System
from evkit.views.dead_letters import folded
from evkit.views.frame import rows_of


def test_a_letter_is_a_row_without_its_payload_unless_asked(evkit_system, past):
    past.letter("billing", "e1", 100, value=b'{"iban": "secret"}')
    past.letter("billing", "e2", 50, value=b"\xff\x00")
    past.letter("billing", "e3", 20, value=None)

    plain = views.dead_letters(evkit_system)
    full = views.dead_letters(evkit_system, payload=True)

    assert "secret" not in str(plain.to_dicts())
    assert plain["value_bytes"].to_list() == [18, 2, None]
    assert full["value"].to_list() == ['{"iban": "secret"}', "\\xff\x00", None]
    assert json.loads(full["headers"][0]) == [["ce_id", "e"], ["x", None]]
    assert full["stack_trace"][0] == "Traceback"


def test_letters_say_who_looks_after_them_and_which_are_on_hold(evkit_system, past):
    ids = [past.letter("billing", f"e{n}", 100 - n) for n in range(4)]
    past.letter("billing", "done", 50, state="archived")
    dead_letters.annotate(evkit_system, ids[:1], ticket="OPS-17", assignee="zofie")
    dead_letters.hold(evkit_system, ids[:3], reason="after the release")

    frame = views.dead_letters(evkit_system, "billing", "open")
    (group,) = views.dead_letter_groups(evkit_system).to_dicts()
    (count,) = views.dead_letter_count(evkit_system).to_dicts()

    assert frame.select("ticket", "assignee", "hold_reason").rows() == [
        ("OPS-17", "zofie", "after the release"),
        (None, None, "after the release"),
        (None, None, "after the release"),
        (None, None, None),
    ]
    assert frame["held_at"].null_count() == 1
    assert (group["n_open"], group["n_held"], count["open"], count["held"]) == (4, 3, 4, 3)
    assert folded(rows_of(frame))[0]["n_held"] == 3
    dead_letters.hold(evkit_system, ids, reason="after the release")
    (found,) = monitors.dead_letters(views.dead_letter_groups(evkit_system))
    assert (found.severity, found.value) == ("ok", 4)


def test_what_a_policy_hides_of_a_letter_is_not_in_its_error_either(evkit_system, past):
    past.letter("billing", "e1", 100, value=b'{"iban": "DE02-secret", "total": 5}')
    past.letter("billing", "e2", 50, value=b"DE02-secret\xff")
    past.letter("billing", "e3", 20, value=b'{"iban": "DE02-secret"}', topic="payment")
    past.sql("UPDATE evkit.dead_letter SET stack_trace = 'KeyError: DE02-secret', error_message = 'no DE02-secret'"
             " WHERE event_id = 'e1'")  # fmt: skip
    policies = (Policy(topic="order", field="iban"), Policy(topic="order", header="ce_id2"))
    masked = System(evkit_system.settings.model_copy(update={"masking": policies}))

    first, second, third = views.dead_letters(masked, payload=True).to_dicts()

    assert "secret" not in str(first) + str(second)
    assert (first["value"], first["stack_trace"], first["error_message"], first["masking"]) == (
        '{"iban":"***","total":5}', HIDDEN_STACK, HIDDEN, "masked",
    )  # fmt: skip
    assert (second["value"], second["stack_trace"], second["masking"]) == (None, None, "withheld")
    assert (third["value"], third["masking"]) == ('{"iban": "DE02-secret"}', None)


def test_letters_are_chosen_by_group_and_state(evkit_system, past):
    past.letter("billing", "e1", 100)
    past.letter("billing", "e2", 90, state="archived")
    past.letter("shipping", "e1", 80)

    assert views.dead_letters(evkit_system, "billing")["event_id"].to_list() == ["e1", "e2"]
    assert views.dead_letters(evkit_system, state="open")["group"].to_list() == ["billing", "shipping"]
    assert views.dead_letters(evkit_system, state=["archived", "purged"]).height == 1
    with pytest.raises(UnknownGroup, match="did you mean 'billing'"):
        views.dead_letters(evkit_system, "bilings")
    with pytest.raises(InvalidParameter, match="did you mean 'archived'"):
        views.dead_letters(evkit_system, state="archive")


def test_equal_failures_are_one_row_and_their_keys_tell_poison_from_systemic(evkit_system, past):
    for i in range(3):
        past.letter("billing", f"p{i}", 100 + i, key=None, fingerprint="poison")
    for i in range(8):
        past.letter("billing", f"s{i}", 50 + i, key=f"k{i}", fingerprint="bug")
    past.letter("billing", "old", 9000, key="k9", fingerprint="bug", state="resolved")

    rows = views.dead_letter_groups(evkit_system, window=past.window(3600)).to_dicts()

    bug, poison = rows
    assert (bug["n_open"], bug["n_new"], bug["n_resolved"], bug["n_keys"], bug["spread"]) == (8, 8, 1, 8, "systemic")
    assert (poison["n_open"], poison["n_keys"], poison["spread"]) == (3, 1, "poison")
    assert bug["first_seen_at"] == past.at(9000)
    assert bug["title"] == "KeyError in shop.bill"


def test_folding_a_frame_of_letters_gives_what_the_query_gives(evkit_system, past):
    for i in range(12):
        past.letter(f"g{i % 2}", f"e{i}", 100 + i, key=f"k{i % 5}", fingerprint=f"f{i % 3}",
                    state=["open", "resolved", "archived", "purged", "open"][i % 5])  # fmt: skip

    by_query = rows_of(views.dead_letter_groups(evkit_system), "dead_letter_groups")
    by_fold = folded(rows_of(views.dead_letters(evkit_system), "dead_letters"))

    for row in by_query + by_fold:
        row.pop("n_new")  # needs the window
        row.pop("letters_per_minute")
        row["oldest_open_seconds"] = row["oldest_open_seconds"] and round(row["oldest_open_seconds"])
    assert by_fold == by_query


def test_a_known_group_without_letters_has_zero_and_the_window_counts_what_came_and_went(evkit_system, past):
    past.handle("shipping", "e9", 10)
    past.letter("billing", "e1", 100)
    past.letter("billing", "e2", 100, state="resolved")
    past.letter("billing", "e3", 9000, state="archived")

    billing, shipping = views.dead_letter_count(evkit_system, past.window(600)).to_dicts()

    assert (billing["open"], billing["new"], billing["resolved"], billing["archived"]) == (1, 2, 1, 0)
    assert 100 <= billing["oldest_open_seconds"] < 160  # as old as it is when it is asked for
    assert (shipping["open"], shipping["oldest_open_seconds"]) == (0, None)
