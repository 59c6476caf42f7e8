"""Kafka's offsets, now and in its log → what is wrong with each consumer, partition by partition, and why."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from evkit import offsets_log
from evkit.errors import NotInFreeze, NotMigrated, OffsetsLogRefused, Unreachable
from evkit.offsets_log import Commits, Part
from evkit.sql import named
from evkit.system import System
from evkit.views.broker import broker
from evkit.views.commit_log import copied_commits, joined
from evkit.views.end_offsets import End
from evkit.views.frame import Frame, Frames, WindowLike, frame, rows_of, view, window_of
from evkit.views.lag import lag
from evkit.views.lag_samples import cluster_of, looks
from evkit.views.lag_status import PartitionStatus, Status, lag_status
from evkit.views.lag_trend import hot_partitions
from evkit.views.lag_window import Commit, Ends, Rules
from evkit.views.offsets import Place
from evkit.window import Window

log = logging.getLogger(__name__)

# Moments of the window at which it is asked where partitions ended: a trend needs no more.
_SAMPLES = 40
# A group that commits every record tells its pace with these; the others are older than anybody looks.
_COMMITS_MAX = 5_000
_SILENT = "its past commits are not known: "
_COPIED = "its commits are those that evkit sample had copied by "


class Offsets:
    """What Kafka tells of a group's offsets, or of all groups', asked once for several views.

    Commits before ends, as in lag: the other way round a group that is at work would seem to be ahead. So its log is read
    first, also where lag alone is asked for; why that failed is kept, and lag is measured all the same.
    """

    def __init__(self, system: System, group: str | None = None) -> None:
        self.system, self.group = system, group

    @cached_property
    def lag(self) -> Frame:
        """The polars frame of `views.lag`.

        Raises: see `lag`.
        """
        _ = self._log
        return lag(self.system, self.group)

    def parts(self) -> list[Part]:
        """The parts of the log that the groups are in.

        Raises:
            OffsetsLogRefused, NotInFreeze: it may not be read, or is not there.
            BrokerUnreachable.
        """
        if isinstance(self._log, Exception):
            raise self._log
        return self._log

    @cached_property
    def _log(self) -> list[Part] | Exception:
        try:
            return broker(self.system).offsets_log(self.group)
        except Exception as error:
            return error


@view("consumer_status")
def consumer_status(
    system: System,
    group: str | None = None,
    window: WindowLike = "10m",
    *,
    offsets: Offsets | None = None,
    frames: Frames = "polars",
) -> Frame:
    """What every consumer group does in each of its partitions (keeps up, falls behind, stands still, went back, …), judged
    from all that it committed in the window, with a sentence that says why.

    No threshold has to be set: how long silence may last is what the group itself has shown, and a trend is a robust slope
    over the window. The rules, and what each status means: `evkit.views.lag_status`.

    Args:
        group    one consumer group; default: all
        window   in which trends and rewinds are looked for: how far back from now, or a stretch of the past, of whose end
                 everything is told then
        offsets  what Kafka told just now, of the same group; default: it is asked

    Columns: see columns/

    Sorted by group, topic, partition. Empty, with these columns, when no group is known. Commits come from
    `__consumer_offsets`, and from the copy that `evkit sample` makes of it where that may not be read, or was compacted;
    where neither knows, `covered` is false and little can be said. Where partitions ended comes from the times of their
    records; where they began and what was stable then, only `evkit sample` keeps: without it, records that were deleted
    unread are seen until the group has passed over them, and not afterwards.

    When unread records will be deleted (`retention_seconds`) is told of a log of which something was deleted before, and
    that is not compacted: as if it went on keeping as many records as it does, and the lag grew as it did, or by all that
    is written where the group stands still. Where the lag grows the reason names it.

    At the end of a window that has passed, group_state is null, what transactions were open then is not known, and neither
    is a pause. Listed are the groups and partitions that are known now.

    A group that a replay has paused (`evkit replay run --mode paused`) is ok, and its reason names the replay. Whether a
    service has paused a partition itself nobody tells: that is a stop.

    Raises:
        UnknownGroup: neither the cluster nor the inbox knows the group; the closest names are in `suggestions`.
        InvalidParameter: the window cannot be read.
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    return frame("consumer_status", _told(system, group, window_of(window, system), offsets), frames)


def stood(
    system: System, group: str | None, window: Window, offsets: Offsets | None = None, frames: Frames = "polars"
) -> tuple[Frame, Frame]:
    """`consumer_status` at the end of a window that has passed, and what it tells of lag, in the columns of `views.lag`:
    the age of the oldest unread record is too short by up to a fortieth of the window (method "grid"), offsets and members
    are null, group_state is "unknown".

    Raises: see `consumer_status`.
    """
    rows = _told(system, group, window, offsets)
    lags = [
        {
            **{name: row[name] for name in ("group", "topic", "partition", "lag_events", "lost_events", "measured_at")},
            "lag_readable_events": row["unread_events"],
            "lag_seconds": row["unread_seconds"],
            "lag_seconds_method": _method(row["unread_seconds"], row["unread_events"]),
            "status": _LAG_STATUS.get(row["status"], "behind" if row["unread_events"] else "ok"),
            "group_state": "unknown",
        }
        for row in rows
    ]
    return frame("consumer_status", rows, frames), frame("lag", lags, frames)


# What a partition's consumer did → how its lag stood, where that is not by what is unread.
_LAG_STATUS = {str(of): str(of) for of in (Status.ahead, Status.data_loss, Status.no_commit, Status.unknown)}


def _told(system: System, group: str | None, seen: Window, offsets: Offsets | None) -> list[dict[str, Any]]:
    """Rows of consumer_status; of a window that has passed also `unread_seconds`."""
    is_past = seen.is_past(system.now())
    offsets = offsets or Offsets(system, group)
    parts, refused = _parts(offsets)
    rows = rows_of(offsets.lag, "lag")
    commits = {name: _commits(parts, name) for name in {row["group"] for row in rows}}
    kept = _Kept.of(system, commits, seen, is_refused=refused is not None)
    instants = [seen.start + n * (seen.end - seen.start) / _SAMPLES for n in range(_SAMPLES + is_past)]
    places = {(row["topic"], row["partition"]) for row in rows if row["end_offset"] is not None}
    ends = broker(system).ends(places, instants) if places else {}
    lines = []
    for row in rows:
        place: Place = (row["topic"], row["partition"])
        of_place = commits[row["group"]].get(place)
        of_copy = kept.commits.get(row["group"], {}).get(place)
        if of_copy is not None:
            if of_place is not None:
                of_place = joined(of_copy, of_place)
            else:
                of_place = of_copy if is_past else _until_now(of_copy, row)
        covered = (not refused and of_place is None) or (of_place is not None and of_place.covers(seen.start))
        past = _past(instants, ends.get(place, []), kept.looks.get(place, []))
        paused_by = None if is_past else kept.paused.get(row["group"])
        if is_past:
            row |= {"group_state": None, "measured_at": seen.end}
            judged = _judged_then(row, of_place, past, seen, is_covered=covered)
            row["unread_seconds"] = _unread_seconds(judged, past, seen)
        else:
            judged = _judged(row, of_place, past, seen, paused=paused_by is not None)
        reason = judged.reason
        if paused_by is not None:
            reason += f"; {paused_by} has the group pause"
        if refused and of_place is None:
            reason += f"; {_SILENT}{refused}"
        elif refused and of_place is not None and of_place.until is not None:
            reason += f"; {_COPIED}{of_place.until:%Y-%m-%d %H:%M:%S}: {refused}"
        lines.append(_row(row, judged) | {"reason": reason, "covered": covered})
    hot = _hot(lines)
    return [line | {"hot": (line["group"], line["topic"], line["partition"]) in hot} for line in lines]


def _parts(offsets: Offsets) -> tuple[list[Part], str | None]:
    """What the log has, and why it may not be read."""
    try:
        return offsets.parts(), None
    except (OffsetsLogRefused, NotInFreeze) as error:
        return [], str(error)


def _commits(parts: list[Part], group: str) -> dict[Place, Commits]:
    """A group is in one part of the log: the only one that was read, or its own of all."""
    if not parts:
        return {}
    part = parts[0] if len(parts) == 1 else parts[offsets_log.partition_of(group, len(parts))]
    return offsets_log.commits_of(part, group)


def _until_now(copied: Commits, row: Mapping[str, Any]) -> Commits:
    """The copy is some seconds old; where the group is now, the coordinator has just said."""
    committed = row["committed_offset"]
    if committed is None or committed in copied.offsets[-1:]:
        return copied
    times, offsets = [*copied.times, row["measured_at"]], [*copied.offsets, committed]
    return Commits(times, offsets, since=copied.since, until=copied.until, unknown=copied.unknown)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What evkit's tables know beside Kafka; nothing where there are none.

    Attributes:
        paused   the replay that has a group pause, by group
        looks    what `evkit sample` saw of a partition in the window
        commits  what it copied of the groups of which the log does not tell the whole window
    """

    paused: Mapping[str, str] = field(default_factory=dict)
    looks: Mapping[Place, list[Ends]] = field(default_factory=dict)
    commits: Mapping[str, dict[Place, Commits]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, system: System, commits: Mapping[str, dict[Place, Commits]], window: Window, *, is_refused: bool
    ) -> _Kept:
        lacking = [g for g, of in commits.items() if is_refused or not all(c.covers(window.start) for c in of.values())]
        try:
            with system.reading() as connection:
                paused = dict(connection.execute(named("group_pause")["paused"], {"now": system.now()}).fetchall())
            cluster = cluster_of(system)
            return cls(
                paused,
                looks(system, cluster, list(commits), window, (window.end - window.start) / _SAMPLES),
                {group: copied_commits(system, cluster, group, None, window) for group in lacking},
            )
        except (Unreachable, NotMigrated, NotInFreeze) as error:
            log.info("consumer_status without evkit's tables: %s", error)
            return cls()


def _past(instants: list[datetime], ends: list[End], looks: list[Ends]) -> list[Ends]:
    """Where a partition began and ended before now. What was looked at comes before what the times of records tell: both
    beside each other would make an end go back that never did."""
    since = looks[0].at if looks else None
    told = [
        # Where a partition began then nobody has kept; where it begins now says what is lost.
        Ends(at, 0, end.offset)
        for at, end in zip(instants, ends, strict=False)
        if end.offset is not None and (since is None or (at < since and end.offset <= looks[0].end))
    ]
    return told + looks


def _judged(
    row: Mapping[str, Any], commits: Commits | None, past: list[Ends], window: Window, *, paused: bool
) -> PartitionStatus:
    now: datetime = row["measured_at"]
    samples = [look for look in past if look.at < now]
    known = row["start_offset"] is not None and row["end_offset"] is not None
    if known:
        samples.append(Ends(now, row["start_offset"], row["end_offset"], row["stable_offset"]))
    if commits is not None:
        history = _history(commits, len(commits.times))
    else:
        history = [] if row["committed_offset"] is None else [Commit(now, row["committed_offset"])]
    return lag_status(
        history,
        samples,
        max(now, history[-1].at) if history else now,
        readable_events=0 if row["lag_seconds_method"] == "empty" else None,
        group_state=row["group_state"],
        paused=paused,
        held_seconds=row["lag_seconds"] if row["lag_seconds_method"] == "open_transaction" else None,
        compacted=bool(row["compacted"]),
        known=known,
        rules=Rules(window_seconds=window.seconds),
    )


def _judged_then(
    row: Mapping[str, Any], commits: Commits | None, past: list[Ends], window: Window, *, is_covered: bool
) -> PartitionStatus:
    """The same at the end of a window that has passed."""
    until = 0 if commits is None else bisect_right(commits.times, window.end)
    return lag_status(
        [] if commits is None else _history(commits, until),
        past,
        window.end,
        compacted=bool(row["compacted"]),
        # That a group had not committed by then is known only where all of its commits are.
        known=bool(past) and (is_covered or until > 0),
        rules=Rules(window_seconds=window.seconds),
    )


def _unread_seconds(judged: PartitionStatus, past: list[Ends], window: Window) -> float | None:
    """Since when there was something to read that was not, as far back as the window; 0 where nothing was."""
    evidence = judged.evidence
    if not evidence.unread_events:
        return None if evidence.unread_events is None else 0.0
    if not past:
        return None
    committed = past[-1].end - (evidence.lag_events or 0)
    since = next((look.at for look in past if look.end > committed), window.end)
    return (window.end - since).total_seconds()


def _method(unread_seconds: float | None, unread_events: int | None) -> str:
    """How the age of the oldest unread record is known; where it came in the last moment before the end, it is 0."""
    if unread_seconds is None:
        return "none"
    return "grid" if unread_events else "empty"


def _history(commits: Commits, until: int) -> list[Commit]:
    """The last of the first `until` commits, as far back as anybody looks."""
    first = max(until - _COMMITS_MAX, 0)
    return [
        Commit(at, offset) for at, offset in zip(commits.times[first:until], commits.offsets[first:until], strict=True)
    ]


def _row(row: Mapping[str, Any], judged: PartitionStatus) -> dict[str, Any]:
    evidence = judged.evidence
    return {
        **{name: row[name] for name in ("group", "topic", "partition", "group_state", "measured_at")},
        "unread_seconds": row.get("unread_seconds"),
        "status": str(judged.status),
        "alarm": judged.alarm,
        "lag_events": evidence.lag_events,
        "unread_events": evidence.unread_events,
        "lost_events": evidence.lost_events,
        "rewind_from": evidence.rewind_from,
        "rewind_to": evidence.rewind_to,
        "rewind_at": evidence.rewind_at,
        "velocity_per_second": evidence.velocity.per_second if evidence.velocity else None,
        "read_per_second": evidence.read_per_second,
        "written_per_second": evidence.written_per_second,
        "drain_seconds": evidence.drain.seconds,
        "drain_low_seconds": evidence.drain.low,
        "drain_high_seconds": evidence.drain.high,
        "retention_seconds": evidence.retention_seconds,
        "still_seconds": evidence.still_seconds,
        "allowed_seconds": evidence.allowed_seconds,
    }


def _hot(rows: list[dict[str, Any]]) -> set[tuple[str, str, int]]:
    """Group, topic and partition of those that hold far more of the lag than their neighbours."""
    lags: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for row in rows:
        if row["lag_events"] is not None:
            lags[row["group"], row["topic"]][row["partition"]] = row["lag_events"]
    return {(*of, found.partition) for of, by_partition in lags.items() for found in hot_partitions(by_partition)}
