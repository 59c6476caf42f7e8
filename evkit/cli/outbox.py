"""`evkit outbox status`: what is written, published, waiting, and what the relay stands at."""

from __future__ import annotations

import typer

from evkit.cli.output import Format, FormatOption, print_rows


def register(app: typer.Typer) -> None:
    """Add the commands."""
    outbox = typer.Typer(help="The table that services write and relays read.", no_args_is_help=True)
    outbox.command("status")(status)
    app.add_typer(outbox, name="outbox")


def status(format: FormatOption = Format.table) -> None:
    """Rows written, published and waiting, the age of the oldest waiting one, and the event a relay cannot publish."""
    import evkit
    from evkit.runtime import outbox

    row = outbox.status(evkit.connect())
    print_rows([row], list(row), format)
