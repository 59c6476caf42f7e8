"""latency segments → where the time goes between the write and the handler's commit."""

from __future__ import annotations

from typing import Any

from evkit.figures.template import BLUE, CRITICAL, PURPLE, SKY, Figure, count, empty, go, seconds, styled, text
from evkit.views.frame import rows_of

# The way in three parts; append and queue are the same way on another clock.
_PARTS = (("relay", "outbox and relay", BLUE), ("transit", "topic", SKY), ("handle", "consumer and handler", PURPLE))
_GROUPS_MAX = 12


def latency_segments(frame: Any) -> Figure:
    """Draw the frame of `views.latency_segments`: for each group a bar of its parts, at the median and at p99.

    Percentiles of parts do not add up to that of the whole, which is the dot. A negative part is drawn as such: the clocks
    disagree.
    """
    rows = [r for r in rows_of(frame, "latency_segments") if r["p50_seconds"] is not None and not r["replay"]]
    if not rows:
        return empty("No latency to show", "no event was handled in this window, and none waits")
    by_place: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_place.setdefault((row["group"], row["event_type"] or ""), {})[row["segment"]] = row
    groups = sorted(by_place.items(), key=lambda g: -_of(g[1], "total", "p99_seconds"))[:_GROUPS_MAX]
    places = [
        (f"<b>{text(g, 40)}</b>{' ' + text(t, 30) if t else ''} {label}", parts, column)
        for (g, t), parts in groups
        for label, column in (("median", "p50_seconds"), ("p99", "p99_seconds"))
    ]
    labels = [label for label, _, _ in places]
    figure = go.Figure()
    for segment, name, colour in _PARTS:
        values = [parts[segment][column] if segment in parts else None for _, parts, column in places]
        if not any(values):
            continue
        said = [_said(parts.get(segment), name) for _, parts, _ in places]
        figure.add_bar(
            orientation="h", y=labels, x=values, name=name, marker={"color": colour},
            customdata=[[seconds(abs(v)) if v is not None else "", s] for v, s in zip(values, said, strict=True)],
            hovertemplate="%{y}<br>%{customdata[0]}, %{customdata[1]}<extra></extra>",
        )  # fmt: skip
    totals = [parts["total"][column] if "total" in parts else None for _, parts, column in places]
    figure.add_scatter(
        x=totals, y=labels, mode="markers", name="whole way", marker={"size": 9, "color": "#24292f", "symbol": "diamond"},
        hovertemplate="%{y}<br>whole way %{x:.4~g} s<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=labels[::-1], showgrid=False)
    figure.update_xaxes(title_text="time (seconds)", zeroline=True, zerolinecolor="#afb8c1")
    figure.update_layout(barmode="relative")
    (group, _), worst = groups[0]
    known = [(_of(worst, segment, "p99_seconds"), name) for segment, name, _ in _PARTS if segment in worst]
    title = f"{text(group, 40)}: p99 is {seconds(_of(worst, 'total', 'p99_seconds'))}"
    if known:
        title += f", most of it in {max(known)[1]}"
    # Not transit: a record may be received before the relay notes the broker's answer.
    by_clocks = [r["min_seconds"] for r in rows if r["segment"] in ("append", "queue", "handle")]
    apart = min((s for s in by_clocks if s is not None and s < 0), default=None)
    n = sum(r["n"] for r in rows if r["segment"] == "total")
    subtitle = f"n = {count(n, 'event')}"
    if apart is not None:
        subtitle += f" · <span style='color:{CRITICAL}'>clocks are apart by {seconds(-apart)} or more</span>"
    return styled(figure, title, subtitle, height=190 + 34 * max(len(labels), 3))


def _of(parts: dict[str, dict[str, Any]], segment: str, column: str) -> float:
    value = parts[segment][column] if segment in parts else None
    return 0.0 if value is None else float(value)


def _said(row: dict[str, Any] | None, name: str) -> str:
    if row is None:
        return ""
    negative = f", {row['negative_ratio']:.0%} below zero" if row["negative_ratio"] else ""
    return f"{name} ({text(row['from_clock'], 12)} to {text(row['to_clock'], 12)} clock){negative}"
