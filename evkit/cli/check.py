"""evkit check, evkit monitors: the numbers judged."""

from __future__ import annotations

import logging
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evkit.cli.of_now import say_of_now
from evkit.cli.output import Format, FormatOption, print_json, print_rows, print_text, safe, say
from evkit.cli.view import GroupOption, SinceOption, UntilOption, window_given

if TYPE_CHECKING:
    from evkit.monitors import Thresholds, Verdict
    from evkit.window import Window

WindowOption = Annotated[
    str | None,
    typer.Option(
        "--window", "-w", help="What rates and latencies look at: 10m, or FROM/TO.  [default: 10m]", show_default=False
    ),
]
ThresholdsOption = Annotated[
    Path | None,
    typer.Option(
        "--thresholds",
        help="TOML file with thresholds that differ, and with objectives.  [default: the profile's]",
        show_default=False,
    ),
]
log = logging.getLogger(__name__)

# Short enough that what was cured stops to alarm while the one who cured it still watches.
_WINDOW_DEFAULT = "10m"


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command("check")
    def check(
        window: WindowOption = None,
        since: SinceOption = None,
        until: UntilOption = None,
        group: GroupOption = None,
        thresholds: ThresholdsOption = None,
        show_thresholds: Annotated[
            bool, typer.Option("--show-thresholds", help="Print what would be judged by, and do not measure.")
        ] = False,
        format: FormatOption = Format.table,
    ) -> None:
        """Judge the system; the exit code is the verdict: 0 ok, 1 warning, 2 critical, 3 unknown.

        The worst finding decides, in the order critical, unknown, warning, ok: a server that does not answer cannot hide a
        critical number that was seen, and what was not measured is never ok. Whatever keeps the check itself from
        running (no settings, a thresholds file that cannot be read) is unknown too.

        Judged are the six monitors, what each consumer does by all that it committed, and the objectives of the thresholds.
        """
        from evkit.errors import EvkitError

        try:
            if show_thresholds:
                _print_thresholds(thresholds, format)
                return
            seen, bounds, verdict = _judged(window, since, until, group, thresholds, whole=True)
        except EvkitError as error:
            say(f"evkit: {error}")
            raise typer.Exit(3) from None
        except Exception as error:  # its traceback would end with 1, which here says "warning"
            log.info("check broke", exc_info=error)
            say(f"evkit: the check itself broke ({type(error).__name__}: {error}); evkit --verbose check shows where")
            raise typer.Exit(3) from None
        if format is Format.json:
            print_json(
                {
                    "verdict": verdict.severity,
                    "exit_code": verdict.exit_code,
                    "sentence": verdict.sentence,
                    "window": seen,
                    "findings": verdict.findings,
                    "thresholds": bounds.model_dump(),
                }
            )
        elif format is Format.csv:
            rows = verdict.rows()
            print_rows(rows, tuple(rows[0]), format)
        else:
            _print_verdict(verdict, seen)
        raise typer.Exit(verdict.exit_code)

    @app.command("monitors")
    def monitors(
        window: WindowOption = None,
        since: SinceOption = None,
        until: UntilOption = None,
        group: GroupOption = None,
        thresholds: ThresholdsOption = None,
        format: FormatOption = Format.table,
    ) -> None:
        """Print the six monitors, each with its worst finding. To act on the verdict, use `evkit check`."""
        from evkit.monitors import MONITORS

        _, _, verdict = _judged(window, since, until, group, thresholds)
        rows: list[dict[str, Any]] = []
        for name in MONITORS:
            of_monitor = [r for r in verdict.rows() if r["monitor"] == name]
            # The worst comes first; among equals the greatest number says most.
            first = [r for r in of_monitor if r["severity"] == of_monitor[0]["severity"]]
            worst = max(first, key=lambda r: -1.0 if r["value"] is None else r["value"])
            rows.append(worst | {"findings": len(of_monitor)})
        columns = ("monitor", "severity", "subject", "value", "unit", "threshold", "findings", "sentence")
        if format is Format.table:
            _print_findings(rows)
        else:
            print_rows(rows, columns, format)


def _judged(
    length: str | None,
    since: str | None,
    until: str | None,
    group: str | None,
    thresholds: Path | None,
    *,
    whole: bool = False,
) -> tuple[Window, Thresholds, Verdict]:
    from evkit import connect
    from evkit.monitors import judge
    from evkit.views import measure

    seen = window_given(length, since, until, _WINDOW_DEFAULT)
    system = connect()
    say_of_now(system, seen)
    bounds = thresholds_of(thresholds, system.settings.thresholds)
    objectives = bounds.objectives() if whole else ()
    measured = measure(system, seen, group=group, objectives=objectives, consumer_status_too=whole)
    return seen, bounds, judge(measured, bounds)


def thresholds_of(*files: Path | None) -> Thresholds:
    """The thresholds of the first file that is given, or the defaults.

    Raises:
        SettingsError: see `Thresholds.read`.
    """
    from evkit.monitors import Thresholds

    given = next((file for file in files if file is not None), None)
    return Thresholds() if given is None else Thresholds.read(given)


def _print_thresholds(thresholds: Path | None, format: Format) -> None:
    """The thresholds of the service and what groups and topics change of them, then what is promised."""
    from evkit import connect

    bounds = thresholds_of(thresholds) if thresholds is not None else thresholds_of(connect().settings.thresholds)
    if format is Format.json:
        print_json({"thresholds": bounds.model_dump(), "objectives": bounds.objectives()})
        return
    rows = [{"for": "all", "name": name, "value": value} for name, value in bounds.numbers().items()]
    for kind in ("group", "topic"):
        for subject, changed in getattr(bounds, kind).items():
            rows += [{"for": f"{kind} {subject}", "name": n, "value": v} for n, v in changed.items() if n != "slo"]
    for promised in bounds.objectives():
        kind = "topic" if promised.slo == "relay" else "group"
        about = f"{kind} {promised.subject}"
        rows.append({"for": about, "name": f"slo.{promised.slo}.objective", "value": promised.objective})
        if promised.slo != "correctness":
            rows.append({"for": about, "name": f"slo.{promised.slo}.target_seconds", "value": promised.target_seconds})
        rows.append({"for": about, "name": f"slo.{promised.slo}.events_min", "value": promised.events_min})
    print_rows(rows, ("for", "name", "value"), format)


def _print_verdict(verdict: Verdict, seen: Window) -> None:
    """The verdict, its findings and what to type next."""
    print(f"{verdict.severity.value.upper()}  {seen.start:%Y-%m-%d %H:%M:%S} to {seen.end:%H:%M:%S} UTC")
    _print_findings(verdict.rows())
    steps = list(dict.fromkeys(f.next_step for f in verdict.findings if f.next_step))
    if steps:
        print("next:")
        for step in steps:
            print_text(f"  {step}")


def _print_findings(rows: list[dict[str, Any]]) -> None:
    """A line for each finding, folded under its own sentence: a table would leave the sentences no room."""
    width = max(80, shutil.get_terminal_size((120, 24)).columns)
    for row in rows:
        head = f"{row['severity']:<8}  {row['monitor']:<12}  "
        sentence = safe(row["sentence"])
        print(textwrap.fill(sentence, width, initial_indent=head, subsequent_indent=" " * len(head)))
