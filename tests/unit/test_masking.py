"""What a policy hides is in no form left of a payload."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evkit.masking import MASK, Policy, applying, masked_document, masked_headers, masked_text, masked_value

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
        ({"field": "a", "action": "encrypt"}, "'mask', 'remove' or 'replace'"),
        ({"field": "a", "action": "replace"}, "needs a replacement"),
        ({"header": "ce_id"}, "names the event"),
        ({"feld": "a"}, "Extra inputs"),
    ],
)
def test_a_bad_policy_is_refused(policy, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Policy(**policy)
