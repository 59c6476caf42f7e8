"""What goes wrong in the demo, and what the engineer on call does about it, step by step.

day one             all is well
the blizzard        punctuality gets a release with a bug; one carrier's system answers slowly; the relay hangs for
                    some seconds; the flights that are cancelled have no aircraft, which maintenance cannot digest
the page            `evkit check` is critical, the dead letters fall into two groups, the first health report names each
                    incident
what is done        the bug is fixed and its letters are redriven, first one, then ten, then a hundred; the poison letters
                    are archived with a note; a replay shows that nothing else was missed
the day after       traffic as usual, `evkit check` is calm, the second report shows the difference
the reckoning       every number reconciles to the event
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from evkit import monitors, reporting, views
from evkit.demo import flights, service
from evkit.demo.reconciliation import Reconciliation, reconcile
from evkit.demo.scene import GROUPS, Scene
from evkit.monitors import Thresholds, Verdict
from evkit.runtime import dead_letters, replay
from evkit.runtime.dead_letters import Selection
from evkit.runtime.ramp import RAMP
from evkit.system import System
from evkit.window import Window

THRESHOLDS = Path(__file__).parent / "thresholds.toml"

# Where in the sequence of occurrences each chapter ends, as a share of all.
_CALM, _BLIZZARD = 0.25, 0.85
# The relay hangs from here to there, within the blizzard, and at least for so long.
_HELD, _HELD_UNTIL, HELD_SECONDS = 0.5, 0.6, 4.0
# How long the groups may take to catch up: two minutes, and more when there is more than the default to do.
_DRAIN_SECONDS, _DRAIN_EVENTS_PER_SECOND = 120.0, 100


@dataclass
class Told:
    """How the demo ended.

    Attributes:
        during, after        verdicts of `evkit check` in the middle and at the end
        reports              folders of both health reports
        groups               dead letters in the middle, equal failures together: title, letters, keys, spread
        redriven, archived   letters dealt with
        replayed             what a replay of everything has found
        reconciliation       all counts, and what does not add up
        seconds              duration by chapter
    """

    during: Verdict | None = None
    after: Verdict | None = None
    reports: list[Path] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    redriven: dict[str, Any] = field(default_factory=dict)
    replayed: dict[str, Any] = field(default_factory=dict)
    archived: int = 0
    reconciliation: Reconciliation = field(default_factory=Reconciliation)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """One sentence for each thing that is not as it must be; empty when the demo went well."""
        found = list(self.reconciliation.mismatches)
        if self.replayed.get("handled") or self.replayed.get("failed"):
            found.append(f"a replay found events that its group had missed: {self.replayed}")
        # Quiet days have fewer dead letters than it takes: then nobody is paged, and that is right.
        enough = self.redriven.get("resolved", 0) >= Thresholds().open_letters_critical
        if enough and (self.during is None or self.during.severity is not monitors.Severity.critical):
            found.append(f"check during the incident was {self.during and self.during.severity}, expected critical")
        if self.after is None or self.after.severity is not monitors.Severity.ok:
            found.append(f"check at the end was {self.after and self.after.sentence}, expected ok")
        return found

    def document(self) -> dict[str, Any]:
        """Everything as one JSON document."""
        return {
            "reconciles": self.reconciliation.adds_up,
            "problems": self.problems,
            "counts": self.reconciliation.counts,
            "check": {
                "during": self.during.severity.value if self.during else None,
                "after": self.after.severity.value if self.after else None,
            },
            "groups": self.groups,
            "redriven": self.redriven,
            "archived": self.archived,
            "replayed": self.replayed,
            "reports": [str(path) for path in self.reports],
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }


class Story:
    """Runs the demo on one system; `say` gets a sentence for each chapter, `watch` the counts in between."""

    def __init__(
        self,
        system: System,
        folder: Path,
        *,
        say: Callable[[str], None],
        watch: Callable[[dict[str, Any]], None] = lambda _: None,
        with_reports: bool = True,
    ) -> None:
        self.system = system
        self.folder = folder
        self.told = Told()
        self._say, self._watch = say, watch
        self._with_reports = with_reports
        self._thresholds = Thresholds.read(THRESHOLDS)
        self._last_look = 0.0
        self._drain_seconds = _DRAIN_SECONDS

    def tell(self, start: date, end: date) -> Told:
        """The whole story on the flights of these days; the processes are stopped at the end, the data stays."""
        frame = flights.flights(start, end)
        happened = flights.occurrences(frame)
        slow = frame["carrier"].mode().sort()[0]  # the carrier with the most flights
        self._drain_seconds = max(_DRAIN_SECONDS, len(happened) / _DRAIN_EVENTS_PER_SECOND)
        calm, blizzard = int(len(happened) * _CALM), int(len(happened) * _BLIZZARD)
        with Scene(self.system, self.folder / "logs") as scene:
            began = self._chapter("prepare", lambda: self._prepare(scene, frame.height, len(happened)))
            self._chapter("calm", lambda: self._write(scene, happened[:calm]))
            self._chapter("blizzard", lambda: self._blizzard(scene, happened, calm, blizzard, slow))
            self._chapter("page", lambda: self._page(Window(began, datetime.now(UTC))))
            fixed_at = self._chapter("fix", lambda: self._fix(scene))
            self._chapter("replay", lambda: self._nothing_missed(began))
            self._chapter("after", lambda: self._day_after(scene, happened[blizzard:]))
            self._chapter("report", lambda: self._calm_again(Window(fixed_at, datetime.now(UTC))))
            self.told.reconciliation = self._chapter("reckoning", lambda: reconcile(self.system, frame))
        return self.told

    def _chapter(self, name: str, what: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            return what()
        finally:
            self.told.seconds[name] = time.monotonic() - started

    # --- chapters -----------------------------------------------------------------------------------------------------

    def _prepare(self, scene: Scene, flight_count: int, event_count: int) -> datetime:
        self._say(f"{flight_count:,} flights, {event_count:,} things that happen; a relay and three groups start")
        scene.prepare()
        scene.start("relay")
        for group in GROUPS:
            scene.start(group)
        return datetime.now(UTC)

    def _blizzard(self, scene: Scene, happened: list[flights.Occurrence], calm: int, blizzard: int, slow: str) -> None:
        self._say(
            f"the blizzard: release 2013.2 of punctuality is deployed, {slow}'s system answers slowly to turnaround"
        )
        scene.stop("punctuality")
        scene.start("punctuality", EVKIT_DEMO_RELEASE="2013.2")
        scene.stop("turnaround")
        scene.start("turnaround", EVKIT_DEMO_SLOW_CARRIER=slow)
        hold, release = int(len(happened) * _HELD), int(len(happened) * _HELD_UNTIL)
        self._write(scene, happened[calm:hold])
        scene.hold("relay")
        held_at = time.monotonic()
        self._say("the relay hangs")
        self._write(scene, happened[hold:release])
        time.sleep(max(0.0, HELD_SECONDS - (time.monotonic() - held_at)))
        scene.let_go("relay")
        self._say(f"the relay goes on after {time.monotonic() - held_at:.0f} s")
        self._write(scene, happened[release:blizzard])

    def _page(self, window: Window) -> None:
        self.told.during = self._check(window)
        self._say(f"`evkit check` says {self.told.during.sentence}")
        for group in dead_letters.groups(self.system):
            shown = {name: group[name] for name in ("group", "title", "n_open", "n_keys", "spread")}
            self.told.groups.append(shown)
            self._say(
                f"dead letters of {shown['group']}: {shown['title']}, {shown['n_open']:,} of {shown['n_keys']:,} keys, "
                f"{shown['spread']}"
            )
        self._report(window)

    def _fix(self, scene: Scene) -> datetime:
        self._say("release 2013.3 of punctuality fixes the bug; turnaround's slow dependency is back to normal")
        scene.stop("punctuality")
        scene.start("punctuality", EVKIT_DEMO_RELEASE="2013.3")
        scene.stop("turnaround")
        scene.start("turnaround")
        scene.wait_drained(self._drain_seconds, self._look)
        drained_at = datetime.now(UTC)
        os.environ["EVKIT_DEMO_RELEASE"] = "2013.3"
        from evkit.demo import groups

        if not dead_letters.letters(self.system, Selection(group="punctuality")):
            self._say("no flight was cancelled while release 2013.2 ran: nothing to redrive")
            return drained_at
        plan = dead_letters.plan_redrive(self.system, Selection(group="punctuality"))
        result = dead_letters.redrive(
            self.system,
            plan,
            groups.punctuality,
            reason="bug in release 2013.2, fixed in 2013.3",
            progress=self._say_stage,
        )
        self.told.redriven = result.summary()
        stages = ", then ".join(f"{size:,}" for size in RAMP)
        self._say(
            f"{len(result.resolved):,} letters of punctuality are redriven through its fixed handler: first {stages}, then "
            "the rest"
        )
        poison = [
            x.letter_id for x in dead_letters.letters(self.system, Selection(group="maintenance"), letters_max=None)
        ]
        done = dead_letters.archive(self.system, poison, note="cancelled before an aircraft was assigned: nothing flew")
        self.told.archived = len(done)
        self._say(f"{len(done):,} letters of maintenance are archived: those flights never had an aircraft")
        return drained_at

    def _say_stage(self, done: int, planned: int) -> None:
        if done in accumulate(RAMP) or done == planned:
            self._say(f"redrive: {done:,} of {planned:,} letters")

    def _nothing_missed(self, began: datetime) -> None:
        """Whether anything was lost in the incident: a replay hands the group what its inbox does not know."""
        from evkit.demo import groups

        plan = replay.plan(self.system, "punctuality", began, consumer=groups.punctuality)
        result = replay.run(self.system, plan, groups.punctuality, reason="was anything lost?")
        self.told.replayed = result.summary()
        self._say(
            f"a replay of all that was published finds {result.counts.handled:,} events that punctuality has missed: "
            f"{result.counts.duplicate:,} are known"
        )

    def _day_after(self, scene: Scene, happened: list[flights.Occurrence]) -> None:
        self._say("the day after: traffic as usual")
        self._write(scene, happened)
        scene.wait_drained(self._drain_seconds, self._look)
        # What the last day brings of flights without an aircraft is known by now.
        poison = [
            x.letter_id for x in dead_letters.letters(self.system, Selection(group="maintenance"), letters_max=None)
        ]
        if poison:
            self.told.archived += len(
                dead_letters.archive(self.system, poison, note="no aircraft was assigned, as before")
            )

    def _calm_again(self, window: Window) -> None:
        self.told.after = self._check(window)
        self._say(f"`evkit check` says {self.told.after.sentence}")
        self._report(window)

    # --- what the chapters are made of --------------------------------------------------------------------------------

    def _write(self, scene: Scene, happened: list[flights.Occurrence]) -> None:
        service.write(self.system, happened, lambda _: self._look_sometimes(scene))

    def _look_sometimes(self, scene: Scene) -> None:
        if time.monotonic() - self._last_look > 0.5:
            self._look(scene.progress())

    def _look(self, counts: dict[str, Any]) -> None:
        self._last_look = time.monotonic()
        self._watch(counts)

    def _check(self, window: Window) -> Verdict:
        return monitors.judge(views.measure(self.system, window), self._thresholds)

    def _report(self, window: Window) -> None:
        if not self._with_reports:
            return
        run = reporting.run(
            "health",
            system=self.system,
            since=window.start.isoformat(),
            until=window.end.isoformat(),
            thresholds=str(THRESHOLDS),
        )
        self.told.reports.append(run.path.resolve())
        self._say(f"health report: {self.told.reports[-1] / 'report.html'}")
