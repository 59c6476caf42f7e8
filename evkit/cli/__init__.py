"""The `evkit` command: arguments in, one call, a table or JSON out.

Each module of this package adds its commands by `register(app)` and imports what it needs inside the command, so that
`evkit --help` stays quick and a part that is not installed is missed only where it is used.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from evkit.cli import logs, output
from evkit.cli.logs import LogFormat
from evkit.errors import EvkitError, UsageError

# In the order in which `evkit --help` lists them: start, run, look, act.
_COMMANDS = (
    "demo", "stack", "migrate", "relay", "consume", "sample", "outbox", "dlq", "breaker", "replay",
    "schema", "view", "scan", "audit", "check", "metrics", "triage", "annotate", "compare",
    "incident", "report", "freeze", "notebooks",
)  # fmt: skip

app = typer.Typer(
    name="evkit",
    help="Incident analysis kit for event-driven systems: PostgreSQL outbox, Kafka, consumers, dead letters, replay.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print(version("evkit"))
        raise typer.Exit


@app.callback()
def _main(
    profile: Annotated[
        str | None, typer.Option("--profile", help="Profile of evkit.toml (EVKIT_PROFILE).", show_default=False)
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, on stderr.")] = False,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(help="text, or json: one object a line (EVKIT_LOG_FORMAT).  [default: text]", show_default=False),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if profile:
        os.environ["EVKIT_PROFILE"] = profile
    _stand(os.environ.get("EVKIT_PROFILE"))
    logs.setup(log_format, verbose=verbose)


def _stand(profile: str | None) -> None:
    """Where a freeze is looked at, `now-2h` and `--window 2h` are before its moment, in every command."""
    from evkit.settings import FREEZE_PREFIX

    if profile and profile.startswith(FREEZE_PREFIX):
        from evkit.freeze import manifest
        from evkit.window import stand_at

        stand_at(manifest.read(Path(profile.removeprefix(FREEZE_PREFIX)).expanduser()).standing)


for _name in _COMMANDS:
    importlib.import_module(f"evkit.cli.{_name}").register(app)


def _require_text(arguments: list[str]) -> None:
    """What is no UTF-8 comes as halves of surrogate pairs, which no server and no file takes."""
    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= character <= "\udfff" for character in argument):
            raise UsageError(
                f"argument '{argument}' is no UTF-8 text: type it again (a key that is none, as lists show it)"
            )


def main() -> None:
    """Entry point: runs a command; an EvkitError becomes one sentence on stderr and its exit code."""
    try:
        _require_text(sys.argv[1:])
        app()
    except EvkitError as error:
        output.say(str(error), logging.ERROR)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        output.say("interrupted", logging.ERROR)
        raise SystemExit(130) from None
    except BrokenPipeError:  # `evkit view lag | head`
        sys.stderr.close()
        raise SystemExit(0) from None
