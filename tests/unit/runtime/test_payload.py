"""Payloads as people read, compare and change them."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.errors import UsageError
from evkit.runtime.payload import Change, changed, difference, encoded, hexdump, json_payload, readable, text_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_what_is_the_same_has_no_difference(document):
    assert difference(document, copy.deepcopy(document)) == []


@given(JSON, JSON)
def test_what_differs_has_a_difference_and_the_other_way_round_it_is_the_reverse(before, after):
    there, back = difference(before, after), difference(after, before)

    assert bool(there) == (json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True))
    reverse = {"added": "removed", "removed": "added"}
    assert sorted((c.path, reverse.get(c.kind, c.kind)) for c in there) == sorted((c.path, c.kind) for c in back)


def test_a_difference_names_the_place_and_tells_another_type_from_another_value():
    before = {"total": 5, "lines": [{"sku": "a"}, {"sku": "b"}], "paid": True, "old": 1}
    after = {"total": 5.5, "lines": [{"sku": 1}], "paid": 1, "new": None}

    assert difference(before, after) == [
        Change("total", "value", 5, 5.5),
        Change("lines[0].sku", "type", "a", 1),
        Change("lines[1]", "removed", {"sku": "b"}, None),
        Change("paid", "type", True, 1),
        Change("old", "removed", 1, None),
        Change("new", "added", None, None),
    ]


def test_values_are_set_at_paths_and_the_old_payload_stays_as_it_was():
    payload = {"lines": [{"sku": "a"}], "a.b": 1}

    made = changed(payload, {"lines.0.sku": "b", "lines.1": 2, "buyer.name": "x", "/a.b": 2, "/m~1n": 3})

    assert made == {"lines": [{"sku": "b"}, 2], "a.b": 2, "buyer": {"name": "x"}, "m/n": 3}
    assert payload == {"lines": [{"sku": "a"}], "a.b": 1}


@pytest.mark.parametrize("path", ["", ".", "a..b", "lines.5", "lines.x", "text.0"])
def test_a_path_that_leads_nowhere_is_one_sentence(path):
    with pytest.raises(UsageError, match=r"^(cannot set|'.*' is no path)"):
        changed({"lines": [], "text": "abc"}, {path: 1})


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=3))
def test_an_encoded_payload_reads_back_as_it_was(payload):
    assert json_payload(encoded(payload)) == payload


def test_half_a_surrogate_pair_in_a_payload_is_encoded_so_that_it_can_be_read_again():
    payload = {"name": "Zoë", "cut off": "\ud83d"}

    assert json_payload(encoded(payload)) == payload


@given(st.none() | st.binary(max_size=600))
def test_any_bytes_can_be_told(raw):
    text = text_of(raw)
    assert text is None or text.encode() == raw
    assert readable(raw) is None or "\x00" not in readable(raw)
    if raw is not None:
        lines = hexdump(raw).splitlines()
        assert all(line.isprintable() for line in lines)
        dumped = b"".join(bytes.fromhex(line[10:57]) for line in lines if not line.startswith("…"))
        assert dumped == raw[:256]
