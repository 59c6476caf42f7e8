"""Which event a notebook follows when nobody named one: the one that fared worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from evkit import views
from evkit.errors import EvkitError
from evkit.reporting import display
from evkit.views.frame import frame

if TYPE_CHECKING:
    from evkit.reporting.report import Report

# Of the newest events, when there is neither a letter nor a backlog.
_EVENTS_MAX = 10_000


def follow(
    report: Report,
    *,
    event_id: str | None = None,
    key: str | None = None,
    business_id: str | None = None,
    group: str | None = None,
) -> Any:
    """The frame of `views.journey` of what was named, or of the worst event; displays which one, and why it.

    The worst is the newest open dead letter of the window; without one the key with the most unread events; without a
    backlog the slowest of the newest 10,000 events. Where there is no event the frame is empty; where the tables cannot be
    read it is the error that says so.

    Args:
        event_id, key, business_id  one of them, as in `views.journey`; none: the worst event
        group                       of this consumer group only, when none was named

    Raises:
        UsageError: no table knows it, or several were named.
    """
    named = {"event_id": event_id, "key": key, "business_id": business_id}
    chosen = {name: value for name, value in named.items() if value}
    if not chosen:
        found = _worst(report, group)
        if isinstance(found, EvkitError):
            return found
        if found is None:
            display.note("There is no event in this window.")
            return frame("journey", [])
        chosen, why = found
        display.note(f"{why}: {', '.join(f'{name} {value}' for name, value in chosen.items())}")
    return report.look(views.journey, **chosen, window=None)


def _worst(report: Report, group: str | None) -> tuple[dict[str, str], str] | EvkitError | None:
    letters = report.look(views.dead_letters, group, "open", window=report.window)
    if isinstance(letters, EvkitError):
        return letters
    known = letters.filter(pl.col("event_id").is_not_null()).sort("failed_at", descending=True)
    if known.height:
        letter = known.row(0, named=True)
        return {"event_id": letter["event_id"]}, f"The newest open dead letter, number {letter['letter_id']}"
    unread = report.look(views.hot_keys, group=group, of="unread")
    if isinstance(unread, pl.DataFrame):
        keyed = unread.filter(pl.col("key").is_not_null())
        if keyed.height:
            row = keyed.sort("n", descending=True).row(0, named=True)
            return {"key": row["key"]}, f"The key with the most unread events, {row['n']:,} of them in {row['topic']}"
    events = report.look(views.latency_events, group=group, rows_max=_EVENTS_MAX)
    if isinstance(events, EvkitError):
        return events
    if not events.height:
        return None
    slowest = events.sort("total_seconds", descending=True, nulls_last=True).row(0, named=True)
    return {
        "event_id": slowest["event_id"]
    }, f"The slowest event, {slowest['total_seconds']:.3g} s in {slowest['group']}"
