"""annotations, change points and timeline → what was when, on one axis; and rules of it for other figures."""

# `from __future__ import annotations` would take the name that one of these figures has.

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from evkit.figures.template import (
    BLUE,
    CRITICAL,
    PURPLE,
    SKY,
    UNKNOWN,
    WARNING,
    Figure,
    clock,
    count,
    empty,
    go,
    moment,
    span,
    styled,
    text,
    time_axis,
)
from evkit.views.frame import rows_of

# Lanes from the top: what people did, what the system did of itself, which numbers changed.
_LANES = ("incident", "deploy", "config", "broker", "schema", "note", "act", "replay", "redrive", "offset_reset", "breaker",
          "rebalance", "rose", "fell")  # fmt: skip
_COLOURS = {
    "incident": CRITICAL, "deploy": BLUE, "config": BLUE, "broker": BLUE, "schema": BLUE, "note": UNKNOWN, "act": UNKNOWN,
    "replay": PURPLE, "redrive": PURPLE, "offset_reset": PURPLE, "breaker": WARNING, "rebalance": SKY,
    "rose": "#24292f", "fell": "#24292f",
}  # fmt: skip
_SYMBOLS = {"rose": "triangle-up", "fell": "triangle-down"}
# Without an end they are not over.
_LASTING = ("incident", "breaker", "replay", "redrive")
# More rules than this are a curtain; those of what people did are kept first.
_RULES_MAX = 24


def timeline(frame: Any) -> Figure:
    """Draw the frame of `views.timeline`: a lane for each kind, a dot for a moment, a bar for what lasted.

    Triangles are change points, up or down; what stands in a lane above just left of one was just before it. A bar that
    reaches the last moment may not be over.
    """
    rows = rows_of(frame, "timeline")
    if not rows:
        return empty("Nothing happened that is known", "no annotation and no change point in this window")
    changes = [r for r in rows if r["kind"] == "change"]
    what = count(len(rows) - len(changes), "annotation")
    first = f"{clock(changes[0]['at'])}: {text(changes[0]['text'], 150)}" if changes else None
    return _drawn(
        [row | {"kind": _lane(row)} for row in rows],
        first or f"{what}, and no number changed its level",
        f"{count(len(changes), 'change point')}, {what}",
    )


def annotations(frame: Any) -> Figure:
    """Draw the frame of `views.annotations`: a lane for each kind, a dot for a moment, a bar for what lasted."""
    rows = rows_of(frame, "annotations")
    if not rows:
        return empty("Nothing happened that is known", "no annotation in this window")
    kinds = count(len({row["kind"] for row in rows}), "kind")
    return _drawn(rows, f"{count(len(rows), 'annotation')} of {kinds}, the last at {clock(rows[-1]['at'])}", "by kind")


def _lane(row: Mapping[str, Any]) -> str:
    if row["kind"] != "change":
        return str(row["kind"])
    return "rose" if (row["after"] or 0) > (row["before"] or 0) else "fell"


def _drawn(rows: Sequence[Mapping[str, Any]], title: str, subtitle: str) -> Figure:
    kinds = {row["kind"] for row in rows}
    lanes = [lane for lane in _LANES if lane in kinds] + sorted(kinds - set(_LANES))
    last = max(row["until"] or row["at"] for row in rows)
    figure = go.Figure()
    for lane in lanes:
        of_lane = [row for row in rows if row["kind"] == lane]
        colour = _COLOURS.get(lane, UNKNOWN)
        xs: list[datetime | None] = []
        for row in of_lane:
            end = row["until"] or (last if lane in _LASTING else row["at"])
            if end > row["at"]:
                xs += [moment(row["at"]), moment(end), None]
        if xs:
            figure.add_scatter(
                x=xs, y=[_label(lane)] * len(xs), mode="lines", showlegend=False, hoverinfo="skip",
                line={"color": colour, "width": 9}, opacity=0.35,
            )  # fmt: skip
        figure.add_scatter(
            x=[moment(row["at"]) for row in of_lane], y=[_label(lane)] * len(of_lane), mode="markers", showlegend=False,
            marker={"color": colour, "size": 11, "symbol": _SYMBOLS.get(lane, "circle"),
                    "line": {"color": "white", "width": 1}},
            customdata=[text(row["text"], 200) for row in of_lane],
            hovertemplate="%{customdata}<br>%{x}<extra></extra>",
        )  # fmt: skip
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=[_label(lane) for lane in reversed(lanes)]
    )
    time_axis(figure)
    moments = [row["at"] for row in rows]
    return styled(figure, title, f"{subtitle} · {span(moments)}", height=170 + 34 * len(lanes))


def rules(figure: Figure, frame: Any, **where: Any) -> Figure:
    """Draw the frame of `views.annotations` (or `views.timeline`) into a figure with a time axis: a vertical rule for each
    moment, a shade for what lasted. What began before the figure's own time is drawn from there on by the axis itself.

    At most 24 are drawn, those that people did first; `where` says which panel (`row=`, `col=`), as plotly has it.
    """
    rows = [r for r in rows_of(frame, "annotations", "timeline") if r["kind"] != "change"]
    order = {kind: n for n, kind in enumerate(_LANES)}
    kept = sorted(rows, key=lambda r: order.get(r["kind"], len(order)))[:_RULES_MAX]
    for row in kept:
        colour = _COLOURS.get(row["kind"], UNKNOWN)
        # add_vline and add_vrect know no figure that has a table in it.
        spot = {"x0": moment(row["at"]), "y0": 0, "y1": 1, "yref": "y domain", **where}
        if row["until"] is not None and row["until"] > row["at"]:
            figure.add_shape(type="rect", x1=moment(row["until"]), fillcolor=colour, opacity=0.1, layer="below",
                             line={"width": 0}, **spot)  # fmt: skip
        figure.add_shape(type="line", x1=moment(row["at"]), line={"color": colour, "width": 1.2, "dash": "dot"}, **spot)
    return figure


def _label(lane: str) -> str:
    return {"rose": "a number rose", "fell": "a number fell", "offset_reset": "offsets went back"}.get(lane, text(lane))
