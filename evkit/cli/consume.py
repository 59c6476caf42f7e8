"""`evkit consume MODULE:CONSUMER`: run a service's consumer until told to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from evkit.cli.output import say
from evkit.cli.signals import on_stop


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("consume")(consume)


def consume(
    consumer: Annotated[str, typer.Argument(metavar="MODULE:CONSUMER", help="For example orders.billing:consumer.")],
) -> None:
    """Handle events until SIGTERM; then finish the batch in hand, commit and leave the group."""
    from evkit.runtime.application import consumer_at

    found = consumer_at(consumer)
    on_stop(found.stop)
    say(f"group {found.group} consumes {', '.join(found.topics)}")
    found.run()
