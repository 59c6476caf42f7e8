"""record → handler, or why not: decode it, and find who handles it, before anything is written.

What cannot be decoded, and what has no handler where that counts as an error, is known here and not in the middle of a
batch: it becomes a dead letter without costing its neighbours a rollback. A payload is looked at before its handler is
called, whatever that handler looks at itself; the payload of a type without a handler is never parsed. An event that is
meant for another group is skipped, readable or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal

from evkit import decoding, kafka
from evkit.errors import NoHandler, RedriveRefused, Undecodable
from evkit.event import TARGET_GROUP, Event, fill
from evkit.kafka import Message, Record
from evkit.masking import PASSED_OVER, UNKNOWN_TYPE
from evkit.runtime.assignment import Place, Work
from evkit.runtime.failure import storable
from evkit.runtime.handler import Handler, Handlers

# One on its way through a consumer, or read from elsewhere.
Source = Record | Work


def messages_of(sources: Sequence[Source]) -> list[Any] | None:
    """The client's messages behind these, when nobody has looked into any of them; None: somebody has."""
    # Read once: a handler's thread may be looking at this moment.
    found = [source.source for source in sources if type(source) is Work]
    return found if len(found) == len(sources) and {*map(type, found)} <= {Message} else None


def _record(source: Source) -> Record:
    return source.record if type(source) is Work else source  # type: ignore[return-value]


@dataclass(eq=False, slots=True)
class Delivery:
    """A record on its way to a handler: decoded, or with the reason why not.

    Attributes:
        event    None when the record is no event, or none for this consumer
        problem  why it cannot be handled (what a filter raised may be tried again, the rest is a dead letter at once);
                 None when it is to be handled, or skipped for want of a handler
    """

    source: Source
    event_id: str
    event_type: str
    key: str | None
    event: Event | None
    problem: Exception | None
    handler: Handler | None

    @property
    def record(self) -> Record:
        """Where it comes from, with all that is in it."""
        return _record(self.source)

    @property
    def place(self) -> Place:
        """Topic and partition of its record."""
        source = self.source
        if type(source) is Work:
            return source.partition.place
        return source.topic, source.partition  # type: ignore[union-attr,return-value]

    @property
    def offset(self) -> int:
        """Of its record."""
        return self.source.offset

    @classmethod
    def of_all(cls, sources: Sequence[Source], handlers: Handlers) -> list[Delivery]:
        """What becomes of these records, as `of` says it of each; those that a client has just fetched in half the time."""
        messages = messages_of(sources)
        if handlers.decode is not None or messages is None:
            return [cls.of(_record(source), handlers) for source in sources]
        works: list[Any] = list(sources)
        values = list(map(Message.value, messages))
        topics = [work.partition.place[0] for work in works]
        events = decoding.plain(
            zip(topics, map(Message.key, messages), values, map(Message.headers, messages), strict=True)
        )
        who: dict[str, Handler | Literal["ask"] | None] = {}
        for event_type in {event.type for event in events if event is not None}:
            who[event_type] = handlers.always(event_type)
        # A type that nobody handles is not parsed.
        known = {event_type for event_type in who if handlers.knows(event_type)}
        handled = [event is not None and event.type in known for event in events]
        payloads = iter(decoding.json_objects(list(compress(values, handled))))
        found = []
        for work, event, is_handled in zip(works, events, handled, strict=True):
            payload = next(payloads) if is_handled else None
            if event is None or (is_handled and payload is None):
                found.append(cls.of(work.record, handlers))
                continue
            handler, wrong = who[event.type], None
            if payload is not None:
                fill(event, payload)
            if handler == "ask":
                handler, wrong = _handler(event, handlers)
            key = None if type(work.key) is int else event.key
            found.append(cls(work, event.id, event.type, key, event, wrong, handler))
        return found

    @classmethod
    def of(cls, record: Record, handlers: Handlers) -> Delivery:
        """What becomes of this record; never raises for what is in it."""
        try:
            event = decoding.decode(record) if handlers.decode is None else _decoded(record, handlers.decode)
        except Undecodable as problem:
            # What the headers of an unknown format mean is not known, so they name no id: two records with one id are
            # one event, and the second would be lost.
            claimed = (None, None) if handlers.decode else decoding.identity(record)
            if _is_for_another(record, handlers):
                return cls._without_event(record, claimed, PASSED_OVER, None)
            return cls._without_event(record, claimed, UNKNOWN_TYPE, problem)
        if event is None:
            return cls._without_event(record, (None, None), PASSED_OVER, None)
        # What a decode function makes of the headers is its own matter; ours keeps this one.
        marked = TARGET_GROUP in event.headers if handlers.decode is None else True
        if marked and _is_for_another(record, handlers):
            handler, wrong = None, None
        else:
            handler, wrong = _handler(event, handlers)
        key = None if record.key is None else storable(event.key)
        return cls(record, storable(event.id), storable(event.type), key, event, wrong, handler)

    @classmethod
    def _without_event(
        cls, record: Record, claimed: tuple[str | None, str | None], otherwise: str, problem: Undecodable | None
    ) -> Delivery:
        event_id, event_type = claimed
        return cls(
            source=record,
            event_id=storable(event_id) if event_id else kafka.fallback_event_id(record),
            event_type=storable(event_type) if event_type else otherwise,
            key=None if record.key is None else storable(record.key.decode("utf-8", errors="backslashreplace")),
            event=None,
            problem=problem,
            handler=None,
        )


def _is_for_another(record: Record, handlers: Handlers) -> bool:
    if handlers.group is None:
        return False
    targets = [value for name, value in record.headers if name == TARGET_GROUP and value]
    return bool(targets) and targets[-1] != handlers.group.encode()


def _decoded(record: Record, decode: decoding.Decode) -> Event | None:
    try:
        event = decode(record)
        if event is not None:
            decoding.require_readable(event)
        return event
    except (Undecodable, MemoryError):
        raise
    except Exception as error:
        raise Undecodable(f"the consumer's decode function raised {type(error).__name__}: {error}") from error


def _handler(event: Event, handlers: Handlers) -> tuple[Handler | None, Exception | None]:
    """Who handles it, or why nobody can."""
    if not handlers.knows(event.type):
        return None, NoHandler(event.type, handlers.types) if handlers.unknown == "dead" else None
    try:
        event.payload  # noqa: B018 - parsed now: no filter and no handler is given an event that is none
        return handlers.of(event), None
    except MemoryError:
        raise
    except Exception as problem:
        return None, problem


def required_handler(delivery: Delivery, handlers: Handlers, group: str) -> Handler:
    """The handler of an event that is to be handled on purpose.

    Raises:
        RedriveRefused: the group has none for it (any more).
        Undecodable, SchemaMismatch, whatever a filter raised: why the event cannot be handled.
    """
    if delivery.problem is not None:
        raise delivery.problem
    if delivery.handler is not None:
        return delivery.handler
    if handlers.knows(delivery.event_type):
        raise RedriveRefused(
            f"group '{group}' handles '{delivery.event_type}', and the filters of its handlers (where=) let event "
            f"{delivery.event_id} pass to none of them: archive its letter, or change a filter"
        )
    raise RedriveRefused(
        f"group '{group}' has no handler for '{delivery.event_type}': give the application that has one"
    )
