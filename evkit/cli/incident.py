"""evkit incident: play one with a known answer, to learn on or to test what triage finds."""

from __future__ import annotations

import contextlib
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evkit.cli.output import Format, FormatOption, print_json, print_rows, say
from evkit.cli.triage import document, print_diagnosis
from evkit.errors import MissingExtra, Refused, UsageError

if TYPE_CHECKING:
    from evkit.demo.incidents.catalogue import Incident
    from evkit.system import System


# Stands in a folder that incidents may empty.
_MARK = "incident"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("incident")(incident)


def incident(
    name: Annotated[str | None, typer.Argument(help="Which; without it, all are listed.", show_default=False)] = None,
    graded: Annotated[
        bool, typer.Option("--grade", help="Ask triage while it lasts, compare with the answer, and end.")
    ] = False,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Folder of its stack.  [default: beside the embedded one's]", show_default=False),
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Play an incident with a known answer, on a stack of its own that starts empty and ends with the command.

    It lasts until Ctrl-C; look at it from another terminal, as the first lines say. With `--grade` exit code 1 says that
    triage did not find the cause among its first two findings.
    """
    try:
        from evkit.demo.incidents import catalogue
        from evkit.local import Stack
        from evkit.settings import local_home
    except ImportError as error:
        raise MissingExtra("demo", f"incidents ({error.name})") from None
    from evkit.settings import Settings
    from evkit.system import System

    if name is None:
        rows = [{"incident": i.name, "what happens": i.title, "triage must say": i.cause or "nothing"}
                for i in catalogue.INCIDENTS.values()]  # fmt: skip
        print_rows(rows, ("incident", "what happens", "triage must say"), format)
        return
    chosen = catalogue.find(name)
    stack = Stack(home or local_home().parent / f"{local_home().name}-incident")
    if stack.status().up:
        raise UsageError(
            f"an incident is being played in {stack.home} already: end that one first, or give another --home"
        )
    _require_own(stack.home)
    stack.delete()
    stack.home.mkdir(parents=True)
    (stack.home / _MARK).write_text("evkit incident starts by deleting what is in this folder\n")
    signal.signal(signal.SIGTERM, _interrupt)  # what was started is ended then too
    with stack as info:
        kafka = {"bootstrap.servers": info.kafka_bootstrap_servers}
        system = System(Settings(profile="incident", postgres_dsn=info.postgres_dsn, kafka=kafka))
        logs = Path(info.home) / "shop"
        code = _grade(chosen, system, logs, format) if graded else _last(chosen, system, logs, info.home)
    raise typer.Exit(code)


def _require_own(home: Path) -> None:
    """Whether the folder may be emptied: it is empty, or an incident has made it."""
    if home.exists() and not (home / _MARK).exists() and (not home.is_dir() or any(home.iterdir())):
        raise Refused(
            f"an incident starts with an empty folder, and {home} has something that no incident has made: give another "
            "--home"
        )


def _grade(chosen: Incident, system: System, logs: Path, format: Format) -> int:
    from evkit.demo.incidents.grade import grade
    from evkit.window import Window

    began = datetime.now(UTC)
    found = grade(chosen, system, logs, say)
    seen = Window(began, datetime.now(UTC))
    if format is Format.json:
        print_json(
            {"incident": chosen.name, "cause": chosen.cause, "place": found.place, "passed": found.passed}
            | document(found.diagnosis, seen)
        )
    else:
        print_diagnosis(found.diagnosis, seen)
        wanted = f"{chosen.cause} is finding {found.place or 'none'}" if chosen.cause else "nothing is to be found"
        print(f"{wanted}: {'as it must be' if found.passed else 'triage is wrong'}")
    return 0 if found.passed else 1


def _last(chosen: Incident, system: System, logs: Path, home: str) -> int:
    from evkit.demo.incidents.grade import THRESHOLDS, played

    with played(chosen, system, logs, say), contextlib.suppress(KeyboardInterrupt):
        print("it lasts until Ctrl-C. Look at it from another terminal:\n")
        print(
            f"    export EVKIT_LOCAL_HOME={home}\n    evkit triage --thresholds {THRESHOLDS}\n    evkit lab\n",
            flush=True,
        )
        threading.Event().wait()
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
