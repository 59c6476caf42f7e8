"""dead letter → handler: run it again through the handler of the group that failed, and what waits behind it.

A redrive never publishes to the source topic, which would reach every group: it runs the handler of the group that failed,
with the record as it was, in one transaction with the letter's new state. A selection is frozen as ids before anything
runs: letters that die meanwhile are not in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from evkit import postgres
from evkit.errors import RedriveRefused
from evkit.event import new_id
from evkit.kafka import Record
from evkit.runtime import audit, release
from evkit.runtime.attempt import attempt_values
from evkit.runtime.consumer import Consumer
from evkit.runtime.delivery import Delivery
from evkit.runtime.failure import Failure
from evkit.runtime.inbox import Inbox
from evkit.runtime.letters import DeadLetter, Selection, letters, require_group, show
from evkit.runtime.outcome import Counts
from evkit.runtime.release import ParkedKey, parked_keys
from evkit.sql import named
from evkit.system import System

_SQL = named("dead_letters")
_INBOX = named("inbox")


@dataclass(frozen=True, slots=True)
class RedrivePlan:
    """A frozen selection of one group's open letters, in the order in which they will run.

    Attributes:
        keys  parked keys whose events wait behind these letters, or (`plan_release`) behind one that nobody wants handled
              any more; when the last open letter of a key is through, they run in their order
    """

    group: str
    letters: tuple[DeadLetter, ...]
    keys: tuple[ParkedKey, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(letter.letter_id for letter in self.letters)

    def summary(self) -> dict[str, Any]:
        """What the plan is about, for people and for the audit row."""
        by_fingerprint: dict[str, int] = {}
        for letter in self.letters:
            by_fingerprint[letter.fingerprint] = by_fingerprint.get(letter.fingerprint, 0) + 1
        return {
            "group": self.group,
            "letters": len(self.letters),
            "keys": len({letter.key for letter in self.letters}),
            "fingerprints": by_fingerprint,
            "ids": list(self.ids),
            "parked_keys": len(self.keys),
            "parked_events": sum(key.events for key in self.keys),
        }


@dataclass(slots=True)
class RedriveResult:
    """How a redrive ended, letter by letter."""

    redrive_id: str
    resolved: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)  # the same letter, with one more attempt
    skipped: list[int] = field(default_factory=list)  # not open any more, or in another redrive's hands
    not_tried: list[int] = field(default_factory=list)  # after a stop
    released: int = 0  # events that had waited behind the letters and are handled now
    failed_behind: list[int] = field(default_factory=list)  # new letters: of such an event that failed

    def summary(self) -> dict[str, Any]:
        return {
            "redrive_id": self.redrive_id,
            "resolved": len(self.resolved),
            "failed": len(self.failed),
            "skipped": len(self.skipped),
            "not_tried": len(self.not_tried),
            "failed_ids": self.failed,
            "released": self.released,
            "failed_behind_ids": self.failed_behind,
        }


def plan_redrive(system: System, selection: Selection) -> RedrivePlan:
    """Freeze the open letters of a selection as a plan; changes nothing.

    Letters run in the order of their topic, partition and offset, so that the events of a key keep theirs.

    Raises:
        UnknownLetter: an id that does not exist.
        RedriveRefused: the letters are of several groups (each has handlers of its own), or none is open.
    """
    found = letters(system, replace(selection, held=False), letters_max=None)
    if selection.ids is not None:
        missing = sorted(set(selection.ids) - {letter.letter_id for letter in found})
        if missing:
            letter = show(system, missing[0])  # raises UnknownLetter when there is none
            if letter.state == "open" and letter.held_at is not None:
                raise RedriveRefused(
                    f"dead letter {missing[0]} is on hold since {letter.held_at:%Y-%m-%d %H:%M} "
                    f"({letter.hold_reason}): `evkit dlq unhold {missing[0]}` first"
                )
            raise RedriveRefused(
                f"dead letter {missing[0]} of group '{letter.consumer_group}' is {letter.state}, only open ones are "
                "redriven" + (": restore it first" if letter.state in ("archived", "purged") else "")
            )
    if not found:
        raise RedriveRefused("no open dead letter matches: nothing to redrive")
    owners = sorted({letter.consumer_group for letter in found})
    if len(owners) > 1:
        raise RedriveRefused(
            f"the letters are of {len(owners)} groups ({', '.join(owners)}): redrive one group at a time"
        )
    found.sort(key=lambda letter: (letter.topic, letter.partition, letter.offset))
    keys = parked_keys(system, owners[0], letters=[letter.letter_id for letter in found], keys_max=None)
    return RedrivePlan(owners[0], tuple(found), tuple(keys))


def plan_release(system: System, group: str, *, key: str | None = None, topic: str | None = None) -> RedrivePlan:
    """Freeze what it takes to let the parked keys of a group go on: their open letters, then the events behind them.

    Letters that were archived, purged or resolved do not run again: what waits behind them does. Changes nothing.

    Raises:
        UnknownGroup; RedriveRefused: no key of this group is parked, or not this one.
    """
    with system.reading() as connection:
        require_group(connection, group)
    keys = parked_keys(system, group, key=key, topic=topic, keys_max=None)
    if not keys:
        which = "no key" if key is None else f"key '{key}'"
        raise RedriveRefused(f"{which} of group '{group}' is {'' if key is None else 'not '}parked: nothing to release")
    found: list[DeadLetter] = []
    if ids := tuple(k.letter_id for k in keys if k.letter_state == "open"):
        found = letters(system, Selection(ids=ids), letters_max=None)
    found.sort(key=lambda letter: (letter.topic, letter.partition, letter.offset))
    return RedrivePlan(group, tuple(found), tuple(keys))


def redrive(
    system: System,
    plan: RedrivePlan,
    consumer: Consumer,
    *,
    reason: str | None = None,
    stop_at_failure: bool = True,
    per_second_max: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> RedriveResult:
    """Run a plan's letters through the handlers of `consumer`, each letter settled by itself.

    Side effects: the handler's writes, the inbox mark (dead → handled) and the letter's state (open → resolved) are one
    transaction for each letter; a failure is one more attempt of the same letter. Events that wait behind a letter
    (`plan.keys`) run after it, one transaction each, and then their key is free; the first that fails is a new letter, and
    the rest goes on waiting. One row in the audit table. Killed at any point, what was resolved stays so, and the same
    letters can be redriven again: those are skipped.

    With `stop_at_failure` it ends at the first letter that fails with a fingerprint of the plan: the fix did not work.
    `progress` is called with (done, all) after each letter; `stop` ends it between two letters.

    Raises:
        RedriveRefused: the consumer is of another group than the letters.
        DatabaseUnreachable: also in the middle; what was resolved stays so, and the audit row has no end.
    """
    if consumer.group != plan.group:
        raise RedriveRefused(
            f"the letters are of group '{plan.group}', the given consumer is of '{consumer.group}': a redrive runs the "
            "handlers of the group that failed"
        )
    result = RedriveResult(f"redrive-{new_id()}")
    fingerprints = {letter.fingerprint for letter in plan.letters}
    with (
        postgres.translated_errors(system.settings.postgres_dsn),
        system.writing("evkit redrive", autocommit=True) as connection,
    ):
        act = audit.begin(connection, "dead_letters.redrive", plan.group, plan.summary(), reason)
        inbox = consumer.inbox(system, replay_id=result.redrive_id)
        try:
            behind = {key.letter_id: key for key in plan.keys}
            # What waits behind letters that nobody wants handled any more.
            for key in plan.keys:
                if key.letter_id not in plan.ids and (stop is None or not stop.is_set()):
                    _release(connection, key, None, inbox, result, stop, per_second_max)
            for done, letter in enumerate(plan.letters):
                if stop is not None and stop.is_set():
                    result.not_tried = list(plan.ids[done:])
                    break
                started = time.monotonic()
                if letter.letter_id in behind:
                    key = behind[letter.letter_id]
                    failure = _release(connection, key, letter, inbox, result, stop, per_second_max)
                else:
                    failure = _redrive_one(connection, letter, inbox, result)
                if progress is not None:
                    progress(done + 1, len(plan.letters))
                if failure is not None and stop_at_failure and failure.fingerprint in fingerprints:
                    result.not_tried = list(plan.ids[done + 1 :])
                    break
                if per_second_max:
                    time.sleep(max(0.0, 1 / per_second_max - (time.monotonic() - started)))
        finally:
            if not connection.closed:
                audit.end(connection, act, result.summary())
    return result


def _release(
    connection: postgres.Connection,
    key: ParkedKey,
    letter: DeadLetter | None,
    inbox: Inbox,
    result: RedriveResult,
    stop: threading.Event | None,
    per_second_max: float | None,
) -> Failure | None:
    """A key's letter and what waits behind it, in order, unless another session is at it."""
    if not release.lock(connection, key):
        if letter is not None:
            result.skipped.append(letter.letter_id)
        return None
    try:
        failure = None if letter is None else _redrive_one(connection, letter, inbox, result)
        if failure is None:
            released = release.release(connection, key, inbox, stop=stop, per_second_max=per_second_max)
            result.released += released.handled + released.skipped
            if released.failed_id is not None:
                result.failed_behind.append(released.failed_id)
        return failure
    finally:
        if not connection.closed:
            release.unlock(connection, key)


def _redrive_one(
    connection: postgres.Connection, letter: DeadLetter, inbox: Inbox, result: RedriveResult
) -> Failure | None:
    started = time.monotonic()
    delivery: Delivery | None = None
    inbox.generation = letter.generation
    try:
        with connection.transaction():
            row = connection.execute(
                _SQL["letter_to_redrive"], {"letter_id": letter.letter_id, "group": letter.consumer_group}
            ).fetchone()
            if row is None:
                result.skipped.append(letter.letter_id)
                return None
            delivery = _delivery(row, letter, inbox)
            inbox.redrive(connection, delivery, attempt=letter.retry_count + 2)
            connection.execute(_SQL["resolve"], {"letter_id": letter.letter_id, "replay_id": result.redrive_id})
        result.resolved.append(letter.letter_id)
        inbox.metrics.ended(Counts(handled=1), replay=True)
        return None
    except Exception as error:
        if delivery is None or postgres.is_lost(connection, error) or isinstance(error, MemoryError):
            raise
        failure = Failure.of(error)
    values = attempt_values(
        inbox, delivery, failure, attempt=letter.retry_count + 2, seconds=time.monotonic() - started, disposition="dead"
    )
    with connection.transaction():
        connection.execute(_INBOX["attempt"], values)
        connection.execute(_SQL["failed_again"], values | {"letter_id": letter.letter_id})
    result.failed.append(letter.letter_id)
    inbox.metrics.failed("dead", replay=True)
    return failure


def _delivery(row: tuple[Any, ...], letter: DeadLetter, inbox: Inbox) -> Delivery:
    """The letter's record as if it had just been polled."""
    (
        event_id, _, topic, partition, offset, leader_epoch, appended_at, timestamp_type, key, value, names, values,
        edited_from,
    ) = row  # fmt: skip
    record = Record(
        topic=topic, partition=partition, offset=offset, key=key, value=value,
        headers=list(zip(names, values, strict=True)), timestamp=appended_at, timestamp_type=timestamp_type,
        leader_epoch=leader_epoch, received_at=letter.failed_at,
    )  # fmt: skip
    delivery = Delivery.of(record, inbox.handlers)
    if edited_from is not None:
        # A decode function of the consumer's own may find the id of the event before the edit in the record: under that one
        # the event would be taken for handled.
        delivery.event_id = event_id
    return delivery
