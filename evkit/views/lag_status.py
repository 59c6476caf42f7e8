"""commits and ends of one partition → what is wrong with its consumer, and why. A pure function; no servers, no frames.

The words are Burrow's, and some more. The rules are not: Burrow looks at the last ten commits, whatever time they span,
and a single decrease of the lag hides a long climb. Here a window has a length in time, a trend is Theil and Sen's slope,
and how long silence may last is what the group itself has shown: three times its median time from record to commit.

In this order, the first that holds: unknown, no_commit, ahead, data_loss, ok (nothing to read, or paused on purpose), stop,
stall, rewind, unknown (too few commits to say more), catching_up, warn, ok. A loss comes before a standstill, since it
cannot be made good; a standstill before a rewind, since a group that stands regains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from evkit.views.lag_trend import Drain, Slope, time_to_drain, time_to_retention
from evkit.views.lag_window import Commit, Ends, Rules, Seen, span


class Status(StrEnum):
    """What a partition's consumer does."""

    ok = "ok"  # it keeps up, has nothing to read, or is paused on purpose
    warn = "warn"  # it reads, and its lag grows
    stall = "stall"  # it commits, always the same offset, with records to read behind it
    stop = "stop"  # it commits no more, with records to read
    rewind = "rewind"  # its offset went back, and has not regained what it had
    catching_up = "catching_up"  # its lag shrinks
    data_loss = "data_loss"  # records behind its offset were deleted before it read them
    ahead = "ahead"  # its offset is beyond the end of the partition
    no_commit = "no_commit"  # it never committed, or the broker has forgotten it, with records to read
    unknown = "unknown"  # not enough was seen


_RULES = Rules()
_NOT_KNOWN = Drain(None, None, None)

# Worth waking somebody for. no_commit is not: a group that nobody has started yet looks the same.
ALARMS = frozenset({Status.warn, Status.stall, Status.stop, Status.rewind, Status.data_loss, Status.ahead})


@dataclass(frozen=True, slots=True)
class Evidence:
    """The numbers behind a status; None where there is none, or it could not be known.

    Attributes:
        lag_events            end - committed offset, never clipped
        unread_events         what of it the group may read now: up to the stable offset where one is known, from the
                              first offset that exists; 0 where nothing readable is among them
        lost_events           most offsets that were deleted before the group committed beyond them, in the window
        stuck_events          offsets behind an open transaction: end - stable
        rewind_from           committed offset before it went back
        rewind_to             the offset it went back to
        rewind_at             when
        velocity              slope of the lag at the commits, events a second
        read_per_second       slope of the commits, since the lag was lowest but for a third of the window at least
        written_per_second    slope of what there was to read then
        drain                 when the lag is gone
        retention_seconds     until unread records are deleted; infinite for never, None when it cannot be said
        still_seconds         for how long the offset has not moved with something to read behind it
        allowed_seconds       how long that may last for this group
    """

    lag_events: int | None = None
    unread_events: int | None = None
    lost_events: int = 0
    stuck_events: int | None = None
    rewind_from: int | None = None
    rewind_to: int | None = None
    rewind_at: datetime | None = None
    velocity: Slope | None = None
    read_per_second: float | None = None
    written_per_second: float | None = None
    drain: Drain = _NOT_KNOWN
    retention_seconds: float | None = None
    still_seconds: float | None = None
    allowed_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """A status, the sentence that says why with its numbers, and the numbers."""

    status: Status
    reason: str
    evidence: Evidence

    @property
    def alarm(self) -> bool:
        return self.status in ALARMS


def lag_status(
    commits: Iterable[Commit],
    ends: Iterable[Ends],
    now: datetime,
    *,
    readable_events: int | None = None,
    group_state: str | None = None,
    paused: bool = False,
    held_seconds: float | None = None,
    compacted: bool = False,
    known: bool = True,
    rules: Rules = _RULES,
) -> PartitionStatus:
    """Judge one group's reading of one partition, as things stood at `now`.

    Args:
        commits          in order of time; three that moved the offset from before the window help where they are known,
                         for a group's own pace is read from them. Commits of the same offset tell a stall from a stop;
                         where commits are sampled rather than read from the group's log, both are a stop.
        ends             in order of time, over the window
        now              what is later is not looked at
        readable_events  how many records can be read from the committed offset on, now, or any number that says whether
                         there are any: 0 means that the lag is transaction markers or what compaction left
        group_state      the broker's word (stable, empty, dead …), for the reason
        paused           this partition is paused on purpose: standing still is what it was told to
        held_seconds     age of the oldest record behind the stable offset, where somebody has looked: so old is the open
                         transaction at least
        compacted        offsets of the topic are not events, which the reason says
        known            False where the broker did not tell; the status is then unknown

    A transaction that hangs (end moves, stable offset does not, everything up to it is committed) is `ok`: the group has
    read what it may. The reason says since when, and that it is the producer's. An idle topic with nothing to read is ok
    however old the last commit is; silence counts from when there was something to read. A topic made anew (its end fell)
    starts its history again, and low offsets after that are no rewind.

    Never raises for any input in order of time.
    """
    given = [e for e in ends if e.at <= now]
    if not known or not given:
        return PartitionStatus(Status.unknown, "the broker has not told where the partition ends", Evidence())
    seen = Seen(_after_last(commits, now), given, rules)
    if (now - given[-1].at).total_seconds() > rules.window_seconds:
        age = span((now - given[-1].at).total_seconds())
        return PartitionStatus(Status.unknown, f"the last look at the partition is {age} old", _evidence(seen))
    noun = "offset" if compacted else "event"
    found = _judged(seen, readable_events, group_state, paused, held_seconds or 0.0, noun)
    if compacted:
        # What compaction leaves out of the log is neither deleted by age nor by size.
        found = replace(found, evidence=replace(found.evidence, retention_seconds=None))
    found = replace(found, reason=found.reason + _retention(found.evidence, seen))
    lost = found.evidence.lost_events
    if lost and found.status is not Status.data_loss:
        return replace(found, reason=f"{found.reason}; up to {_count(lost, noun)} were deleted unread before that")
    return found


def _after_last(commits: Iterable[Commit], now: datetime) -> list[tuple[datetime, int]]:
    """Commits up to `now`, since the broker last forgot what it had."""
    found: list[tuple[datetime, int]] = []
    for commit in commits:
        if commit.at <= now:
            if commit.offset is None:
                found.clear()
            else:
                found.append((commit.at, commit.offset))
    return found


def _judged(
    seen: Seen, readable: int | None, state: str | None, paused: bool, held: float, noun: str
) -> PartitionStatus:
    rules, end = seen.rules, seen.ends[-1]
    if seen.committed is None:
        backlog = end.end - end.start
        if backlog <= 0 or readable == 0:
            return PartitionStatus(Status.ok, "nothing is committed, and there is nothing to read", _evidence(seen))
        return PartitionStatus(
            Status.no_commit, f"nothing is committed, where {_count(backlog, noun)} can be read", _evidence(seen)
        )
    evidence = _evidence(seen)
    committed, lag, unread = seen.committed, evidence.lag_events or 0, evidence.unread_events or 0
    if lag < 0:
        why = (
            "the end fell from {:,} to {:,}, so the topic was made anew or cut".format(*seen.fell)
            if seen.fell
            else "the topic was made anew or cut, or the offset was set by hand"
        )
        return PartitionStatus(
            Status.ahead, f"committed offset {committed:,} is beyond the end {end.end:,}: {why}", evidence
        )
    if committed < end.start:
        lost = _count(end.start - committed, noun)
        return PartitionStatus(
            Status.data_loss,
            f"up to {lost} were deleted unread: committed is {committed:,}, the partition starts at {end.start:,}",
            evidence,
        )
    if unread == 0 or readable == 0:
        evidence = replace(evidence, unread_events=0, drain=Drain(0.0, 0.0, 0.0), retention_seconds=math.inf)
        return PartitionStatus(Status.ok, _nothing_to_read(seen, lag, evidence.stuck_events or 0, held, noun), evidence)
    wait = _waiting(unread, noun)
    if paused:
        return PartitionStatus(Status.ok, f"paused on purpose; {wait}", evidence)
    allowed = seen.allowed
    if seen.silent > allowed:
        reason = f"no commit for {span(seen.silent)}, {wait}{_members(state)}; {seen.pace}"
        return PartitionStatus(Status.stop, reason, evidence)
    if seen.standing_commits > 1 and seen.still > allowed:
        reason = f"{seen.standing_commits} commits of the same offset in {span(seen.still)}, {wait}; {seen.pace}"
        return PartitionStatus(Status.stall, reason, evidence)
    if evidence.rewind_from is not None and evidence.rewind_to is not None:
        back = _count(evidence.rewind_from - evidence.rewind_to, noun)
        ago = span((seen.at - (evidence.rewind_at or seen.at)).total_seconds())
        return PartitionStatus(
            Status.rewind,
            f"offset went back from {evidence.rewind_from:,} to {evidence.rewind_to:,} {ago} ago: {back} are read again",
            evidence,
        )
    if len(seen.commits) < rules.commits_min:
        few = f"{_count(len(seen.commits), 'commit')} so far"
        return PartitionStatus(Status.unknown, f"{wait}; {few}, too few to judge by", evidence)
    return _trend(seen, evidence, unread, wait)


def _trend(seen: Seen, evidence: Evidence, unread: int, wait: str) -> PartitionStatus:
    rules, velocity, lately = seen.rules, evidence.velocity, seen.lately
    if velocity is None or evidence.read_per_second is None or evidence.written_per_second is None:
        return PartitionStatus(Status.ok, f"{wait}, and the offset moves", evidence)
    rates = f"reads {_rate(evidence.read_per_second)} where {_rate(evidence.written_per_second)} are written"
    falls = seen.falling
    if falls is not None and falls.significant and falls.per_second < -rules.dead_band:
        drain = time_to_drain(unread, falls)
        # What is gone within the group's own time is what it always has before it, and no backlog.
        if drain.seconds is not None and drain.seconds > seen.allowed:
            reason = f"lag shrinks by {_rate(-falls.per_second)}, gone in about {span(drain.seconds)}; {wait}"
            evidence = replace(evidence, drain=drain, retention_seconds=math.inf)
            return PartitionStatus(Status.catching_up, reason, evidence)
    grows = velocity.low > 0 and velocity.per_second > rules.dead_band
    still_grows = lately is not None and lately.per_second > rules.dead_band and not seen.recovering
    if grows and still_grows and seen.growing >= rules.window_seconds / 3:
        return PartitionStatus(Status.warn, f"{rates}, for {span(seen.growing)}; {wait}", evidence)
    # A climb that is too short to be one, or a group that is as far behind as it was.
    words = f"{rates}, not for long yet" if grows and still_grows else f"keeps up: {rates}"
    return PartitionStatus(Status.ok, f"{words}; {wait}", evidence)


def _nothing_to_read(seen: Seen, lag: int, stuck: int, held: float, noun: str) -> str:
    held = max(held, seen.stable_seconds)
    # Between two transactions the stable offset stands for a moment, and between two questions the end moves.
    if stuck and lag and held > seen.rules.silence_seconds_min:
        return (
            f"everything up to the last stable offset is read; behind it {_waiting(stuck, noun)} for a transaction "
            f"that has been open for at least {span(held)}: look at its producer, not at this group"
        )
    if lag and not stuck:
        return f"nothing readable is left: a lag of {lag:,} that is transaction markers, aborted or compacted records"
    return "everything is read"


def _retention(evidence: Evidence, seen: Seen) -> str:
    """What a lag that grows comes to before it could ever be gone; nothing where it does not grow."""
    seconds, outlook = evidence.retention_seconds, seen.outlook()
    if not seconds or math.isinf(seconds) or outlook is None or outlook.per_second <= seen.rules.dead_band:
        return ""
    return f"; as things go retention deletes unread records in about {span(seconds)}"


def _waiting(n: int, noun: str) -> str:
    return f"{_count(n, noun)} {'waits' if n == 1 else 'wait'}"


def _members(state: str | None) -> str:
    if state is None:
        return ""
    if state.lower() in ("empty", "dead"):
        return f", and no consumer is running (the group is {state.lower()})"
    return f", while the group is {state.lower()}: its handler hangs, fails, or does not commit"


def _evidence(seen: Seen) -> Evidence:
    last = seen.ends[-1]
    stuck = None if last.stable is None else max(last.end - last.stable, 0)
    if seen.committed is None:
        return Evidence(stuck_events=stuck)
    unread, lag = max(seen.target - max(seen.committed, last.start), 0), seen.end - seen.committed
    back = seen.rewind()
    # Of a log that still has its first record nobody knows how far retention reaches.
    retention = time_to_retention(lag, last.end - last.start, seen.outlook()) if last.start else None
    return Evidence(
        lag_events=lag,
        unread_events=unread,
        lost_events=seen.lost(),
        stuck_events=stuck,
        rewind_from=back[0] if back else None,
        rewind_to=back[1] if back else None,
        rewind_at=back[2] if back else None,
        velocity=seen.velocity,
        read_per_second=seen.read.per_second if seen.read else None,
        written_per_second=seen.written.per_second if seen.written else None,
        drain=time_to_drain(unread, seen.velocity),
        retention_seconds=retention,
        still_seconds=seen.still if unread else 0.0,
        allowed_seconds=seen.allowed,
    )


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s" if abs(per_second) >= 10 else f"{per_second:,.1f}/s"
