"""Kafka's `__consumer_offsets` → when a group's committed offsets were set back, or set by somebody else, afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from evkit.offsets_log import Part, commits_of
from evkit.offsets_records import ClassicGroup, Commit
from evkit.system import System
from evkit.views.commit_log import merged
from evkit.views.frame import Frame, Frames, WindowLike, frame, view
from evkit.views.group_log import COPY, LOG, copied_of, history_or_copy
from evkit.views.lag_history import past_window

log = logging.getLogger(__name__)


@view("offset_resets")
def offset_resets(system: System, group: str, window: WindowLike = None, *, frames: Frames = "polars") -> Frame:
    """When the committed offsets of a group were moved otherwise than by reading on: a row for each move.

    A move back is one whoever made it: what lies between is read again, unless an inbox knows it. A move forward is one
    when the group had no members at that moment but had had some before: then an operator, or a tool, made it, and what
    lies between is skipped. Groups that never have members (they assign partitions themselves) move forward by reading.

    Args:
        group   the consumer group; an empty or deleted one too, while its records are there
        window  a `Window`, or a length that ends now ("2h"); default: the last hour

    Columns: see columns/

    Sorted by time, then topic and partition. A rewind of a transaction's own making does not show: only what was
    committed counts. What Kafka has compacted away is told by what `evkit sample` has copied before, and so is all of it
    where the log may not be read; when neither reaches back so far, a warning says from when on all is there.

    Raises: see `rebalances`.
    """
    seen = past_window(window, system)
    part, source = history_or_copy(system, group, seen.start, f"offset_resets of {group}")
    if part is None:
        return frame("offset_resets", [], frames)
    part, since, copied_until = whole(system, group, part, seen.start)
    if since is not None and since > seen.start:
        log.warning("offset_resets of %s: what was before %s may have been compacted away", group, since.isoformat())
    rows = [row for row in moves(part, group, source) if seen.start <= row["at"] < seen.end]
    for row in rows:
        if copied_until is not None and row["at"] < copied_until:
            row["source"] = COPY
    rows.sort(key=lambda row: (row["at"], row["topic"], row["partition"]))
    return frame("offset_resets", rows, frames)


class Whole(NamedTuple):
    """A part of the log, with what was copied before where its commits do not reach back so far.

    Attributes:
        since         from when on all commits are there; None: from the beginning
        copied_until  up to here it is told by the copy; None: nowhere
    """

    part: Part
    since: datetime | None
    copied_until: datetime | None = None


def whole(system: System, group: str, part: Part, start: datetime) -> Whole:
    """All that is known of what a group committed since a moment."""
    since = _since(part, group)
    if since is None or since <= start:
        return Whole(part, since)
    copied = copied_of(system, group, start)
    if copied is None or copied.until is None or copied.until < since:
        return Whole(part, since)
    both = merged(copied, part)
    return Whole(both, _since(both, group), since)


def _since(part: Part, group: str) -> datetime | None:
    commits = commits_of(part, group)
    if not commits:
        return None if part.first_hole is None else part.whole_since
    return max((of.since for of in commits.values() if of.since is not None), default=None)


def moves(part: Part, group: str, source: str = LOG) -> list[dict[str, Any]]:
    """Every such move that a part of the log still tells, in its order, named as the view's columns."""
    found: list[dict[str, Any]] = []
    before: dict[tuple[str, int], int] = {}
    open_: dict[tuple[str, int], dict[str, Any]] = {}
    for at, place, offset, by in _commits(part, group):
        was = before.get(place)
        if offset is None:  # the broker has forgotten it, and what comes is a new beginning
            before.pop(place, None)
            continue
        before[place] = offset
        if (back := open_.get(place)) is not None and offset >= back["from_offset"]:
            back["regained_at"] = at
            del open_[place]
        if was is None or offset == was or (offset > was and by != "outside"):
            continue
        row: dict[str, Any] = {
            "at": at,
            "group": group,
            "topic": place[0],
            "partition": place[1],
            "from_offset": was,
            "to_offset": offset,
            "moved_events": offset - was,
            "direction": "back" if offset < was else "forward",
            "moved_by": by,
            "regained_at": None,
            "source": source,
        }
        if offset < was:
            open_[place] = row
        found.append(row)
    return found


def _commits(part: Part, group: str) -> Iterator[tuple[datetime, tuple[str, int], int | None, str]]:
    """Time, place, offset, and who: a member, somebody outside, or unknown, where members may be gone from the log."""
    members: set[str] = set()
    had_members = False
    for entry in part.entries:
        key = entry.key
        if key.group != group:
            continue
        if key.kind == "member" and key.member_id is not None:
            (members.discard if entry.value is None else members.add)(key.member_id)
        elif key.kind == "classic_group":
            members = {m.member_id for m in entry.value.members} if isinstance(entry.value, ClassicGroup) else set()
        had_members = had_members or bool(members)
        if key.kind == "commit" and key.topic is not None and key.partition is not None:
            is_commit = isinstance(entry.value, Commit)
            at = entry.value.committed_at if isinstance(entry.value, Commit) else entry.at
            offset = entry.value.offset if isinstance(entry.value, Commit) else None
            is_whole = part.first_hole is None or entry.offset >= part.whole_from
            by = "member" if members else "outside" if had_members and is_whole and is_commit else "unknown"
            yield at, (key.topic, key.partition), offset, by
