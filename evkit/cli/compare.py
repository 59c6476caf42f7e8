"""`evkit compare`: what differs between now and before, between two windows, or between two code versions."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from evkit.cli.output import Format, FormatOption, print_rows, print_text, say
from evkit.cli.view import GroupOption, SinceOption, UntilOption, window_given


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)


def compare(
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            "-w",
            help="How far back, or incident:NAME: the window in question.  [default: 1h]",
            show_default=False,
        ),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    against: Annotated[
        str,
        typer.Option(
            "--against", help="before (as long, just before), day or week (the same hours), or incident:NAME."
        ),
    ] = "before",
    against_since: Annotated[
        str | None, typer.Option("--against-since", help="Start of another window to compare with.", show_default=False)
    ] = None,
    against_until: Annotated[str | None, typer.Option("--against-until", help="Its end.", show_default=False)] = None,
    versions: Annotated[
        tuple[str, str] | None,
        typer.Option("--versions", help="Two code versions instead of two times.", show_default=False),
    ] = None,
    group: GroupOption = None,
    every: Annotated[bool, typer.Option("--all", help="Also what does not differ, or cannot be judged.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Compare a window with what was before it, or two code versions, and say what differs by more than chance.

    Intervals of 95 %, drawn anew from the windows' own events. A table has only what differs; json and csv have all.
    """
    from evkit import connect, views
    from evkit.errors import InvalidParameter, UsageError, closest
    from evkit.views.columns import COLUMNS
    from evkit.views.compare import BASELINES
    from evkit.views.frame import rows_of
    from evkit.views.incident_window import incident_named

    asked: dict[str, Any] = {"b": window_given(window, since, until, "1h"), "group": group, "versions": versions}
    if against_since is not None:
        asked["a"] = window_given(None, against_since, against_until, "1h")
    elif against_until is not None:
        raise UsageError("--against-until needs --against-since")
    elif against not in BASELINES and incident_named(against) is None:
        hint = " or ".join(closest(against, BASELINES)) or f"{', '.join(BASELINES)} or incident:NAME"
        raise InvalidParameter(f"'{against}' is nothing to compare with: take {hint}", name="against", value=against)
    else:
        asked["a"] = against
    rows = rows_of(views.compare(connect(), **asked), "compare")
    if format is not Format.table:
        print_rows(rows, tuple(c.name for c in COLUMNS["compare"]), format)
        return
    differ = [row for row in rows if row["significant"]]
    for row in rows if every else differ:
        print_text(row["text"])
    if not rows:
        print_text("nothing was measured in either")
    elif not differ:
        print_text("nothing differs by more than chance")
    unjudged = sum(row["significant"] is None for row in rows)
    left = f", too few to judge {unjudged}" if unjudged else ""
    say(f"compared {len(rows)} numbers, {len(differ)} differ{left}; of 20 that do not differ, one may seem to")
