"""How commands print: facts as table, JSON or CSV on stdout, everything else on stderr; and how they ask.

What payloads, keys, headers and error messages say is somebody else's text: it may hold control sequences that clear a
terminal, rename its window or type into it, and marks that make text read in another order than it is stored. All of it
goes through `safe` (JSON: `json_safe`) on its way out.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from evkit.errors import UsageError


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[
    Format, typer.Option("--format", "-f", help="How to print: table, json (one document) or csv.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Why; kept in the audit table.", show_default=False)]


# C0 and C1 controls and DEL; marks that change the direction of text; separators that some terminals take for line ends;
# halves of surrogate pairs, which no terminal's encoding has; invisible tag characters.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# What a spreadsheet takes for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe(text: str, *, lines: bool = False) -> str:
    r"""Text that only says something when it is printed: what would do something becomes `\x1b`, `\n`, `\u202e`.

    With `lines` line feeds stay, and tabs become spaces: for text that is allowed more than one line.
    """

    def escaped(found: re.Match[str]) -> str:
        character = found.group()
        if lines and character in "\n\t":
            return "\n" if character == "\n" else "    "
        code = ord(character)
        return _SHORT.get(character) or (
            f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
        )

    return _UNSAFE.sub(escaped, text)


def json_safe(document: str) -> str:
    """A JSON document in which such characters are escaped as JSON has it: the same document to whoever reads it."""

    def escaped(found: re.Match[str]) -> str:
        character = found.group()
        return character if character == "\n" else json.dumps(character)[1:-1]

    return _UNSAFE.sub(escaped, document)


def csv_cell(value: Any) -> Any:
    """A value in a CSV file: control characters escaped (line ends stay, in quotes), and text that a spreadsheet would
    run as a formula after a `'`. JSON has the text as it is."""
    if value is None:
        return ""
    value = plain(value)
    if not isinstance(value, str):
        return value
    text = safe(value, lines=True)
    return f"'{text}" if value.startswith(_FORMULA) else text


def plain(value: Any) -> Any:
    """A value as JSON can hold it: times as ISO in UTC, bytes as text (hex when they are none), the rest as it is."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return "0x" + value.hex()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    return value


def print_json(document: Any) -> None:
    """One JSON document on stdout; NaN and infinity become null, as JSON has neither."""

    def finite(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {k: finite(v) for k, v in value.items()}
        if isinstance(value, list):
            return [finite(v) for v in value]
        return value

    print(json_safe(json.dumps(finite(plain(document)), ensure_ascii=False, indent=2, default=str)))


def print_text(text: str = "") -> None:
    """Sentences and documents on stdout, in as many lines as they have."""
    print(safe(text, lines=True))


def print_rows(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    format: Format = Format.table,
    *,
    title: str | None = None,
    empty: str = "nothing to show",
) -> None:
    """Rows in the given columns, in the given order. A table says `empty` when there are none; JSON is `[]`."""
    kept = [{c: row.get(c) for c in columns} for row in rows]
    if format is Format.json:
        print_json(kept)
    elif format is Format.csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows([[csv_cell(v) for v in row.values()] for row in kept])
    elif not kept:
        print_text(empty)
    else:
        print_table(kept, columns, title=title)


def print_facts(facts: Mapping[str, Any], format: Format = Format.table, *, title: str | None = None) -> None:
    """One thing with many facts: a table of one fact a line; JSON and CSV are those of one row."""
    if format is Format.table:
        print_table([{"fact": k, "value": shown(v)} for k, v in facts.items()], ("fact", "value"), title=title)
    else:
        print_rows([facts], list(facts), format)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, title: str | None = None) -> None:
    """A table for a terminal; numbers to the right, nothing is markup, whatever a payload says."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    numeric = {c for c in columns if all(isinstance(r.get(c), (int, float)) or r.get(c) is None for r in rows)}
    table = Table(
        box=box.SIMPLE_HEAD, title=None if title is None else Text(safe(title)), title_justify="left", pad_edge=False
    )
    for column in columns:
        table.add_column(Text(safe(column)), justify="right" if column in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(row.get(c))) for c in columns))
    console = Console()
    # A pipe has no width: give it what the widest row needs instead of folding at 80.
    if not console.is_terminal:
        console = Console(width=max(80, Console(width=100_000).measure(table).maximum))
    console.print(table)


def shown(value: Any) -> str:
    """A value as a person reads it, in one line; unknown is a dash, never 0."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return safe(str(plain(value)))


# Set by logs.setup when stderr is for machines: then a remark is a line of the log like any other.
remarks: logging.Logger | None = None


def say(sentence: str, level: int = logging.INFO) -> None:
    """A remark for the person at the terminal: stderr, so that stdout stays a document."""
    if remarks is None:
        print(safe(sentence if level < logging.ERROR else f"evkit: {sentence}", lines=True), file=sys.stderr)
    else:
        remarks.log(level, sentence)


def confirmed(question: str, *, yes: bool, dry_run: bool = False) -> bool:
    """Whether to go on after a plan was shown.

    True with `--yes`, or when the person at the terminal types y. False with `--dry-run` or another answer.

    Raises:
        UsageError: nobody can be asked (no terminal) and `--yes` was not given.
    """
    if dry_run:
        say("dry run: nothing was changed")
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("this changes something and there is no terminal to ask on: add --yes, or --dry-run to look")
    if typer.confirm(safe(question), err=True):
        return True
    say("nothing was changed")
    return False
