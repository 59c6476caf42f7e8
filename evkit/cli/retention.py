"""`evkit outbox retention`: make partitions ahead, and drop those whose events are all published and old."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from evkit.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    ReasonOption,
    YesOption,
    confirmed,
    plain,
    print_json,
    print_rows,
    say,
)

_COLUMNS = ("lower", "upper", "rows", "bytes", "newest_created_at", "droppable", "dropped", "reason")

OlderThanOption = Annotated[
    float | None,
    typer.Option("--older-than-days", min=0, help="Instead of the setting outbox_retention_days.", show_default=False),
]


def add(outbox: typer.Typer) -> None:
    """Add the command to `evkit outbox`."""
    outbox.command("retention")(retention)


def retention(
    older_than_days: OlderThanOption = None,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Drop ranges of the outbox that are published and old, and make new ones ahead. Shows every range first.

    A leading relay does this by itself when its role may; this is for one that may not, and for looking.
    """
    import evkit
    from evkit.runtime import retention

    system = evkit.connect()
    days = system.settings.outbox_retention_days if older_than_days is None else older_than_days
    found = retention.plan(system, None if days is None else timedelta(days=days))
    chosen = [partition for partition in found if partition.droppable]
    if format is Format.table:
        print_rows([plain(p) for p in found], [c for c in _COLUMNS if c != "dropped"], format)
    if chosen:
        size = sum(partition.bytes for partition in chosen)
        say(f"drop {len(chosen)} range(s) of evkit.outbox and evkit.publication, {size / 1e6:,.0f} MB")
    else:
        say("no range may be dropped" + ("" if days is None else f": older than {days:g} days is what would go"))
    obstacles: list[str] = []
    if confirmed("drop them, and make ranges ahead?" if chosen else "make ranges ahead?", yes=yes, dry_run=dry_run):
        with system.writing("evkit retention", autocommit=True) as connection:
            made = retention.ahead(connection)
        obstacles = made.obstacles
        for range_ in (*made.adopted, *made.made):
            say(f"made a range for positions from {range_.lower} to {range_.upper - 1}")
        done = {p.lower: p for p in retention.drop(system, chosen, reason=reason)}
        found = [done.get(partition.lower, partition) for partition in found]
        for partition in done.values():
            where = f"positions {partition.lower} to {partition.upper - 1}"
            if partition.dropped:
                say(f"{where}: dropped")
            else:
                obstacles.append(f"{where} stay: {partition.reason}")
        for sentence in obstacles:
            say(sentence)
    if format is Format.json:
        print_json([{column: plain(p)[column] for column in _COLUMNS} for p in found])
    elif format is Format.csv:
        print_rows([plain(p) for p in found], _COLUMNS, format)
    if obstacles:
        raise typer.Exit(1)
