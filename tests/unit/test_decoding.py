"""record → Event: every format gives the event that was written, and nothing else is taken for one."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cloudevents.core.bindings import kafka as cloudevents
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from evkit import decoding, kafka
from evkit.decoding import debezium, decode, identity, json_object
from evkit.errors import Undecodable
from evkit.event import Event
from evkit.kafka import Record

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
payloads = st.dictionaries(text, json_values, max_size=4)

STRUCTURED = ("content-type", b"application/cloudevents+json; charset=UTF-8")
BODY = {"specversion": "1.0", "id": "e-1", "type": "a.b", "source": "/s"}


def record(value, headers, key=b"k"):
    return Record("t", 0, 7, key, value, headers, None, "none", None, datetime.now(UTC))


def attributes(**more):
    return [("ce_id", b"e-1"), ("ce_type", b"a.b"), *more.items()]


def structured(body, *headers, key=b"k"):
    return record(json.dumps(body).encode(), [STRUCTURED, *headers], key)


# --- CloudEvents, binary mode -----------------------------------------------------------------------------------------


@given(payloads, text, st.integers(1, 99))
def test_event_is_read_back_as_it_was_written(payload, key, version):
    headers = attributes(ce_schemaversion=str(version).encode(), ce_time=b"2013-02-08T12:00:00.000001Z", tenant=b"x")

    event = decode(record(json.dumps(payload).encode(), headers, key.encode()))

    assert (event.id, event.type, event.key, event.payload) == ("e-1", "a.b", key, payload)
    assert (event.topic, event.schema_version) == ("t", version)
    assert event.created_at == datetime(2013, 2, 8, 12, 0, 0, 1, UTC)
    assert event.headers == {"tenant": "x"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"", "value is empty"),
        (b"null", "JSON NoneType, events have an object"),
        (b"[]", "JSON list, events have an object"),
        (b'"x"', "JSON str, events have an object"),
        (b"1", "events have an object"),
        (b"\xff", "not JSON"),
        (b"Obj\x01\x04\x14avro.schema", "not JSON"),
    ],
)
def test_value_that_does_not_even_begin_like_an_object_is_no_event(value, reason):
    with pytest.raises(Undecodable, match=reason):
        decode(record(value, attributes()))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "not JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"a": "\xed\xa0\x80"}', "not JSON"),
    ],
)
def test_value_that_turns_out_to_be_no_object_says_so_at_the_first_look(value, reason):
    event = decode(record(value, attributes()))

    for _ in range(2):
        with pytest.raises(Undecodable, match=reason):
            event.payload  # noqa: B018
    assert event.id == "e-1"


def test_content_type_is_told_with_a_value_that_is_not_json():
    avro = [*attributes(), ("content-type", b"application/avro")]

    with pytest.raises(Undecodable, match="its content type is 'application/avro'"):
        decode(record(b"\x00\x00\x00\x00\x07abc", avro))


def test_of_a_name_that_comes_twice_the_last_one_counts():
    event = decode(record(b'{"a": 1, "a": 2}', [*attributes(tenant=b"x"), ("tenant", b"y"), ("ce_id", b"e-2")]))

    assert (event.id, event.payload, event.headers) == ("e-2", {"a": 2}, {"tenant": "y"})


def test_bytes_before_json_that_say_utf_8_are_passed_over():
    assert decode(record(b'\xef\xbb\xbf{"a": 1}', attributes())).payload == {"a": 1}


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64, 10**40, -(2**63) - 1])
def test_long_numbers_keep_their_last_digits(number):
    assert json_object(b'{"n": %d}' % number) == {"n": number}


def test_headers_that_nobody_needs_are_kept_whatever_they_are():
    raw = [("photo", b"\xff\xd8"), ("nothing", None), ("ce_time", b"yesterday"), ("ce_subject", b"s")]

    event = decode(record(b"{}", attributes() + raw))

    assert event.headers == {"photo": "\\xff\\xd8", "nothing": "", "ce_time": "yesterday", "ce_subject": "s"}
    assert event.created_at is None


@pytest.mark.parametrize(
    ("headers", "key", "reason"),
    [
        ([("ce_id", b"\xff"), ("ce_type", b"a.b")], b"k", "'id' is not UTF-8"),
        ([("ce_id", b"e-1"), ("ce_type", b"\xff")], b"k", "'ce_type' is not UTF-8"),
        (attributes(ce_causationid=b"\xff"), b"k", "'ce_causationid' is not UTF-8"),
        (attributes(), b"\xff", "'key' is not UTF-8"),
        ([("ce_id", b"e-1")], b"k", "no 'ce_type' header"),
        ([("ce_type", b"a.b")], b"k", "no 'ce_id' header"),
        ([("ce_id", None), ("ce_type", b"a.b")], b"k", "no 'ce_id' header"),
        ([("ce_id", b""), ("ce_type", b"a.b")], b"k", "no 'ce_id' header"),
        ([("ce_specversion", b"1.0")], b"k", "no 'ce_id' header"),
        ([("ce_id", b"x" * 513), ("ce_type", b"a.b")], b"k", "513 bytes, the inbox takes up to 512"),
        (attributes(ce_schemaversion=b"two"), b"k", "'ce_schemaversion' is no version number.*'two'"),
        (attributes(ce_schemaversion=b"0"), b"k", "no version number"),
        (attributes(ce_schemaversion=b"99999999999"), b"k", "no version number"),
        (attributes(ce_schemaversion=b"9" * 5000), b"k", "no version number"),
        ([], b"k", "no header says how to read this record"),
        ([("Id", b"e-1")], b"k", "no header says how to read this record"),
    ],
)
def test_what_an_event_needs_has_to_be_good(headers, key, reason):
    with pytest.raises(Undecodable, match=reason):
        decode(record(b"{}", headers, key))


@pytest.mark.parametrize("event_id", ["42", "order-1/7", "č. 5", "x" * 512])
def test_id_is_any_text(event_id):
    assert decode(record(b"{}", [("ce_id", event_id.encode()), ("ce_type", b"a.b")])).id == event_id


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"2013-02-08T12:00:00Z", datetime(2013, 2, 8, 12, tzinfo=UTC)),
        (b"2013-02-08T14:00:00.123456789+02:00", datetime(2013, 2, 8, 12, 0, 0, 123456, UTC)),
        (b"2013-02-08T12:00:00", datetime(2013, 2, 8, 12, tzinfo=UTC)),
        (b"2016-12-31T23:59:60Z", None),
        (b"0001-01-01T00:00:00+14:00", None),
        (b"\xff", None),
    ],
)
def test_time_is_utc_and_one_that_cannot_be_read_costs_nothing_else(written, read):
    event = decode(record(b"{}", attributes(ce_time=written)))

    assert event.created_at == read
    assert ("ce_time" in event.headers) == (read is None)


# --- the payload, read later ------------------------------------------------------------------------------------------


def test_payload_is_parsed_at_the_first_look_and_once(monkeypatch):
    parsed = []
    whole = decoding._parse
    monkeypatch.setattr(decoding, "_orjson", None)
    monkeypatch.setattr(decoding, "_parse", lambda value: parsed.append(value) or whole(value))

    event = decode(record(b'{"total": 3}', attributes()))

    assert (event.id, event.key, parsed) == ("e-1", "k", [])
    assert event.payload["total"] == 3
    assert event.payload is event.payload
    assert parsed == ['{"total": 3}']


def test_event_from_a_topic_is_an_event_like_any_other():
    def read():
        return decode(record(b'{"total": 3}', attributes(tenant=b"x")))

    made = Event("a.b", "k", {"total": 3}, topic="t", id="e-1", headers={"tenant": "x"})

    assert read() == made
    assert made == read()
    assert repr(read()) == repr(made)
    assert pickle.loads(pickle.dumps(read())) == made
    assert copy.copy(read()) == made
    assert copy.deepcopy(read()) == made
    assert replace(read(), id="e-2") == replace(made, id="e-2")
    assert type(read().payload) is dict  # as json.dumps and psycopg's Jsonb need it
    with pytest.raises(AttributeError, match="no attribute 'total'"):
        read().total  # noqa: B018
    with pytest.raises(AttributeError):
        read().payload = {}


# --- CloudEvents, structured mode -------------------------------------------------------------------------------------


def by_the_sdk(payload, **more):
    """A structured record as the CloudEvents SDK writes it."""
    event = CloudEvent({"id": "e-1", "type": "a.b", "source": "/s", "specversion": "1.0", **more}, payload)
    message = cloudevents.to_structured(event, JSONFormat(), key_mapper=lambda _: "k")
    headers = [(name, value.encode() if isinstance(value, str) else value) for name, value in message.headers.items()]
    key = message.key.encode() if isinstance(message.key, str) else message.key
    return record(message.value, headers, key)


@given(payloads)
def test_structured_event_of_the_sdk_is_read(payload):
    time = datetime(2013, 2, 8, 12, tzinfo=UTC)
    more = {"datacontenttype": "application/json", "time": time, "subject": "s", "correlationid": "c-1"}

    event = decode(by_the_sdk(payload, **more))

    assert (event.id, event.type, event.key, event.topic) == ("e-1", "a.b", "k", "t")
    assert event.payload == payload
    assert (event.created_at, event.correlation_id, event.headers) == (time, "c-1", {"ce_subject": "s"})


def test_structured_event_of_the_sdk_with_bytes_is_read():
    event = decode(by_the_sdk(b'{"total": 3}', datacontenttype="application/json"))

    assert event.payload == {"total": 3}


@given(payloads)
def test_both_modes_give_the_same_event(payload):
    more = {
        "time": "2013-02-08T12:00:00Z",
        "subject": "s",
        "schemaversion": 3,
        "correlationid": "c",
        "causationid": "d",
    }
    binary = [(f"ce_{name}", str(value).encode()) for name, value in (BODY | more).items()]

    event = decode(structured({**BODY, **more, "data": payload}, ("tenant", b"x")))

    assert event == decode(record(json.dumps(payload).encode(), [("tenant", b"x"), *binary]))
    assert event.schema_version == 3


@pytest.mark.parametrize(
    ("more", "payload"),
    [
        ({"data": {"a": 1}}, {"a": 1}),
        ({"data_base64": base64.b64encode(b'{"a": 1}').decode()}, {"a": 1}),
        ({"data": None, "data_base64": base64.b64encode(b"{}").decode()}, {}),
        ({}, {}),
        ({"data": None}, {}),
    ],
)
def test_data_is_the_payload(more, payload):
    assert decode(structured(BODY | more)).payload == payload


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([BODY], "JSON list, events have an object"),
        ({**BODY, "id": 7}, "no 'id' that is text"),
        ({**BODY, "id": ""}, "no 'id' that is text"),
        ({**BODY, "id": "\ud800"}, "'id' is not UTF-8"),
        ({**BODY, "type": None}, "no 'type' that is text"),
        ({**BODY, "data": [1]}, "'data' is a JSON list"),
        ({**BODY, "data": "<a/>", "datacontenttype": "text/xml"}, "'data' of 'text/xml' is a JSON str"),
        ({**BODY, "data": {}, "data_base64": ""}, "both 'data' and 'data_base64'"),
        ({**BODY, "data_base64": "%%%"}, "not base64"),
        ({**BODY, "data_base64": 7}, "not base64"),
        ({**BODY, "data_base64": "é"}, "not base64"),
        ({**BODY, "data_base64": base64.b64encode(b"<a/>").decode(), "datacontenttype": "text/xml"}, "'text/xml'"),
        ({**BODY, "schemaversion": "two"}, "no version number"),
    ],
)
def test_structured_event_that_lacks_something_is_undecodable(body, reason):
    with pytest.raises(Undecodable, match=reason):
        decode(structured(body))


@pytest.mark.parametrize(
    ("content_type", "reason"),
    [
        (b"application/cloudevents-batch+json; charset=UTF-8", "a batch of CloudEvents.*one by one"),
        (b"application/cloudevents+avro", "'application/cloudevents\\+avro'; evkit reads"),
        (b"application/cloudevents\xff", "evkit reads"),
    ],
)
def test_other_structures_are_undecodable_and_named(content_type, reason):
    with pytest.raises(Undecodable, match=reason):
        decode(record(b"[]", [("content-type", content_type)]))


# --- Debezium ---------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "string", "optional": False, "name": "io.debezium.data.Json", "version": 1}
STRUCT = {"type": "struct", "fields": [{"type": "int32", "optional": True, "field": "total"}], "optional": True}
ROUTED = [("id", b"e-1"), ("eventType", b"a.b")]


@pytest.mark.parametrize(
    "value",
    [
        {"total": 3},  # expand.json.payload=true, schemas.enable=false; or StringConverter
        '{"total": 3}',  # expand.json.payload=false, schemas.enable=false
        {"schema": SCHEMA, "payload": '{"total": 3}'},  # the same with schemas.enable=true
        {"schema": STRUCT, "payload": {"total": 3}},  # expand.json.payload=true, schemas.enable=true
        {"schema": None, "payload": {"total": 3}},
    ],
)
@pytest.mark.parametrize("name", ["eventType", "type"])
def test_what_debeziums_router_writes_is_read(value, name):
    event = decode(record(json.dumps(value).encode(), [("id", b"e-1"), (name, b"a.b"), ("tenant", b"x")], b"order-1"))

    assert (event.id, event.type, event.key) == ("e-1", "a.b", "order-1")
    assert (event.payload, event.headers) == ({"total": 3}, {"tenant": "x"})


@pytest.mark.parametrize(
    "payload", [{"schema": "v1", "payload": {}}, {"schema": {"type": "string"}, "payload": {}, "a": 1}, {"payload": {}}]
)
def test_payload_with_a_schema_of_its_own_is_no_envelope(payload):
    assert decode(record(json.dumps(payload).encode(), ROUTED)).payload == payload


def test_type_that_no_header_says_is_given_to_the_consumer():
    bare = record(b"{}", [("id", b"e-1")])

    with pytest.raises(Undecodable, match="decode=debezium"):
        decode(bare)
    assert debezium("order.changed")(bare).type == "order.changed"
    assert debezium("order.changed")(record(b"{}", ROUTED)).type == "a.b"


@pytest.mark.parametrize(
    "key", ['"order-1"', '{"schema": {"type": "string", "optional": false}, "payload": "order-1"}']
)
def test_key_of_json_converter_is_unpacked_when_the_consumer_says_so(key):
    routed = record(b"{}", ROUTED, key.encode())

    assert debezium(json_key=True)(routed).key == "order-1"
    assert decode(routed).key == key


@pytest.mark.parametrize(
    ("value", "headers", "key", "reason"),
    [
        (None, ROUTED, b'"k"', "tombstone"),
        (b"", ROUTED, b'"k"', "value is empty"),
        (b"{}", [("eventType", b"a.b")], b'"k"', "no 'id' header"),
        (b"{}", ROUTED, b"k", "the key is not JSON"),
        (b"{}", ROUTED, b"7", "the key is a JSON int"),
    ],
)
def test_routed_record_that_lacks_something_is_undecodable(value, headers, key, reason):
    with pytest.raises(Undecodable, match=reason):
        debezium(json_key=True)(record(value, headers, key))


@pytest.mark.parametrize("value", [b"7", b'"seven"', b'"[]"', b'{"schema": null, "payload": 7}'])
def test_routed_payload_that_is_no_object_is_undecodable(value):
    with pytest.raises(Undecodable):
        decode(record(value, ROUTED)).payload  # noqa: B018


# --- anything ---------------------------------------------------------------------------------------------------------

needed = st.sampled_from([
    "ce_id", "ce_type", "ce_time", "ce_schemaversion", "ce_causationid", "ce_specversion", "id", "eventType", "type",
    "content-type", "traceparent",
])  # fmt: skip
header_values = (
    st.none()
    | st.binary(max_size=20)
    | st.sampled_from([b"application/cloudevents+json", b"1", b"2013-02-08T12:00:00Z"])
)
headers = st.lists(st.tuples(needed | text, header_values), max_size=6)
bodies = payloads | st.builds(
    lambda body, more: BODY | body | more,
    st.dictionaries(st.sampled_from(["id", "type", "data", "data_base64", "schemaversion", "time"]), json_values),
    payloads,
)
values = st.none() | st.binary(max_size=60) | bodies.map(lambda body: json.dumps(body).encode())


@given(values, headers, st.sampled_from([[], attributes(), ROUTED, [STRUCTURED]]), st.none() | st.binary(max_size=8))
def test_any_bytes_are_an_event_or_undecodable_and_never_another_error(value, some, first, key):
    anything = record(value, first + some, key)
    identity(anything)
    for read in (decode, debezium("a.b", json_key=True)):
        try:
            event = read(anything)
            payload = event.payload
        except Undecodable as error:
            assert str(error)
        else:
            assert isinstance(payload, dict)
            assert event.id
            assert event.type
            assert all(isinstance(x, str) for pair in event.headers.items() for x in pair)


@given(values.filter(bool))
def test_with_orjson_or_without_json_is_the_same(value):
    """Runs where orjson is installed: `uv run --with orjson pytest tests/unit/test_decoding.py`."""
    pytest.importorskip("orjson")

    def answer():
        try:
            return decoding._json(value)
        except Undecodable as error:
            return error.reason

    fast = answer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_orjson", None)
        assert answer() == fast


def test_identity_is_what_the_headers_claim_made_readable():
    assert identity(record(None, [("ce_id", b"\xff"), ("ce_type", b"a.b")])) == ("\\xff", "a.b")
    assert identity(record(None, ROUTED)) == ("e-1", "a.b")
    assert identity(record(None, [("ce_id", b"x" * 513)])) == (None, None)


class _Message:
    """A client's message with a timestamp that a producer has made up."""

    def __init__(self, millis):
        self._millis = millis

    def timestamp(self):
        return (1, self._millis)

    topic = partition = offset = key = value = headers = leader_epoch = lambda self: None


@pytest.mark.parametrize("millis", [0, 1360324800123, 253402300799999])
def test_timestamp_of_a_record_is_exact(millis):
    read = kafka.record_of(_Message(millis), datetime.now(UTC))

    assert abs(read.timestamp - datetime(1970, 1, 1, tzinfo=UTC) - timedelta(milliseconds=millis)) < timedelta(
        milliseconds=1
    )


@pytest.mark.parametrize("millis", [-(2**63), 253402300800000, 2**63 - 1])
def test_timestamp_that_is_no_time_is_none_and_not_a_crash(millis):
    assert kafka.record_of(_Message(millis), datetime.now(UTC)).timestamp is None
