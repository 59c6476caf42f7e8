"""Event: the one value that travels, from `outbox.write` to a handler, and the headers it travels with.

On Kafka an event is a CloudEvents record in binary mode (Kafka protocol binding 1.0.2): the value is the payload's
JSON, the key is the natural key, and the attributes are headers. `ce_time` is the time of the database
write, so that relay lag and end-to-end latency can be read from the topic alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

# CloudEvents attributes, as the Kafka binding spells them.
CE_ID = "ce_id"
CE_TYPE = "ce_type"
CE_SOURCE = "ce_source"
CE_SPECVERSION = "ce_specversion"
CE_TIME = "ce_time"
CONTENT_TYPE = "content-type"
# Extension attributes of ours and of the CloudEvents extension list.
CE_SCHEMA_VERSION = "ce_schemaversion"
CE_CORRELATION_ID = "ce_correlationid"
CE_CAUSATION_ID = "ce_causationid"
TRACEPARENT = "traceparent"
# Set on what a handler is given by a replay or a redrive, and on the events it writes meanwhile.
REPLAY_ID = "evkit-replay-id"
# Whom an event is for: consumers of evkit that are of another group skip it (`evkit dlq redrive --to-topic`).
TARGET_GROUP = "evkit-target-group"

# What evkit writes itself; a caller's header of this name would say two things at once.
RESERVED_HEADERS = frozenset({
    CE_ID, CE_TYPE, CE_SOURCE, CE_SPECVERSION, CE_TIME, CE_SCHEMA_VERSION, CONTENT_TYPE, CE_CORRELATION_ID, CE_CAUSATION_ID,
})  # fmt: skip


def new_id() -> str:
    """A new event id: UUIDv7 (RFC 9562), whose text sorts by the time it was made."""
    from uuid_utils import uuid7

    return str(uuid7())


class _Unread:
    """Where an event from a topic keeps its value until somebody asks for the payload: (how to read it, the value)."""

    __slots__ = ("_unread",)
    _unread: tuple[Callable[[Any], Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Event(_Unread):
    """Something that happened, with its key and payload; immutable.

    Attributes:
        type            what happened, in the past tense and dotted: "flight.departed"
        key             natural key: events of one key keep their order, and share a partition
        payload         JSON object, or a pydantic model; a handler that declared a model is given that model
        topic           where to publish; default: the type up to its first dot ("flight")
        id              text, unique for ever; default: a new UUIDv7
        headers         text to text, beside the CloudEvents ones that evkit writes
        ordered         lock the key until the transaction ends, for writers that hold no lock of their own
        schema_version  version of the type's payload model, from 1; taken from the model where the payload is one
        created_at      time of the database write, UTC; None until the event was read back
        correlation_id  what all events of one business process share; text
        causation_id    id of the event that led to this one; a handler's `tx.write` fills both in
        due_at          publish it then, not now (with a time zone); until then it can be cancelled
    """

    type: str
    key: str
    payload: Any  # a handler may say which model it is, or look into it; what is written is checked then
    topic: str | None = None
    id: str = field(default_factory=new_id)
    headers: Mapping[str, str] = field(default_factory=dict)
    ordered: bool = False
    schema_version: int = 1
    created_at: datetime | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    due_at: datetime | None = None

    @property
    def destination(self) -> str:
        """The topic this event goes to: `topic`, or the type up to its first dot."""
        return self.topic or self.type.partition(".")[0]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The payload, read at the first look (`unread`); from then on it is a field like any other."""
            if name != "payload":
                raise AttributeError(f"'Event' object has no attribute '{name}'")
            read, value = self._unread
            payload = read(value)
            object.__setattr__(self, "payload", payload)
            return payload


class _Draft(_Unread):
    """Laid out as an event is, so that it can become one."""

    __slots__ = tuple(f.name for f in fields(Event))


def unread(
    read: Callable[[Any], Mapping[str, Any]],
    value: Any,
    type: str,
    key: str,
    topic: str | None,
    id: str,
    headers: Mapping[str, str],
    schema_version: int,
    created_at: datetime | None,
    correlation_id: str | None,
    causation_id: str | None,
) -> Event:
    """An event whose payload is `read(value)`, called when somebody looks at it; whatever it raises comes up there.

    For all the rest it is an Event like any other: comparing, copying, pickling and printing look at the payload.
    """
    # Made as a draft, which is not frozen, and then turned into an event: a third of the time that the frozen class's own
    # __init__ takes, and of the slots' setters. A topic is read event by event.
    event: Any = _Draft()
    event._unread = (read, value)
    event.type = type
    event.key = key
    event.topic = topic
    event.id = id
    event.headers = headers
    event.ordered = False
    event.schema_version = schema_version
    event.created_at = created_at
    event.correlation_id = correlation_id
    event.causation_id = causation_id
    event.due_at = None
    event.__class__ = Event
    return event  # type: ignore[no-any-return]


def marked(event: Event, name: str, value: str) -> Event:
    """The same event with one header more; 2 us, where dataclasses.replace takes 5 and looks at an `unread` payload."""
    read, of = getattr(event, "_unread", _READ)
    copy = unread(
        read, of, event.type, event.key, event.topic, event.id, {**event.headers, name: value}, event.schema_version,
        event.created_at, event.correlation_id, event.causation_id,
    )  # fmt: skip
    _set_ordered(copy, event.ordered)
    _set_due_at(copy, event.due_at)
    with suppress(AttributeError):  # nobody has looked at it
        fill(copy, _get_payload(event))
    return copy


_READ: Any = (None, None)  # of an event that was made with its payload


def _setter(name: str) -> Callable[[Event, Any], None]:
    setter: Callable[[Event, Any], None] = getattr(Event, name).__set__
    return setter


# `fill(event, payload)`: of an `unread` event, for somebody who has read many payloads at once.
fill, _set_ordered, _set_due_at = map(_setter, ("payload", "ordered", "due_at"))
_get_payload: Callable[[Event], Any] = Event.__dict__["payload"].__get__
