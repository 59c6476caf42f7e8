"""slo frames, one measurement after another → how many events were good and bad since the first one, never fewer."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import NamedTuple

from evkit.views.frame import Frame, frame, rows_of
from evkit.views.slo import WINDOWS_SECONDS

# Past two days the count begins a day ago instead. Both are less than the longest window that is counted anyway, so they
# cost nothing more; and an event may be a day late to be seen, as long as its transaction stays open.
_AGE_MAX = timedelta(days=2)
_AGE_AFTER = timedelta(days=1)


class Counted(NamedTuple):
    """What is counted: events of an objective, of a group or a topic, that were good or bad."""

    slo: str
    group: str | None
    topic: str | None
    verdict: str


Counts = dict[Counted, int]


class Totals:
    """Counts of good and bad events per objective that only grow, as Prometheus' counters must.

    They begin at 0 with the first measurement of the process: after a restart Prometheus sees a counter that was reset, and
    goes on from what it had. (A count from the tables alone would be the same number before and after a restart only if
    nothing was ever taken back; when a dead letter moves one event out of `bad`, or retention drops rows, the number is a
    little lower, and Prometheus would add all of it once more.) What was judged while no server ran is in no counter.

    Every measurement counts from the same fixed moment, not from the one before: an event whose transaction commits
    late is judged at a moment that is over, and would be in neither. Of what was counted the most stays counted. So that
    the count does not grow for ever, the fixed moment moves on by a day when it is two days old; at the move
    both counts are known, and what lies between is kept as it is.
    """

    def __init__(self) -> None:
        self._from: datetime | None = None
        self._kept: Counts = {}
        self._most: Counts = {}

    def windows_seconds(self, end: datetime) -> tuple[float, ...]:
        """What must be counted at this moment, beside the windows that are judged."""
        if self._from is None:
            self._from = end
        return tuple((end - moment).total_seconds() for moment in self._moments(end) if moment < end)

    def add(self, measured: Frame, end: datetime) -> Frame:
        """Take what was counted up to this moment from a frame of views.slo; returns it with the judged windows alone."""
        rows = rows_of(measured, "slo")
        counted: dict[float, Counts] = defaultdict(dict)
        for row in rows:
            for verdict in ("good", "bad"):
                if row[verdict] is not None:
                    of = Counted(row["slo"], row["group"], row["topic"], verdict)
                    counted[row["window_seconds"]][of] = row[verdict]
                    self._most.setdefault(of, 0)
        first, *later = [counted.get((end - moment).total_seconds(), {}) for moment in self._moments(end)]
        for of, number in first.items():
            self._most[of] = max(self._most[of], number)
        for rest in later:
            self._from = end - _AGE_AFTER
            for of, most in self._most.items():
                left = min(rest.get(of, 0), most)
                self._kept[of] = self._kept.get(of, 0) + most - left
                self._most[of] = left
        judged = [row for row in rows if row["window_seconds"] in WINDOWS_SECONDS]
        return measured if len(judged) == len(rows) else frame("slo", judged)

    def counts(self) -> Counts:
        """How many events, by objective and verdict."""
        return {of: self._kept.get(of, 0) + most for of, most in self._most.items()}

    def _moments(self, end: datetime) -> list[datetime]:
        """From where it is counted: from the fixed moment, and from the next one when that is old."""
        fixed = end if self._from is None else self._from
        return [fixed, end - _AGE_AFTER] if end - fixed > _AGE_MAX else [fixed]
