"""outbox, publication, inbox, attempts → service level objectives: good and bad events, and how fast the budget burns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Literal

from evkit import postgres
from evkit.errors import InvalidParameter
from evkit.system import System
from evkit.views.frame import Frame, Frames, frame, groups_of, view
from evkit.views.pages import gathered
from evkit.views.reading import reading
from evkit.window import present

Slo = Literal["freshness", "correctness", "relay", "completeness"]
SLOS: tuple[Slo, ...] = ("freshness", "correctness", "relay", "completeness")
# A budget is for so long: the month in which people promise.
PERIOD_SECONDS = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Burn:
    """Two windows and a rate. It burns when both burn at the rate: the long one so that a few bad events do not alarm, the
    short one so that the alarm ends with the incident.

    Attributes:
        long_seconds, short_seconds  the windows; the short one is a twelfth of the long one
        rate                         1 uses up the budget in 30 days; 14.4 uses up 2 % of it in an hour
        page                         somebody must get up; else a ticket will do
    """

    long_seconds: float
    short_seconds: float
    rate: float
    page: bool


# The table of Google's SRE workbook (alerting on SLOs): 2 % of the budget in an hour, 5 % in six, 10 % in three days.
BURNS = (
    Burn(3600, 300, 14.4, page=True),
    Burn(21_600, 1800, 6.0, page=True),
    Burn(259_200, 21_600, 1.0, page=False),
)
WINDOWS_SECONDS = tuple(sorted({s for burn in BURNS for s in (burn.long_seconds, burn.short_seconds)}))


@dataclass(frozen=True, slots=True)
class Objective:
    """What is promised about a group's events, or about the relay's of a topic.

    Attributes:
        slo             freshness: handled in time; correctness: did not die; relay: published in time; completeness:
                        dealt with at all
        objective       share of events that must be good, above 0 and below 1
        target_seconds  in how much time; for completeness how long a group has, before it counts; no matter for correctness
        subject         group (of the relay: topic) that it is for, or a pattern: `bill*`
        events_min      fewer events in a window say nothing about a ratio: they are told as numbers, a warning at most
        excluded        subjects, and patterns of them, that another objective speaks for
    """

    slo: Slo
    objective: float
    target_seconds: float = 60.0
    subject: str = "*"
    events_min: int = 100
    excluded: tuple[str, ...] = ()

    def applies(self, subject: str) -> bool:
        return fnmatchcase(subject, self.subject) and not any(fnmatchcase(subject, other) for other in self.excluded)

    @property
    def names_one(self) -> bool:
        """Whether it is for one subject, which must then be measured, and not for those that there are."""
        return not any(c in self.subject for c in "*?[")


@view("slo")
def slo(
    system: System,
    objectives: Sequence[Objective] = (),
    *,
    group: str | None = None,
    until: datetime | None = None,
    windows_seconds: Iterable[float] = WINDOWS_SECONDS,
    frames: Frames = "polars",
) -> Frame:
    """How many events kept each objective and how many did not, in several windows that end together, and how fast its
    budget burns.

    Every event is judged once: good at the moment when it got there in time, bad at the moment when its time was over. An
    event that still waits then is bad, else a consumer that stands still would look perfect. Only live handling counts.

    Args:
        objectives       what is promised; default: for every group and topic 99 % fresh within a minute, 99.9 % correct,
                         99.9 % relayed within 10 s, 99.99 % dealt with within an hour
        group            one consumer group; default: all. The relay has none, and is left out then.
        until            end of all windows; default: now
        windows_seconds  their lengths; default: those of BURNS

    Columns: see columns/

    Sorted by slo in the order freshness, correctness, relay, completeness, then group, topic, window. A group that an
    objective names and nobody knows has rows without numbers: it could not be measured.

    Raises:
        UnknownGroup: evkit's tables know no such group as `group`; the closest names are in `suggestions`.
        InvalidParameter: an objective that is not above 0 and below 1, or no such slo.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    asked = _checked(objectives or DEFAULT)
    end = present() if until is None else until
    lengths = sorted({float(s) for s in windows_seconds})
    given: dict[str, Any] = {"until": end, "sinces": [end - timedelta(seconds=s) for s in reversed(lengths)]}
    lines: list[dict[str, Any]] = []
    start = end - timedelta(seconds=lengths[-1])
    with system.reading() as connection:
        groups = given["groups"] = groups_of(system, connection, group)
        given |= reading(system, connection, start, end, groups) | {"until": end}
        topics: list[str] | None = None
        for objective in sorted(asked, key=lambda o: (SLOS.index(o.slo), o.subject)):
            if objective.slo == "relay" and topics is None:
                topics = sorted({r["topic"] for r in gathered(system, connection, "slo", "topics", start, end, given)})
            if objective.slo == "relay" and group is not None:
                continue
            known = (topics or []) if objective.slo == "relay" else groups
            subjects = [s for s in known if objective.applies(s)]
            counted = _counted(system, connection, objective, lengths, end, given)
            for subject in subjects:
                lines += [_line(objective, subject, s, counted.get((subject, s), (0, 0, 0)), end) for s in lengths]
            if objective.names_one and not subjects and group is None:
                lines += [_line(objective, objective.subject, s, (None, None, None), end) for s in lengths]
    lines.sort(key=lambda r: (SLOS.index(r["slo"]), r["group"] or "", r["topic"] or "", r["window_seconds"]))
    return frame("slo", lines, frames)


def _counted(
    system: System,
    connection: postgres.Connection,
    objective: Objective,
    lengths: Sequence[float],
    end: datetime,
    given: Mapping[str, Any],
) -> dict[tuple[str, float], tuple[int, int, int]]:
    """Good, bad and unmeasured events of all pages, by subject and window."""
    # What was written so long before the window is judged in it.
    earlier = end - timedelta(seconds=lengths[-1] + objective.target_seconds)
    asked = {**given, "target": objective.target_seconds}
    counted: dict[tuple[str, float], tuple[int, int, int]] = {}
    for row in gathered(system, connection, "slo", objective.slo, earlier, end, asked):
        subject = row["topic" if objective.slo == "relay" else "group"]
        # The windows end together: what is in one is in all that are longer.
        for length in lengths[len(lengths) - row["ring"] :]:
            good, bad, unmeasured = counted.get((subject, length), (0, 0, 0))
            counted[subject, length] = (good + row["good"], bad + row["bad"], unmeasured + row["unmeasured"])
    return counted


# What `views.slo(system)` looks at when nobody has promised anything: what a service at ease keeps. No alarm comes of it.
DEFAULT = (
    Objective("freshness", 0.99, 60.0),
    Objective("correctness", 0.999),
    Objective("relay", 0.999, 10.0),
    Objective("completeness", 0.9999, 3600.0),
)


def _checked(objectives: Sequence[Objective]) -> Sequence[Objective]:
    for given in objectives:
        if given.slo not in SLOS:
            raise InvalidParameter(f"'{given.slo}' is no slo; there are {', '.join(SLOS)}", name="slo", value=given.slo)
        if not 0 < given.objective < 1:
            raise InvalidParameter(
                f"an objective is above 0 and below 1, and {given.slo} has {given.objective}: 0.99 for 99 %",
                name="objective",
                value=given.objective,
            )
        if given.target_seconds <= 0:
            raise InvalidParameter("target_seconds must be above 0", name="target_seconds", value=given.target_seconds)
    return objectives


def _line(
    objective: Objective, subject: str, window: float, counts: Sequence[int | None], end: datetime
) -> dict[str, Any]:
    good, bad, unmeasured = counts
    events = None if good is None or bad is None else good + bad
    ratio = bad / events if events and bad is not None else None
    burn = None if ratio is None else ratio / (1 - objective.objective)
    return {
        "slo": objective.slo,
        "group": None if objective.slo == "relay" else subject,
        "topic": subject if objective.slo == "relay" else None,
        "window_seconds": window,
        "target_seconds": None if objective.slo == "correctness" else objective.target_seconds,
        "objective": objective.objective,
        "good": good,
        "bad": bad,
        "unmeasured": unmeasured,
        "bad_ratio": ratio,
        "burn_rate": burn,
        "budget_used_ratio": None if burn is None else burn * window / PERIOD_SECONDS,
        "events_min": objective.events_min,
        "enough": None if events is None else events >= objective.events_min,
        "measured_at": end,
    }
