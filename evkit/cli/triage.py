"""evkit triage: what is wrong, the worst first, and what to type next."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from evkit.cli.check import ThresholdsOption
from evkit.cli.of_now import of_now, say_of_now
from evkit.cli.output import Format, FormatOption, print_json, print_rows, print_text, safe, say
from evkit.cli.view import GroupOption, SinceOption, UntilOption, window_given

if TYPE_CHECKING:
    from evkit.monitors import Diagnosis
    from evkit.window import Window

# Long enough for what somebody was paged for, and for what was before it.
_WINDOW_DEFAULT = "30m"
# What triage finds by an audit alone, and how to ask for it: the audit reads the topics, so that it is nobody's default.
_WITHOUT_AUDIT = "lost and doubled events were not looked for: add --audit, which reads the topics of the window"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("triage")(triage)


def triage(
    window: Annotated[
        str | None, typer.Option("--window", "-w", help="How far back to look.  [default: 30m]", show_default=False)
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    group: GroupOption = None,
    thresholds: ThresholdsOption = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Also compare outbox, topics and inboxes event by event.")
    ] = False,
    all_: Annotated[bool, typer.Option("--all", help="All findings; otherwise the five worst.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Say what is wrong: the most harmful first, each with numbers, its likely cause and what to type next.

    Lost events come before wrong ones, wrong before late, late before noisy. Exit code 0: nothing is wrong in anything
    that could be measured; 1: something is, or something could not be measured. Looking changes nothing.

    Lost and doubled events are looked for with --audit alone; without it a line says that nobody looked.

    Of a window that has ended, what waits in the outbox, held handlers and the state of dead letters are of now all the
    same, and a last line says so.
    """
    from evkit import connect, monitors
    from evkit.errors import UnknownGroup
    from evkit.monitors import Thresholds
    from evkit.views import symptoms

    bounds = Thresholds() if thresholds is None else Thresholds.read(thresholds)
    seen = window_given(window, since, until, _WINDOW_DEFAULT)
    system = connect()
    measured = symptoms(system, seen, group=group, audit=audit)
    if isinstance(unknown := measured["consumer_lag"], UnknownGroup):
        raise unknown  # lag knows the groups of Kafka and of the inbox: of a name that is neither nothing can be told
    found = monitors.triage(measured, bounds, **({"limit": None} if all_ else {}))
    if format is Format.json:
        left_out = {"not_looked_for": None if audit else _WITHOUT_AUDIT}
        print_json(document(found, seen) | left_out | {"of_now": of_now(system, seen)})
    elif format is Format.csv:
        columns = ("harm", "name", "subject", "events", "sentence", "likely", "next_step")
        print_rows([{c: getattr(cause, c) for c in columns} for cause in found.causes], columns, format)
    else:
        print_diagnosis(found, seen)
        if not audit:
            print_text(_WITHOUT_AUDIT)
    say_of_now(system, seen)
    raise typer.Exit(1 if found.causes or found.unmeasured else 0)


def document(found: Diagnosis, seen: Window) -> dict[str, object]:
    """A diagnosis as one JSON document."""
    return {
        "sentence": found.sentence,
        "window": seen,
        "causes": found.causes,
        "more": found.more,
        "unmeasured": dict(found.unmeasured),
    }


def print_diagnosis(found: Diagnosis, seen: Window) -> None:
    """Causes as paragraphs: what is so, why perhaps, what to type; then what nobody could look at."""
    print(f"{seen.start:%Y-%m-%d %H:%M:%S} to {seen.end:%H:%M:%S} UTC")
    if not found.causes:
        print("nothing is wrong" + (" in what could be measured" if found.unmeasured else ""))
    width = max(80, shutil.get_terminal_size((120, 24)).columns)
    for n, cause in enumerate(found.causes, 1):
        head = f"{n}. {cause.harm.value:<5}  {cause.name:<20}  "
        print(textwrap.fill(safe(cause.sentence), width, initial_indent=head, subsequent_indent=" " * 10))
        print(
            textwrap.fill("likely: " + safe(cause.likely), width, initial_indent=" " * 10, subsequent_indent=" " * 18)
        )
        print_text(f"          next:   {cause.next_step}")
    if found.more:
        print(f"and {found.more} more: evkit triage --all")
    for name, why in found.unmeasured.items():
        say(f"not measured: {name}: {why}")
