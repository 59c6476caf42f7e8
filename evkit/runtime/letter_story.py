"""one letter → its whole story: what it was, the last event of its type that went well, what waits behind it, and what to
type next.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from evkit import decoding, kafka, records
from evkit.errors import EvkitError, Undecodable
from evkit.kafka import Record
from evkit.masking import applying, masked_document
from evkit.runtime.letters import FullLetter, show
from evkit.runtime.masked_letters import as_seen, changes_as_seen
from evkit.runtime.payload import Change, difference, object_or_reason
from evkit.sql import named
from evkit.system import System

_SQL = named("dead_letters")

# How far back in the inbox a good event is looked for: 0.1 s on a large one.
_GOOD_ROWS_MAX = 100_000
# Waiting events that are named.
EVENTS_BEHIND_MAX = 20


@dataclass(frozen=True, slots=True)
class GoodEvent:
    """The newest event of a letter's type that its group has handled.

    Attributes:
        payload      what it held; None where that cannot be had, and `reason` says why
        difference   from it to the letter's payload: what the letter's adds, lacks, or has of another type or value
    """

    event_id: str
    event_type: str
    topic: str
    partition: int
    offset: int
    processed_at: datetime
    payload: dict[str, Any] | None = None
    reason: str | None = None
    difference: tuple[Change, ...] | None = None


@dataclass(frozen=True, slots=True)
class LetterStory:
    """A letter and all around it.

    Attributes:
        letter        the letter, its record and its attempts, as policies let them be seen
        problem       why its payload cannot be read; None: it can
        good          the last good event of its type; None: none is among the newest rows of the inbox
        behind        how many events wait behind it
        first_behind  the first of them: event_id, event_type, offset, parked_at
        next_steps    commands to type
        masking       masked, or withheld (the value is no JSON, and not here); None: no policy applies
    """

    letter: FullLetter
    problem: str | None
    good: GoodEvent | None
    behind: int
    first_behind: tuple[dict[str, Any], ...]
    next_steps: tuple[str, ...]
    masking: str | None = None


def story(system: System, letter_id: int, *, compare: bool = True) -> LetterStory:
    """Everything about one letter. Changes nothing; with `compare` it may read one record from Kafka. What policies hide
    (`evkit.masking`) is hidden; payloads are compared before, so that a hidden value that differs is told to differ.

    Raises:
        UnknownLetter: there is none with this id.
    """
    letter = show(system, letter_id)
    payload, problem = _payload(letter)
    with system.reading() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        parked = cursor.execute(_SQL["events_behind"], {"letter_id": letter_id}).fetchone()
        first = cursor.execute(_SQL["behind"], {"letter_id": letter_id, "events_max": EVENTS_BEHIND_MAX}).fetchall()
        good = None
        if compare:
            asked = {
                "group": letter.consumer_group, "event_type": letter.event_type, "topic": letter.topic,
                "event_id": letter.event_id, "rows_max": _GOOD_ROWS_MAX,
            }  # fmt: skip
            good = cursor.execute(_SQL["last_good"], asked).fetchone()
            written = None
            if good is not None:
                written = connection.execute(_SQL["written_payload"], {"event_id": good["event_id"]}).fetchone()
    policies = system.settings.masking
    seen, masking = as_seen(letter, policies)
    return LetterStory(
        letter=seen,
        masking=masking,
        problem=problem,
        good=None if good is None else _good(system, good, None if written is None else written[0], payload),
        behind=parked["events"] if parked else 0,
        first_behind=tuple(first),
        next_steps=_next_steps(letter, parked["events"] if parked else 0),
    )


def _payload(letter: FullLetter) -> tuple[dict[str, Any] | None, str | None]:
    record = Record(
        topic=letter.topic, partition=letter.partition, offset=letter.offset, key=letter.raw_key, value=letter.raw_value,
        headers=letter.headers, timestamp=letter.appended_at, timestamp_type=letter.timestamp_type,
        leader_epoch=letter.leader_epoch, received_at=letter.failed_at,
    )  # fmt: skip
    return _payload_of(record)


def _payload_of(record: Record) -> tuple[dict[str, Any] | None, str | None]:
    """The payload of an event, or of a record in an unknown format whose value is JSON; or why there is none."""
    try:
        return dict(decoding.decode(record).payload), None
    except Undecodable as problem:
        payload, reason = object_or_reason(record.value)
        return payload, problem.reason if payload is None and reason else None


def _good(system: System, row: dict[str, Any], written: bytes | None, payload: dict[str, Any] | None) -> GoodEvent:
    good: dict[str, Any] | None = None
    reason: str | None = None
    if written is not None:
        good, reason = object_or_reason(written)
    else:
        try:
            record = records.record_at(system.settings, row["topic"], row["partition"], row["offset"])
            if record is None:
                reason = "it is no longer in the outbox, nor in the topic"
            else:
                good, reason = _payload_of(record)
        except (EvkitError, kafka.KafkaException) as error:
            reason = f"it is no longer in the outbox, and Kafka did not give its record: {error}"
    compared = None
    under = applying(system.settings.masking, row["topic"], row["event_type"])
    if good is not None and payload is not None:
        compared = changes_as_seen(difference(good, payload), under)
    seen = None if good is None else masked_document(good, under)
    return GoodEvent(**row, payload=seen, reason=reason, difference=compared)


def _next_steps(letter: FullLetter, behind: int) -> tuple[str, ...]:
    if letter.replaced_by is not None:
        return (f"evkit dlq show {letter.replaced_by}",)
    if letter.state in ("archived", "purged"):
        steps = [f"evkit dlq restore {letter.letter_id}"]
        return (
            (*steps, f"evkit dlq release --group {letter.consumer_group} --app MODULE:CONSUMER")
            if behind
            else tuple(steps)
        )
    if letter.state == "retrying":
        return (f"evkit dlq redrives --group {letter.consumer_group}",)
    if letter.state != "open":
        return ()
    redrive = f"evkit dlq redrive {letter.letter_id} --app MODULE:CONSUMER"
    return (redrive,) if letter.held_at is None else (f"evkit dlq unhold {letter.letter_id}", redrive)
