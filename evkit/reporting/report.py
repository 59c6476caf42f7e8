"""Report: what a notebook works with. It knows the system and the window, shows figures with their data, and sums up.

    report = reporting.begin(profile, since, until)
    lag = report.look(views.lag, group)
    report.show(figures.lag, lag)
    report.judge(monitors.consumer_lag(lag))
    report.finish()

By hand and by papermill it does the same, with one difference: where `evkit report run` runs the notebook, `finish` leaves
a summary for it. What cannot be measured is said in its place and counted, and the rest of the notebook goes on: when a
server is away, what the other one says is needed most.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evkit import postgres
from evkit.errors import EvkitError, UnknownView, UsageError
from evkit.monitors import MONITORS, Cause, Diagnosis, Finding, Severity, Thresholds, Verdict, judge
from evkit.reporting import display
from evkit.reporting.comparison import Comparison, compare
from evkit.reporting.summary import Chart, FindingResult, MonitorResult, Seen, Summary, Unmeasured
from evkit.reporting.tables import Table
from evkit.settings import Settings
from evkit.system import System, connect, system_of
from evkit.window import Window

# How `evkit report run` talks to the kernel: where the summary goes, which system is meant, what is being run.
FOLDER_VARIABLE, SYSTEM_VARIABLE, NAME_VARIABLE = "EVKIT_REPORT_FOLDER", "EVKIT_REPORT_SYSTEM", "EVKIT_REPORT_NAME"

# Taken out of the environment, where a cell that prints it would show the secrets in it.
_HANDED = os.environ.pop(SYSTEM_VARIABLE, None)

_VERSIONS = ("evkit", "polars", "plotly", "papermill", "confluent-kafka", "psycopg")


def begin(
    profile: str | None = None,
    since: str | datetime = "now-1h",
    until: str | datetime = "now",
    *,
    thresholds: str | None = None,
    previous: str | None = None,
) -> Report:
    """Begin a notebook: the system of a profile, a window, the thresholds to judge by. Opens no connection yet.

    Args:
        profile     of evkit.toml; None for what EVKIT_PROFILE, the environment or the embedded stack say
        since       start of the window: ISO time (UTC) or now-2h
        until       its end
        thresholds  path of a TOML file; None for the profile's, or the defaults
        previous    folder or summary.json of an earlier report to compare with

    Raises:
        SettingsError, StackNotRunning: see `evkit.connect`.
        InvalidParameter: a time that cannot be read, or an empty window.
        UsageError: `previous` is no report.
    """
    system = system_of(Settings.model_validate_json(_HANDED)) if _HANDED and profile is None else connect(profile)
    file = thresholds or system.settings.thresholds
    bounds = Thresholds() if file is None else Thresholds.read(file)
    before = None if previous is None else Summary.read(previous)
    with system.standing():
        window = Window.of(since, until)
    report = Report(system, window, bounds, before, previous)
    display.beginning(report.system, report.window)
    return report


class Report:
    """One run of a notebook.

    Attributes:
        system, window, thresholds  what is looked at, and what it is judged by
        verdict                     of everything that was judged so far
        unmeasured                  what could not be measured so far, with the reason
    """

    def __init__(
        self,
        system: System,
        window: Window,
        thresholds: Thresholds,
        before: Summary | None = None,
        before_path: str | None = None,
    ) -> None:
        self.system = system
        self.window = window
        self.thresholds = thresholds
        self.unmeasured: list[Unmeasured] = []
        self._findings: list[Finding] = []
        self._charts: list[Chart] = []
        self._before, self._before_path = before, before_path
        self._started = time.monotonic()

    def __repr__(self) -> str:
        start, end = f"{self.window.start:%Y-%m-%d %H:%M:%S}", f"{self.window.end:%H:%M:%S}"
        return f"<Report of '{self.system.settings.profile}', {start} to {end} UTC>"

    # --- looking ------------------------------------------------------------------------------------------------------

    def look(self, view: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The frame of `view(system, *arguments, **named)`, or the error that says why there is none.

        Views that take a window get the report's, unless another is given.

        Raises:
            UsageError: what was asked for does not exist (an unknown group, say): no report can come of that.
        """
        import inspect

        if "window" in inspect.signature(view).parameters and not _has_window(view, arguments, named):
            named["window"] = self.window
        try:
            return view(self.system, *arguments, **named)
        except UsageError:
            raise
        except EvkitError as error:
            return error

    def show(self, figure: Callable[[Any], Any], frame: Any) -> None:
        """Display a figure of a frame, and below it the frame itself as a static table.

        An error in the place of the frame (see `look` and `views.measure`) is displayed and counted as not measured.
        """
        name = getattr(figure, "__name__", "chart")
        if isinstance(frame, BaseException):
            self.unmeasured.append(Unmeasured(what=name, why=str(frame)))
            display.unmeasured(name, str(frame))
            return
        drawn = figure(frame)
        title = display.plain_text(drawn.layout.title.text)
        self._charts.append(Chart(name=name, title=title))
        display.chart(name, title, drawn)
        display.table(name, Table.of(frame))

    def show_table(self, frame: Any, name: str = "table", columns: Sequence[str] | None = None) -> None:
        """Display a frame as a static table: all of its columns, or these in this order."""
        if isinstance(frame, BaseException):
            self.unmeasured.append(Unmeasured(what=name, why=str(frame)))
            display.unmeasured(name, str(frame))
            return
        display.table(name, Table.of(frame if columns is None else frame[list(columns)]), folded=False)

    # --- judging ------------------------------------------------------------------------------------------------------

    def judge(self, *judged: Verdict | Iterable[Finding]) -> None:
        """Take findings into the report's verdict, and display them: the worst first."""
        for given in judged:
            self._findings += given.findings if isinstance(given, Verdict) else list(given)
        display.verdict(self.summary())

    def judge_frames(self, **frames: Any) -> None:
        """Judge frames by the monitors of these names: `judge_frames(consumer_lag=lag)`. An error there is unknown.

        Raises:
            UnknownView: there is no monitor of that name.
        """
        for name in frames:
            if name not in MONITORS:
                raise UnknownView(name, MONITORS, where="as a monitor")
        every = judge(frames, self.thresholds).findings
        self.judge([f for f in every if f.monitor in frames])

    def diagnose(self, found: Diagnosis) -> None:
        """Take what triage found into the verdict, and display it: lost before wrong before late before noisy.

        A cause is as severe as its harm (`Harm.severity`). What could not be looked at counts as not measured.
        """
        self._findings += [_of_cause(cause) for cause in found.causes]
        self.unmeasured += [Unmeasured(what=name, why=why) for name, why in found.unmeasured.items()]
        display.diagnosis(found)

    @property
    def verdict(self) -> Verdict:
        """The worst finding's, and at least unknown where something could not be measured."""
        found = Verdict.of(self._findings)
        if self.unmeasured and found.severity.rank < Severity.unknown.rank:
            return Verdict(Severity.unknown, found.findings)
        return found

    @property
    def comparison(self) -> Comparison | None:
        """What changed since the previous report; None without one."""
        return None if self._before is None else compare(self._before, self.summary())

    def next_steps(self) -> None:
        """Display the commands that the findings lead to, the worst finding's first."""
        display.next_steps([(f.next_step, f.sentence) for f in self.verdict.findings if f.next_step])

    def summary(self) -> Summary:
        """Everything found so far."""
        verdict = self.verdict
        sentence = verdict.sentence
        if verdict.severity is Severity.unknown and self.unmeasured:
            names = ", ".join(sorted({u.what for u in self.unmeasured}))
            sentence = f"unknown: {names} could not be measured"
        return Summary(
            report=os.environ.get(NAME_VARIABLE, ""),
            notebook="",
            title="",
            verdict=verdict.severity.value,
            exit_code=verdict.exit_code,
            sentence=sentence,
            generated_at=datetime.now(UTC),
            duration_seconds=round(time.monotonic() - self._started, 3),
            window=Seen(start=self.window.start, end=self.window.end),
            system=facts_of(self.system),
            monitors=_monitors(verdict.findings),
            findings=[_finding(f) for f in verdict.findings],
            unmeasured=self.unmeasured,
            charts=self._charts,
            thresholds=self.thresholds.numbers(),
            versions=versions(),
        )

    def finish(self) -> None:
        """End the notebook: say the verdict, and leave the summary where `evkit report run` looks for it."""
        summary = self.summary()
        if self._before is not None:
            summary.compared_with = {"path": self._before_path, **compare(self._before, summary).document()}
        if folder := os.environ.get(FOLDER_VARIABLE):
            summary.write(Path(folder))
        display.ending(summary)


def _has_window(view: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
    import inspect

    return "window" in inspect.signature(view).bind_partial(None, *arguments, **named).arguments


def _of_cause(cause: Cause) -> Finding:
    return Finding(
        monitor="triage",
        severity=cause.harm.severity,
        subject=cause.subject,
        value=float(cause.events),
        unit="events",
        threshold=None,
        sentence=cause.sentence,
        evidence={"cause": cause.name, "harm": cause.harm, "likely": cause.likely, **cause.evidence},
        next_step=cause.next_step,
    )


def _monitors(findings: list[Finding]) -> list[MonitorResult]:
    """Each monitor's worst finding; among equals the one with the greatest value says most."""
    results = []
    for name in MONITORS:
        of_monitor = [f for f in findings if f.monitor == name]
        if not of_monitor:
            continue
        rank = max(f.severity.rank for f in of_monitor)
        worst = max(
            (f for f in of_monitor if f.severity.rank == rank), key=lambda f: -1.0 if f.value is None else f.value
        )
        results.append(
            MonitorResult(
                monitor=name,
                severity=worst.severity.value,
                subject=worst.subject,
                value=worst.value,
                unit=worst.unit,
                threshold=worst.threshold,
                sentence=worst.sentence,
                findings=len(of_monitor),
            )
        )
    return results


def _finding(finding: Finding) -> FindingResult:
    return FindingResult(
        monitor=finding.monitor,
        severity=finding.severity.value,
        subject=finding.subject,
        value=finding.value,
        unit=finding.unit,
        threshold=finding.threshold,
        sentence=finding.sentence,
        next_step=finding.next_step,
        evidence=finding.evidence,
    )


def facts_of(system: System) -> dict[str, str]:
    """Which system a report is about: its profile, and addresses without user or password."""
    settings = system.settings
    address = postgres.address(settings.postgres_dsn)
    return {"profile": settings.profile, "postgres": address, "kafka": settings.bootstrap_servers}


def versions() -> dict[str, str]:
    """Of Python, evkit and what its numbers go through."""
    found = {"python": platform.python_version()}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
