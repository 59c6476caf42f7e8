"""`evkit consume MODULE:CONSUMER`: run a service's consumer until told to stop, in this process or in several."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from evkit.cli import logs
from evkit.cli.lifeline import ChildsEnd, apart
from evkit.cli.output import say
from evkit.cli.signals import on_stop
from evkit.errors import UsageError

if TYPE_CHECKING:
    from evkit.runtime.consumer import Consumer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("consume")(consume)


def consume(
    consumer: Annotated[str, typer.Argument(metavar="MODULE:CONSUMER", help="For example orders.billing:consumer.")],
    processes: Annotated[int, typer.Option(min=1, help="How many processes; those that die are started again.")] = 1,
    http_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Answer /health and /metrics there (0: any).", show_default=False),
    ] = None,
    http_host: Annotated[str, typer.Option(help="Address to answer on; 0.0.0.0 inside a container.")] = "127.0.0.1",
    lifeline: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Handle events until SIGTERM; then finish the batch in hand, commit and leave the group.

    A second SIGTERM ends at once; what was in hand is handled again, once.
    """
    if lifeline is not None:
        _one_of_several(consumer, lifeline)
    elif processes > 1:
        _several(consumer, processes, http_host, http_port)
    else:
        _alone(consumer, http_host, http_port)


class _Stop:
    """What a signal stops: nothing yet while the service's module is imported, then its consumer."""

    def __init__(self) -> None:
        self.asked = False
        self._consumer: Consumer | None = None

    def __call__(self) -> None:
        self.asked = True
        if self._consumer is not None:
            self._consumer.stop()

    def found(self, consumer: Consumer) -> None:
        """From now on the consumer is what stops; it does not begin when it was asked already."""
        self._consumer = consumer
        if self.asked:
            consumer.stop()


def _found(where: str, stop: _Stop) -> Consumer:
    from evkit.runtime.application import consumer_at

    consumer = consumer_at(where)
    # All of the application is imported now, and stays: the garbage collector need not look at it with every batch.
    gc.freeze()
    consumer.handlers.require_any(consumer.group)
    stop.found(consumer)
    return consumer


def _alone(where: str, http_host: str, http_port: int | None) -> None:
    stop = _Stop()
    on_stop(stop)
    consumer = _found(where, stop)
    say(f"group {consumer.group} consumes {', '.join(consumer.topics)}")
    if http_port is None:
        consumer.run()
        return
    from evkit.runtime import health

    server = health.serve(consumer, host=http_host, port=http_port)
    say(f"health and metrics at {server.url}")
    try:
        consumer.run()
    finally:
        server.close()


def _one_of_several(where: str, lifeline: str) -> None:
    number, _, fd = lifeline.partition(":")
    if not number.isdecimal() or not fd.isdecimal():
        raise UsageError("--lifeline is for the processes that `evkit consume --processes` starts")
    logs.process = int(number)
    stop = _Stop()
    on_stop(stop)
    line = ChildsEnd(int(fd), stop)
    consumer = _found(where, stop)
    from evkit.runtime.metrics import Collector

    collector = Collector(consumer)
    line.ready(
        {"group": consumer.group, "topics": consumer.topics},
        health=lambda: consumer.health().document(),
        metrics=lambda: apart(collector.collect()),
    )
    consumer.run()


def _several(where: str, count: int, http_host: str, http_port: int | None) -> None:
    from evkit.cli.processes import Processes

    command = [sys.executable, "-m", "evkit", *logs.arguments(), "consume", where]
    processes = Processes(command, count, where)
    on_stop(processes.stop, processes.end)
    if http_port is None:
        raise typer.Exit(processes.run())
    from evkit.runtime import health

    server = health.serve(processes, host=http_host, port=http_port, collector=processes)
    say(f"health and metrics at {server.url}")
    try:
        code = processes.run()
    finally:
        server.close()
    raise typer.Exit(code)
