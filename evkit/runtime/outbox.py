"""caller's transaction → outbox table: write events with the data they tell about.

An event is in the outbox if and only if the caller's transaction commits (P1): nothing here commits, rolls back or opens
a connection. What could not be published later is refused now, where the developer still sees the error: a topic that
Kafka would not accept, a payload that is not JSON or too large, a reserved header.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Protocol

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from evkit import event_types
from evkit.errors import InvalidEvent, UsageError
from evkit.event import RESERVED_HEADERS, TRACEPARENT, Event
from evkit.runtime import emission, tracing
from evkit.settings import Settings
from evkit.sql import named
from evkit.system import System

_SQL = named("outbox")

# Kafka's own rule for topic names.
_TOPIC = re.compile(r"^[a-zA-Z0-9._-]{1,249}$")

EVENT_BYTES_MAX: int = Settings.model_fields["event_bytes_max"].default


class HasConnection(Protocol):
    """What a handler is given as `tx`: its connection is the one its inbox row is written on."""

    @property
    def connection(self) -> psycopg.Connection[Any]: ...


def write(
    connection: psycopg.Connection[Any] | HasConnection,
    event: Event,
    *,
    event_bytes_max: int = EVENT_BYTES_MAX,
    notify: bool = False,
) -> str:
    """Write one event in the transaction that is open on the connection; returns the event's id.

    The writer's trace goes with it: the `traceparent` among the event's headers, or else the current OpenTelemetry span.

    Args:
        notify  wake the relay at the commit (NOTIFY). Without it, it looks 10 to 100 times a second. Every commit that
                notifies takes one lock of the whole PostgreSQL server: fine for hundreds a second, a bottleneck for
                thousands. A relay that runs in the writer's own process is woken for nothing by `Relay.wake`.

    Side effects: one row in evkit.outbox (with `due_at`: in evkit.scheduled), visible to the relay once the caller commits;
    with `ordered=True` a lock on the key until then. No commit. In a replay as its `emit` says (emission.py).

    Raises:
        InvalidEvent: the event could not be published, or its payload does not fit its event type.
        UsageError: the connection is in autocommit mode and no transaction is open.
    """
    target = _in_transaction(connection)
    wanted = emission.written(target, event)
    row = _row(wanted or event, event_bytes_max)
    if wanted is None:
        return event.id
    if event.ordered:
        target.execute(_SQL["lock_key"], (event.key,))
    if notify and event.due_at is None:
        target.execute(_SQL["notify"])
    try:
        if event.due_at is None:
            target.execute(_SQL["write"], row)
        else:
            target.execute(_SQL["schedule"], (*row, event.due_at))
    except psycopg.errors.UniqueViolation:
        raise InvalidEvent(
            "is in the outbox already: an id is used once, write the second event with an id of its own",
            event_id=event.id,
            event_type=event.type,
        ) from None
    return event.id


def write_many(
    connection: psycopg.Connection[Any] | HasConnection,
    events: Iterable[Event],
    *,
    event_bytes_max: int = EVENT_BYTES_MAX,
    notify: bool = False,
) -> list[str]:
    """Write events in one statement, in the given order; returns their ids. All are checked before any is written.

    Scheduled ones are a second statement. Arguments, side effects and errors: see `write`.
    """
    target = _in_transaction(connection)
    given = list(events)
    emitted = [emission.written(target, event) for event in given]
    rows = [_row(wanted or event, event_bytes_max) for wanted, event in zip(emitted, given, strict=True)]
    rows = [row for row, wanted in zip(rows, emitted, strict=True) if wanted is not None]
    events = [wanted for wanted in emitted if wanted is not None]
    if not rows:
        return [event.id for event in given]
    # Sorted, so that two writers that share keys do not wait for each other in a circle.
    for key in sorted({event.key for event in events if event.ordered}):
        target.execute(_SQL["lock_key"], (key,))
    now = [row for row, event in zip(rows, events, strict=True) if event.due_at is None]
    later = [(*row, event.due_at) for row, event in zip(rows, events, strict=True) if event.due_at is not None]
    if notify and now:
        target.execute(_SQL["notify"])
    try:
        for query, some in (("write_many", now), ("schedule_many", later)):
            if some:
                target.execute(_SQL[query], [list(column) for column in zip(*some, strict=True)])
    except psycopg.errors.UniqueViolation as error:
        raise InvalidEvent(
            f"is among {len(rows)} events of which one has an id that is in the outbox already "
            f"({error.diag.message_detail})",
            event_id=events[0].id,
            event_type=events[0].type,
        ) from None
    return [event.id for event in given]


# What `status` answers, in the order in which people read it.
_STATUS = (
    "written", "published", "waiting", "oldest_waiting_seconds",
    "scheduled", "due", "oldest_due_seconds",
    "unpublishable", "held", "retrying", "skipped", "oldest_unpublishable_seconds",
    "oldest_hole_position", "oldest_hole_seconds",
    "hole_pid", "hole_pid_seconds", "hole_database", "hole_state", "hole_application",
    "failing_position", "failing_since", "failing_error",
    "settled_position", "moved_at", "leader_pid", "leader_address",
)  # fmt: skip


def cancel(connection: psycopg.Connection[Any] | HasConnection, event_id: str) -> bool:
    """Take a scheduled event back, in the transaction that is open on the connection; False when it is not (or no longer)
    scheduled: it was published, is about to be, or never was there. No commit.

    Raises:
        UsageError: see `write`.
    """
    return _in_transaction(connection).execute(_SQL["cancel"], (event_id,)).rowcount == 1


def status(system: System, *, counts: bool = True) -> dict[str, Any]:
    """What waits in the outbox, what cannot go on, and who is in the way; of this moment, in one snapshot.

    Keys, None where there is none or where it is hidden from this user:
        written, published, waiting         events: all, confirmed by the broker, neither that nor unpublishable
        oldest_waiting_seconds              age of the oldest waiting one
        scheduled, due, oldest_due_seconds  events for later; those whose time has come, and since when
        unpublishable, held                 events that the broker will not take; later ones of their keys, which wait
        retrying, skipped                   given another try; given up by `evkit outbox skip`
        oldest_unpublishable_seconds        since when the oldest of the unpublishable ones is parked
        oldest_hole_position, oldest_hole_seconds
                                            a position that a running transaction may still fill: nothing above it is
                                            forgotten until it ends
        hole_pid, hole_pid_seconds          the backend that keeps the hole open, and the age of its transaction
        hole_database, hole_state, hole_application
                                            where it is, what it does ("idle in transaction"), what it calls itself
        failing_position, failing_since, failing_error
                                            the event that the relay stands at
        settled_position, moved_at          how far everything is dealt with, and when that last moved
        leader_pid, leader_address          the session that holds the relay's lock, and its client's address

    written = published + waiting + unpublishable + held + retrying + skipped.

    `counts=False` leaves out written, published and skipped (None): these cost a look at the whole table. Changes nothing.

    Raises:
        DatabaseUnreachable, NotMigrated.
    """
    with system.reading() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        found = dict(cursor.execute(_SQL["status"]).fetchone() or {})
        if counts:
            found |= cursor.execute(_SQL["status_counts"]).fetchone() or {}
        if found["hole_since"] is not None:
            holder = named("holes")["hole_holder"]
            found |= cursor.execute(holder, {"since": found["hole_since"]}).fetchone() or {}
    return {key: found.get(key) for key in _STATUS}


def _in_transaction(connection: psycopg.Connection[Any] | HasConnection) -> psycopg.Connection[Any]:
    target = connection if isinstance(connection, psycopg.Connection) else connection.connection
    if target.autocommit and target.info.transaction_status == TransactionStatus.IDLE:
        raise UsageError(
            "outbox.write needs an open transaction, and this connection is in autocommit mode: the event would be "
            "written without the data it tells about; use `with connection.transaction():`"
        )
    return target


def _row(event: Event, event_bytes_max: int) -> tuple[Any, ...]:
    """The event's column values, in the order of the INSERT; raises InvalidEvent for what could not be published."""
    topic = event.destination
    if not event.id or not event.type:
        _refuse(event, "has no id or no type: both are needed")
    if not _TOPIC.match(topic) or topic in (".", ".."):
        _refuse(event, f"has the topic '{topic[:80]}': Kafka takes 1-249 of the characters a-z A-Z 0-9 . _ -")
    if not isinstance(event.key, str):
        _refuse(event, f"has a key of type {type(event.key).__name__}: keys are text, '' for none")
    payload, schema_version = event_types.encode(event)
    if len(payload) > event_bytes_max:
        _refuse(
            event,
            f"has a payload of {len(payload):,} bytes, the most is {event_bytes_max:,}: keep large content elsewhere "
            "and put a reference to it into the event",
        )
    for text in (event.id, event.type, event.key, event.correlation_id or "", event.causation_id or ""):
        if not isinstance(text, str) or "\x00" in text:
            _refuse(
                event, "has an id, type, key, correlation or causation id that is no text, or has a NUL character in it"
            )
    if event.due_at is not None and event.due_at.tzinfo is None:
        _refuse(event, f"is due at {event.due_at} without a time zone: say which")
    headers = _headers(event)
    traceparent, tracestate = tracing.current()
    if (given := headers.pop(TRACEPARENT, None)) is not None:
        traceparent, tracestate = given, None
    if tracestate:
        headers.setdefault("tracestate", tracestate)
    return (
        event.id,
        topic,
        event.key,
        event.type,
        payload.decode(),
        event.topic,
        schema_version,
        json.dumps(headers, ensure_ascii=False) if headers else None,
        event.correlation_id,
        event.causation_id,
        traceparent,
    )


def _headers(event: Event) -> dict[str, str]:
    for name, value in event.headers.items():
        if name in RESERVED_HEADERS:
            _refuse(event, f"sets the header '{name}', which evkit writes itself")
        if not isinstance(name, str) or not isinstance(value, str) or "\x00" in name + value:
            _refuse(event, f"has a header '{name}' that is not text")
    return dict(event.headers)


def _refuse(event: Event, why: str) -> None:
    raise InvalidEvent(why, event_id=str(event.id), event_type=str(event.type))
