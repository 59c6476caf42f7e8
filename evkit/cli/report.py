"""`evkit report`: run a report, list what there is, show one, compare two."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evkit.cli.output import Format, FormatOption, print_json, print_rows, print_text, say
from evkit.errors import EvkitError, UsageError

if TYPE_CHECKING:
    from evkit.reporting.catalogue import Definition
    from evkit.reporting.execution import ReportRun

OutOption = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of reports.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A report, a notebook, or the path of an .ipynb.")]
_OUT = Path("reports")
_RUNS_SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add the commands."""
    report = typer.Typer(
        help="Run notebooks into reports: one offline page, the notebook, a summary.", no_args_is_help=True
    )
    for name, command in (("list", list_), ("show", show), ("run", run), ("diff", diff)):
        report.command(name)(command)
    app.add_typer(report, name="report")


def list_(out: OutOption = _OUT, format: FormatOption = Format.table) -> None:
    """List the reports, and when each was last run."""
    from evkit import reporting

    rows = [_row(definition, out) for definition in reporting.definitions([out / "definitions"])]
    print_rows(rows, ("report", "title", "notebook", "schedule", "last_run", "verdict"), format)


def _row(definition: Definition, out: Path) -> dict[str, Any]:
    last = _runs(out / definition.name)[:1]
    return {
        "report": definition.name,
        "title": definition.title,
        "notebook": definition.notebook.name,
        "schedule": definition.schedule or None,
        "last_run": last[0]["generated_at"] if last else None,
        "verdict": last[0]["verdict"] if last else None,
    }


def _runs(folder: Path) -> list[dict[str, Any]]:
    from evkit import reporting

    found = []
    for path in reporting.runs(folder):
        try:
            summary = reporting.Summary.read(path)
        except UsageError:
            continue
        window = summary.window
        found.append(
            {
                "run": str(path),
                "generated_at": summary.generated_at,
                "verdict": summary.verdict,
                "since": window and window.start,
                "until": window and window.end,
                "profile": summary.system.get("profile"),
            }
        )
    return found


def show(name: NameArgument, out: OutOption = _OUT, format: FormatOption = Format.table) -> None:
    """Show what a report takes, and its last runs."""
    from evkit import reporting

    definition = reporting.definition(name, [out / "definitions"])
    parameters = [
        {
            "parameter": p.name,
            "type": p.type,
            "default": definition.parameters.get(p.name, p.default),
            "meaning": p.meaning,
        }
        for p in definition.notebook.parameters
    ]
    runs = _runs(out / definition.name)[:_RUNS_SHOWN]
    columns = ("parameter", "type", "default", "meaning")
    if format is Format.json:
        about = {
            "report": definition.name,
            "title": definition.title,
            "notebook": definition.notebook.name,
            "writes": definition.notebook.writes,
            "schedule": definition.schedule or None,
        }
        print_json(about | {"parameters": parameters, "runs": runs})
    elif format is Format.csv:
        print_rows(parameters, columns, format)
    else:
        print(f"{definition.name}: {definition.title}")
        print(
            f"notebook {definition.notebook.path}" + (", which can change things" if definition.notebook.writes else "")
        )
        if definition.schedule:
            print(f"schedule {definition.schedule}")
        print_rows(parameters, columns, title="parameters (-p NAME=VALUE)")
        print_rows(runs, ("run", "generated_at", "verdict", "since", "until", "profile"), title="last runs",
                   empty=f"no runs in {out / definition.name}")  # fmt: skip


def run(
    name: NameArgument = "health",
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A parameter; see `show`.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Start of the window: ISO time or now-2h.", show_default=False)
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Its end.", show_default=False)] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="Profile of evkit.toml.", show_default=False)] = None,
    out: OutOption = _OUT,
    cell_timeout: Annotated[
        str, typer.Option("--cell-timeout", metavar="DURATION", help="How long one cell may run.")
    ] = "5m",
    format: FormatOption = Format.table,
) -> None:
    """Run a report; the exit code is its verdict: 0 ok, 1 warning, 2 critical, 3 unknown, or the report itself broke.

    Leaves report.html, report.ipynb and summary.json in DIR/NAME/UTC-time. Whatever keeps it from running (an unknown
    parameter, no settings) is 3 too: only a report that was made can say that all is well.
    """
    try:
        from evkit import reporting
        from evkit.window import duration

        given: dict[str, Any] = dict(_split(text) for text in parameter or [])
        given |= {k: v for k, v in (("since", since), ("until", until)) if v is not None}
        seconds = duration(cell_timeout, name="--cell-timeout").total_seconds()
        with _progress() as progress:
            done = reporting.run(
                name, profile=profile, out=out, cell_seconds_max=seconds, progress=progress, parameters=given
            )
    except EvkitError as error:
        say(f"evkit: {error}")
        raise typer.Exit(3) from None
    except Exception as error:
        # Python's own exit code for this would be 1, which here means "warning".
        logging.getLogger(__name__).exception("the report could not be made")
        say(f"evkit: the report could not be made: {type(error).__name__}: {error}")
        raise typer.Exit(3) from None
    _print(done, format)
    raise typer.Exit(done.exit_code)


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"'{text}' is no parameter: write -p NAME=VALUE")
    return name.strip(), value


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    from tqdm import tqdm

    with tqdm(unit=" cells", leave=False, disable=not sys.stderr.isatty(), file=sys.stderr) as bar:

        def progress(done: int, cells: int) -> None:
            bar.total = cells
            bar.update(done - bar.n)

        yield progress


def _print(done: ReportRun, format: Format) -> None:
    if done.error:
        say(f"evkit: the report broke: {done.error}; what there is of it: {done.path}")
    if format is Format.json:
        print_json(done.summary.model_dump() | {"path": str(done.path)})
    elif format is Format.csv:
        columns = ("monitor", "severity", "subject", "value", "unit", "threshold", "findings", "sentence")
        print_rows([m.model_dump() for m in done.summary.monitors], columns, format)
    else:
        print_text(done.summary.sentence)
        if done.summary.compared_with:
            print_text(f"since the report before: {done.summary.compared_with['sentence']}")
        print(f"{done.path / 'report.html'}")


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="Folder of a run, its summary.json, or a report's name.")],
    after: Annotated[
        str | None, typer.Argument(metavar="B", help="The later run; without it, the last two runs of report A.")
    ] = None,
    out: OutOption = _OUT,
    format: FormatOption = Format.table,
) -> None:
    """Compare two runs: each monitor before and after, and which findings are gone, new, or still there."""
    from evkit import reporting

    if after is None:
        last = reporting.runs(out / before)
        if len(last) < 2:
            raise UsageError(
                f"{out / before} has {len(last)} finished runs, two are needed: name two folders, or run it again"
            )
        earlier, later = last[1], last[0]
    else:
        earlier, later = Path(before), Path(after)
    found = reporting.compare(reporting.Summary.read(earlier), reporting.Summary.read(later))
    if format is Format.json:
        print_json(found.document())
        return
    columns = ("monitor", "change", "severity_before", "severity_after", "value_before", "value_after", "unit",
               "subject_before", "subject_after")  # fmt: skip
    print_rows([change.row() for change in found.monitors], columns, format)
    if format is Format.table:
        print_text(found.sentence)
        for label, findings in (("gone", found.gone), ("new", found.new), ("still there", found.still)):
            for finding in findings:
                print_text(f"  {label:<11}  {finding.severity:<8}  {finding.monitor:<12}  {finding.sentence}")
