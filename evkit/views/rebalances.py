"""Kafka's `__consumer_offsets` → when the members of a group changed, afterwards and for any group."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from evkit.offsets_log import Entry, Part
from evkit.offsets_records import ClassicGroup, GroupEpoch
from evkit.system import System
from evkit.views.frame import Frame, Frames, WindowLike, frame, view
from evkit.views.group_log import COPY, LOG, copied_of, history_or_copy
from evkit.views.lag_history import past_window

log = logging.getLogger(__name__)


@view("rebalances")
def rebalances(system: System, group: str, window: WindowLike = None, *, frames: Frames = "polars") -> Frame:
    """When the members of a group changed in a past window: a row for each new generation or epoch.

    Classic groups write a record when a rebalance is complete, KIP-848 groups when their epoch is raised, which is when it
    begins. Kinds: `made` (a group without members yet), `joined`, `left`, `replaced` (some came and some went), `changed`
    (the members are the same: what they subscribe to or the topics' partitions changed, or all joined again), `emptied`
    (the last member left), `deleted` (the group is gone, or was moved to the other protocol), `unknown` (who was there
    before has been compacted away). Share and streams groups are not read.

    Args:
        group   the consumer group; an empty or deleted one too, while its records are there
        window  a `Window`, "2h", "FROM/TO"; default: the last hour

    Columns: see columns/

    Sorted by time. Empty, with these columns, when nothing changed, or when nothing of that time is left; the latter is
    logged as a warning. Kafka keeps only a group's newest record once it has compacted the log; what `evkit sample` has
    copied before is taken from there, and so is all of it where the log may not be read.

    Raises:
        UnknownGroup: neither cluster nor log nor evkit's tables know the group; the closest names are in `suggestions`.
        InvalidParameter: the window cannot be read, or begins in the future.
        OffsetsLogRefused: we may not read `__consumer_offsets`, and nobody has copied it.
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.

    Source: GroupMetadataValue and ConsumerGroupMetadataValue, ConsumerGroupMemberMetadataValue of Apache Kafka 4.3.1.
    """
    seen = past_window(window, system)
    part, source = history_or_copy(system, group, seen.start, f"rebalances of {group}")
    rows, since = ([], None) if part is None else told(system, group, part, seen.start, source)
    if since is not None and since > seen.start:
        log.warning("rebalances of %s: what was before %s may have been compacted away", group, since.isoformat())
    return frame("rebalances", [row for row in rows if seen.start <= row["at"] < seen.end], frames)


def told(
    system: System, group: str, part: Part, start: datetime, source: str = LOG
) -> tuple[list[dict[str, Any]], datetime | None]:
    """Changes by a part of the log, and by its copy where it does not reach back so far; and from when on they are all
    there, None: from the beginning."""
    rows = changes(part, group, source)
    since = _since(part, rows)
    if since is None or since <= start:
        return rows, since
    copied = copied_of(system, group, start)
    if copied is None or copied.until is None or copied.until < since:
        return rows, since
    earlier = changes(copied, group, COPY)
    last = earlier[-1]["at"] if earlier else start
    return earlier + [row for row in rows if row["at"] > max(last, since)], _since(copied, earlier)


def changes(part: Part, group: str, source: str = LOG) -> list[dict[str, Any]]:
    """Every change of a group's members that a part of the log still tells, in its order, named as the view's columns."""
    rows: list[dict[str, Any]] = []
    members: set[str] = set()  # of a KIP-848 group, at this point of the log
    before: set[str] | None = set()
    seen: set[str] = set()
    for entry in part.entries:
        if entry.key.group != group:
            continue
        kind = entry.key.kind
        if kind == "member" and entry.key.member_id is not None:
            (members.discard if entry.value is None else members.add)(entry.key.member_id)
        elif kind in ("group_epoch", "classic_group"):
            if entry.value is None and kind not in seen and part.has_all_before(entry.offset):
                continue  # there was none: the first member of a group that had only committed writes this
            seen.add(kind)
            if not rows and not part.has_all_before(entry.offset):
                before = None
            # Members that left before the last hole have no record any more: only after it all of them are known.
            is_known = kind == "classic_group" or entry.offset >= part.whole_from
            after = _after(entry, members) if is_known else None
            rows.append(
                {
                    "at": entry.at,
                    "group": group,
                    "protocol": "classic" if kind == "classic_group" else "consumer",
                    "epoch": _epoch(entry),
                    "members_before": None if before is None else len(before),
                    "members_after": None if after is None else len(after),
                    "kind": "deleted" if entry.value is None else _kind(before, after),
                    "source": source,
                }
            )
            before = after
    return rows


def _after(entry: Entry, members: set[str]) -> set[str]:
    if entry.value is None:
        return set()
    if isinstance(entry.value, ClassicGroup):
        return {member.member_id for member in entry.value.members}
    return set(members)


def _epoch(entry: Entry) -> int | None:
    if isinstance(entry.value, ClassicGroup):
        return entry.value.generation
    return entry.value.epoch if isinstance(entry.value, GroupEpoch) else None


def _kind(before: set[str] | None, after: set[str] | None) -> str:
    if before is None or after is None:
        return "unknown"
    if not before and not after:
        return "made"
    if before and not after:
        return "emptied"
    if after - before:
        return "replaced" if before - after else "joined"
    return "left" if before - after else "changed"


def _since(part: Part, rows: list[dict[str, Any]]) -> datetime | None:
    """From when on the changes are all there; None: from the beginning."""
    if part.first_hole is None:
        return None
    first = rows[0]["at"] if rows else part.whole_since
    return first if isinstance(first, datetime) else None
