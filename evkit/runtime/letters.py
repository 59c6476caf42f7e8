"""dead letter table → letters: look at them, by filter, by equal failure, or one whole. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import class_row, dict_row

from evkit import postgres
from evkit.error_texts import message_of
from evkit.errors import InvalidParameter, UnknownGroup, UnknownLetter
from evkit.letter_states import states_given
from evkit.masking import of_topic
from evkit.sql import named
from evkit.system import System
from evkit.window import Window, instant

_SQL = named("dead_letters")
_INBOX = named("inbox")

# More than this are not listed unless asked for; acts take all that their filter names.
LETTERS_MAX = 1_000
GROUPS_MAX = 1_000

# Up to here the data is suspected, above it the code: a bug seldom stops at three keys, a broken record seldom has four.
POISON_KEYS_MAX = 3

# The largest id that a letter can have, a bigint.
_ID_MAX = 2**63 - 1
# Letters that an export fetches at once: 1,000 of the largest records (1 MB each) still fit into memory.
_FETCH_LETTERS = 1_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a group gave up on. Times are UTC.

    Attributes, beside the columns of evkit.dead_letter that say it by their names:
        retry_count   attempts after the first, redrives included
        held_at       on hold since then: no redrive takes it; None: it is not
        edited_from   letter whose event was edited into this one; the event of this letter was never in the topic
        replaced_by   letter of the edited event, which resolved this one
        source_…      imported from another framework's dead-letter topic: in whose words ("spring"), and which record of
                      which topic it was; None: evkit's own
    """

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
    ticket: str | None = None
    assignee: str | None = None
    held_at: datetime | None = None
    hold_reason: str | None = None
    edited_from: int | None = None
    replaced_by: int | None = None
    source_dialect: str | None = None
    source_topic: str | None = None
    source_partition: int | None = None
    source_offset: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FullLetter(DeadLetter):
    """A letter with the record as it was, its stack and every attempt.

    `edit` says what an edited one was before, `source_facts` what else an imported one's framework has said of it.
    """

    edit: dict[str, Any] | None = None
    source_facts: dict[str, Any] | None = None
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
    """Which letters; every filter that is None lets all pass. `states` defaults to the open ones.

    Attributes:
        states                      any of letter_states.STATES; "open" are also those that are being retried
        key                         readable form of the record's key; "" for those without one
        text                        found in the error's class or message, the note or the ticket (in whatever case), or
                                    byte for byte in the record's value; reads every letter that the others leave
        since, until                of the first failure, UTC; until is not in it
        attempts_min, attempts_max  how often it was tried, the first attempt included
        held                        only those on hold (True), or only the others

    Raises:
        InvalidParameter: `until` is not after `since`.
    """

    ids: tuple[int, ...] | None = None
    group: str | None = None
    states: tuple[str, ...] | None = ("open",)
    topic: str | None = None
    event_type: str | None = None
    key: str | None = None
    fingerprint: str | None = None
    error_class: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    attempts_min: int | None = None
    attempts_max: int | None = None
    held: bool | None = None

    def __post_init__(self) -> None:
        for name, at in (("since", self.since), ("until", self.until)):
            object.__setattr__(self, name, None if at is None else instant(at))
        if self.since is not None and self.until is not None:
            Window(self.since, self.until)

    def parameters(self, letters_max: int | None) -> dict[str, Any]:
        return {
            "ids": None if self.ids is None else possible_ids(self.ids),
            "group": self.group,
            **states_given(self.states),
            "topic": self.topic,
            "event_type": self.event_type,
            "key": self.key,
            "fingerprint": self.fingerprint,
            "error_class": self.error_class,
            # PostgreSQL has no NUL in a text: no letter has one either, in its texts.
            "text": None if self.text is None else self.text.replace("\x00", "\\x00"),
            "since": self.since,
            "until": self.until,
            "attempts_min": self.attempts_min,
            "attempts_max": self.attempts_max,
            "held": self.held,
            "letters_max": letters_max,
        }


# --- looking ----------------------------------------------------------------------------------------------------------


def letters(
    system: System, selection: Selection | None = None, *, letters_max: int | None = LETTERS_MAX
) -> list[DeadLetter]:
    """Letters of a selection, the one that failed first at the top; without payloads, and without what errors say of events
    that a masking policy may be about (`evkit.error_texts`). Changes nothing.

    Raises:
        UnknownGroup: the selection names a group that neither the cluster's nor evkit's tables know.
        InvalidParameter: it has a text, and a masking policy may be about one of the letters.
        DatabaseUnreachable, NotMigrated.
    """
    selection = selection or Selection()
    _require_searchable(system, selection)
    with system.reading() as connection:
        if selection.group is not None:
            require_group(connection, selection.group)
        cursor = connection.cursor(row_factory=class_row(DeadLetter))
        found = cursor.execute(_SQL["letters"], selection.parameters(letters_max)).fetchall()
    if not (policies := system.settings.masking):
        return found
    return [replace(x, error_message=message_of(x.error_message, policies, x.topic, x.event_type) or "") for x in found]


def require_group(connection: postgres.Connection, group: str) -> None:
    """Raise UnknownGroup unless this group has handled or given up on at least one event here."""
    is_known = connection.execute(_INBOX["is_known_group"], {"group": group}).fetchone()
    if is_known is None or not is_known[0]:
        known = [row[0] for row in connection.execute(_INBOX["known_groups"]).fetchall()]
        raise UnknownGroup(group, known, where="to evkit's tables")


def ids_of(system: System, selection: Selection) -> list[int]:
    """The ids of all letters of a selection, frozen for an act, the one that failed first at the top. Changes nothing.

    Raises: see `letters`.
    """
    _require_searchable(system, selection)
    with system.reading() as connection:
        if selection.group is not None:
            require_group(connection, selection.group)
        return [row[0] for row in connection.execute(_SQL["letter_ids"], selection.parameters(None)).fetchall()]


def records(system: System, selection: Selection | None = None, *, unmasked: bool = False) -> Iterator[FullLetter]:
    """All letters of a selection with their records (without attempts), the one that failed first at the top.

    One snapshot, read as it is asked for: a million letters take no more memory than a thousand. Changes nothing. With
    `unmasked`, for who may see all of them, a text may also be found in what policies hide.

    Raises: see `letters`; at the first letter.
    """
    selection = selection or Selection()
    if not unmasked:
        _require_searchable(system, selection)
    with system.reading() as connection:
        if selection.group is not None:
            require_group(connection, selection.group)
        with connection.cursor("evkit_records", row_factory=class_row(FullLetter)) as cursor:
            cursor.itersize = _FETCH_LETTERS
            yield from cursor.execute(_SQL["records"], selection.parameters(None))


def groups(
    system: System,
    group: str | None = None,
    states: Sequence[str] = ("open",),
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    groups_max: int | None = GROUPS_MAX,
) -> list[dict[str, Any]]:
    """Equal failures together, the one with most open letters first. Changes nothing.

    The keys are the columns of `views.dead_letter_groups`, which see, beside them n_letters (of the asked states). Counted
    (n_keys, n_event_types, the sample) are the open letters where there are any. `since` and `until` say what n_new counts;
    default: the last hour. Messages as in `letters`.

    Raises: see `letters`.
    """
    until = until or datetime.now(UTC)
    values = {
        "group": group,
        **states_given(states),
        "since": since or until - timedelta(hours=1),
        "until": until,
        "groups_max": groups_max,
        "poison_keys_max": POISON_KEYS_MAX,
    }
    with system.reading() as connection:
        if group is not None:
            require_group(connection, group)
        found = connection.cursor(row_factory=dict_row).execute(_SQL["groups"], values).fetchall()
    for row in found:
        of = row.pop("topic"), row.pop("event_type")
        row["error_message"] = message_of(row["error_message"], system.settings.masking, *of)
    return found


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


def _require_searchable(system: System, selection: Selection) -> None:
    """Raise InvalidParameter when a text would be looked for in what policies hide: who finds it there has seen it."""
    if selection.text is None:
        return
    for policy in of_topic(system.settings.masking, selection.topic):
        if policy.field is not None or policy.errors != "show":
            what = f"field '{policy.field}'" if policy.header is None else f"header '{policy.header}'"
            raise InvalidParameter(
                f"letters cannot be searched for a text: the masking policy of {what} hides some of what payloads and "
                "errors say; leave the text away, or name a topic that no policy is about",
                name="text",
                value=selection.text,
            )


def possible_ids(ids: Iterable[int]) -> list[int]:
    """Those of the ids that a letter can have; for another one PostgreSQL has no type, and so no answer."""
    return [letter_id for letter_id in ids if abs(letter_id) <= _ID_MAX]


def known_ids(connection: postgres.Connection) -> list[str]:
    return [str(row[0]) for row in connection.execute(_SQL["known_ids"]).fetchall()]
