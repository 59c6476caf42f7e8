"""latency → how long events took from the database write to the end of their handler."""

from __future__ import annotations

from typing import Any

from evkit.figures.percentiles import over_time, ranges
from evkit.figures.template import BLUE, Figure, clock, colours, count, empty, seconds, span, styled, text
from evkit.views.frame import columns_of, rows_of

# More lines than this are a bush: the ones with the highest p99 are drawn.
_SERIES_MAX = 8
_ROWS_MAX = 30


def latency(frame: Any) -> Figure:
    """Draw the frame of `views.latency` (or of `views.latency_over_time`): median to longest for each row.

    Left is fast. The triangle is the oldest event that still waits: right of the longest handled one, it is what the
    percentiles cannot know yet.
    """
    if "bucket_at" in columns_of(frame):
        return latency_over_time(frame)
    rows = rows_of(frame, "latency")
    if not rows:
        return empty("No latency to show", "no event was handled in this window, and none waits")
    shown = [r | {"name": _name(r), "waiting": r["oldest_pending_seconds"]} for r in rows]
    shown.sort(key=lambda r: -max(r["p99_seconds"] or 0, r["waiting"] or 0))
    left_out = len(shown) - _ROWS_MAX
    shown = shown[:_ROWS_MAX]
    worst = shown[0]
    if worst["p99_seconds"] is None:
        title = (
            f"{text(worst['group'])} handled nothing, and its oldest event waits for {seconds(worst['waiting'] or 0)}"
        )
    else:
        bound = "at least " if worst["p99_is_lower_bound"] else ""
        title = f"{text(worst['group'])}: 99 % of the events took {bound}{seconds(worst['p99_seconds'])} or less"
        if worst["p99_is_lower_bound"]:
            title = f"{text(worst['group'])}: p99 is at least {seconds(worst['p99_seconds'])}"
        if worst["pending_n"]:
            title += f"; {count(worst['pending_n'], 'event')} still waiting"
    n, pending = sum(r["n"] for r in rows), sum(r["pending_n"] for r in rows)
    subtitle = f"database write to end of handler · n = {n:,} handled, {pending:,} waiting"
    if left_out > 0:
        subtitle += f" · {left_out} faster rows left out"
    return styled(ranges(shown, BLUE), title, subtitle, height=190 + 44 * max(len(shown), 2))


def latency_over_time(frame: Any) -> Figure:
    """Draw the frame of `views.latency_over_time`: p99 (bold) and median (dotted) of each group, by the time
    of writing or of handling.

    Below: how many events of each bucket still wait. A triangle marks a p99 that is a lower bound because of them.
    """
    rows = [r for r in rows_of(frame, "latency_over_time") if not r["replay"]]
    if not rows:
        return empty("No latency to show", "no event of this window was handled, and none waits")
    worst = max(rows, key=lambda r: r["p99_seconds"] or 0)
    groups: dict[str, float] = {}
    for row in rows:
        groups[row["group"]] = max(groups.get(row["group"], 0), row["p99_seconds"] or 0)
    kept = sorted(groups, key=lambda g: -groups[g])[:_SERIES_MAX]
    palette = colours(groups)
    shown = [r | {"series": text(r["group"], 40)} for r in rows if r["group"] in kept]
    bound = "at least " if worst["p99_is_lower_bound"] else ""
    done, time = ("handled", "handling") if worst["by"] == "processed" else ("written", "writing")
    title = (
        f"{text(worst['group'])} was slowest: p99 {bound}{seconds(worst['p99_seconds'] or 0)} "
        f"for events {done} at {clock(worst['bucket_at'])}"
    )
    subtitle = (
        f"p99 bold, median dotted, by time of {time}, buckets of {seconds(max(r['bucket_seconds'] for r in rows))} · "
        + span([r["bucket_at"] for r in rows])
    )
    figure = over_time(shown, {text(g, 40): palette[g] for g in sorted(kept)}, "still waiting")
    return styled(figure, title, subtitle, height=500)


def _name(row: dict[str, Any]) -> str:
    name = text(row["group"], 40)
    if row["event_type"] is not None:
        name += f" · {text(row['event_type'], 40)}"
    return name + (" (replay)" if row["replay"] else "")
