"""annotations and change points → one axis: what was, what changed, and what was just before it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from evkit.errors import UnknownGroup
from evkit.system import System
from evkit.views.annotations import annotations as told
from evkit.views.change_points import change_points
from evkit.views.frame import Frame, Frames, WindowLike, frame, rows_of, view, window_of

log = logging.getLogger(__name__)

# What may be behind a change, the likelier first; an incident or a note says what was seen, not what was done.
_CAUSES = ("deploy", "config", "broker", "schema", "offset_reset", "replay", "redrive", "rebalance", "breaker", "act")
# Further back nobody calls it just before.
_NEAR = timedelta(minutes=10)
# So many are named: the third is rarely the one.
_NAMED_MAX = 2


@view("timeline")
def timeline(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    bucket: str | timedelta | None = None,
    frames: Frames = "polars",
) -> Frame:
    """What happened in a window, in order: everything of `annotations`, and every change of `change_points` as a sentence.

    A change names what was up to ten minutes before it, or inside the bucket in which it began (a change is known only to a
    bucket): deploys and changes of settings first, then rewinds, replays, rebalances, breakers and acts, and what is about
    its own group before what is about another's. That something was just before does not say that it is the cause.

    Args:
        window  a `Window`, or a length that ends now ("2h"); default: the last hour
        group   one consumer group; what is about no group in particular stays in; default: all
        bucket  of the change points ("30s"), and so how exact their times are; default: a round one, at most 120

    Columns: see columns/

    Sorted by time; what changed and what was written down in the same moment, the latter first. Empty, with these columns,
    when nothing is known and nothing changed. Of a group that only Kafka knows, changes are those of its lag and of the
    append rate of its topics; where Kafka does not know it either, there are none, with a warning.

    Raises: see `annotations` and `change_points`.
    """
    seen = window_of(window, system)
    known = rows_of(told(system, seen, group=group), "annotations")
    try:
        changes = rows_of(change_points(system, seen, group=group, bucket=bucket), "change_points")
    except UnknownGroup as error:  # annotations know it: from Kafka, or from what was written down
        log.warning("timeline: change points are missing, for neither evkit's tables nor Kafka tell of it: %s", error)
        changes = []
    return frame("timeline", merged(known, changes), frames)


def merged(known: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `views.annotations` and of `views.change_points` as rows of the timeline, sorted; pure."""
    rows: list[dict[str, Any]] = []
    for row in known:
        rows.append({k: row[k] for k in ("at", "until", "kind", "text", "group", "topic", "source", "actor")})
    for row in changes:
        near = nearby(row, known)
        rows.append(
            {k: row[k] for k in ("at", "until", "group", "topic", "measure", "before", "after", "source")}
            | {
                "kind": "change",
                "near": near,
                "text": row["text"] + (f", {near}" if near else ""),
            }
        )
    return sorted(rows, key=lambda row: (row["at"], row["kind"] == "change", row["text"]))


def nearby(change: Mapping[str, Any], known: Sequence[Mapping[str, Any]]) -> str | None:
    """What was just before a change, in words: `2 min after deploy 1.4.2 of billing`; None when nothing was.

    What took a while is near from its beginning, and while it went on.
    """
    at: datetime = change["at"]
    inside = at + timedelta(seconds=change["bucket_seconds"])
    ranked = []
    for row in known:
        if row["kind"] not in _CAUSES or row["at"] >= inside:
            continue
        gap = (at - row["at"]).total_seconds()
        if gap > _NEAR.total_seconds() and not (row["until"] is not None and row["until"] >= at):
            continue
        foreign = bool(change["group"] and row["group"] and change["group"] != row["group"])
        ranked.append((_CAUSES.index(row["kind"]) > _CAUSES.index("schema"), foreign, abs(gap), row))
    ranked.sort(key=lambda r: r[:3])
    said = [f"{_after(at, row)} {_named(row)}" for *_, row in ranked[:_NAMED_MAX]]
    return " and ".join(dict.fromkeys(said)) or None


def _after(at: datetime, row: Mapping[str, Any]) -> str:
    gap = (at - row["at"]).total_seconds()
    if gap <= 0:
        return "at the time of"
    if gap < 100:
        return f"{gap:.0f} s after"
    return f"{gap / 60:.0f} min after" if gap < 5400 else f"{gap / 3600:.1f} h after the start of"


def _named(row: Mapping[str, Any]) -> str:
    """An annotation in a few words."""
    if row["kind"] == "deploy" and row["version"]:
        return f"deploy {row['version']}" + (f" of {row['group']}" if row["group"] else "")
    if row["kind"] == "offset_reset" and row["group"]:
        return f"offsets of {row['group']} went back"
    if row["kind"] in ("rebalance", "replay", "redrive") and row["group"]:
        return f"{row['kind']} of {row['group']}"
    text = str(row["text"])
    return f"{row['kind']} '{text if len(text) <= 60 else text[:59] + '…'}'"
