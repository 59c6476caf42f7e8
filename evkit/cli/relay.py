"""`evkit relay run`: publish the outbox until told to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from evkit.cli.output import say
from evkit.cli.signals import on_stop


def register(app: typer.Typer) -> None:
    """Add the commands."""
    relay = typer.Typer(help="Move committed outbox rows to their topics.", no_args_is_help=True)
    relay.command("run")(run)
    app.add_typer(relay, name="relay")


def run(
    name: Annotated[str, typer.Option(help="Of this outbox's relay; relays of one name stand by for each other.")] = (
        "default"
    ),
    batch: Annotated[int, typer.Option(min=1, help="Most events between two marks.")] = 5000,
    source: Annotated[str, typer.Option(help="CloudEvents source of what is published.")] = "/evkit/outbox",
) -> None:
    """Publish the outbox; a second relay stands by. SIGTERM ends it after the batch in hand."""
    import evkit

    relay = evkit.Relay(name=name, batch_events_max=batch, source=source)
    on_stop(relay.stop)
    say(f"relay '{name}' of {relay.system}")
    relay.run()
