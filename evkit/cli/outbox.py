"""`evkit outbox`: what is written, published and waiting, and what becomes of events that cannot be published."""

from __future__ import annotations

from typing import Annotated

import typer

from evkit.cli import retention
from evkit.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    ReasonOption,
    YesOption,
    confirmed,
    print_facts,
    print_rows,
    say,
)
from evkit.errors import UsageError

_COLUMNS = (
    "position", "state", "topic", "key", "event_type", "event_id", "attempts", "held", "error_class", "error", "parked_at",
)  # fmt: skip
_STATES = ("parked", "held", "retry", "published", "skipped")

PositionsArgument = Annotated[list[int] | None, typer.Argument(metavar="[POSITION]...", show_default=False)]
TopicOption = Annotated[str | None, typer.Option("--topic", show_default=False)]
KeyOption = Annotated[str | None, typer.Option("--key", show_default=False)]
ErrorOption = Annotated[str | None, typer.Option("--error", help="Error class.", show_default=False)]
AllOption = Annotated[bool, typer.Option("--all", help="Every parked row.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    outbox = typer.Typer(help="The table that services write and relays read.", no_args_is_help=True)
    outbox.command("status")(status)
    outbox.command("unpublishable")(unpublishable)
    outbox.command("retry")(retry)
    outbox.command("skip")(skip)
    retention.add(outbox)
    app.add_typer(outbox, name="outbox")


def status(format: FormatOption = Format.table) -> None:
    """Rows written, published and waiting, what cannot be published, and who keeps the oldest hole open."""
    import evkit
    from evkit.runtime import outbox

    print_facts(outbox.status(evkit.connect()), format)


def unpublishable(
    state: Annotated[list[str] | None, typer.Option("--state", help=f"{', '.join(_STATES)}; or all.")] = None,
    topic: TopicOption = None,
    key: KeyOption = None,
    error: ErrorOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Most rows to list.")] = 100,
    format: FormatOption = Format.table,
) -> None:
    """Events that the broker would not take, and how many wait behind each."""
    import evkit
    from evkit.runtime import unpublishable as table

    states = tuple(state or ("parked",))
    if "all" in states:
        states = _STATES
    for one in states:
        if one not in _STATES:
            raise UsageError(f"'{one}' is no state of an unpublishable row: {', '.join(_STATES)}, or all")
    found = table.rows(evkit.connect(), topic=topic, key=key, error_class=error, states=states, rows_max=limit + 1)
    if len(found) > limit:
        say(f"only the first {limit:,} are shown: --limit shows more")
        found = found[:limit]
    print_rows([{c: getattr(row, c) for c in _COLUMNS} for row in found], list(_COLUMNS), format)


def retry(
    positions: PositionsArgument = None,
    topic: TopicOption = None,
    key: KeyOption = None,
    error: ErrorOption = None,
    all_: AllOption = False,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Ask the relay for another try at parked events, and at what waits behind them."""
    _decide("retry", "would be tried again", positions, topic, key, error, all_, reason, dry_run, yes)


def skip(
    positions: PositionsArgument = None,
    topic: TopicOption = None,
    key: KeyOption = None,
    error: ErrorOption = None,
    all_: AllOption = False,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Say that parked events are never to be published; what waits behind them goes on."""
    _decide("skip", "would never be published", positions, topic, key, error, all_, reason, dry_run, yes)


def _decide(
    verb: str,
    fate: str,
    positions: list[int] | None,
    topic: str | None,
    key: str | None,
    error: str | None,
    all_: bool,
    reason: str | None,
    dry_run: bool,
    yes: bool,
) -> None:
    import evkit
    from evkit.runtime import unpublishable as table

    if not (positions or topic or key or error or all_):
        raise UsageError(f"say which: `evkit outbox {verb} POSITION...`, or --topic, --key, --error, or --all")
    system = evkit.connect()
    states = ("parked", "skipped") if verb == "retry" and positions else ("parked",)
    found = table.rows(system, positions=positions or None, topic=topic, key=key, error_class=error, states=states)
    missing = sorted(set(positions or ()) - {row.position for row in found})
    if missing:
        raise UsageError(
            f"outbox position {missing[0]} is not parked: `evkit outbox unpublishable --state all` shows what is"
        )
    if not found:
        say("nothing is parked that matches")
        return
    columns = ["position", "topic", "key", "event_type", "attempts", "held", "error_class", "error"]
    print_rows([{c: getattr(row, c) for c in columns} for row in found[:20]], columns, Format.table)
    say(f"{len(found)} event(s) {fate}, {sum(row.held for row in found)} wait behind them")
    if not confirmed(f"{verb} {len(found)} event(s)?", yes=yes, dry_run=dry_run):
        return
    act = table.retry if verb == "retry" else table.skip
    done = act(system, [row.position for row in found], reason=reason)
    say(f"{len(done)} event(s) {'will be tried again' if verb == 'retry' else 'skipped'}")
