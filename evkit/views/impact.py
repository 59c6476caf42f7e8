"""outbox, inbox, attempts and letters → who was hurt: by key, event type, topic, a path into the payload, or a function."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import polars as pl

from evkit.errors import InvalidParameter, closest
from evkit.masking import applying, masked_document, of_topic
from evkit.system import System
from evkit.views.audit.verdict import LOST
from evkit.views.columns import COLUMNS
from evkit.views.columns.column import Column, text
from evkit.views.copied import framed
from evkit.views.frame import POLARS, Frame, Frames, WindowLike, frame_of_chunks, groups_of, rows_of, view, window_of
from evkit.views.json_path import is_json_path, json_path, shown_at
from evkit.views.pages import gathered
from evkit.views.reading import reading
from evkit.window import Window, duration

log = logging.getLogger(__name__)

# As many customers as a person reads; the rest is said.
ROWS_MAX = 1_000
# Of a Python function: about 2 s and 300 MB of rows.
EVENTS_MAX = 200_000
DIMENSIONS = ("key", "event_type", "topic")

# What a function is given of an event; `payload` only when it was asked for.
_EVENT = (
    text("event_id", ""), text("event_type", ""), text("key", ""), text("topic", ""), Column("partition", "int32", "", ""),
    Column("created_at", "time", "", ""), Column("at", "time", "", ""),
    *(Column(state, "bool", "", "") for state in ("failed", "dead", "dead_open", "pending", "late", "lost")),
    Column("delay_seconds", "float64", "", ""), Column("pending_seconds", "float64", "", ""), text("payload", ""),
)  # fmt: skip
_COUNTED = (
    *(c for c in _EVENT if c.name not in ("event_type", "key", "topic", "partition", "created_at", "payload")),
    text("value", ""),
)


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
        "topic": topic,
        "late_seconds": late_seconds(late),
        "lost": None if audit is None else _lost(audit, group),
    }
    if callable(by):
        name = getattr(by, "__name__", type(by).__name__)
        events = _by_function(system, seen, group, by, asked, payload, events_max)
    else:
        name = by
        kind, path = _dimension(by)
        seen_as = None if path is None else shown_at(by, of_topic(system.settings.masking, topic))
        query = "impact" if path is None else "impact_by_path"
        events = facts(system, seen, group, query, _COUNTED, asked | {"by": kind, "path": path})
        if seen_as is not None:
            events = events.with_columns(pl.Series("value", [seen_as(v) for v in events["value"]], dtype=pl.String))
    made = harm(events).head(rows_max + 1)
    if made.height > rows_max:
        log.warning("impact: only the %s values with the most harm are shown", f"{rows_max:,}")
    made = made.head(rows_max).select(pl.lit(name).alias("dimension"), pl.all())
    return frame_of_chunks("impact", [_cast(made)], frames)


def facts(
    system: System,
    seen: Window,
    group: str | None,
    query: str,
    columns: Sequence[Column],
    asked: Mapping[str, Any],
    rows_max: int | None = None,
) -> pl.DataFrame:
    """What happened to the events of a window, the newest page first: rows of a query that has the SQL part `fact`."""
    with system.reading() as connection:
        given = {**asked, "since": seen.start, "group": group, "groups": groups_of(system, connection, group)}
        given |= reading(system, connection, seen.start, seen.end, given["groups"])
        until, day_before = given["until"], seen.start - timedelta(days=1)
        ours = gathered(system, connection, "events", "ours", day_before, until, given)
        given["ours"] = sorted({row["topic"] for row in ours})
        how: Any = {"newest_first": True, "rows_max": rows_max}
        return framed(system, connection, "events", query, columns, seen.start, until, given, **how)


def harm(events: pl.DataFrame) -> pl.DataFrame:
    """Events that each have a `value`, counted by it: those columns of `impact`, the worst first."""
    harmed = pl.any_horizontal("failed", "dead", "pending", "late", pl.col("lost").fill_null(False))
    delay = pl.col("delay_seconds")
    return (
        _one_each(events)
        .with_columns(harmed=harmed)
        .group_by("value")
        .agg(
            n_events=pl.len(),
            n_harmed=pl.col("harmed").sum(),
            **{f"n_{kind}": pl.col(kind).sum() for kind in ("late", "failed", "dead", "dead_open", "pending")},
            n_lost=pl.when(pl.col("lost").is_not_null().all()).then(pl.col("lost").sum()),
            delay_p95_seconds=delay.quantile(0.95, interpolation="equiprobable"),
            delay_max_seconds=delay.max(),
            oldest_pending_seconds=pl.col("pending_seconds").max(),
            first_at=pl.col("at").filter("harmed").min(),
            last_at=pl.col("at").filter("harmed").max(),
            waits_late=(pl.col("pending") & pl.col("late")).sum(),
        )
        .filter(pl.col("n_harmed") > 0)
        .sort(
            "n_lost", "n_dead_open", "waits_late", "n_dead", "n_late", "n_failed", "delay_p95_seconds", "value",
            descending=[True, True, True, True, True, True, True, False], nulls_last=True,
        )
    )  # fmt: skip


def _one_each(events: pl.DataFrame) -> pl.DataFrame:
    """An event of a topic that is not ours may be in two pages, when two groups handled it at different times."""
    twice = pl.col("event_id").is_duplicated()
    if not events.select(twice.any()).item():
        return events
    worst = [
        pl.col(c).max()
        for c in ("failed", "dead", "dead_open", "pending", "late", "lost", "delay_seconds", "pending_seconds")
    ]
    once = events.filter(twice).group_by("event_id").agg(pl.col("at", "value").min(), *worst)
    return pl.concat([events.filter(~twice), once.select(events.columns)])


def _cast(made: pl.DataFrame) -> pl.DataFrame:
    return made.select(pl.col(c.name).cast(POLARS[c.dtype]) for c in COLUMNS["impact"])


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
    system: System,
    seen: Window,
    group: str | None,
    by: Callable[[dict[str, Any]], object],
    asked: dict[str, Any],
    payload: bool,
    events_max: int,
) -> pl.DataFrame:
    query = "impact_events_with_payload" if payload else "impact_events"
    found = facts(system, seen, group, query, _EVENT, asked, events_max + 1)
    found = found.sort("at", "event_id", descending=True)
    if found.height > events_max:
        log.warning("impact: only the newest %s events of this window are counted", f"{events_max:,}")
        found = found.head(events_max)
    values = []
    for event in found.iter_rows(named=True):
        given = {k: v for k, v in event.items() if k not in ("at", "pending_seconds", "payload")}
        if payload:
            under = applying(system.settings.masking, event["topic"], event["event_type"])
            inside = event["payload"]
            given["payload"] = None if inside is None else masked_document(json.loads(inside), under)
        try:
            value = by(given)
        except Exception as error:
            raise InvalidParameter(
                f"the function that tells events apart raised {type(error).__name__} at {event['event_id']}: {error}",
                name="by",
                value=by,
            ) from error
        values.append(None if value is None else str(value))
    log.info("impact: the function was asked about %s events", f"{len(values):,}")
    return found.with_columns(pl.Series("value", values, dtype=pl.String)).select(c.name for c in _COUNTED)
