"""failure → dead letter, and back: everything that a person does with letters, under one name.

The letter itself is written by the inbox (verdict.py), in the transaction that marks its event as dealt with. Looking is
letters.py, running them again through the failing group's handler redrive.py; putting away is here. Each act is one
transaction with its row in the audit table.
"""

from __future__ import annotations

from collections.abc import Iterable

from evkit import postgres
from evkit.errors import PurgeRefused, UnknownLetter
from evkit.runtime import audit
from evkit.runtime.letters import (
    LETTERS_MAX,
    DeadLetter,
    FullLetter,
    Selection,
    groups,
    known_ids,
    letters,
    require_group,
    show,
)
from evkit.runtime.redrive import RedrivePlan, RedriveResult, plan_redrive, plan_release, redrive
from evkit.sql import named
from evkit.system import System

__all__ = [
    "LETTERS_MAX",
    "DeadLetter",
    "FullLetter",
    "RedrivePlan",
    "RedriveResult",
    "Selection",
    "archive",
    "groups",
    "letters",
    "plan_redrive",
    "plan_release",
    "purge",
    "redrive",
    "require_group",
    "restore",
    "show",
]

_SQL = named("dead_letters")


def archive(system: System, ids: Iterable[int], *, note: str) -> list[int]:
    """Someone has decided that these open letters need no handling; returns the ids that were archived.

    Side effects: state open → archived with the note, one audit row; both in one transaction. `restore` goes back.

    Raises:
        UnknownLetter: an id that does not exist.
    """
    return _put_away(system, "archive", ids, note)


def purge(system: System, ids: Iterable[int], *, reason: str | None) -> list[int]:
    """Take letters out of sight, softly; returns the ids that were purged. `restore` brings them back.

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
    return _put_away(system, "purge", ids, reason)


def restore(system: System, ids: Iterable[int], *, reason: str | None = None) -> list[int]:
    """Bring archived or purged letters back to the state they had; returns the ids that were restored.

    Side effects: the state, one audit row; both in one transaction.

    Raises:
        UnknownLetter: an id that does not exist.
    """
    return _put_away(system, "restore", ids, reason)


def _put_away(system: System, act: str, ids: Iterable[int], note: str | None) -> list[int]:
    ids = sorted(set(ids))
    if not ids:
        return []
    with (
        postgres.translated_errors(system.settings.postgres_dsn),
        system.writing(f"evkit {act}") as connection,
    ):
        postgres.require_migrated(connection)
        known = {
            letter_id
            for (letter_id, *_) in connection.execute(
                _SQL["letters"], Selection(ids=tuple(ids), states=None).parameters(None)
            ).fetchall()
        }
        if missing := sorted(set(ids) - known):
            raise UnknownLetter(str(missing[0]), known_ids(connection), where="here")
        row = audit.begin(connection, f"dead_letters.{act}", ", ".join(map(str, ids[:20])), {"ids": ids}, note)
        done = [r[0] for r in connection.execute(_SQL[act], {"ids": ids, "note": note}).fetchall()]
        audit.end(connection, row, {"ids": sorted(done)})
    return sorted(done)
