"""`evkit dlq`: look at dead letters, redrive them, put them away. What changes something shows a plan and asks first."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evkit.cli.dlq_acts import archive, edit, hold, note, purge, restore, unhold
from evkit.cli.dlq_filters import states_of, takes_filters
from evkit.cli.dlq_foreign import foreign, import_
from evkit.cli.dlq_redrive import cancel, redrive, redrives, release, resume
from evkit.cli.dlq_show import document, print_story
from evkit.cli.output import (
    Format,
    FormatOption,
    ReasonOption,
    csv_cell,
    plain,
    print_json,
    print_rows,
    say,
)
from evkit.letter_states import STATES

if TYPE_CHECKING:
    from evkit.runtime.dead_letters import Selection

_COLUMNS = (
    "letter_id", "consumer_group", "state", "event_type", "key", "error_class", "error_message", "retry_count",
    "first_failed_at", "failed_at", "topic", "partition", "offset", "event_id", "fingerprint", "note", "ticket", "assignee",
    "held_at", "hold_reason", "edited_from", "replaced_by", "replay_id", "source_dialect",
    "source_topic", "source_partition", "source_offset",
)  # fmt: skip
_TABLE_COLUMNS = (
    "letter_id", "consumer_group", "state", "event_type", "key", "error_class", "error_message", "retry_count", "failed_at",
)  # fmt: skip
_GROUP_COLUMNS = (
    "group", "fingerprint", "title", "error_class", "error_message", "handler", "n_letters", "n_open", "n_held", "n_new",
    "n_resolved", "n_archived", "n_keys", "n_event_types", "spread", "letters_per_minute", "first_seen_at", "last_seen_at",
    "oldest_open_seconds", "first_code_version", "last_code_version", "regressed", "replay", "sample_letter_id",
)  # fmt: skip
_GROUP_TABLE_COLUMNS = (
    "group", "fingerprint", "title", "error_message", "n_letters", "n_keys", "spread", "letters_per_minute",
    "first_seen_at", "last_seen_at", "last_code_version", "regressed", "sample_letter_id",
)  # fmt: skip


class ExportFormat(StrEnum):
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


IdsArgument = Annotated[list[int] | None, typer.Argument(metavar="[LETTER_ID]...", show_default=False)]
GroupOption = Annotated[str | None, typer.Option("--group", "-g", help="Consumer group.", show_default=False)]
FingerprintOption = Annotated[str | None, typer.Option("--fingerprint", help="Equal failures.", show_default=False)]
TopicOption = Annotated[str | None, typer.Option("--topic", show_default=False)]
TypeOption = Annotated[str | None, typer.Option("--type", help="Event type.", show_default=False)]
KeyOption = Annotated[str | None, typer.Option("--key", show_default=False)]
StateOption = Annotated[
    list[str] | None, typer.Option("--state", help="open, retrying, resolved, archived, purged; or all.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dlq = typer.Typer(help="Dead letters: what consumer groups gave up on.", no_args_is_help=True)
    for name, command in (
        ("list", list_letters), ("groups", groups), ("show", show), ("export", export), ("redrive", redrive),
        ("redrives", redrives), ("resume", resume), ("cancel", cancel), ("parked", parked), ("release", release),
        ("edit", edit), ("note", note), ("hold", hold), ("unhold", unhold), ("archive", archive), ("restore", restore),
        ("purge", purge), ("foreign", foreign), ("import", import_),
    ):  # fmt: skip
        dlq.command(name)(command)
    app.add_typer(dlq, name="dlq")


@takes_filters()
def list_letters(
    selection: Selection,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most letters to list.")] = 100,
    format: FormatOption = Format.table,
) -> None:
    """List letters, the one that failed first at the top; without payloads."""
    import evkit

    found = [plain(letter) for letter in evkit.dead_letters.letters(evkit.connect(), selection, letters_max=limit)]
    columns = _TABLE_COLUMNS if format is Format.table else _COLUMNS
    print_rows(found, columns, format, empty="no dead letters")
    if len(found) == limit:
        say(f"the first {limit}; there may be more (--limit)")


def groups(
    group: GroupOption = None,
    state: StateOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most groups to list.")] = 100,
    format: FormatOption = Format.table,
) -> None:
    """Equal failures together: how many letters and keys, since when. Many keys: the code. Few keys: the data."""
    import evkit

    states = states_of(state) or STATES
    found = evkit.dead_letters.groups(evkit.connect(), group, states, groups_max=limit)
    columns = _GROUP_TABLE_COLUMNS if format is Format.table else _GROUP_COLUMNS
    print_rows(found, columns, format, empty="no dead letters")
    if len(found) == limit:
        say(f"the first {limit}; there may be more (--limit)")


def show(
    letter_id: Annotated[int, typer.Argument(metavar="LETTER_ID")],
    compare: Annotated[bool, typer.Option(help="With the last good event of its type.")] = True,
    format: FormatOption = Format.table,
) -> None:
    """The whole story of one letter: the record as it was, every attempt, what waits behind it, and how to redrive it.

    The payload is compared with that of the last event of its type that the group has handled.
    """
    import evkit

    found = evkit.dead_letters.story(evkit.connect(), letter_id, compare=compare)
    if format is Format.table:
        print_story(found)
    else:
        print_json(document(found))


@takes_filters(states=None)
def export(
    selection: Selection,
    format: Annotated[ExportFormat, typer.Option("--format", "-f", help="How to write them.")] = ExportFormat.jsonl,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File; without it, stdout.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    dialect: Annotated[
        str | None,
        typer.Option(
            "--dialect",
            help="spring or connect: as the records that it sends to its dead-letter topic.",
            show_default=False,
        ),
    ] = None,
    unmasked: Annotated[
        bool, typer.Option("--unmasked", help="Also what masking policies hide; leaves an audit row.")
    ] = False,
    reason: ReasonOption = None,
) -> None:
    """Write letters with their records to a file, whatever their state: a line or row each, the first to fail first.

    Key and value are text, or base64 where they are none: record_value_encoding says which. In CSV, text that a spreadsheet
    would run as a formula starts with a '; JSONL and Parquet have it as it is. With --dialect it is a record a line, whose
    headers have the names and the encoding of that framework; where masking policies apply it takes --unmasked to give back
    a record that can be handled.
    """
    import sys

    import evkit

    to = sys.stdout if out is None else out
    n = evkit.dead_letters.export(
        evkit.connect(), selection, format.value, to, force=force, cell=csv_cell, dialect=dialect, unmasked=unmasked,
        reason=reason,
    )  # fmt: skip
    say(f"{n:,} letters" + ("" if out is None else f" in {out}"))


_PARKED_COLUMNS = (
    "consumer_group", "topic", "key", "events", "letter_id", "letter_state", "error_class", "error_message", "parked_at",
)  # fmt: skip


def parked(
    group: GroupOption = None,
    topic: TopicOption = None,
    key: KeyOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Keys whose later events wait behind a dead letter, in order, the longest parked first."""
    import evkit
    from evkit.runtime.release import parked_keys

    found = parked_keys(evkit.connect(), group, key=key, topic=topic)
    print_rows([plain(k) for k in found], _PARKED_COLUMNS, format, empty="no parked keys")
