"""notebook → report: run it by papermill on a kernel of its own, and keep notebook, page and summary together.

A run grows in a hidden folder and is renamed at its end, so what lies in `reports/NAME/` is whole. papermill's own verdict
is not trusted: it calls a notebook that left by `sys.exit(0)` a success and has no word for a system that is unwell. A
report is done when every cell ran and its last one left a summary; otherwise it is kept as `…-failed`, its verdict is
unknown, and its page says where it broke.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evkit.errors import EvkitError, MissingExtra, UsageError
from evkit.monitors.finding import Severity
from evkit.reporting import catalogue, kernel
from evkit.reporting.catalogue import Definition
from evkit.reporting.parameters import resolve
from evkit.reporting.redaction import Redactor
from evkit.reporting.report import FOLDER_VARIABLE, NAME_VARIABLE, SYSTEM_VARIABLE, facts_of, versions
from evkit.reporting.summary import FILE_NAME, Seen, Summary
from evkit.system import System, connect

NOTEBOOK_NAME, PAGE_NAME, LOG_NAME = "report.ipynb", "report.html", "log.txt"

# One cell asks one view, and a view's query may run for 60 s.
CELL_SECONDS_MAX = 300.0

_RUN_NAME = re.compile(r"^\d{8}T\d{6}Z(-\d+)?$")


@dataclass(frozen=True, slots=True)
class ReportRun:
    """A report that was run.

    Attributes:
        path     its folder, with report.html, report.ipynb and summary.json
        summary  what it found
        error    why the notebook did not come to its end; None when it did
    """

    path: Path
    summary: Summary

    @property
    def error(self) -> str | None:
        return self.summary.error

    @property
    def verdict(self) -> Severity:
        """ok, warning, critical; unknown when something was not measured or the report itself broke."""
        return Severity(self.summary.verdict)

    @property
    def exit_code(self) -> int:
        """0 ok, 1 warning, 2 critical, 3 unknown."""
        return self.verdict.exit_code


def run(
    name: str,
    *,
    system: System | None = None,
    profile: str | None = None,
    out: Path | str = "reports",
    cell_seconds_max: float = CELL_SECONDS_MAX,
    progress: Callable[[int, int], None] | None = None,
    parameters: Mapping[str, Any] | None = None,
    **more: Any,
) -> ReportRun:
    """Run a report, or any notebook, and keep what came of it in `out/NAME/UTC-time/`.

    Side effects: that folder. The notebook runs in a process of its own, in this working directory; what it does there
    beyond looking is said by its `writes` (see `evkit.reporting.notebooks`).

    Args:
        name      of a report definition, of a shipped notebook, or a path of an .ipynb
        system    what to look at; default: `evkit.connect(profile)`
        progress  called with (cells run, cells)
        parameters, more  of the notebook; the definition's and then the notebook's defaults stand for the rest

    Raises:
        UnknownNotebook, InvalidParameter: before anything is started.
        SettingsError, StackNotRunning: the system is not known.
        MissingExtra: papermill or ipykernel is not installed.
        UsageError: the folder cannot be written to.
    """
    now = datetime.now(UTC)
    out = Path(out)
    definition = catalogue.definition(name, [out / "definitions"])
    system = system or connect(profile)
    values = _values(definition, {**(parameters or {}), **more}, profile, system.now())
    report_folder = out / definition.name
    takes = {p.name for p in definition.notebook.parameters}
    if "previous" in takes and values["previous"] is None and (before := latest(report_folder, system)) is not None:
        values["previous"] = str(before)
    try:
        report_folder.mkdir(parents=True, exist_ok=True)
        _sweep(report_folder)
        growing = report_folder / f".running-{os.getpid()}-{now:%Y%m%dT%H%M%SZ}"
        growing.mkdir()
    except OSError as error:
        raise UsageError(f"the report cannot be written to {report_folder}: {error.strerror}") from None
    try:
        summary = _grow(definition, system, values, growing, cell_seconds_max, progress, now)
        return ReportRun(_settle(growing, now, failed=summary.error is not None), summary)
    except BaseException:
        shutil.rmtree(growing, ignore_errors=True)
        raise


def _values(definition: Definition, given: dict[str, Any], profile: str | None, now: datetime) -> dict[str, Any]:
    spec = definition.notebook
    chosen = {k: v for k, v in given.items() if v is not None}
    if profile is not None and "profile" in {p.name for p in spec.parameters}:
        chosen.setdefault("profile", profile)
    return resolve(spec.parameters, definition.parameters | chosen, notebook=spec.name, now=now)


# --- folders of runs --------------------------------------------------------------------------------------------------


def runs(folder: Path) -> list[Path]:
    """The finished runs in the folder of a report, the newest first; failed and unfinished ones are left out."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _RUN_NAME.match(p.name) and p.is_dir()), key=_age, reverse=True)


def _age(path: Path) -> tuple[str, int]:
    stamp, _, number = path.name.partition("-")
    return stamp, int(number or 0)


def latest(folder: Path, system: System | None = None) -> Path | None:
    """The newest finished run, of this system's profile where one is given; None when there is none."""
    for path in runs(folder):
        try:
            summary = Summary.read(path)
        except UsageError:
            continue  # its summary was not kept, or is of a newer evkit
        if system is None or summary.system.get("profile") == system.settings.profile:
            return path
    return None


def _settle(growing: Path, now: datetime, *, failed: bool) -> Path:
    """Give the folder its name: the time of the run, and a number where two runs began in one second."""
    for number in range(1, 1000):
        name = f"{now:%Y%m%dT%H%M%SZ}" + (f"-{number}" if number > 1 else "") + ("-failed" if failed else "")
        target = growing.with_name(name)
        if not target.exists():
            growing.rename(target)
            return target
    raise UsageError(f"there are a thousand reports of one second in {growing.parent}")


def _sweep(folder: Path) -> None:
    """Remove what killed runs left behind; a run whose process lives is left alone."""
    for path in folder.glob(".running-*"):
        try:
            os.kill(int(path.name.split("-")[1]), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
        except PermissionError:
            continue  # somebody else's, and alive


# --- one run ----------------------------------------------------------------------------------------------------------


def _grow(
    definition: Definition,
    system: System,
    values: dict[str, Any],
    folder: Path,
    cell_seconds_max: float,
    progress: Callable[[int, int], None] | None,
    now: datetime,
) -> Summary:
    """Fill the folder of a run; returns its summary."""
    started = time.monotonic()
    environment = {
        FOLDER_VARIABLE: str(folder.absolute()),
        SYSTEM_VARIABLE: system.settings.model_dump_json(),
        NAME_VARIABLE: definition.name,
    }
    redactor = Redactor.of(system.settings)
    error = _execute(definition, values, folder, environment, cell_seconds_max, progress)
    seconds = time.monotonic() - started

    summary = None if error else _left_summary(folder)
    if summary is None:
        error = error or "the notebook ran to its end and left no summary: its last cell must call report.finish()"
        summary = _broken(definition, system, values, error, now)
    summary = summary.model_copy(
        update={
            "report": definition.name,
            "notebook": f"{definition.notebook.group}/{definition.notebook.path.stem}",
            "title": definition.title,
            "parameters": values,
            "duration_seconds": round(seconds, 3),
        }
    )
    summary = Summary.model_validate(redactor.document(summary.model_dump(mode="json")))
    _finish_files(folder, summary, redactor)
    return summary


def _left_summary(folder: Path) -> Summary | None:
    return Summary.read(folder) if (folder / FILE_NAME).is_file() else None


def _broken(definition: Definition, system: System, values: dict[str, Any], error: str, now: datetime) -> Summary:
    window = None
    if values.get("since") and values.get("until"):
        window = Seen(start=values["since"], end=values["until"])
    return Summary(
        report=definition.name,
        notebook="",
        title="",
        verdict="unknown",
        exit_code=3,
        sentence=f"unknown: the report broke: {error}",
        generated_at=now,
        window=window,
        system=facts_of(system),
        versions=versions(),
        error=error,
    )


def _execute(
    definition: Definition,
    values: dict[str, Any],
    folder: Path,
    environment: dict[str, str],
    cell_seconds_max: float,
    progress: Callable[[int, int], None] | None,
) -> str | None:
    """Run the notebook into the folder; None, or why it did not come to its end."""
    try:
        with kernel.running(environment, folder / LOG_NAME) as manager:
            return _papermill(definition, values, folder / NOTEBOOK_NAME, manager, cell_seconds_max, progress)
    except ImportError as error:
        raise MissingExtra("notebooks", "running a notebook") from error


def _papermill(
    definition: Definition,
    values: dict[str, Any],
    target: Path,
    manager: Any,
    cell_seconds_max: float,
    progress: Callable[[int, int], None] | None,
) -> str | None:
    import nbformat
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import execute_notebook

    notebook = nbformat.read(definition.notebook.path, as_version=4)  # type: ignore[no-untyped-call]
    # papermill warns of parameters that its own reader of the cell does not see; ours has read them.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    cells = sum(1 for c in notebook.cells if c.cell_type == "code") + 1
    done = 0

    def cell_done(**_: Any) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, cells)

    try:
        executed = execute_notebook(
            notebook,
            str(target).replace("{", "{{").replace("}", "}}"),  # a path is a format string to papermill
            parameters=values,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=kernel.START_SECONDS_MAX,
            execution_timeout=cell_seconds_max,
            km=manager,
            on_cell_executed=cell_done,
        )
    except PapermillExecutionError as error:
        if error.ename == "SystemExit":
            return f"a cell ended the notebook with sys.exit({error.evalue}): the cells after it did not run"
        return _sentence(error.ename, error.evalue)
    except CellTimeoutError:
        return (
            f"a cell ran for more than {cell_seconds_max:g} s and was given up: take a shorter window, or a longer time"
        )
    except DeadKernelError:
        return "the kernel died in the middle of a cell (out of memory, or killed): its last words are in log.txt"
    for cell in executed.cells:
        if cell.cell_type == "code" and cell.metadata.papermill.status != "completed":
            return "a cell ended the notebook with sys.exit: the cells after it did not run"
    return None


def _sentence(name: str, value: str) -> str:
    """An error of the kernel in words: an EvkitError's message is a sentence already."""
    import evkit.errors

    known = getattr(evkit.errors, name, None)
    if isinstance(known, type) and issubclass(known, EvkitError):
        return value
    return f"{name}: {value}" if value else name


def _finish_files(folder: Path, summary: Summary, redactor: Redactor) -> None:
    """Redact what the kernel wrote, make the page, and say in the summary which charts it has."""
    import nbformat

    from evkit.reporting import html

    path = folder / NOTEBOOK_NAME
    notebook: Any = None
    if path.exists():
        written = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        notebook = nbformat.from_dict(redactor.document(written))  # type: ignore[no-untyped-call]
    if notebook is not None:
        notebook.metadata.get("papermill", {}).update(input_path=summary.notebook + ".ipynb", output_path=NOTEBOOK_NAME)
        nbformat.write(notebook, path)  # type: ignore[no-untyped-call]
    page, charts = html.page(summary, notebook)
    summary.charts = charts
    (folder / PAGE_NAME).write_text(page, encoding="utf-8")
    summary.write(folder)
    log = folder / LOG_NAME
    if summary.error is None:
        log.unlink(missing_ok=True)
    elif log.exists():
        log.write_text(redactor.text(log.read_text(encoding="utf-8", errors="replace")), encoding="utf-8")
