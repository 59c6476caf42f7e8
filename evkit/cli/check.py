"""evkit check, evkit monitors: the six numbers judged."""

from __future__ import annotations

import logging
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    Path | None, typer.Option("--thresholds", help="TOML file with thresholds that differ.", show_default=False)
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
        format: FormatOption = Format.table,
    ) -> None:
        """Judge the system; the exit code is the verdict: 0 ok, 1 warning, 2 critical, 3 unknown.

        The worst finding decides, in the order critical, unknown, warning, ok: a server that does not answer cannot hide a
        critical number that was seen, and what was not measured is never ok. Whatever keeps the check itself from
        running (no settings, a thresholds file that cannot be read) is unknown too.
        """
        from evkit.errors import EvkitError

        try:
            seen, bounds, verdict = _judged(window, since, until, group, thresholds)
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
    length: str | None, since: str | None, until: str | None, group: str | None, thresholds: Path | None
) -> tuple[Window, Thresholds, Verdict]:
    from evkit import connect
    from evkit.monitors import Thresholds, judge
    from evkit.views import measure

    seen = window_given(length, since, until, _WINDOW_DEFAULT)
    bounds = Thresholds() if thresholds is None else Thresholds.read(thresholds)
    return seen, bounds, judge(measure(connect(), seen, group=group), bounds)


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
