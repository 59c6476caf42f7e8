"""commits and ends of one partition → what a window of them shows: pace, standstill, rewind, loss, trend.

No judgement; that is lag_status.py's. Pure, no servers, no frames.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from evkit.views.lag_trend import DEAD_BAND_EVENTS_PER_SECOND, Slope, slope

# Of a group that commits every record, so many tell its pace as well as all.
_MOVES_MAX = 100


@dataclass(frozen=True, slots=True)
class Commit:
    """The group committed `offset` (next to read) at `at`; None for an offset that the broker has forgotten."""

    at: datetime
    offset: int | None


@dataclass(frozen=True, slots=True)
class Ends:
    """A sample of the partition: first offset it has, next it will assign, and the last stable offset where it was asked.

    `stable` is the first offset of the oldest open transaction, or the end: nobody under read_committed gets past it.
    """

    at: datetime
    start: int
    end: int
    stable: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How long to look and how patient to be; the defaults suit samples every 15 s.

    Attributes:
        window_seconds       how far back trends and rewinds are looked for
        commits_min          fewer say nothing about a trend; where the window holds fewer, older ones are taken
        silence_factor       a standstill is longer than this many of the group's own times from record to commit
        silence_seconds_min  and longer than this: three of the Kafka client's auto.commit.interval.ms
        silence_seconds_new  how long it may last where the group's own pace is not known: max.poll.interval.ms, after
                             which a member that still handles one batch is put out of its group
        dead_band            events a second; a lag that changes by less is steady
    """

    window_seconds: float = 600.0
    commits_min: int = 3
    silence_factor: float = 3.0
    silence_seconds_min: float = 15.0
    silence_seconds_new: float = 300.0
    dead_band: float = DEAD_BAND_EVENTS_PER_SECOND


class Seen:
    """What commits and samples of one partition show, for lag_status to judge.

    Attributes:
        at                when it was last looked at: the younger of last sample and last commit
        committed         committed offset; None without a commit
        commits           history that pace and trend come from, (at, offset): the window's, and older ones if it is short
        ends              samples since the end last fell
        fell              end before and after it fell, where it did: the topic was made anew, or cut
        end, target       end offset; offset up to which the group may read
        allowed           seconds that a standstill may last
        pace              the words for the group's own pace
        still, silent     seconds since the offset moved, and since the last commit, with something to read
        standing_commits  commits of the offset where it stands
        velocity          slope of the lag at the commits, events a second
        lately            the same over the last third of the window
        falling           the same since the lag was highest; None before `allowed` seconds have passed since
        growing           seconds since the lag was lowest
        recovering        a standstill is over, and the lag has fallen since
        read, written     slopes of commits and of what there was to read, events a second
    """

    def __init__(self, commits: list[tuple[datetime, int]], ends: list[Ends], rules: Rules) -> None:
        self.rules = rules
        falls = [i for i in range(1, len(ends)) if ends[i].end < ends[i - 1].end]
        self.fell = (ends[falls[-1] - 1].end, ends[falls[-1]].end) if falls else None
        self.ends = ends[falls[-1] :] if falls else ends
        self.committed = commits[-1][1] if commits else None
        last = self.ends[-1]
        self.at = max(last.at, commits[-1][0]) if commits else last.at
        # A commit that is younger than the last sample was of records: the end has been there, though nobody looked.
        fresh = commits and commits[-1][0] > last.at
        self.end = max(last.end, commits[-1][1]) if fresh else last.end
        # Who has committed beyond the stable offset does not read under read_committed: it may read up to the end.
        bound = last.stable if commits and last.stable is not None and commits[-1][1] <= last.stable else None
        self.target = self.end if bound is None else bound
        self._times = [e.at for e in self.ends]
        self._targets = [e.end if bound is None or e.stable is None else e.stable for e in self.ends]
        # Of a topic made anew, the old one's commits are no history; the last of them is still what is committed.
        anew = ends[falls[-1] - 1].at if falls else datetime.min.replace(tzinfo=last.at.tzinfo)
        young = [c for c in commits if c[0] > anew and not self._beyond(c)]
        self.commits = self._history(young)
        self.window_start = self.at - timedelta(seconds=rules.window_seconds)
        self.allowed, self.pace = self._allowed()
        self.still, self.silent, self.standing_commits = self._standstill(commits)
        points = self._points()
        self._lag = [(t, max(target - offset, 0.0)) for t, offset, target in points]
        self.velocity = slope(self._lag)
        self.lately, self.growing, self.falling = self._recent()
        self.recovering = self._recovering()
        # Rates of the climb where there is one, else of late: of a whole window they would be no one's.
        since = (self.at - self._times[0]).total_seconds() - max(self.growing, rules.window_seconds / 3)
        climb = [p for p in points if p[0] >= since]
        self.read = slope([(t, float(offset)) for t, offset, _ in climb])
        self.written = slope([(t, target) for t, _, target in climb])

    @property
    def stable_seconds(self) -> float:
        """For how long the stable offset has been where it is, short of the end, as far as was seen; 0 when it is not."""
        last = self.ends[-1]
        stood = [e.at for e in self.ends if e.stable == last.stable and e.stable is not None and e.stable < e.end]
        return (self.at - stood[0]).total_seconds() if stood else 0.0

    def outlook(self) -> Slope | None:
        """How fast the lag grows as things stand: where the group stands still, by all that is written."""
        if self.still <= self.allowed:
            return self.velocity
        since = self.at - timedelta(seconds=self.still)
        return slope([((e.at - since).total_seconds(), float(e.end)) for e in self.ends if e.at >= since])

    def _beyond(self, commit: tuple[datetime, int]) -> bool:
        """Committed beyond the end of its time: no proof of having read, and going back from it is no rewind."""
        following = bisect_right(self._times, commit[0])
        return following < len(self.ends) and commit[1] > self.ends[following].end

    def _history(self, commits: list[tuple[datetime, int]]) -> list[tuple[datetime, int]]:
        """The window's commits, and older ones where it holds fewer than are needed, moves of the offset among them."""
        if not commits:
            return []
        since, need = self.at - timedelta(seconds=self.rules.window_seconds), self.rules.commits_min
        inside = next((i for i, c in enumerate(commits) if c[0] >= since), len(commits))
        moves = [i for i in range(1, len(commits)) if commits[i][1] != commits[i - 1][1]]
        old = moves[-need] - 1 if len(moves) >= need else 0
        enough = min(inside, max(len(commits) - need, 0), old if moves else len(commits))
        return commits[max(enough, 0) :]

    def _waiting_since(self, offset: int) -> tuple[datetime | None, datetime]:
        """Between which two samples something to read came behind the offset; None for before the first."""
        below = [i for i, target in enumerate(self._targets) if target <= offset]
        i = below[-1] + 1 if below else 0
        return (self._times[i - 1] if i else None), self._times[min(i, len(self._times) - 1)]

    def _moves(self) -> list[tuple[datetime, datetime, int]]:
        """(when it came to an offset, when it went on from there, that offset): commits of the same offset are no move."""
        arrivals = [c for i, c in enumerate(self.commits) if i == 0 or c[1] != self.commits[i - 1][1]]
        return [(a[0], b[0], a[1]) for a, b in pairwise(arrivals) if b[1] > a[1]]

    def _taken(self, move: tuple[datetime, datetime, int]) -> float:
        """Seconds that a move took the group; the time in which there was nothing to read is not its own."""
        came, went, offset = move
        waiting, _ = self._waiting_since(offset)
        return (went - (came if waiting is None or waiting > went else max(came, waiting))).total_seconds()

    def _allowed(self) -> tuple[float, str]:
        """How long a standstill may last, and the words for it."""
        taken = [self._taken(move) for move in self._moves()[-_MOVES_MAX:]]
        if len(taken) < max(self.rules.commits_min - 1, 1):
            return self.rules.silence_seconds_new, "its own pace is not known"
        own = median(taken)
        allowed = max(self.rules.silence_factor * own, self.rules.silence_seconds_min)
        return allowed, f"it used to commit within {span(own)}"

    def _recovering(self) -> bool:
        """Has the lag fallen since the last standstill ended? What it climbed to meanwhile is then no trend."""
        stood = [m for m in self._moves() if (m[1] - m[0]).total_seconds() > self.allowed]
        ended = next((m[1] for m in reversed(stood) if self._taken(m) > self.allowed), None)
        if ended is None:
            return False
        seconds = (ended - self._times[0]).total_seconds()
        since = [lag for t, lag in self._lag if t >= seconds]
        return bool(since) and (since[-1] < since[0] or len(since) == 1)

    def _standstill(self, commits: list[tuple[datetime, int]]) -> tuple[float, float, int]:
        """Seconds since the offset moved, since the last commit, and commits of the offset it stands at.

        Both run from when there was something to read.
        """
        if not commits or self.committed is None:
            return 0.0, 0.0, 0
        run = len(commits)
        while run and commits[run - 1][1] == self.committed:
            run -= 1
        _, waiting = self._waiting_since(self.committed)
        still = (self.at - max(commits[run][0], waiting)).total_seconds()
        silent = (self.at - max(commits[-1][0], waiting)).total_seconds()
        return max(still, 0.0), max(silent, 0.0), len(commits) - run

    def rewind(self) -> tuple[int, int, datetime] | None:
        """The first fall of the offset in the window that no later commit has made good."""
        found: tuple[int, int, datetime] | None = None
        for (_, before), (at, offset) in pairwise(self.commits):
            if found is not None:
                found = None if offset >= found[0] else (found[0], min(found[1], offset), found[2])
            elif offset < before and at >= self.window_start:
                found = (before, offset, at)
        return found

    def lost(self) -> int:
        """Most offsets that were deleted before the group had committed beyond them, at any sample of the window."""
        lost, i, committed = 0, 0, None
        for sample in self.ends:
            while i < len(self.commits) and self.commits[i][0] <= sample.at:
                committed = self.commits[i][1]
                i += 1
            if committed is not None and sample.at >= self.window_start:
                lost = max(lost, sample.start - committed)
        if self.committed is not None:
            lost = max(lost, self.ends[-1].start - self.committed)
        return lost

    def _points(self) -> list[tuple[float, int, float]]:
        """(seconds, offset, what there was to read up to) at each commit that lies between samples.

        At the commits, not at the samples: between commits the lag of a group that commits in batches climbs a sawtooth.
        Offsets are counted from the committed one, so that high ones lose nothing as floats.
        """
        found = []
        zero = self.committed or 0
        for at, offset in self.commits:
            i = bisect_right(self._times, at)
            if i == 0 or (i == len(self._times) and at > self._times[-1]):
                continue
            t0, y0 = self._times[i - 1], self._targets[i - 1] - zero
            t1, y1 = (self._times[i], self._targets[i] - zero) if i < len(self._times) else (t0, y0)
            part = (at - t0) / (t1 - t0) if t1 > t0 else 0.0
            found.append(((at - self._times[0]).total_seconds(), offset - zero, y0 + part * (y1 - y0)))
        return found

    def _recent(self) -> tuple[Slope | None, float, Slope | None]:
        """Slope of the lag in the last third of the window; seconds since it was lowest; its slope since it was highest.

        None for the last until the group's own time has passed since: commits a few milliseconds apart prove no descent.
        """
        if not self._lag:
            return None, 0.0, None
        now = (self.at - self._times[0]).total_seconds()
        third = [p for p in self._lag if p[0] >= now - self.rules.window_seconds / 3]
        points = third if len(third) >= self.rules.commits_min else self._lag[-self.rules.commits_min :]
        least, most = min(y for _, y in self._lag), max(y for _, y in self._lag)
        lowest = max(t for t, y in self._lag if y == least)
        highest = max(t for t, y in self._lag if y == most)
        descent = [p for p in self._lag if p[0] >= highest] if now - highest > self.allowed else []
        return slope(points), now - lowest, slope(descent)


def span(seconds: float) -> str:
    """A duration as people say it: 30 ms, 8.5 s, 40 s, 8 min, 3 h."""
    if not math.isfinite(seconds):
        return "ever"
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    if seconds < 0.1:
        return f"{seconds * 1000:,.0f} ms"
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:,.1f} s"
