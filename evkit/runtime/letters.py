"""dead letter table → letters: look at them, by filter, by equal failure, or one whole. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg.rows import class_row, dict_row

from evkit import postgres
from evkit.errors import UnknownGroup, UnknownLetter
from evkit.sql import named
from evkit.system import System

_SQL = named("dead_letters")
_INBOX = named("inbox")

# More than this are not listed unless asked for; acts take all that their filter names.
LETTERS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a group gave up on. Times are UTC; `retry_count` counts attempts after the first, redrives included."""

    letter_id: int
    consumer_group: str
    event_id: str
    generation: int
    event_type: str
    topic: str
    partition: int
    offset: int
    key: str | None
    state: str
    error_class: str
    error_message: str
    fingerprint: str
    handler: str | None
    code_version: str | None
    schema_version: int | None
    created_at: datetime | None
    first_failed_at: datetime
    failed_at: datetime
    retry_count: int
    note: str | None
    replay_id: str | None
    state_changed_at: datetime


@dataclass(frozen=True, slots=True)
class FullLetter(DeadLetter):
    """A letter with the record as it was, its stack and every attempt."""

    leader_epoch: int | None
    appended_at: datetime | None
    timestamp_type: str
    raw_key: bytes | None
    raw_value: bytes | None
    header_names: list[str]
    header_values: list[bytes | None]
    stack_trace: str
    attempts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """Headers in the record's order."""
        return list(zip(self.header_names, self.header_values, strict=True))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters; every filter that is None lets all pass. `states` defaults to the open ones."""

    ids: tuple[int, ...] | None = None
    group: str | None = None
    states: tuple[str, ...] | None = ("open",)
    topic: str | None = None
    event_type: str | None = None
    key: str | None = None
    fingerprint: str | None = None
    error_class: str | None = None

    def parameters(self, letters_max: int | None) -> dict[str, Any]:
        return {
            "ids": None if self.ids is None else list(self.ids),
            "group": self.group,
            "states": None if self.states is None else list(self.states),
            "topic": self.topic,
            "event_type": self.event_type,
            "key": self.key,
            "fingerprint": self.fingerprint,
            "error_class": self.error_class,
            "letters_max": letters_max,
        }


# --- looking ----------------------------------------------------------------------------------------------------------


def letters(
    system: System, selection: Selection | None = None, *, letters_max: int | None = LETTERS_MAX
) -> list[DeadLetter]:
    """Letters of a selection, the one that failed first at the top; without payloads. Changes nothing.

    Raises:
        UnknownGroup: the selection names a group that neither the cluster's nor evkit's tables know.
        DatabaseUnreachable, NotMigrated.
    """
    selection = selection or Selection()
    with system.reading() as connection:
        if selection.group is not None:
            require_group(connection, selection.group)
        cursor = connection.cursor(row_factory=class_row(DeadLetter))
        return cursor.execute(_SQL["letters"], selection.parameters(letters_max)).fetchall()


def require_group(connection: postgres.Connection, group: str) -> None:
    """Raise UnknownGroup unless this group has handled or given up on at least one event here."""
    known = [row[0] for row in connection.execute(_INBOX["known_groups"]).fetchall()]
    if group not in known:
        raise UnknownGroup(group, known, where="to evkit's tables")


def groups(system: System, group: str | None = None, states: Sequence[str] = ("open",)) -> list[dict[str, Any]]:
    """Equal failures together, the largest first: consumer_group, fingerprint, error_class, error_message, handler,
    letters, keys, first_failed_at, failed_at, sample_letter_id. Changes nothing."""
    with system.reading() as connection:
        if group is not None:
            require_group(connection, group)
        cursor = connection.cursor(row_factory=dict_row)
        return cursor.execute(_SQL["groups"], {"group": group, "states": list(states)}).fetchall()


def show(system: System, letter_id: int) -> FullLetter:
    """One letter with everything that is known of it. Changes nothing.

    Raises:
        UnknownLetter: there is none with this id.
    """
    with system.reading() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        row = cursor.execute(_SQL["letter"], (letter_id,)).fetchone()
        if row is None:
            raise UnknownLetter(str(letter_id), known_ids(connection), where="here")
        attempts = cursor.execute(
            _SQL["attempts"],
            {"group": row["consumer_group"], "event_id": row["event_id"], "generation": row["generation"]},
        ).fetchall()
        return FullLetter(**row, attempts=attempts)


def known_ids(connection: postgres.Connection) -> list[str]:
    return [str(row[0]) for row in connection.execute(_SQL["known_ids"]).fetchall()]
