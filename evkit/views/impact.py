"""outbox, inbox, attempts and letters → who was hurt: by key, event type, topic, a path into the payload, or a function."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from evkit.errors import InvalidParameter, closest
from evkit.masking import applying, masked_document, of_topic
from evkit.system import System
from evkit.views.audit.verdict import LOST
from evkit.views.columns import COLUMNS, Column
from evkit.views.frame import Frame, Frames, WindowLike, fetch, frame, rows_of, view, window_of
from evkit.views.json_path import is_json_path, json_path, shown_at
from evkit.window import duration

log = logging.getLogger(__name__)

# As many customers as a person reads; the rest is said.
ROWS_MAX = 1_000
# Of a Python function: about 2 s and 300 MB of rows.
EVENTS_MAX = 200_000
DIMENSIONS = ("key", "event_type", "topic")

# What a function is given of an event; `payload` only when it was asked for.
_EVENT = (
    "event_id", "event_type", "key", "topic", "partition", "created_at", "at", "failed", "dead", "dead_open", "pending",
    "late", "delay_seconds", "pending_seconds", "lost", "payload",
)  # fmt: skip


@view("impact")
def impact(
    system: System,
    window: WindowLike = None,
    by: str | Callable[[dict[str, Any]], object] = "key",
    *,
    group: str | None = None,
    topic: str | None = None,
    late: str | timedelta = "10s",
    audit: Any = None,
    payload: bool = False,
    rows_max: int = ROWS_MAX,
    events_max: int = EVENTS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """Who was hurt, since when and how badly: one row for each key, event type, topic, customer …, the worst first.

    Events written in the window count, once each, by what the worst of the groups that read them did; of topics that this
    outbox does not write to, those handled in it. An event that no group reads is pending until it is published. A payload
    is looked into only where the outbox has it, and what policies hide of it (`evkit.masking`) tells no events apart: it is
    hashed where a policy hashes, else refused.

    Args:
        window      a `Window`, or a length that ends now ("2h"); default: the last hour
        by          "key", "event_type", "topic"; a path into the payload: "$.customer.id"; or a function that is given
                    an event's row as a dict (event_id, event_type, key, topic, partition, created_at, failed, dead,
                    dead_open, pending, late, lost, delay_seconds) and returns a value, or None; it runs in this process
        group       only what this consumer group did; default: all groups
        topic       only events of this topic
        late        longer than this from write to handler is late
        audit       the frame of `views.audit` of this window: what it says is lost counts as lost, and not as pending.
                    Without it nobody knows: that takes a look at the topics
        payload     give a function also the parsed payload, as row["payload"]; payloads are personal data
        rows_max    most rows; when there are more, the least harmed are left out and a warning is logged
        events_max  of a function, most events; when there are more, the newest are taken and a warning is logged

    Columns: see columns/

    Sorted by harm: lost events, letters that are open, late events still pending, dead ones, late ones, failed ones, delay.
    A value without a harmed event has no row, so an empty frame says that nobody was hurt.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: `by` is no dimension and no path; `late` or the window cannot be read; `audit` is no such frame;
            the function raised.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    asked: dict[str, Any] = {
        "since": seen.start,
        "until": seen.end,
        "group": group,
        "topic": topic,
        "late_seconds": late_seconds(late),
        "lost": None if audit is None else _lost(audit, group),
    }
    if callable(by):
        name = getattr(by, "__name__", type(by).__name__)
        rows = harm(_by_function(system, by, asked, payload, events_max))
        rows = rows[: rows_max + 1]
    else:
        kind, path = _dimension(by)
        name = by
        columns = COLUMNS["impact"][1:]
        seen_as = None if path is None else shown_at(by, of_topic(system.settings.masking, topic))
        query = "impact" if path is None else "impact_by_path"
        found = fetch(system, "events", query, columns, by=kind, path=path, rows_max=rows_max + 1, **asked)
        rows = [dict(zip((c.name for c in columns), row, strict=True)) for row in found]
        if seen_as is not None:
            rows = [row | {"value": seen_as(row["value"])} for row in rows]
    if len(rows) > rows_max:
        log.warning("impact: only the %s values with the most harm are shown", f"{rows_max:,}")
    return frame("impact", [{"dimension": name, **row} for row in rows[:rows_max]], frames)


def harm(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `impact` for events that each have a `value`: what its query does, for a value that Python knows."""
    by_value: dict[str | None, list[Mapping[str, Any]]] = {}
    for event in events:
        by_value.setdefault(event["value"], []).append(event)
    rows = []
    for value, those in by_value.items():
        harmed = [e["at"] for e in those if e["failed"] or e["dead"] or e["pending"] or e["late"] or e["lost"]]
        if not harmed:
            continue
        delays = sorted(e["delay_seconds"] for e in those if e["delay_seconds"] is not None)
        waits = [e["pending_seconds"] for e in those if e["pending_seconds"] is not None]
        row: dict[str, Any] = {"value": value, "n_events": len(those), "n_harmed": len(harmed)}
        row["n_lost"] = None if any(e["lost"] is None for e in those) else sum(e["lost"] for e in those)
        row |= {f"n_{kind}": sum(e[kind] for e in those) for kind in ("late", "failed", "dead", "dead_open", "pending")}
        row |= {
            "delay_p95_seconds": delays[math.ceil(0.95 * len(delays)) - 1] if delays else None,
            "delay_max_seconds": delays[-1] if delays else None,
            "oldest_pending_seconds": max(waits, default=None),
            "first_at": min(harmed),
            "last_at": max(harmed),
            "_waits_late": sum(e["pending"] and e["late"] for e in those),
        }
        rows.append(row)
    return sorted(rows, key=_worst_first)


def _worst_first(row: Mapping[str, Any]) -> tuple[Any, ...]:
    counts = tuple(-row[name] for name in ("n_dead_open", "_waits_late", "n_dead", "n_late", "n_failed"))
    counts = (-(row["n_lost"] or 0), *counts)
    delay = row["delay_p95_seconds"]
    return (*counts, delay is None, -(delay or 0.0), row["value"] is None, row["value"] or "")


def _lost(audit: Any, group: str | None) -> list[str]:
    """Ids of the events that an audit says are lost: to everybody, or to this group."""
    return sorted(
        {
            row["event_id"]
            for row in rows_of(audit, "audit")
            if row["verdict"] in LOST and (group is None or row["group"] in (None, group))
        }
    )


def late_seconds(late: str | timedelta) -> float:
    """What "late" means, in seconds.

    Raises:
        InvalidParameter: no duration.
    """
    return (duration(late, name="late") if isinstance(late, str) else late).total_seconds()


def _dimension(by: str) -> tuple[str, str | None]:
    if is_json_path(by):
        return "path", json_path(by)
    if by not in DIMENSIONS:
        near = closest(by, DIMENSIONS)
        hint = f"did you mean '{near[0]}'?" if near else f"take {', '.join(DIMENSIONS)}, or a path like $.customer.id"
        raise InvalidParameter(f"by '{by}' is nothing that impact tells events apart by; {hint}", name="by", value=by)
    return by, None


def _by_function(
    system: System, by: Callable[[dict[str, Any]], object], asked: dict[str, Any], payload: bool, events_max: int
) -> list[dict[str, Any]]:
    columns = [Column(name, "string", "", "") for name in _EVENT]
    query = "impact_events_with_payload" if payload else "impact_events"
    rows = fetch(system, "events", query, columns, rows_max=events_max + 1, **asked)
    if len(rows) > events_max:
        log.warning("impact: only the newest %s events of this window are counted", f"{events_max:,}")
    events = [dict(zip(_EVENT, row, strict=True)) for row in rows[:events_max]]
    for event in events:
        inside = event.pop("payload")
        given = {k: v for k, v in event.items() if k not in ("at", "pending_seconds")}
        if payload:
            under = applying(system.settings.masking, event["topic"], event["event_type"])
            given["payload"] = None if inside is None else masked_document(json.loads(inside), under)
        try:
            value = by(given)
        except Exception as error:
            raise InvalidParameter(
                f"the function that tells events apart raised {type(error).__name__} at {event['event_id']}: {error}",
                name="by",
                value=by,
            ) from error
        event["value"] = None if value is None else str(value)
    log.info("impact: the function was asked about %s events", f"{len(events):,}")
    return events
