"""lag → how far each group is behind, in events and in time, by partition."""

from __future__ import annotations

from typing import Any

from evkit.figures.template import (
    STATUS_COLOURS,
    Figure,
    clock,
    count,
    empty,
    make_subplots,
    seconds,
    styled,
    text,
)
from evkit.views.columns import LAG_STATUSES
from evkit.views.frame import rows_of

# As many bars as one can still read the names of; beyond it partitions are folded into their topic.
_BARS_MAX = 30


def lag(frame: Any) -> Figure:
    """Draw the frame of `views.lag`: a bar for each partition, events to the left, age of the oldest unread to the right.

    One long bar is a slow key or a stuck partition; all of them long is a slow handler, or no consumer. Up to 30
    partitions stand alone, more are folded by group and topic. Grey without a bar: not measured.
    """
    rows = rows_of(frame, "lag")
    if not rows:
        return empty("No consumer lag to show", "neither the cluster nor the inbox knows a consumer group")
    measured_at = rows[0]["measured_at"]
    title = _title(rows)
    bars = _bars(rows)
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, column_widths=[0.5, 0.5])
    for status in LAG_STATUSES:
        of_status = [b for b in bars if b["status"] == status]
        if not of_status:
            continue
        colour = STATUS_COLOURS[status]
        names = [b["name"] for b in of_status]
        hover = [[b["name"], status.replace("_", " "), b["committed"], b["end"], b["state"]] for b in of_status]
        for column, value, label in ((1, "events", "events_text"), (2, "seconds", "seconds_text")):
            figure.add_bar(
                row=1, col=column, orientation="h", name=status.replace("_", " "), legendgroup=status,
                showlegend=column == 1, y=names, x=[b[value] or 0 for b in of_status],
                text=[b[label] for b in of_status], textposition="outside", cliponaxis=False,
                marker={"color": colour}, customdata=hover,
                hovertemplate="%{customdata[0]}<br>%{customdata[1]}, %{text}<br>committed %{customdata[2]}, "
                              "end %{customdata[3]}<br>group: %{customdata[4]}<extra></extra>",
            )  # fmt: skip
    order = [b["name"] for b in bars]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=order[::-1], showgrid=False)
    for column, value, unit in ((1, "events", "lag (events)"), (2, "seconds", "age of the oldest unread event (s)")):
        longest = max((b[value] or 0 for b in bars), default=0)
        figure.update_xaxes(
            title_text=unit, range=[0, longest * 1.22 or 1], tickformat=",", nticks=6, row=1, col=column
        )
    groups = len({r["group"] for r in rows})
    subtitle = f"{count(groups, 'group')}, {count(len(rows), 'partition')} · measured {clock(measured_at)} UTC"
    return styled(figure, title, subtitle, height=170 + 24 * max(len(bars), 3))


def _title(rows: list[dict[str, Any]]) -> str:
    lost = [r for r in rows if r["status"] == "data_loss"]
    if lost:
        n = sum(r["lost_events"] for r in lost)
        return f"{text(lost[0]['group'])} lost up to {count(n, 'event')} to retention before they were read"
    behind = [r for r in rows if r["status"] == "behind"]
    if not behind:
        unmeasured = [r for r in rows if r["lag_events"] is None and r["status"] != "ok"]
        if unmeasured:
            return f"The lag of {count(len(unmeasured), 'partition')} could not be measured, nothing else is behind"
        return "Every group has read everything"
    worst = max(behind, key=lambda r: (r["lag_seconds"] or 0, r["lag_events"]))
    total = sum(r["lag_events"] for r in behind if r["group"] == worst["group"])
    age = "by a time nobody could read" if worst["lag_seconds"] is None else seconds(worst["lag_seconds"])
    place = f"{text(worst['topic'])}/{worst['partition']}"
    return f"{text(worst['group'])} is {age} behind: {count(total, 'event')} unread, the oldest in {place}"


def _bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is drawn, the furthest behind first."""
    folded = [_bar(f"{text(r['group'], 40)} · {text(r['topic'], 40)}/{r['partition']}", [r]) for r in rows]
    if len(folded) > _BARS_MAX:
        by_topic: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            by_topic.setdefault((row["group"], row["topic"]), []).append(row)
        folded = [
            _bar(f"{text(g, 40)} · {text(t, 40)} ({count(len(of), 'partition')})", of)
            for (g, t), of in by_topic.items()
        ]
    folded.sort(key=lambda b: (-(b["seconds"] or 0), -(b["events"] or 0), b["name"]))
    if len(folded) > _BARS_MAX:
        kept, rest = folded[: _BARS_MAX - 1], folded[_BARS_MAX - 1 :]
        kept.append(_bar(f"{len(rest)} more", [r for b in rest for r in b["rows"]]))
        return kept
    return folded


def _bar(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    counted = [r["lag_events"] for r in rows if r["lag_events"] is not None]
    aged = [r["lag_seconds"] for r in rows if r["lag_seconds"] is not None]
    status = max((r["status"] for r in rows), key=LAG_STATUSES.index)
    events, age = sum(counted) if counted else None, max(aged) if aged else None
    single = rows[0] if len(rows) == 1 else {}
    nothing = status == "ok" and events is None
    return {
        "name": name,
        "rows": rows,
        "status": status,
        "events": events,
        "seconds": age,
        "events_text": "0" if nothing else "not measured" if events is None else f"{events:,}",
        "seconds_text": "" if nothing else "not measured" if age is None else "0 s" if age == 0 else seconds(age),
        "committed": "–" if single.get("committed_offset") is None else f"{single['committed_offset']:,}",
        "end": "–" if single.get("end_offset") is None else f"{single['end_offset']:,}",
        "state": text(rows[0]["group_state"] or "not known to the broker"),
    }
