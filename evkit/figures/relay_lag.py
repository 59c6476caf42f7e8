"""relay lag → how long committed events took to the broker."""

from __future__ import annotations

from typing import Any

from evkit.figures.percentiles import over_time, ranges
from evkit.figures.template import BLUE, Figure, clock, count, empty, seconds, span, styled, text
from evkit.views.frame import columns_of, rows_of


def relay_lag(frame: Any) -> Figure:
    """Draw the frame of `views.relay_lag` (or of `views.relay_lag_over_time`): median to longest, and what waits now."""
    if "bucket_at" in columns_of(frame):
        return relay_lag_over_time(frame)
    rows = rows_of(frame, "relay_lag")
    if not rows or (not rows[0]["published"] and not rows[0]["pending"]):
        return empty("No relay lag to show", "nothing was published in this window, and nothing waits")
    row = rows[0]
    if row["pending"]:
        title = (
            f"{count(row['pending'], 'event')} in the outbox, the oldest for {seconds(row['oldest_pending_seconds'])}"
        )
    else:
        title = f"Everything is published; 99 % within {seconds(row['p99_seconds'])}"
        title += f", the slowest {seconds(row['max_seconds'])}"
    if row["failing_error"] is not None:
        title += f"; the relay stands: {text(row['failing_error'])}"
    subtitle = f"database write to the broker's confirmation · n = {row['published']:,} in the window"
    subtitle += f" · measured {clock(row['measured_at'])} UTC"
    shown = [row | {"name": "outbox to topic", "waiting": row["oldest_pending_seconds"]}]
    return styled(ranges(shown, BLUE), title, subtitle, height=270)


def relay_lag_over_time(frame: Any) -> Figure:
    """Draw the frame of `views.relay_lag_over_time`: p99 (bold) and median (dotted), and what still waits, by bucket.

    A relay that was held is a saw-tooth: the first event of the hold waited longest.
    """
    rows = rows_of(frame, "relay_lag_over_time")
    if not rows:
        return empty("No relay lag to show", "no event was written in this window")
    worst = max(rows, key=lambda r: r["max_seconds"] or 0)
    pending = sum(r["pending_n"] for r in rows)
    title = (
        f"The relay was slowest for events written at {clock(worst['bucket_at'])}: {seconds(worst['max_seconds'] or 0)}"
    )
    if pending:
        title += f"; {count(pending, 'event')} not published yet"
    subtitle = f"by time of writing, buckets of {seconds(max(r['bucket_seconds'] for r in rows))} · " + span(
        [r["bucket_at"] for r in rows]
    )
    figure = over_time([r | {"series": "relay"} for r in rows], {"relay": BLUE}, "not published")
    return styled(figure, title, subtitle, height=460)
