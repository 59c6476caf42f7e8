"""`evkit up | down | status`: the embedded stack."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from evkit.cli.output import Format, FormatOption, YesOption, confirmed, print_json, print_rows, say

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Folder of the stack (EVKIT_LOCAL_HOME).", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)


def up(home: HomeOption = None) -> None:
    """Start the embedded Apache Kafka and PostgreSQL; data survives `down` and `up`."""
    from rich.console import Console

    from evkit.errors import MissingExtra

    try:
        from evkit.local import Stack
    except ImportError:
        raise MissingExtra("local", "the embedded stack") from None
    console = Console(stderr=True)
    with console.status("starting Apache Kafka and PostgreSQL") as line:

        def progress(sentence: str) -> None:
            if console.is_terminal:
                line.update(sentence)
            else:
                say(sentence)

        info = Stack(home).up(progress)
    print("it is up already" if info.already_up else "up")
    print(f"PostgreSQL  {info.postgres_dsn}")
    print(f"Kafka       {info.kafka_bootstrap_servers}")
    print(f"data        {info.home}")


def down(
    home: HomeOption = None,
    delete_data: Annotated[bool, typer.Option("--delete-data", help="Delete everything in the folder too.")] = False,
    yes: YesOption = False,
) -> None:
    """Stop the embedded stack; the data stays."""
    from evkit.local import Stack

    stack = Stack(home)
    if delete_data:
        say(f"delete {stack.home} with all its tables and topics")
        if confirmed("delete it?", yes=yes):
            stack.delete()
            print(f"down, {stack.home} is deleted")
        return
    print(f"down, the data stays in {stack.home}" if stack.down() else f"it was not up (data in {stack.home})")


def status(home: HomeOption = None, format: FormatOption = Format.table) -> None:
    """Say whether the embedded stack is up, and where; exit 0 when it is, 3 when not."""
    from evkit.local import Stack

    found = Stack(home).status()
    if format is Format.json:
        print_json({"up": found.up, "home": found.home, **(asdict(found.info) if found.info else {})})
    elif format is Format.csv:
        print_rows([{"up": found.up, **asdict(found.info)}] if found.info else [{"up": False, "home": found.home}],
                   ["up", "home", "postgres_dsn", "kafka_bootstrap_servers", "started_at"], format)  # fmt: skip
    else:
        print(found.sentence)
    raise typer.Exit(0 if found.up else 3)
