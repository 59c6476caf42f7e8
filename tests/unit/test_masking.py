"""What a policy hides is in no form left of a payload."""

from __future__ import annotations

import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evkit.errors import SettingsError
from evkit.masking import (
    MASK,
    Policy,
    applying,
    hides,
    masked_at,
    masked_document,
    masked_headers,
    masked_text,
    masked_value,
)
from evkit.settings import Settings, load

KEY = "a key that nobody guesses"
SECRET = "geheim-7f3c@example.com"


def seen(document, *policies):
    return masked_document(document, [Policy(**p) for p in policies])


@pytest.mark.parametrize(
    ("field", "left"),
    [
        ("a.b", {"a": {"b": MASK, "c": 1}, "l": [{"b": 2}, {"b": 3}]}),
        ("a", {"a": MASK, "l": [{"b": 2}, {"b": 3}]}),
        ("l.1.b", {"a": {"b": 1, "c": 1}, "l": [{"b": 2}, {"b": MASK}]}),
        ("l[*].b", {"a": {"b": 1, "c": 1}, "l": [{"b": MASK}, {"b": MASK}]}),
        ("*.b", {"a": {"b": MASK, "c": 1}, "l": [{"b": 2}, {"b": 3}]}),
        ("**.b", {"a": {"b": MASK, "c": 1}, "l": [{"b": MASK}, {"b": MASK}]}),
        ("/a/c", {"a": {"b": 1, "c": MASK}, "l": [{"b": 2}, {"b": 3}]}),
        ("no.such", {"a": {"b": 1, "c": 1}, "l": [{"b": 2}, {"b": 3}]}),
    ],
)
def test_a_path_names_what_is_hidden_and_nothing_else(field, left):
    assert seen({"a": {"b": 1, "c": 1}, "l": [{"b": 2}, {"b": 3}]}, {"field": field}) == left


def test_a_field_is_masked_taken_out_or_replaced():
    assert seen({"a": 1, "b": 2}, {"field": "a", "action": "remove"}) == {"b": 2}
    assert seen({"a": [1, 2]}, {"field": "a.0", "action": "remove"}) == {"a": [2]}
    assert seen({"a": 1}, {"field": "a", "action": "replace", "replacement": "n/a"}) == {"a": "n/a"}


def test_policies_apply_by_topic_and_type_and_to_a_type_that_is_not_known():
    policy = Policy(topic="order*", event_type="order.*", field="a")

    assert applying([policy], "order", "order.placed") == applying([policy], "orders", None) == (policy,)
    assert not applying([policy], "payment", "order.placed")
    assert not applying([policy], "order", "payment.made")


@pytest.mark.parametrize(
    "value", [b"\xff", b"no json", b'"text"', b"", b'{"a": NaN}', b'{"data_base64": "eA=="}', b"{"]
)
def test_a_value_that_cannot_be_read_is_withheld_whole_and_only_under_a_policy(value):
    assert masked_value(value, [Policy(field="a")]) == (None, "withheld")
    assert masked_value(value, []) == masked_value(value, [Policy(header="a")]) == (value, None)


@pytest.mark.parametrize(
    "value",
    [
        '{"c": {"e": "SECRET"}, "c": {}}',
        '{"c": {"e": "x", "e": "SECRET"}}',
        '{"c": {"\\u0065": "SECRET"}}',
        '{"data": {"c": {"e": "SECRET"}}}',
        '{"schema": {}, "payload": {"c": {"e": "SECRET"}}}',
        '"{\\"c\\": {\\"e\\": \\"SECRET\\"}}"',
        '{"c": "{\\"e\\": \\"SECRET\\"}"}',
        '{"c": {"e": {"deep": ["SECRET"]}}}',
    ],
)
def test_no_way_of_writing_it_gets_past_a_policy(value):
    made, state = masked_value(value.replace("SECRET", SECRET).encode(), [Policy(field="c.e")])

    assert state == "masked"
    assert SECRET.encode() not in made


def test_a_hash_is_the_same_for_equal_values_wherever_they_are_and_another_with_another_key():
    policy = Policy(field="**.email", action="hash").keyed(KEY)
    header = Policy(header="email", action="hash").keyed(KEY)
    document = {"email": SECRET, "deep": [{"email": SECRET}, {"email": "x"}, {"email": 4711}, {"email": "4711"}]}

    seen = masked_document(document, [policy])

    assert (
        seen["email"]
        == seen["deep"][0]["email"]
        == masked_headers([("email", SECRET.encode())], [header])[0][1].decode()
    )
    assert seen["deep"][2]["email"] == seen["deep"][3]["email"]
    assert len({seen["email"], *(d["email"] for d in seen["deep"])}) == 3
    other = masked_document(document, [policy.keyed("another key of some length")])
    assert other["email"].startswith("hash:")
    assert other["email"] != seen["email"]
    digest = hmac.new(KEY.encode(), SECRET.encode(), "sha256").hexdigest()
    assert seen["email"] == f"hash:{digest[:24]}"


def test_without_a_key_nothing_is_hashed_and_nothing_is_shown():
    with pytest.raises(SettingsError, match="needs a key: set masking_key"):
        masked_document({"a": SECRET}, [Policy(field="a", action="hash")])
    with pytest.raises(ValidationError, match="needs a key: set masking_key"):
        Settings(kafka={"bootstrap.servers": "x"}, masking=({"field": "a", "action": "hash"},))
    with pytest.raises(ValidationError, match="fewer than 16 characters can be guessed"):
        Settings(kafka={"bootstrap.servers": "x"}, masking_key="short")


def test_the_key_comes_from_a_secret_of_the_profile_is_never_shown_and_goes_with_the_settings(tmp_path):
    (tmp_path / "evkit.toml").write_text(
        '[profiles.p]\nmasking_key = "env:SALT"\n[profiles.p.kafka]\n"bootstrap.servers" = "x"\n'
        '[[profiles.p.masking]]\nfield = "a"\naction = "hash"\n'
    )
    by_reference = load("p", environ={"SALT": KEY}, cwd=tmp_path)
    by_variable = load("p", environ={"SALT": "", "EVKIT_MASKING_KEY": KEY}, cwd=tmp_path)

    assert KEY not in repr(by_reference)
    assert KEY in by_reference.secrets()
    handed_over = Settings.model_validate_json(by_reference.model_dump_json())
    hashes = {masked_document({"a": 1}, s.masking)["a"] for s in (by_reference, by_variable, handed_over)}
    assert len(hashes) == 1


def test_a_part_of_a_document_is_masked_as_it_would_be_in_the_whole():
    policies = [Policy(field="a.b"), Policy(field="/odd.name"), Policy(field="l.*.x")]

    assert masked_at(SECRET, ("a", "b"), policies) == MASK
    assert masked_at({"b": SECRET, "c": 1}, ("a",), policies) == {"b": MASK, "c": 1}
    assert masked_at(SECRET, ("odd.name",), policies) == MASK
    assert masked_at(SECRET, ("l", "3", "x"), policies) == MASK
    assert masked_at(1, ("a", "c"), policies) == 1
    assert masked_at(SECRET, (), policies) == MASK
    assert masked_at(SECRET, (), [Policy(header="h")]) == SECRET


@pytest.mark.parametrize(
    ("steps", "found"),
    [("a.b", True), ("a", False), ("a.b.c", False), ("data.a.b", True), ("b", None), ("a.c", None)],
)
def test_a_path_to_into_or_around_what_is_hidden_is_found(steps, found):
    policy = Policy(field="a.b")

    assert hides([policy, Policy(header="a")], tuple(steps.split("."))) == ([] if found is None else [(policy, found)])
    assert hides([Policy(field="**.b")], tuple(steps.split("."))) == [(Policy(field="**.b"), False)]


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
NAMES = st.text(min_size=1, max_size=3, alphabet='abé.\u2028"\\/~')
DOCUMENTS = st.recursive(
    LEAVES, lambda of: st.lists(of, max_size=3) | st.dictionaries(NAMES, of, max_size=3), max_leaves=12
)


@given(
    st.dictionaries(NAMES, DOCUMENTS, max_size=3),
    NAMES,
    st.lists(NAMES | st.integers(0, 2), max_size=3),
    st.sampled_from([SECRET, {"x": [SECRET]}, [[SECRET]], json.dumps({"y": SECRET})]),
    st.sampled_from(["mask", "remove", "replace"]),
    st.booleans(),
)
def test_of_random_json_no_hidden_value_is_left_in_any_form(document, name, below, secret, action, ascii_only):
    planted = secret
    for step in reversed(below):
        planted = {step: planted} if isinstance(step, str) else [*[None] * step, planted]
    planted = document | {name: planted}
    pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in (name, *below))
    policy = Policy(field=pointer, action=action, replacement="gone" if action == "replace" else None)
    hidden = []

    made, state = masked_value(json.dumps(planted, ensure_ascii=ascii_only).encode(), [policy], hidden)

    assert state == "masked"
    assert SECRET.encode() not in made
    assert SECRET not in json.dumps(masked_document(planted, [policy]), ensure_ascii=False)
    assert SECRET not in masked_text(f"KeyError: {secret!r} {SECRET}", hidden)


def test_headers_are_hidden_by_name():
    headers = [("tenant", b"acme"), ("n", None), ("tenant", b"b")]

    assert masked_headers(headers, [Policy(header="tenant")]) == [("tenant", b"***"), ("n", None), ("tenant", b"***")]
    assert masked_headers(headers, [Policy(header="tenant", action="remove")]) == [("n", None)]


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ({}, "needs a field or a header"),
        ({"field": "a", "header": "b"}, "needs a field or a header"),
        ({"field": "a..b"}, "field 'a..b' is no path"),
        ({"field": "a", "action": "encrypt"}, "'mask', 'remove', 'replace' or 'hash'"),
        ({"field": "a", "action": "replace"}, "needs a replacement"),
        ({"header": "ce_id"}, "names the event"),
        ({"feld": "a"}, "Extra inputs"),
    ],
)
def test_a_bad_policy_is_refused(policy, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Policy(**policy)
