"""evkit metrics: the monitors' numbers for Prometheus, measured again and again, and the alert rules over them."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evkit.cli.check import thresholds_of
from evkit.cli.output import print_text, say
from evkit.cli.signals import on_stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evkit.monitors import Thresholds
    from evkit.monitors.exported import Exported
    from evkit.monitors.totals import Counts, Totals
    from evkit.runtime.health import Health
    from evkit.system import System

log = logging.getLogger(__name__)

# As long as `evkit check` looks back.
_WINDOW_SECONDS = 600.0
# So many measurements may fail to come before the process says that it is not well.
_MISSED_MAX = 4

ThresholdsOption = Annotated[
    Path | None,
    typer.Option("--thresholds", help="TOML file with thresholds and objectives.  [default: the profile's]",
                 show_default=False),
]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the commands."""
    metrics = typer.Typer(help="Numbers for Prometheus, and alert rules over them.", no_args_is_help=True)
    metrics.command("serve")(serve)
    metrics.command("rules")(rules)
    app.add_typer(metrics, name="metrics")


def serve(
    host: Annotated[str, typer.Option(help="Address to answer on; 0.0.0.0 inside a container.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to answer on (0: any that is free).")] = 9464,
    every: Annotated[str, typer.Option(help="Time from one measurement to the next: 15s, 1m.")] = "15s",
    thresholds: ThresholdsOption = None,
) -> None:
    """Measure the monitors and objectives again and again, and answer /metrics and /health with the last numbers.

    A scrape asks no server: it gets what was measured last, and evkit_measured_timestamp_seconds says when. What could not
    be measured has no series. Read-only; no offsets are committed and no group is joined.
    """
    from evkit import connect
    from evkit.errors import InvalidParameter
    from evkit.runtime import health
    from evkit.window import duration

    seconds = duration(every, name="--every").total_seconds()
    if seconds < 1:
        raise InvalidParameter(f"--every {every} is too often: take 1s or more", name="every", value=every)
    system = connect()
    loop = Measuring(system, thresholds_of(thresholds, system.settings.thresholds), seconds)
    on_stop(loop.stop)
    server = health.serve(loop, host=host, port=port, collector=loop)
    say(f"metrics at {server.url}/metrics, measured every {every}")
    try:
        loop.run()
    finally:
        server.close()


def rules(thresholds: ThresholdsOption = None) -> None:
    """Print alert rules for Prometheus (`rule_files`) and Grafana, with the bounds that `evkit check` has."""
    from evkit.errors import StackNotRunning
    from evkit.monitors.rules import rule_file
    from evkit.settings import load

    of_profile = None
    if thresholds is None:
        try:
            of_profile = load().thresholds
        except StackNotRunning:  # nothing is configured, and no server is needed for this
            log.debug("no profile: the rules have the default thresholds")
    print_text(rule_file(thresholds_of(thresholds, of_profile)).rstrip("\n"))


class Measuring:
    """Measures again and again, and keeps the last numbers; scrapes come in threads of their own."""

    def __init__(self, system: System, thresholds: Thresholds, every_seconds: float) -> None:
        self._system = system
        self._thresholds = thresholds
        self._every = every_seconds
        self._stopped = threading.Event()
        self._last: Exported | None = None
        self._totals: Totals | None = None
        self._began_at: float | None = None
        self._why = "nothing has been measured yet"

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        """Measure until `stop`, from beginning to beginning in the given time, or at once when one took longer."""
        while not self._stopped.is_set():
            began = time.monotonic()
            self.step()
            self._stopped.wait(max(0.0, began + self._every - time.monotonic()))

    def step(self) -> None:
        """Measure once."""
        from evkit.monitors import judge
        from evkit.monitors.exported import broken, exported
        from evkit.monitors.totals import Totals
        from evkit.views import measure
        from evkit.window import Window

        began, clock = time.time(), time.monotonic()
        try:
            window = Window.last(f"{_WINDOW_SECONDS:.0f}s")
            totals = self._totals = self._totals or Totals()
            measured = measure(
                self._system,
                window,
                objectives=self._thresholds.objectives(),
                objectives_seconds=totals.windows_seconds(window.end),
                consumer_status_too=True,
            )
            counts: Counts = {}
            if "slo" in measured and not isinstance(measured["slo"], Exception):
                measured["slo"] = totals.add(measured["slo"], window.end)
                counts = totals.counts()
            verdict = judge(measured, self._thresholds)
            took = time.monotonic() - clock
            self._last = exported(
                measured, verdict, counts, began_at=began, took_seconds=took, window_seconds=_WINDOW_SECONDS
            )
            failed = [f"{name}: {error}" for name, error in measured.items() if isinstance(error, Exception)]
            self._why = "; ".join(failed)
        except Exception as error:  # the next one may do; meanwhile old numbers must not stand for new ones
            log.exception("the measurement broke")
            self._last = broken(began_at=began)
            self._why = f"the measurement broke: {type(error).__name__}"
        self._began_at = began

    def collect(self) -> Iterator[Any]:
        """The series of the last measurement, as a registry asks for them."""
        if self._last is not None:
            yield from self._last.collect()

    def health(self) -> Health:
        """Red while nothing is measured in time; what a server does not answer is only a reason."""
        from evkit.runtime.health import Health

        if self._began_at is None:
            return Health(True, [self._why])
        age = time.time() - self._began_at
        if age > _MISSED_MAX * self._every + 60:
            return Health(False, [f"nothing was measured for {age:.0f} s"])
        return Health(True, [self._why] if self._why else [])
