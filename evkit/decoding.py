"""record → Event: read what evkit, other CloudEvents writers, Debezium and anybody else put into a topic.

`decode` chooses the format by the record's headers alone, in this order, and never guesses from the content:

    1. content-type: application/cloudevents+json    CloudEvents, structured mode (JSON event format)
       content-type: application/cloudevents-batch…  undecodable, as is every other application/cloudevents…
    2. ce_id, ce_type or ce_specversion              CloudEvents, binary mode: what evkit writes
    3. id                                            what Debezium's outbox EventRouter writes
    4. none of these                                 undecodable

Anything else is read by a function that the consumer is given: `Consumer(..., decode=function)`, where `function(record)`
returns an Event, or None for a record that is not for this consumer; `debezium` makes such a function, and `json_object` is
there for others to use. Of a header that comes more than once the last one counts.

Only what an event needs has to be good: its id, its type, the key, the schema version, and a JSON object as payload.
Other headers are kept whatever they are: bytes that are no UTF-8 as `\\xff`, a header without a value as "", and a time
that cannot be read stays in `Event.headers` under its name. The record itself is never touched.

The payload is parsed when somebody looks at it (`Event.payload`), so a type that nobody handles costs no parsing. A value
that turns out to be broken raises Undecodable there; the consumer looks before it calls a handler (runtime/delivery.py).
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from evkit.errors import Undecodable
from evkit.event import (
    CE_CAUSATION_ID,
    CE_CORRELATION_ID,
    CE_ID,
    CE_SCHEMA_VERSION,
    CE_SOURCE,
    CE_SPECVERSION,
    CE_TIME,
    CE_TYPE,
    CONTENT_TYPE,
    TARGET_GROUP,
    Event,
    unread,
)
from evkit.kafka import Record

try:
    from orjson import loads as _orjson  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    _orjson = None  # type: ignore[assignment,unused-ignore]

Decode = Callable[[Record], Event | None]
_Raw = dict[str, bytes | None]

# The inbox has ids in an index, whose entries PostgreSQL limits to 2,704 bytes; a NUL takes four of them there.
ID_BYTES_MAX = 512
_JSON = b"application/json"
# Values that are looked through together are copied for it.
_AT_ONCE_BYTES_MAX = 1_000_000
# Of a PostgreSQL integer.
_VERSION_MAX = 2**31 - 1
# Headers that say which event a record is, in each of the formats.
NAMING_HEADERS = frozenset({CE_ID, CE_TYPE, CONTENT_TYPE, "id", "type", "eventType"})


def decode(record: Record) -> Event:
    """The event in a record, in whichever of the known formats its headers say (see the module).

    Raises:
        Undecodable: it is in none of them, or what an event needs is missing or broken.
    """
    raw: _Raw = dict(record.headers)
    content_type = raw.get(CONTENT_TYPE)
    if content_type is not None and content_type != b"application/json" and is_structured(content_type):
        return _structured(record, raw, content_type)
    if CE_ID in raw or CE_TYPE in raw or CE_SPECVERSION in raw:
        return _binary(record, raw)
    if "id" in raw:
        return _routed(record, raw, None, json_key=False)
    raise Undecodable(
        f"no header says how to read this record: evkit looks for '{CONTENT_TYPE}: application/cloudevents+json', "
        f"'{CE_ID}' (CloudEvents) and 'id' (Debezium's outbox router); give the consumer decode=... for another format"
    )


def plain(
    records: Iterable[tuple[str, bytes | None, bytes | None, Any]],
) -> list[Event | None]:
    """Events of records (topic, key, value, headers) in CloudEvents' binary mode, as `decode` gives them, in half its time.

    None where `decode` has to be asked: a record is in another format, is not as it should be, or names the group that it
    is for. The events' payloads are not read yet.
    """
    found: list[Event | None] = []
    for topic, key, value, headers in records:
        raw: Any = dict(headers or ())
        take = raw.pop
        raw_id, raw_type, written = take(CE_ID, None), take(CE_TYPE, None), take(CE_TIME, None)
        take(CE_SOURCE, None)
        take(CE_SPECVERSION, None)
        if (
            not raw_id
            or not raw_type
            or value is None
            or value[:1] != b"{"
            or take(CONTENT_TYPE, _JSON) != _JSON
            or len(raw_id) > ID_BYTES_MAX
            or b"\0" in raw_id
            or b"\0" in raw_type
            or (key is not None and b"\0" in key)
            or TARGET_GROUP in raw
        ):
            found.append(None)
            continue
        try:
            event_id, event_type = raw_id.decode(), raw_type.decode()
            text_key = "" if key is None else key.decode()
            created_at = None if written is None else datetime.fromisoformat(written.decode())
            version, correlation, cause, more = _extensions(raw) if raw else (1, None, None, {})
        except (ValueError, Undecodable):
            found.append(None)
            continue
        if created_at is not None and created_at.tzinfo is not UTC:
            found.append(None)
            continue
        found.append(
            unread(
                json_object, value, event_type, text_key, topic, event_id, more, version, created_at, correlation, cause
            )
        )
    return found


def is_structured(content_type: bytes | None) -> bool:
    """Whether a record with this content type is a CloudEvents event whose attributes are in its value."""
    return content_type is not None and content_type[:23].lower() == b"application/cloudevents"


def debezium(event_type: str | None = None, *, json_key: bool = False) -> Decode:
    """A decode function for a topic that Debezium's outbox EventRouter writes, where `decode` needs to know more.

    The id is header `id`, the type is header `eventType` or `type`, as the router's
    `table.fields.additional.placement=type:header:eventType` writes it. The value is the payload: JSON, a JSON string that
    holds JSON (`expand.json.payload=false`), or either of them in the schema and payload that Kafka Connect's
    JsonConverter puts around it.

    Args:
        event_type  of records that have no such header
        json_key    keys are written by JsonConverter, not by StringConverter: "order-1" with its quotes
    """

    def decode_debezium(record: Record) -> Event:
        return _routed(record, dict(record.headers), event_type, json_key)

    return decode_debezium


def json_object(value: bytes | None) -> dict[str, Any]:
    """A JSON object from a record's value; of a name that comes twice the last one counts.

    Raises:
        Undecodable: there is no value, or it is not UTF-8, not JSON (NaN and Infinity are not), or no object.
    """
    if value is None:
        raise Undecodable("the record has no value (a tombstone); events have a JSON object")
    if not value:
        raise Undecodable("the record's value is empty; events have a JSON object")
    found = _json(value)
    return found if type(found) is dict else _object(found)


def json_objects(values: Sequence[bytes | None]) -> list[dict[str, Any] | None]:
    """Of each value what `json_object` gives, many in less time; None where that raises."""
    if _orjson is not None and sum([len(value or b"") for value in values]) < _AT_ONCE_BYTES_MAX:
        try:
            if not _has_long_number(b"".join(values)):  # type: ignore[arg-type]
                return [found if type(found) is dict else None for found in map(_orjson, values)]  # type: ignore[arg-type]
        except (TypeError, ValueError):  # one of them has no value, or is broken
            pass
    return [_object_or_none(value) for value in values]


def _object_or_none(value: bytes | None) -> dict[str, Any] | None:
    try:
        return json_object(value)
    except Undecodable:
        return None


def require_readable(event: Event) -> None:
    """What `decode` promises of an event, for one that somebody else's function made of a record.

    Raises:
        Undecodable: it is no Event, its id or type is missing or no text, its key is no text, its time has no zone.
    """
    if not isinstance(event, Event):
        raise Undecodable(f"the consumer's decode function returned a {type(event).__name__}, not an Event or None")
    for name, found in (("id", event.id), ("type", event.type)):
        if not isinstance(found, str) or not found:
            raise Undecodable(
                f"the consumer's decode function returned an event whose {name} is {found!r:.80}, not text"
            )
    if not isinstance(event.key, str):
        raise Undecodable(f"the consumer's decode function returned an event whose key is {event.key!r:.80}, not text")
    if event.created_at is not None and event.created_at.tzinfo is None:
        raise Undecodable(
            f"the consumer's decode function returned an event with a time without zone: {event.created_at}"
        )
    _id(_bytes(event.id))
    if not 1 <= event.schema_version <= _VERSION_MAX:
        raise Undecodable(f"{event.schema_version!r:.80} is no version number, which count from 1")


def identity(record: Record) -> tuple[str | None, str | None]:
    """Id and type that the headers of an undecodable record claim, made readable; None where there is none.

    For looking at, and to tell a second copy of the record from another one.
    """
    raw: _Raw = dict(record.headers)
    if CE_ID in raw or CE_TYPE in raw:
        event_id, event_type = raw.get(CE_ID), raw.get(CE_TYPE)
    else:
        event_id, event_type = raw.get("id"), raw.get("eventType") or raw.get("type")
    if event_id is not None and len(event_id) > ID_BYTES_MAX:
        event_id = None
    return _shown(event_id) or None, _shown(event_type) or None


# --- the formats ------------------------------------------------------------------------------------------------------


def _binary(record: Record, raw: _Raw) -> Event:
    """CloudEvents, Kafka protocol binding 1.0.2, binary content mode."""
    take = raw.pop
    raw_id, raw_type = take(CE_ID, None), take(CE_TYPE, None)
    content_type = take(CONTENT_TYPE, None)
    take(CE_SOURCE, None)
    take(CE_SPECVERSION, None)
    if not raw_id or not raw_type:
        raise Undecodable(
            f"the record has no '{CE_TYPE if raw_id else CE_ID}' header, which every CloudEvents event has"
        )
    value = record.value
    if value is None or value[:1] != b"{":  # most are objects, and the others are told apart at once
        _require_object(value, None if content_type is None else _shown(content_type))
    try:
        event_id, event_type = raw_id.decode(), raw_type.decode()
        key = "" if record.key is None else record.key.decode()
    except UnicodeDecodeError:  # one of these says which it was
        event_id, event_type, key = _id(raw_id), _text(CE_TYPE, raw_type), _key(record)
    if len(raw_id) > ID_BYTES_MAX:
        event_id = _id(raw_id)
    return _event(record, json_object, value, event_id, event_type, key, raw)


def _structured(record: Record, raw: _Raw, content_type: bytes) -> Event:
    """CloudEvents, structured content mode, JSON event format 1.0: the attributes are in the value."""
    media = _shown(content_type.split(b";")[0].strip().lower())
    if media.startswith("application/cloudevents-batch"):
        raise Undecodable(
            "the record is a batch of CloudEvents, which the Kafka binding does not have: send them one by one"
        )
    if media != "application/cloudevents+json":
        raise Undecodable(
            f"the record is a CloudEvents event in '{media[:80]}'; evkit reads application/cloudevents+json"
        )
    body = json_object(record.value)
    event_id, event_type = body.pop("id", None), body.pop("type", None)
    for name, found in (("id", event_id), ("type", event_type)):
        if not isinstance(found, str) or not found:
            raise Undecodable(f"the CloudEvents event has no '{name}' that is text")
    read, data = _data(body)
    body.pop("source", None)
    body.pop("specversion", None)
    # What else is in the value would be ce_ headers in binary mode: both modes give the same event.
    attributes: _Raw = {name: value for name, value in raw.items() if name[:3] != "ce_" and name != CONTENT_TYPE}
    for name, found in body.items():
        if found is not None:
            attributes[f"ce_{name}"] = _attribute(name, found)
    return _event(record, read, data, _id(_bytes(event_id)), event_type, _key(record), attributes)


def _data(body: dict[str, Any]) -> tuple[Callable[[Any], dict[str, Any]], Any]:
    """How to come to the payload of a structured event, and from what; takes it out of the body."""
    data, encoded = body.pop("data", None), body.pop("data_base64", None)
    content_type = body.pop("datacontenttype", None)
    said = content_type if isinstance(content_type, str) else None
    if encoded is not None:
        if data is not None:
            raise Undecodable("the CloudEvents event has both 'data' and 'data_base64'")
        try:
            value = b64decode(encoded, validate=True)
        except (TypeError, ValueError) as error:
            raise Undecodable(f"'data_base64' is not base64 ({error})") from None
        _require_object(value, said)
        return json_object, value
    if data is None:  # an event without data is one: that it happened is all there is to say
        data = {}
    if not isinstance(data, dict):
        of = f" of '{said[:80]}'" if said else ""
        raise Undecodable(f"'data'{of} is a JSON {type(data).__name__}, events have an object")
    return _object, data


def _attribute(name: str, found: Any) -> bytes:
    try:
        return _bytes(found if isinstance(found, str) else json.dumps(found))
    except RecursionError:
        raise Undecodable(f"attribute '{name[:80]}' is nested too deeply to read") from None


def _routed(record: Record, raw: _Raw, event_type: str | None, json_key: bool) -> Event:
    """What Debezium's outbox EventRouter makes of an outbox row: id in a header, payload as value, aggregateid as key."""
    raw_id = raw.pop("id", None)
    if not raw_id:
        raise Undecodable("the record has no 'id' header, which Debezium's outbox router writes")
    name = "eventType" if raw.get("eventType") else "type"
    if raw_type := raw.pop(name, None):
        event_type = _text(name, raw_type)
    if not event_type:
        raise Undecodable(
            "the record has no header 'eventType' or 'type': let Debezium's outbox router write one "
            "(table.fields.additional.placement=type:header:eventType), or give the consumer decode=debezium('the.type')"
        )
    if not record.value:
        _require_object(record.value)
    raw.pop(CONTENT_TYPE, None)
    key = _key(record)
    if json_key and record.key is not None:
        found = _unwrapped(_json(record.key, "key"))
        if not isinstance(found, str):
            raise Undecodable(f"the key is a JSON {type(found).__name__}, not a string")
        key = found
    return _event(record, _routed_payload, record.value, _id(raw_id), event_type, key, raw)


def _routed_payload(value: bytes) -> dict[str, Any]:
    found = _unwrapped(_json(value))
    return json_object(_bytes(found)) if isinstance(found, str) else _object(found)


def _unwrapped(found: Any) -> Any:
    """What is inside JsonConverter's {"schema": ..., "payload": ...}; anything else as it is."""
    if isinstance(found, dict) and found.keys() == {"schema", "payload"}:
        schema = found["schema"]
        if schema is None or (isinstance(schema, dict) and isinstance(schema.get("type"), str)):
            return found["payload"]
    return found


# --- what they share --------------------------------------------------------------------------------------------------


def _event(
    record: Record,
    read: Callable[[Any], dict[str, Any]],
    value: Any,
    event_id: str,
    event_type: str,
    key: str,
    raw: _Raw,
) -> Event:
    """The event, its payload not read yet; `raw` are the headers that nobody has taken."""
    written = raw.pop(CE_TIME, None)
    created_at = None if written is None else _time(written)
    version, correlation, cause, headers = _extensions(raw)
    if written is not None and created_at is None:
        headers[CE_TIME] = _shown(written)
    return unread(
        read, value, event_type, key, record.topic, event_id, headers, version, created_at, correlation, cause
    )


def _extensions(raw: _Raw) -> tuple[int, str | None, str | None, dict[str, str]]:
    """Schema version, correlation id, causation id, and what is left, from the headers that nobody has taken."""
    take = raw.pop
    version, cause, correlation = (
        take(CE_SCHEMA_VERSION, None), take(CE_CAUSATION_ID, None), take(CE_CORRELATION_ID, None),
    )  # fmt: skip
    return (
        1 if version is None else _version(version),
        None if correlation is None else _text(CE_CORRELATION_ID, correlation),
        None if cause is None else _text(CE_CAUSATION_ID, cause),
        {name: _shown(text) for name, text in raw.items()},
    )


def _require_object(value: bytes | None, content_type: str | None = None) -> None:
    try:
        json_object(value)
    except Undecodable as error:
        if not value or not content_type:
            raise
        raise Undecodable(f"{error.reason}; its content type is '{content_type[:80]}'") from None


def _object(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise Undecodable(f"the value is a JSON {type(found).__name__}, events have an object")
    return found


def _id(raw: bytes) -> str:
    if len(raw) > ID_BYTES_MAX:
        raise Undecodable(f"the event's id has {len(raw)} bytes, the inbox takes up to {ID_BYTES_MAX}")
    return _text("id", raw)


def _key(record: Record) -> str:
    return "" if record.key is None else _text("key", record.key)


def _text(what: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Undecodable(f"'{what}' is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may have lone surrogates; whoever reads these bytes decides


def _shown(raw: bytes | None) -> str:
    return "" if raw is None else raw.decode("utf-8", "backslashreplace")


def _version(raw: bytes) -> int:
    try:
        version = int(raw)
    except ValueError:
        version = 0
    if not 1 <= version <= _VERSION_MAX:
        raise Undecodable(f"'{CE_SCHEMA_VERSION}' is no version number, which count from 1: '{_shown(raw)[:80]}'")
    return version


def _time(raw: bytes) -> datetime | None:
    try:
        time = datetime.fromisoformat(raw.decode())
        if time.tzinfo is UTC:
            return time
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# --- JSON -------------------------------------------------------------------------------------------------------------


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_parse = json.JSONDecoder(parse_constant=_no_number).decode
# orjson makes floats of integers beyond 64 bits; what has a number of so many digits is left to the standard library.
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_LONG_NUMBER = b"0" * 19


def _has_long_number(value: bytes) -> bool:
    return value.translate(_DIGITS).find(_LONG_NUMBER) >= 0


def _json(value: bytes, what: str = "value") -> Any:
    """JSON as Python has it. What orjson refuses is left to the standard library, too: with it or without, one answer."""
    if _orjson is not None and not _has_long_number(value):
        try:
            return _orjson(value)
        except ValueError:
            pass
    try:
        return _parse(value.decode("utf-8-sig" if value[:3] == b"\xef\xbb\xbf" else "utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise Undecodable(f"the {what} is not JSON ({error})") from None
    except RecursionError:
        raise Undecodable(f"the {what} is JSON nested too deeply to read") from None
