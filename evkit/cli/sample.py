"""`evkit sample`: write down how far every consumer group is, until told to stop."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from evkit.cli.output import Format, FormatOption, print_facts, say
from evkit.cli.signals import on_stop


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sample")(sample)


def sample(
    every: Annotated[str, typer.Option("--every", help="Time between two rounds: 15s, 1m.")] = "15s",
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group", "-g", help="Only this group, or groups like 'shop-*'; may be repeated.", show_default=False
        ),
    ] = None,
    keep_days: Annotated[float, typer.Option("--keep-days", help="Older rows are deleted.")] = 14.0,
    copy_log: Annotated[
        bool, typer.Option("--log/--no-log", help="Copy what groups leave in Kafka's __consumer_offsets, too.")
    ] = True,
    once: Annotated[bool, typer.Option("--once", help="One round, and end.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Sample the lag of all consumer groups into PostgreSQL, evkit's own or not, so that the past can be looked at later.

    Needs PostgreSQL with evkit's tables (`evkit migrate`) and writes nothing else; commits no offsets, joins no group. One
    sampler writes for a cluster, a second one waits. SIGTERM ends it after what is in hand.
    """  # fmt: skip
    import evkit
    from evkit.runtime.sampler import Sampler
    from evkit.window import duration

    seconds = duration(every, name="every").total_seconds()
    sampler = Sampler(
        evkit.connect(), every_seconds=seconds, groups=group or (), keep_days=keep_days, copy_log=copy_log
    )
    try:
        if once:
            made = dataclasses.asdict(sampler.once())
            print_facts(made | {"refused": ", ".join(made["refused"]) or None}, format)
            return
        on_stop(sampler.stop)
        say(f"samples of {sampler.system}, every {every}, kept for {keep_days:g} days")
        sampler.run()
    finally:
        sampler.close()
