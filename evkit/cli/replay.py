"""`evkit replay`: plan, run, stop and resume a replay, look at it; rewind the offsets of somebody else's group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from evkit.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    ReasonOption,
    YesOption,
    confirmed,
    print_facts,
    print_json,
    print_rows,
    say,
)
from evkit.cli.progress import progress_bar, stop_event
from evkit.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from evkit.runtime.consumer import Consumer
    from evkit.runtime.replay import ReplayPlan
    from evkit.system import System

_RUN_COLUMNS = (
    "replay_id", "consumer_group", "state", "topics", "dedupe", "mode", "emit", "from_time", "until_time", "keys", "types",
    "offsets_done", "offsets", "handled", "known", "skipped", "failed", "parked", "filtered", "emitted", "errors_max",
    "per_second_max", "why", "actor", "reason", "created_at", "started_at", "finished_at",
)  # fmt: skip
_RUN_TABLE_COLUMNS = (
    "replay_id", "consumer_group", "state", "dedupe", "mode", "from_time", "until_time", "offsets_done", "offsets",
    "handled", "known", "failed", "actor", "created_at", "finished_at", "why",
)  # fmt: skip
_PLAN_COLUMNS = (
    "topic", "partition", "start", "end", "offsets", "records", "keys", "handled", "missing", "letters", "parked",
    "parked_keys", "gone", "ahead",
)  # fmt: skip
_REWIND_COLUMNS = (
    "rewind_id",
    "consumer_group",
    "to_time",
    "state",
    "actor",
    "reason",
    "created_at",
    "done_at",
    "undone_at",
)

GroupOption = Annotated[str, typer.Option("--group", "-g", help="Consumer group whose handlers get the events.")]
FromOption = Annotated[str, typer.Option("--from", metavar="TIME", help="ISO time, or now-2h.")]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Default: what is in the topic now.", show_default=False)
]
TopicOption = Annotated[
    list[str] | None,
    typer.Option("--topic", "-t", help="Default: the topics the group has handled.", show_default=False),
]
KeysOption = Annotated[
    list[str] | None,
    typer.Option("--keys", "--key", help="Only events with this key; again for another.", show_default=False),
]
TypesOption = Annotated[
    list[str] | None,
    typer.Option("--types", "--type", help="Only events of this type; again for another.", show_default=False),
]
DedupeOption = Annotated[
    str, typer.Option(help="honour: handle only what is missing; again: handle all again; dry: the same, rolled back.")
]
MissingOption = Annotated[
    bool, typer.Option("--allow-missing", help="What retention has taken is gone: take what is left.")
]
ScanOption = Annotated[
    int, typer.Option("--scan-max", min=0, help="A stretch of more offsets is not read to count what is in it.")
]
AppOption = Annotated[str, typer.Option("--app", metavar="MODULE:CONSUMER", help="Whose handlers to run.")]
RateOption = Annotated[float | None, typer.Option("--rate", min=0.01, help="Most events a second.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    replay = typer.Typer(help="Hand a stretch of the past to one group again.", no_args_is_help=True)
    for name, command in (
        ("plan", plan), ("run", run), ("resume", resume), ("status", status), ("stop", stop), ("rewind", rewind)
    ):  # fmt: skip
        replay.command(name)(command)
    app.add_typer(replay, name="replay")


def _plan(
    group: str,
    from_: str,
    until: str | None,
    topic: list[str] | None,
    keys: list[str] | None,
    types: list[str] | None,
    dedupe: str,
    allow_missing: bool,
    scan_max: int,
    consumer: Consumer | None,
) -> tuple[System, ReplayPlan]:
    import evkit
    from evkit.window import instant

    _require_dedupe(dedupe)
    system = evkit.connect()
    return system, evkit.replay.plan(
        system,
        group,
        instant(from_, name="--from"),
        instant(until, name="--until") if until else None,
        topics=topic or None,
        keys=keys or None,
        types=types or None,
        dedupe=cast("Literal['honour', 'again', 'dry']", dedupe),
        allow_missing=allow_missing,
        consumer=consumer,
        scan_records_max=scan_max,
    )


def _require_dedupe(dedupe: str) -> None:
    if dedupe not in ("honour", "again", "dry"):
        raise UsageError(f"--dedupe is honour, again or dry, not '{dedupe}'")


def _say_plan(found: ReplayPlan) -> None:
    what = f"up to {found.offsets:,} events" if found.records is None else f"{found.records:,} events"
    only = [f"{len(given):,} {name}" for name, given in (("keys", found.keys), ("types", found.types)) if given]
    say(
        f"replay of group '{found.group}': {what}{' of ' + ' and '.join(only) if only else ''} of "
        f"{', '.join(found.topics)} from {found.from_time.isoformat()}"
        + (f" until {found.until_time.isoformat()}" if found.until_time else "")
        + f", {found.offsets:,} offsets"
    )
    became = {"honour": "and are left alone", "again": "and are handled again", "dry": "and are tried"}[found.dedupe]
    missing = "" if found.missing is None else f", {found.missing:,} its inbox does not know"
    say(f"  {found.known_handled:,} of them this group has handled {became}{missing}")
    for note in found.notes:
        say(f"  {note}")
    if found.expected_seconds is None:
        say("  how long it takes nothing tells: the group has handled nothing lately")
    else:
        say(f"  it takes about {_length(found.expected_seconds)} at most, by the speed of {found.expected_by}")


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def plan(
    group: GroupOption,
    from_: FromOption,
    until: UntilOption = None,
    topic: TopicOption = None,
    keys: KeysOption = None,
    types: TypesOption = None,
    dedupe: DedupeOption = "honour",
    allow_missing: MissingOption = False,
    scan_max: ScanOption = 1_000_000,
    app: Annotated[
        str | None,
        typer.Option(
            "--app", metavar="MODULE:CONSUMER", help="Ask its decode function and its handlers too.", show_default=False
        ),
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Show what a replay would read, and what it would meet; changes nothing."""
    consumer = None if app is None else _consumer(app)
    _, found = _plan(group, from_, until, topic, keys, types, dedupe, allow_missing, scan_max, consumer)
    if format is Format.json:
        more = {
            "by_partition": found.by_partition(), "notes": found.notes, "expected_seconds": found.expected_seconds,
            "expected_by": found.expected_by, "types_found": dict(found.contents.types.most_common()),
        }  # fmt: skip
        print_json(found.summary() | more)
        return
    _say_plan(found)
    print_rows(found.by_partition(), _PLAN_COLUMNS, format)


def run(
    group: GroupOption,
    from_: FromOption,
    app: AppOption,
    until: UntilOption = None,
    topic: TopicOption = None,
    keys: KeysOption = None,
    types: TypesOption = None,
    dedupe: DedupeOption = "honour",
    mode: Annotated[
        str, typer.Option(help="beside: the live group goes on; paused: it handles nothing meanwhile.")
    ] = "beside",
    emit: Annotated[
        str, typer.Option(help="Events that the handlers write: none, marked (as replayed), or normal.")
    ] = "marked",
    errors_max: Annotated[int, typer.Option(min=0, help="So many events may fail, then it stops.")] = 100,
    rate: RateOption = None,
    allow_missing: MissingOption = False,
    scan_max: ScanOption = 1_000_000,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Hand the events of a stretch to one group's handlers; a failing event becomes a dead letter and stops nothing."""
    import evkit

    _require_dedupe(dedupe)
    if mode not in ("beside", "paused"):
        raise UsageError(f"--mode is beside or paused, not '{mode}'")
    if emit not in ("none", "marked", "normal"):
        raise UsageError(f"--emit is none, marked or normal, not '{emit}'")
    consumer = _consumer(app)
    system, found = _plan(group, from_, until, topic, keys, types, dedupe, allow_missing, scan_max, consumer)
    _say_plan(found)
    if mode == "paused":
        say(f"  the consumers of group '{group}' finish what they have in hand and pause until it is over")
    if not confirmed("replay them?", yes=yes, dry_run=dry_run):
        return
    replay_id = evkit.replay.prepare(
        system,
        found,
        consumer,
        mode=cast("Literal['beside', 'paused']", mode),
        emit=cast("Literal['none', 'marked', 'normal']", emit),
        errors_max=errors_max,
        per_second_max=rate,
        reason=reason,
    )
    _resume(system, replay_id, consumer, reason, format, {})


def resume(
    replay_id: Annotated[str, typer.Argument(metavar="REPLAY_ID")],
    app: AppOption,
    errors_max: Annotated[
        int | None, typer.Option(min=0, help="Another error budget than it had.", show_default=False)
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.01, help="Another rate than it had.", show_default=False)
    ] = None,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Go on with a replay that was stopped or killed: nothing is handled twice, and the counts go on."""
    import evkit

    consumer = _consumer(app)
    system = evkit.connect()
    known = evkit.replay.status(system, replay_id)
    left = (known["offsets"] or 0) - (known["offsets_done"] or 0)
    say(f"go on with {replay_id} of group '{known['consumer_group']}' ({known['state']}): {left:,} offsets are left")
    if not confirmed("go on?", yes=yes, dry_run=dry_run):
        return
    more: dict[str, Any] = {"errors_max": errors_max, "per_second_max": rate}
    _resume(system, replay_id, consumer, reason, format, {k: v for k, v in more.items() if v is not None})


def _resume(
    system: System, replay_id: str, consumer: Consumer, reason: str | None, format: Format, more: dict[str, Any]
) -> None:
    import evkit
    from evkit.cli import logs

    logs.also["replay_id"] = replay_id
    say(f"to look at {replay_id} meanwhile: evkit replay status {replay_id}; to stop it: evkit replay stop {replay_id}")
    with progress_bar("offsets") as progress:
        result = evkit.replay.resume(
            system, replay_id, consumer, reason=reason, progress=progress, stop=stop_event(), **more
        )
    summary = result.summary()
    if format is Format.json:
        print_json(summary)
    else:
        print(
            f"{summary['replay_id']} is {summary['state']}: {summary['handled']:,} handled"
            f"{' and rolled back' if result.dry else ''}, "
            f"{summary['known']:,} known, {summary['skipped']:,} skipped, {summary['failed']:,} failed, "
            f"{summary['parked']:,} parked"
        )
        if summary["state"] != "done":
            say(
                f"it stopped because {summary['why']}; go on with it: evkit replay resume {replay_id} --app MODULE:CONSUMER"
            )
        if summary["failed"]:
            say(f"what failed: evkit replay status {replay_id}")
    if summary["failed"] or summary["state"] != "done":
        raise typer.Exit(1)


def status(
    replay_id: Annotated[str | None, typer.Argument(metavar="[REPLAY_ID]", show_default=False)] = None,
    format: FormatOption = Format.table,
) -> None:
    """All replays, the newest first; or one, with its partitions and what failed in it. Changes nothing."""
    import evkit

    system = evkit.connect()
    if replay_id is None:
        columns = _RUN_TABLE_COLUMNS if format is Format.table else _RUN_COLUMNS
        print_rows(evkit.replay.runs(system), columns, format, empty="no replays")
        return
    found = evkit.replay.status(system, replay_id)
    if format is not Format.table:
        shown = {name: found[name] for name in _RUN_COLUMNS}
        if format is Format.json:
            print_json(shown | {"ranges": found["ranges"], "failures": found["failures"]})
        else:
            print_rows([shown], _RUN_COLUMNS, format)
        return
    print_facts({name: found[name] for name in _RUN_COLUMNS if found[name] is not None})
    print_rows(found["ranges"], ("topic", "partition", "start", "end", "done"), title="offsets", empty="no partitions")
    failed = ("events", "error_class", "error_message", "handler", "event_id", "topic", "partition", "offset")
    if found["failures"]:
        print_rows(found["failures"], failed, title="what failed, with one event of each kind")


def stop(
    replay_id: Annotated[str, typer.Argument(metavar="REPLAY_ID")],
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Stop a running replay, wherever it runs; `resume` goes on with it."""
    import time

    import evkit

    system = evkit.connect()
    state = evkit.replay.status(system, replay_id)["state"]
    say(f"{replay_id} is {state}")
    if not confirmed("stop it?", yes=yes, dry_run=dry_run):
        return
    evkit.replay.stop(system, replay_id, reason=reason)
    until = time.monotonic() + 30
    while (state := evkit.replay.status(system, replay_id)["state"]) == "running" and time.monotonic() < until:
        time.sleep(0.2)
    if format is Format.json:
        print_json({"replay_id": replay_id, "state": state})
    else:
        print(f"{replay_id} is {state}" + (": it finishes what it has in hand" if state == "running" else ""))


def rewind(
    group: Annotated[
        str | None, typer.Option("--group", "-g", help="Consumer group that is not evkit's.", show_default=False)
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="ISO time, or now-2h.", show_default=False)
    ] = None,
    topic: Annotated[
        list[str] | None, typer.Option("--topic", "-t", help="Default: all of the group.", show_default=False)
    ] = None,
    undo: Annotated[
        str | None, typer.Option("--undo", metavar="RUN", help="Put the offsets of a rewind back.", show_default=False)
    ] = None,
    history: Annotated[bool, typer.Option("--history", help="List the rewinds there were.")] = False,
    allow_missing: MissingOption = False,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Move the committed offsets of a stopped group, which is not evkit's, back to a time; or undo that."""
    import evkit
    from evkit.runtime import rewind as rewinding

    if [history, undo is not None, group is not None or to is not None].count(True) != 1:
        raise UsageError("give --group and --to, or --undo RUN, or --history")
    system = evkit.connect()
    if history:
        print_rows(rewinding.rewinds(system), _REWIND_COLUMNS, format, empty="no rewinds")
        return
    if undo is not None:
        found = rewinding.plan_undo(system, undo)
    else:
        if group is None or to is None:
            raise UsageError("a rewind needs --group and --to")
        found = rewinding.plan(system, group, _instant(to), topics=topic or None, allow_missing=allow_missing)
    far = f"{abs(sum(m.offsets for m in found.moved)):,} offsets {'forward' if undo else 'back'}"
    say(
        f"{'undo the rewind' if undo else 'rewind'} of group '{found.group}': {len(found.moved)} of {len(found.moves)} "
        f"partitions, {far}; offsets are not events"
    )
    rows = [
        {
            "topic": m.topic, "partition": m.partition, "before": m.before, "after": m.after, "offsets": m.offsets,
            "cut": m.cut, "note": m.note,
        }
        for m in found.moves
    ]  # fmt: skip
    if format is not Format.json:
        print_rows(rows, ("topic", "partition", "before", "after", "offsets", "cut", "note"), format)
    go = confirmed("move them?", yes=yes, dry_run=dry_run)
    rewind_id = rewinding.carry_out(system, found, reason=reason) if go else None
    if format is Format.json:
        print_json(found.summary() | {"rewind_id": rewind_id})
    elif rewind_id is not None and not undo:
        say(f"moved; to put them back: evkit replay rewind --undo {rewind_id}")


def _instant(text: str) -> datetime:
    from evkit.window import instant

    return instant(text, name="--to")


def _consumer(app: str) -> Consumer:
    from evkit.runtime.application import consumer_at

    return consumer_at(app)
