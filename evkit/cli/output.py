"""How commands print: facts as table, JSON or CSV on stdout, everything else on stderr; and how they ask."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import math
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

    print(json.dumps(finite(plain(document)), ensure_ascii=False, indent=2, default=str))


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
        writer.writerows([["" if v is None else plain(v) for v in row.values()] for row in kept])
    elif not kept:
        print(empty)
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
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(row.get(c))) for c in columns))
    console = Console()
    # A pipe has no width: give it what the widest row needs instead of folding at 80.
    if not console.is_terminal:
        console = Console(width=max(80, Console(width=100_000).measure(table).maximum))
    console.print(table)


def shown(value: Any) -> str:
    """A value as a person reads it; unknown is a dash, never 0."""
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
    return str(plain(value))


# Set by logs.setup when stderr is for machines: then a remark is a line of the log like any other.
remarks: logging.Logger | None = None


def say(sentence: str, level: int = logging.INFO) -> None:
    """A remark for the person at the terminal: stderr, so that stdout stays a document."""
    if remarks is None:
        print(sentence if level < logging.ERROR else f"evkit: {sentence}", file=sys.stderr)
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
    if typer.confirm(question, err=True):
        return True
    say("nothing was changed")
    return False
