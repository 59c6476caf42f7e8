"""failure → dead letter, and back: everything that a person does with letters, under one name.

The letter itself is written by the inbox (verdict.py), in the transaction that marks its event as dealt with. Looking is
letters.py (one whole: letter_story.py, many into a file: export.py), running them again through the failing group's handler
redrive.py (trying it first: trial.py), sending them to a topic redrive_topic.py, putting another event in the place of one
edit.py, taking over those of other frameworks foreign.py; putting away is here. Each act is one transaction with its row in
the audit table, or has its own way to go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from evkit import postgres
from evkit.errors import PurgeRefused, UnknownLetter, UsageError
from evkit.runtime import audit
from evkit.runtime.edit import EditPlan, edit, plan_edit
from evkit.runtime.export import export
from evkit.runtime.foreign import ImportCounts, ImportPlan, foreign, import_foreign, plan_import
from evkit.runtime.letter_story import LetterStory, story
from evkit.runtime.letters import (
    LETTERS_MAX,
    DeadLetter,
    FullLetter,
    Selection,
    groups,
    ids_of,
    known_ids,
    letters,
    possible_ids,
    require_group,
    show,
)
from evkit.runtime.redrive import cancel, queue, redrive, resume, run, run_letters, runs
from evkit.runtime.redrive_plan import RedrivePlan, plan_redrive, plan_release
from evkit.runtime.redrive_run import RedriveResult, Run
from evkit.runtime.redrive_topic import send
from evkit.runtime.trial import Trial, try_redrive
from evkit.sql import named
from evkit.system import System

__all__ = [
    "LETTERS_MAX",
    "RESTORE_WINDOW",
    "DeadLetter",
    "EditPlan",
    "ExpiryPlan",
    "FullLetter",
    "ImportCounts",
    "ImportPlan",
    "LetterStory",
    "RedrivePlan",
    "RedriveResult",
    "Run",
    "Selection",
    "Trial",
    "annotate",
    "archive",
    "cancel",
    "delete_expired",
    "edit",
    "export",
    "foreign",
    "groups",
    "hold",
    "ids_of",
    "import_foreign",
    "letters",
    "plan_edit",
    "plan_expiry",
    "plan_import",
    "plan_redrive",
    "plan_release",
    "purge",
    "queue",
    "redrive",
    "require_group",
    "restore",
    "resume",
    "run",
    "run_letters",
    "runs",
    "send",
    "show",
    "story",
    "try_redrive",
    "unhold",
]

_SQL = named("dead_letters")

# How long a purged letter can be restored, at least.
RESTORE_WINDOW = timedelta(days=7)
# Rows deleted in one transaction: a second or so.
_DELETE_LETTERS = 10_000


def archive(system: System, ids: Iterable[int], *, note: str) -> list[int]:
    """Someone has decided that these open letters need no handling; returns the ids that were archived.

    Side effects: state open → archived with the note, one audit row; both in one transaction. `restore` goes back.

    Raises:
        UnknownLetter: an id that does not exist.
    """
    return _act(system, "archive", ids, {"note": note}, note)


def hold(system: System, ids: Iterable[int], *, reason: str) -> list[int]:
    """Keep open letters from being redriven, whoever asks, until `unhold`; returns the ids that were not on hold before.

    What waits behind them goes on waiting. Side effects: held_at and hold_reason, one audit row; in one transaction.

    Raises:
        UnknownLetter: an id that does not exist.
    """
    return _act(system, "hold", ids, {"note": reason}, reason)


def unhold(system: System, ids: Iterable[int], *, reason: str | None = None) -> list[int]:
    """Take letters off hold; returns the ids that were on hold.

    Raises:
        UnknownLetter: an id that does not exist.
    """
    return _act(system, "unhold", ids, {}, reason)


def annotate(
    system: System,
    ids: Iterable[int],
    *,
    note: str | None = None,
    ticket: str | None = None,
    assignee: str | None = None,
) -> list[int]:
    """Write a note, a ticket or an assignee on letters in whatever state; "" takes it away, None leaves it.

    Side effects: these columns, one audit row; in one transaction.

    Raises:
        UnknownLetter: an id that does not exist.
        UsageError: none of the three is given.
    """
    values = {"note": note, "ticket": ticket, "assignee": assignee}
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        raise UsageError("write what on them? Give a note, a ticket or an assignee")
    return _act(system, "annotate", ids, values, None, plan=given)


def purge(system: System, ids: Iterable[int], *, reason: str | None) -> list[int]:
    """Take letters out of sight, softly; returns the ids that were purged. `restore` brings them back until
    `delete_expired` takes those that were purged long ago.

    Side effects: state → purged, one audit row; both in one transaction.

    Raises:
        UnknownLetter: an id that does not exist.
        PurgeRefused: there is an open letter among them and no reason was given.
    """
    ids = list(ids)
    selection = Selection(ids=tuple(ids), states=("open",))
    if not reason and (still_open := letters(system, selection, letters_max=None)):
        raise PurgeRefused(
            f"{len(still_open)} of {len(ids)} letters are open, the first is {still_open[0].letter_id}: an event that "
            "nobody handled is given up only with a reason (--reason), or redrive or archive it first"
        )
    return _act(system, "purge", ids, {"note": reason}, reason)


def restore(system: System, ids: Iterable[int], *, reason: str | None = None) -> list[int]:
    """Bring archived or purged letters back to the state they had; returns the ids that were restored.

    Side effects: the state, one audit row; both in one transaction.

    Raises:
        UnknownLetter: an id that does not exist (any more).
    """
    return _act(system, "restore", ids, {}, reason)


def _act(
    system: System,
    act: str,
    ids: Iterable[int],
    values: dict[str, Any],
    reason: str | None,
    *,
    plan: dict[str, Any] | None = None,
) -> list[int]:
    """One statement on letters by their ids, with its audit row, in one transaction."""
    ids = sorted(set(ids))
    if not ids:
        return []
    with (
        postgres.translated_errors(system.settings.postgres_dsn),
        system.writing(f"evkit {act}") as connection,
    ):
        postgres.require_migrated(connection)
        known = {row[0] for row in connection.execute(_SQL["known"], {"ids": possible_ids(ids)}).fetchall()}
        if missing := [letter_id for letter_id in ids if letter_id not in known]:
            raise UnknownLetter(str(missing[0]), known_ids(connection), where="here")
        target = ", ".join(map(str, ids[:20])) + (", …" if len(ids) > 20 else "")
        row = audit.begin(connection, f"dead_letters.{act}", target, {"ids": ids} | (plan or {}), reason)
        done = [r[0] for r in connection.execute(_SQL[act], values | {"ids": ids}).fetchall()]
        audit.end(connection, row, {"ids": sorted(done)})
    return sorted(done)


@dataclass(frozen=True, slots=True)
class ExpiryPlan:
    """Purged letters whose time to be restored is over.

    Attributes:
        older_than  since they were purged
        ids         to be deleted for good
        kept        not to be: their keys are still parked, and must not lose the letter that they wait for
    """

    older_than: timedelta
    ids: tuple[int, ...]
    kept: tuple[int, ...]


def plan_expiry(system: System, older_than: timedelta = RESTORE_WINDOW) -> ExpiryPlan:
    """Which purged letters can be restored no longer, and would be deleted. Changes nothing."""
    with system.reading() as connection:
        rows = connection.execute(_SQL["expired"], {"older_than": older_than}).fetchall()
    return ExpiryPlan(
        older_than,
        tuple(i for i, waited_for in rows if not waited_for),
        tuple(i for i, waited_for in rows if waited_for),
    )


def delete_expired(system: System, plan: ExpiryPlan, *, reason: str | None = None) -> int:
    """Delete the letters of a plan for good, record and all; returns how many. One that was restored meanwhile stays.

    Their attempts stay (error rates are made of them), as do the events' inbox rows, which keep them from being handled
    when they come again. Side effects: the rows, in transactions of 10,000; one audit row, there before the first one goes.
    """
    if not plan.ids:
        return 0
    done = 0
    with system.writing("evkit purge", autocommit=True) as connection:
        postgres.require_migrated(connection)
        about = {"ids": list(plan.ids), "kept": list(plan.kept), "older_than_seconds": plan.older_than.total_seconds()}
        act = audit.begin(connection, "dead_letters.delete", f"{len(plan.ids)} letters", about, reason)
        try:
            for start in range(0, len(plan.ids), _DELETE_LETTERS):
                some = list(plan.ids[start : start + _DELETE_LETTERS])
                done += connection.execute(_SQL["delete"], {"ids": some, "older_than": plan.older_than}).rowcount
        finally:
            if not connection.closed:
                audit.end(connection, act, {"deleted": done})
    return done
