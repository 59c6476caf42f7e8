"""dead letter → a new event in its place: for what no fix of the code will handle, because the payload itself is wrong.

An event that was written is never changed. The edited one is another: new id, `ce_causationid` says whose place it takes,
header `evkit-edited-from` that a person made it. It goes to the failing group alone, as a letter of its own that a redrive
runs, and is never published; other groups have handled the first one, or have letters of their own.

The old letter is resolved, and its event's inbox row says 'skipped': in the counts of a topic (P8) the old event has its
row, and the new one, which never was in the topic, has a letter with `edited_from` that tells it apart. What waited behind
the old letter waits behind the new one. All of it is one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zlib import crc32

from psycopg.types.json import Jsonb

from evkit import decoding, postgres
from evkit.errors import EditRefused, Undecodable, UsageError
from evkit.event import (
    CE_CAUSATION_ID,
    CE_CORRELATION_ID,
    CE_ID,
    CE_SOURCE,
    CE_SPECVERSION,
    CE_TIME,
    CE_TYPE,
    CONTENT_TYPE,
    Event,
    new_id,
)
from evkit.kafka import Record
from evkit.letter_states import OPEN
from evkit.masking import applying
from evkit.runtime import audit
from evkit.runtime.failure import storable_json
from evkit.runtime.letters import FullLetter, show
from evkit.runtime.masked_letters import changes_as_seen
from evkit.runtime.payload import Change, changed, difference, encoded, object_or_reason, readable
from evkit.sql import named
from evkit.system import System

_SQL = named("dead_letters")

# Id of the event that this one was made of by a person.
EDITED_FROM = "evkit-edited-from"

_Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class EditPlan:
    """What an edit will write; nothing is written yet.

    Attributes:
        letter      the letter as it is
        event_id    id of the new event
        event_type  its type
        value       its record's value
        headers     its record's headers
        difference  what changes in the payload, and in the type under path "(type)"
        seen        the same as policies let it be seen (`evkit.masking`)
    """

    letter: FullLetter
    event_id: str
    event_type: str
    value: bytes
    headers: _Headers
    difference: tuple[Change, ...]
    seen: tuple[Change, ...]

    def summary(self) -> dict[str, Any]:
        """What the plan is about, for people and for the audit row; without what policies hide."""
        return {
            "letter_id": self.letter.letter_id,
            "group": self.letter.consumer_group,
            "event_id": self.letter.event_id,
            "new_event_id": self.event_id,
            "event_type": self.event_type,
            "difference": [change.document() for change in self.seen],
        }


def plan_edit(
    system: System,
    letter_id: int,
    *,
    payload: bytes | None = None,
    settings: dict[str, Any] | None = None,
    event_type: str | None = None,
) -> EditPlan:
    """What it takes to put an edited event in a letter's place; changes nothing.

    Args:
        payload     the whole new payload: a JSON object
        settings    or: values to set at paths of the old one (see `payload.changed`)
        event_type  another type, for a record that does not say its own, or a wrong one

    Raises:
        UnknownLetter: there is none with this id.
        EditRefused: it is not open, nothing would change, or the old payload cannot be read and `settings` are given.
        UsageError: both or none are given, the new payload is no JSON object, or a path leads nowhere.
    """
    letter = show(system, letter_id)
    _require_open(letter.letter_id, letter.state)
    if payload is not None and settings:
        raise UsageError("give a whole payload, or values to set in the old one, not both")
    record, event = _decoded(letter)
    if event is None:
        old, reason = object_or_reason(letter.raw_value)
    else:
        old, reason = dict(event.payload), None
    if payload is not None:
        new, wrong = object_or_reason(payload)
        if new is None:
            raise UsageError(f"the new payload cannot be an event's: {wrong}")
    elif old is None:
        raise EditRefused(
            f"the payload of dead letter {letter_id} cannot be read ({reason}): give a whole new one (--payload)"
        )
    elif settings or event_type:
        new = changed(old, settings or {})
    else:
        raise UsageError("edit what? Give a new payload (--payload FILE), values to set (--set path=json), or a --type")
    changes = difference(readable(letter.raw_value) if old is None else old, new)
    kind = event_type or letter.event_type
    if kind != letter.event_type:
        changes.append(Change("(type)", "value", letter.event_type, kind))
    if not changes:
        raise EditRefused(
            f"the new payload of dead letter {letter_id} is the old one: redrive it, there is nothing to edit"
        )
    try:
        value = encoded(new)
    except ValueError:
        raise UsageError("the new payload cannot be an event's: NaN and infinity are not JSON") from None
    event_id = new_id()
    under = dict.fromkeys(
        p for t in (letter.event_type, kind) for p in applying(system.settings.masking, letter.topic, t)
    )
    return EditPlan(
        letter,
        event_id,
        kind,
        value,
        _headers(letter, record, event, event_id, kind),
        tuple(changes),
        changes_as_seen(changes, tuple(under)),
    )


def edit(system: System, plan: EditPlan, *, reason: str) -> int:
    """Put the edited event in the letter's place; returns the id of its letter, which is open and wants a redrive.

    Side effects, in one transaction: a letter for the new event (as old as the first one: it waits for as long) and its
    inbox row; the old letter resolved with `replaced_by`, its event's inbox row 'skipped'; what waited behind
    it waits behind the new one; one audit row.

    Raises:
        EditRefused: the letter is not open any more, its event was handled meanwhile, or there is no reason.
    """
    if not reason.strip():
        raise EditRefused("an edit needs a reason (--reason): the event will say what nobody wrote")
    letter = plan.letter
    values = {
        "letter_id": letter.letter_id,
        "group": letter.consumer_group,
        "event_id": letter.event_id,
        "generation": letter.generation,
        "new_event_id": plan.event_id,
        "event_type": plan.event_type,
        "raw_value": plan.value,
        "header_names": [name for name, _ in plan.headers],
        "header_values": [value for _, value in plan.headers],
        "payload_crc32": crc32(plan.value),
        "edit": Jsonb({
            "actor": audit.actor(), "reason": reason,
            "difference": storable_json([change.document() for change in plan.difference]),
        }),
    }  # fmt: skip
    with system.writing("evkit edit") as connection:
        postgres.require_migrated(connection)
        row = connection.execute(_SQL["lock_letter"], values).fetchone()
        _require_open(letter.letter_id, "gone" if row is None else row[0])
        act = audit.begin(connection, "dead_letters.edit", str(letter.letter_id), plan.summary(), reason)
        connection.execute(_SQL["edited_inbox_row"], values)
        outcome = connection.execute(_SQL["settle_edited"], values).rowcount
        if not outcome and _was_handled(connection, values):
            raise EditRefused(
                f"the event of dead letter {letter.letter_id} was handled meanwhile: redrive the letter, which resolves it "
                "and handles nothing twice"
            )
        made = connection.execute(_SQL["edited_letter"], values).fetchone()
        assert made is not None
        values["new_letter_id"] = made[0]
        connection.execute(_SQL["replace"], values)
        connection.execute(_SQL["wait_behind"], values)
        audit.end(connection, act, {"letter_id": made[0], "event_id": plan.event_id})
    return int(made[0])


def _was_handled(connection: postgres.Connection, values: dict[str, Any]) -> bool:
    row = connection.execute(_SQL["inbox_outcome"], values).fetchone()
    return row is not None and row[0] == "handled"


def _require_open(letter_id: int, state: str) -> None:
    if state not in OPEN:
        raise EditRefused(
            f"dead letter {letter_id} is {state}, only open ones are edited"
            + (": restore it first" if state in ("archived", "purged") else "")
        )


def _decoded(letter: FullLetter) -> tuple[Record, Event | None]:
    """The letter's record, and the event in it; None when that cannot be read in any format that evkit knows."""
    record = Record(
        topic=letter.topic, partition=letter.partition, offset=letter.offset, key=letter.raw_key, value=letter.raw_value,
        headers=letter.headers, timestamp=letter.appended_at, timestamp_type=letter.timestamp_type,
        leader_epoch=letter.leader_epoch, received_at=letter.failed_at,
    )  # fmt: skip
    try:
        event = decoding.decode(record)
        event.payload  # noqa: B018 - it is parsed now, and may be broken
    except Undecodable:
        return record, None
    return record, event


def _headers(letter: FullLetter, record: Record, event: Event | None, event_id: str, event_type: str) -> _Headers:
    """The old record's headers with the identity of the new event, in the format of the old one where that is Debezium's,
    else in CloudEvents binary mode: the new value is the bare payload."""
    names = {name for name, _ in record.headers}
    cause = [(CE_CAUSATION_ID, letter.event_id.encode()), (EDITED_FROM, letter.event_id.encode())]
    ours = {CE_CAUSATION_ID, EDITED_FROM}
    if "id" in names and not names & {CE_ID, CE_TYPE, CE_SPECVERSION}:
        kind = "eventType" if "eventType" in names else "type"
        kept = [(name, value) for name, value in record.headers if name not in ours | {"id", kind}]
        return [("id", event_id.encode()), (kind, event_type.encode()), *kept, *cause]
    ours |= {CE_ID, CE_TYPE, CE_SPECVERSION, CONTENT_TYPE}
    if event is not None and decoding.is_structured(dict(record.headers).get(CONTENT_TYPE)):
        # Its attributes are in the value, which is to be the payload alone.
        kept = [
            (name, text.encode("utf-8", "surrogatepass")) for name, text in event.headers.items() if name not in ours
        ]
        if event.correlation_id is not None:
            kept.append((CE_CORRELATION_ID, event.correlation_id.encode("utf-8", "surrogatepass")))
        if event.created_at is not None:
            kept.append((CE_TIME, event.created_at.isoformat().encode()))
    else:
        kept = [(name, value) for name, value in record.headers if name not in ours]
    if CE_SOURCE not in {name for name, _ in kept}:
        kept.append((CE_SOURCE, b"evkit/edit"))
    return [
        (CE_SPECVERSION, b"1.0"), (CE_ID, event_id.encode()), (CE_TYPE, event_type.encode()),
        (CONTENT_TYPE, b"application/json"), *kept, *cause,
    ]  # fmt: skip
