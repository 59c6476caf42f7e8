"""findings → the six monitors on one page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evkit.figures.template import (
    STATUS_COLOURS,
    Figure,
    count,
    empty,
    go,
    make_subplots,
    moment,
    styled,
    text,
    time_axis,
)
from evkit.figures.timeline import rules
from evkit.views.frame import rows_of

_ROWS_MAX = 40
_STRIP = 150  # height of the strip of time, in pixels
_WORST_FIRST = ("critical", "unknown", "warning", "ok")


def overview(findings: Iterable[Mapping[str, Any]], annotations: Any = None) -> Figure:
    """Draw the rows of a verdict (`verdict.rows()`): status, monitor, what it is about and the sentence, worst first.

    The ok findings of a monitor that has worse ones too are left out when there are more than 40 rows. With the frame of
    `views.annotations` (or `views.timeline`), a strip of time below has a vertical rule for each of them.
    """
    rows = sorted(findings, key=lambda r: _WORST_FIRST.index(r["severity"]))
    if not rows:
        return empty("Nothing was measured", "there are no findings")
    shown = rows[:_ROWS_MAX]
    counts = {s: sum(r["severity"] == s for r in rows) for s in _WORST_FIRST}
    said = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    figure = go.Figure(
        go.Table(
            columnwidth=[15, 18, 24, 88],
            header={"values": ["status", "monitor", "about", "finding"], "align": "left", "height": 28,
                    "fill": {"color": "#f6f8fa"}, "font": {"size": 12, "color": "#57606a"}, "line": {"color": "#d0d7de"}},
            cells={
                "values": [
                    [f"<b>{r['severity']}</b>" for r in shown],
                    [text(r["monitor"].replace("_", " ")) for r in shown],
                    [text(r["subject"]) for r in shown],
                    [text(r["sentence"], 240) for r in shown],
                ],
                "align": "left",
                "height": 28,
                "line": {"color": "#d0d7de"},
                "font": {"size": 12, "color": [[_on(r["severity"]) for r in shown], "#24292f", "#24292f", "#24292f"]},
                "fill": {"color": [[STATUS_COLOURS[r["severity"]] for r in shown], "white", "white", "white"]},
            },
        )
    )  # fmt: skip
    worst = rows[0]
    title = (
        "Nothing needs attention"
        if worst["severity"] == "ok"
        else f"{worst['severity'].capitalize()}: {text(worst['sentence'], 120)}"
    )
    left_out = f", {len(rows) - _ROWS_MAX} left out" if len(rows) > _ROWS_MAX else ""
    lines = sum(len(r["sentence"]) // 64 for r in shown)
    height = 190 + 30 * len(shown) + 16 * lines
    subtitle = f"{count(len(rows), 'finding')}: {said}{left_out}"
    told = (
        []
        if annotations is None
        else [r for r in rows_of(annotations, "annotations", "timeline") if r["kind"] != "change"]
    )
    if told:
        figure, height = _with_strip(figure, annotations, told, height), height + _STRIP
    return styled(figure, title, subtitle, height=height)


def _with_strip(figure: Figure, annotations: Any, told: list[dict[str, Any]], height: int) -> Figure:
    """The table, and below it a strip of time with a rule for each annotation and its words at the pointer."""
    share = _STRIP / (height + _STRIP)
    whole = make_subplots(
        rows=2,
        cols=1,
        specs=[[{"type": "table"}], [{"type": "xy"}]],
        row_heights=[1 - share, share],
        vertical_spacing=0.03,
    )
    whole.add_trace(figure.data[0], row=1, col=1)
    whole.add_scatter(
        row=2, col=1, x=[moment(r["at"]) for r in told], y=[1.0] * len(told), mode="markers", showlegend=False,
        marker={"size": 9, "color": "#24292f"}, customdata=[text(f"{r['kind']}: {r['text']}", 200) for r in told],
        hovertemplate="%{customdata}<br>%{x}<extra></extra>",
    )  # fmt: skip
    whole.update_yaxes(visible=False, range=[0, 1.2], row=2, col=1)
    time_axis(whole, row=2, col=1)
    return rules(whole, annotations, row=2, col=1)


def _on(severity: str) -> str:
    """The colour of text on a status: white on amber cannot be read."""
    return "#24292f" if severity == "warning" else "white"
