"""redrive → its rows: how far it is, letter by letter, and who has it in hand.

A run is in one session's hands at a time, by an advisory lock that goes with the session: a run that says that it is
running and is not locked was killed, and is anybody's to take up again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from evkit import postgres
from evkit.errors import RedriveRefused, UnknownRedrive
from evkit.masking import UNKNOWN_TYPE
from evkit.runtime import audit
from evkit.runtime.handler import Handlers
from evkit.runtime.inbox import Inbox
from evkit.sql import named

_SQL = named("redrive")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Run:
    """A redrive as its row says, with the counts of its letters. Times are UTC.

    Attributes:
        state      planned, queued (for the running consumers), running, interrupted (killed: nobody has it in hand),
                   done, stopped (`why` says why) or cancelled
        run_by     process, consumers, or topic
        stage      letters of the stage it is in; 0: all others, or not running
        letters    of the selection, and in a release also those that nobody wants handled, for what waits behind them
        not_tried  are still to run
        tails_left are through, and what waits behind them is still to run
        released   events that had waited behind the letters and are handled now
    """

    redrive_id: str
    consumer_group: str
    state: str
    run_by: str
    to_topic: str | None
    stop_at_failure: bool
    per_second_max: float | None
    fingerprints: list[str]
    cancel_requested: bool
    stage: int
    why: str | None
    actor: str
    reason: str | None
    audit_id: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    letters: int
    resolved: int
    sent: int
    failed: int
    skipped: int
    not_tried: int
    tails_left: int
    released: int
    failed_behind: int


@dataclass(slots=True)
class RedriveResult:
    """How a redrive ended, letter by letter; of one that was resumed, over all its parts."""

    redrive_id: str
    resolved: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)  # the same letter, with one more attempt
    skipped: list[int] = field(default_factory=list)  # not open any more, or in another redrive's hands
    not_tried: list[int] = field(default_factory=list)  # after a stop
    tails_left: list[int] = field(default_factory=list)  # of those resolved: what waits behind them is still to run
    released: int = 0  # events that had waited behind the letters and are handled now
    failed_behind: list[int] = field(default_factory=list)  # new letters: of such an event that failed
    sent: list[int] = field(default_factory=list)  # as new events to `to_topic`; these letters are resolved
    to_topic: str | None = None
    skipped_because: str | None = None  # of the first that was skipped
    state: str = "done"
    why: str | None = None  # why it has stopped

    def summary(self) -> dict[str, Any]:
        found = {
            "redrive_id": self.redrive_id,
            "state": self.state,
            "why": self.why,
            "resolved": len(self.resolved),
            "failed": len(self.failed),
            "skipped": len(self.skipped),
            "not_tried": len(self.not_tried),
            "failed_ids": self.failed,
            "tails_left": len(self.tails_left),
            "released": self.released,
            "failed_behind_ids": self.failed_behind,
        }
        if self.skipped_because is not None:
            found["skipped_because"] = self.skipped_because
        return found if self.to_topic is None else found | {"to_topic": self.to_topic, "sent": len(self.sent)}


def read_runs(
    connection: postgres.Connection, *, redrive_id: str | None = None, group: str | None = None, runs_max: int = 50
) -> list[Run]:
    """Runs, the newest first."""
    cursor = connection.cursor(row_factory=class_row(Run))
    return cursor.execute(_SQL["runs"], {"redrive_id": redrive_id, "group": group, "runs_max": runs_max}).fetchall()


def read_result(connection: postgres.Connection, redrive_id: str) -> RedriveResult:
    """How far it has come."""
    found = read_run(connection, redrive_id)
    result = RedriveResult(redrive_id, state=found.state, why=found.why, to_topic=found.to_topic)
    lists = {
        "resolved": result.resolved, "failed": result.failed, "skipped": result.skipped, "waiting": result.not_tried,
        "sent": result.sent,
    }  # fmt: skip
    for letter_id, state, released, failed_behind, why, _, _, tail_left, *_ in connection.execute(
        _SQL["run_letters"], {"redrive_id": redrive_id}
    ).fetchall():
        if state in lists:
            lists[state].append(letter_id)
        if state == "skipped" and result.skipped_because is None:
            result.skipped_because = why
        if tail_left:
            result.tails_left.append(letter_id)
        result.released += released
        if failed_behind is not None:
            result.failed_behind.append(failed_behind)
    return result


def end_act(connection: postgres.Connection, redrive_id: str) -> RedriveResult:
    """Write the result into the audit row of the act that it belongs to."""
    outcome = read_result(connection, redrive_id)
    audit_id = read_run(connection, redrive_id).audit_id
    if audit_id is not None:
        audit.end(connection, audit_id, outcome.summary())
    return outcome


def read_run(connection: postgres.Connection, redrive_id: str) -> Run:
    """The run of this id; raises UnknownRedrive when there is none."""
    found = read_runs(connection, redrive_id=redrive_id)
    if not found:
        known = [row[0] for row in connection.execute(_SQL["known_runs"]).fetchall()]
        raise UnknownRedrive(redrive_id, known)
    return found[0]


def lock(connection: postgres.Connection, redrive_id: str) -> bool:
    """Whether this session may run it; False: another one has it in hand."""
    row = connection.execute(_SQL["lock_run"], {"redrive_id": redrive_id}).fetchone()
    return row is not None and bool(row[0])


def unlock(connection: postgres.Connection, redrive_id: str) -> None:
    """Give the run back; its lock would else go with the session."""
    connection.execute(_SQL["unlock_run"], {"redrive_id": redrive_id})


def require_handlers(connection: postgres.Connection, redrive_id: str, inbox: Inbox) -> None:
    """Raise RedriveRefused when letters that are still to run are of a type that this application does not handle."""
    for event_type, letters, letter_id in connection.execute(_SQL["run_types"], {"redrive_id": redrive_id}).fetchall():
        require_handler(inbox.handlers, inbox.group, event_type, letters, letter_id)


def require_handler(handlers: Handlers, group: str, event_type: str, letters: int, letter_id: int) -> None:
    """Raise RedriveRefused when these handlers have none for a type, which some letters have."""
    # What could not be decoded has no type that says anything.
    if event_type != UNKNOWN_TYPE and not handlers.knows(event_type):
        raise RedriveRefused(
            f"this application has no handler for '{event_type}' in group '{group}', and {letters} of the letters are of "
            f"that type (the first is {letter_id}): give the application that has one, or leave them out"
        )
