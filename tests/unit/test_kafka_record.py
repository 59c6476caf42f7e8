"""record ↔ Event: what is read is what was written, and nothing else is taken for an event."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.errors import Undecodable
from evkit.kafka import Record, decode

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


def record(value, headers, key=b"k"):
    return Record("t", 0, 7, key, value, headers, None, "none", None, datetime.now(UTC))


def attributes(**more):
    return [("ce_id", b"e-1"), ("ce_type", b"a.b"), *((k, v) for k, v in more.items())]


@given(st.dictionaries(text, json_values, max_size=4), text, st.integers(1, 99))
def test_event_is_read_back_as_it_was_written(payload, key, version):
    headers = attributes(ce_schemaversion=str(version).encode(), ce_time=b"2013-02-08T12:00:00.000001Z", tenant=b"x")

    event = decode(record(json.dumps(payload).encode(), headers, key.encode()))

    assert (event.id, event.type, event.key, event.payload) == ("e-1", "a.b", key, payload)
    assert event.schema_version == version
    assert event.created_at == datetime(2013, 2, 8, 12, 0, 0, 1, UTC)
    assert event.headers == {"tenant": "x"}


@given(st.binary(max_size=60), st.lists(st.tuples(text, st.none() | st.binary(max_size=20)), max_size=4))
def test_any_bytes_are_an_event_or_undecodable_and_never_another_error(value, headers):
    try:
        decode(record(value, headers))
    except Undecodable as error:
        assert str(error)
    try:
        decode(record(value, attributes() + headers))
    except Undecodable as error:
        assert str(error)


@pytest.mark.parametrize("value", [b"null", b"[]", b'"x"', b"1", b"", b"{", b"\xff"])
def test_value_that_is_no_json_object_is_no_event(value):
    with pytest.raises(Undecodable):
        decode(record(value, attributes()))
