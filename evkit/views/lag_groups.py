"""lag → a line for each group and topic: how much, how old, how uneven, and who is there to read it."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from evkit.system import System
from evkit.views.columns import LAG_STATUSES
from evkit.views.frame import Frame, Frames, frame, rows_of, view
from evkit.views.lag import lag


@view("lag_groups")
def lag_groups(system: System, group: str | None = None, *, frames: Frames = "polars") -> Frame:
    """How far every consumer group is behind in each of its topics, now.

    Sums are over the partitions that the group has committed to: one that it never committed to is no lag, and is counted
    beside it. Lags of several topics are never added up, for their events are not alike.

    Args:
        group  one consumer group; default: all

    Columns: see columns/

    Sorted by group, topic. Empty, with these columns, when no group is known.

    Raises: see `lag`.
    """
    rows = rows_of(lag(system, group), "lag")
    by_topic = groupby(rows, key=lambda row: (row["group"], row["topic"]))
    return frame("lag_groups", [_of_topic(list(of_topic)) for _, of_topic in by_topic], frames)


def _of_topic(rows: list[dict[str, Any]]) -> dict[str, Any]:
    counted = [row for row in rows if row["lag_events"] is not None]
    behind = [row for row in counted if row["lag_events"] > 0]
    most = max(behind, key=lambda row: row["lag_events"], default=None)
    total = sum(row["lag_events"] for row in behind)
    ages = [row["lag_seconds"] for row in rows if row["lag_seconds"] is not None]
    return {
        **{name: rows[0][name] for name in ("group", "topic", "group_state", "measured_at")},
        "partitions": len(rows),
        "partitions_behind": len(behind),
        "partitions_without_commit": sum(row["committed_offset"] is None for row in rows),
        "members": len({row["member_id"] for row in rows if row["member_id"] is not None}),
        "lag_events": total if counted else None,
        "lag_events_max": None if not counted else most["lag_events"] if most else 0,
        "lag_events_max_partition": most["partition"] if most else None,
        "lag_seconds_max": max(ages, default=None),
        "lost_events": sum(row["lost_events"] for row in counted) if counted else None,
        "skew": most["lag_events"] * len(counted) / total if most else None,
        "status": max((row["status"] for row in rows), key=LAG_STATUSES.index),
    }
