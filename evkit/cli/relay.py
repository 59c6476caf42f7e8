"""`evkit relay run`: publish the outbox until told to stop."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from evkit.cli.output import say
from evkit.cli.signals import on_stop


def register(app: typer.Typer) -> None:
    """Add the commands."""
    relay = typer.Typer(help="Move committed outbox rows to their topics.", no_args_is_help=True)
    relay.command("run")(run)
    app.add_typer(relay, name="relay")


class Delivery(StrEnum):
    """How often an event may reach its topic."""

    at_least_once = "at-least-once"
    exactly_once = "exactly-once"


class OnPoison(StrEnum):
    """What becomes of the key of an event that cannot be published."""

    hold = "hold"
    skip = "skip"


def run(
    delivery: Annotated[
        Delivery, typer.Option(help="Whether a crash may repeat events; exactly once for readers of committed data.")
    ] = Delivery.at_least_once,
    batch: Annotated[int, typer.Option(min=1, help="Most events in a batch.")] = 5000,
    source: Annotated[str, typer.Option(help="CloudEvents source of what is published.")] = "/evkit/outbox",
    on_poison: Annotated[
        OnPoison, typer.Option(help="An event that cannot be published: hold later ones of its key, or skip only it.")
    ] = OnPoison.hold,
    lease: Annotated[float, typer.Option(min=1, help="Seconds after which a silent leader is deposed.")] = 10.0,
    http_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Answer /health and /metrics there (0: any).", show_default=False),
    ] = None,
    http_host: Annotated[str, typer.Option(help="Address to answer on; 0.0.0.0 inside a container.")] = "127.0.0.1",
    accept_cluster: Annotated[
        bool, typer.Option("--accept-cluster", help="Go on although the brokers are another cluster than before.")
    ] = False,
) -> None:
    """Publish the outbox; a second relay stands by. SIGTERM ends it after the batches in hand."""
    import evkit

    relay = evkit.Relay(
        delivery=delivery.value,
        batch_events_max=batch,
        source=source,
        on_poison=on_poison.value,
        lease_seconds=lease,
        accept_cluster=accept_cluster,
    )
    on_stop(relay.stop)
    say(f"relay of {relay.system}, {delivery.value}")
    if http_port is None:
        relay.run()
        return
    from evkit.runtime import health

    server = health.serve(relay, host=http_host, port=http_port)
    say(f"health and metrics at {server.url}")
    try:
        relay.run()
    finally:
        server.close()
