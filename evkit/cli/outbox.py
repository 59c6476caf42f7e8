"""`evkit outbox status`: what is written, published, waiting, and what the relay stands at."""

from __future__ import annotations

import typer

from evkit.cli.output import Format, FormatOption, print_facts


def register(app: typer.Typer) -> None:
    """Add the commands."""
    outbox = typer.Typer(help="The table that services write and relays read.", no_args_is_help=True)
    outbox.command("status")(status)
    app.add_typer(outbox, name="outbox")


def status(format: FormatOption = Format.table) -> None:
    """Rows written, published and waiting, what cannot be published, and who keeps the oldest hole open."""
    import evkit
    from evkit.runtime import outbox

    print_facts(outbox.status(evkit.connect()), format)
