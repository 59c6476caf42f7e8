"""`evkit breaker`: handlers that are held because their events fail alike on many keys; let them go on by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from evkit.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    ReasonOption,
    YesOption,
    confirmed,
    plain,
    print_json,
    print_rows,
    say,
)

_COLUMNS = (
    "consumer_group", "handler", "state", "keys", "error_class", "error_message", "opened_at", "probes", "probe_at",
    "closed_at", "closed_by", "fingerprint",
)  # fmt: skip
_TABLE_COLUMNS = (
    "consumer_group", "handler", "state", "keys", "error_class", "error_message", "opened_at", "probes", "closed_at",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the commands."""
    breaker = typer.Typer(help="Handlers that are held while a dependency is away.", no_args_is_help=True)
    breaker.command("list")(list_breakers)
    breaker.command("close")(close)
    app.add_typer(breaker, name="breaker")


def list_breakers(
    group: Annotated[str | None, typer.Option("--group", "-g", help="Consumer group.", show_default=False)] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that are held now.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Handlers that are held or were, the open ones first. Changes nothing."""
    import evkit
    from evkit.runtime.breaker import breakers

    found = [plain(b) for b in breakers(evkit.connect(), group, only_open=only_open)]
    columns = _TABLE_COLUMNS if format is Format.table else _COLUMNS
    print_rows(found, columns, format, empty="no handler is held" if only_open else "no handler was ever held")


def close(
    group: Annotated[str, typer.Option("--group", "-g", help="Consumer group.")],
    handler: Annotated[
        str | None, typer.Option("--handler", help="One handler; default: all.", show_default=False)
    ] = None,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Let held handlers go on at once. When their events go on failing alike, they are held again."""
    import evkit
    from evkit.runtime import breaker

    system = evkit.connect()
    plan = breaker.to_close(system, group, handler)
    say(f"let {', '.join(plan) or 'no handler'} of group '{group}' go on")
    if not plan or not confirmed("let them go on?", yes=yes, dry_run=dry_run):
        if format is Format.json:
            print_json({"closed": [], "plan": plan})
        return
    closed = breaker.close(system, group, handler, reason=reason)
    if format is Format.json:
        print_json({"closed": closed, "plan": plan})
    else:
        print(f"{len(closed)} held no more")
