"""`evkit replay`: show what a replay would read, run it, go on with one that was stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, cast

import typer

from evkit.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    ReasonOption,
    YesOption,
    confirmed,
    print_json,
    print_rows,
    say,
)
from evkit.errors import UsageError

_RUN_COLUMNS = (
    "replay_id", "consumer_group", "state", "dedupe", "from_time", "until_time", "handled", "skipped", "failed", "actor",
    "reason", "created_at", "finished_at",
)  # fmt: skip

GroupOption = Annotated[str, typer.Option("--group", "-g", help="Consumer group whose handlers get the events.")]
FromOption = Annotated[str, typer.Option("--from", metavar="TIME", help="ISO time, or now-2h.")]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Default: what is in the topic now.", show_default=False)
]
TopicOption = Annotated[
    list[str] | None, typer.Option("--topic", help="Default: the topics the group has handled.", show_default=False)
]
DedupeOption = Annotated[str, typer.Option(help="honour: handle only what is missing; override: handle all again.")]
AppOption = Annotated[str, typer.Option("--app", metavar="MODULE:CONSUMER", help="Whose handlers to run.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    replay = typer.Typer(help="Hand a stretch of the past to one group again.", no_args_is_help=True)
    for name, command in (("plan", plan), ("run", run), ("resume", resume), ("status", status)):
        replay.command(name)(command)
    app.add_typer(replay, name="replay")


def _plan(group: str, from_: str, until: str | None, topic: list[str] | None, dedupe: str) -> tuple[Any, Any]:
    import evkit
    from evkit.window import instant

    if dedupe not in ("honour", "override"):
        raise UsageError(f"--dedupe is honour or override, not '{dedupe}'")
    system = evkit.connect()
    return system, evkit.replay.plan(
        system,
        group,
        instant(from_, name="--from"),
        instant(until, name="--until") if until else None,
        topics=topic,
        dedupe=cast("Literal['honour', 'override']", dedupe),
    )


def _say_plan(found: Any) -> None:
    say(
        f"replay of group '{found.group}': up to {found.offsets:,} events of {', '.join(found.topics)} from "
        f"{found.from_time.isoformat()}" + (f" until {found.until_time.isoformat()}" if found.until_time else "")
    )
    again = "and are handled again" if found.dedupe == "override" else "and are left alone"
    say(f"  {found.known_handled:,} of them this group has handled {again}; {found.known_dead:,} are dead letters")
    if found.retention_cut:
        say("  the topic's retention has taken a part of this stretch: what is gone cannot be replayed")


def plan(
    group: GroupOption,
    from_: FromOption,
    until: UntilOption = None,
    topic: TopicOption = None,
    dedupe: DedupeOption = "honour",
    format: FormatOption = Format.table,
) -> None:
    """Show what a replay would read; changes nothing."""
    _, found = _plan(group, from_, until, topic, dedupe)
    if format is Format.json:
        print_json(found.summary())
        return
    _say_plan(found)
    rows = [
        {"topic": r.topic, "partition": r.partition, "start": r.start, "end": r.end} for r in found.ranges if r.offsets
    ]
    print_rows(rows, ("topic", "partition", "start", "end"), format)


def run(
    group: GroupOption,
    from_: FromOption,
    app: AppOption,
    until: UntilOption = None,
    topic: TopicOption = None,
    dedupe: DedupeOption = "honour",
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Hand the events of a stretch to one group's handlers; a failing event becomes a dead letter and stops nothing."""
    import evkit
    from evkit.runtime.application import consumer_at

    system, found = _plan(group, from_, until, topic, dedupe)
    _say_plan(found)
    if not confirmed("replay them?", yes=yes, dry_run=dry_run):
        return
    stop = _stop_event()
    with _progress() as progress:
        result = evkit.replay.run(system, found, consumer_at(app), reason=reason, progress=progress, stop=stop)
    _print_result(result, format)


def resume(
    replay_id: Annotated[str, typer.Argument(metavar="REPLAY_ID")],
    app: AppOption,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Go on with a replay that was stopped or killed, from where its last batch ended."""
    import evkit
    from evkit.runtime.application import consumer_at

    say(f"go on with {replay_id}")
    if not confirmed("go on?", yes=yes, dry_run=dry_run):
        return
    stop = _stop_event()
    with _progress() as progress:
        result = evkit.replay.resume(
            evkit.connect(), replay_id, consumer_at(app), reason=reason, progress=progress, stop=stop
        )
    _print_result(result, format)


def status(format: FormatOption = Format.table) -> None:
    """All replays, the newest first."""
    import evkit

    print_rows(evkit.replay.runs(evkit.connect()), _RUN_COLUMNS, format, empty="no replays")


def _stop_event() -> Any:
    import threading

    from evkit.cli.signals import on_stop

    stop = threading.Event()
    on_stop(stop.set)
    return stop


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; without one the replay's own log lines, one each 10,000 events, are enough."""
    from tqdm import tqdm

    with tqdm(unit=" events", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:

        def progress(done: int, planned: int) -> None:
            bar.total = planned
            bar.update(done - bar.n)

        yield progress


def _print_result(result: Any, format: Format) -> None:
    summary = result.summary()
    if format is Format.json:
        print_json(summary)
    else:
        print(
            f"{summary['replay_id']} is {summary['state']}: {summary['handled']:,} handled, "
            f"{summary['skipped']:,} known or skipped, {summary['failed']:,} dead letters"
        )
        if summary["state"] == "stopped":
            say(f"go on with it: evkit replay resume {summary['replay_id']} --app MODULE:CONSUMER")
    if summary["failed"] or summary["state"] != "done":
        raise typer.Exit(1)
