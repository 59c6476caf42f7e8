"""findings → the six monitors on one page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evkit.figures.template import STATUS_COLOURS, Figure, count, empty, go, styled, text

_ROWS_MAX = 40
_WORST_FIRST = ("critical", "unknown", "warning", "ok")


def overview(findings: Iterable[Mapping[str, Any]]) -> Figure:
    """Draw the rows of a verdict (`verdict.rows()`): status, monitor, what it is about and the sentence, worst first.

    The ok findings of a monitor that has worse ones too are left out when there are more than 40 rows.
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
    return styled(
        figure, title, f"{count(len(rows), 'finding')}: {said}{left_out}", height=190 + 30 * len(shown) + 16 * lines
    )


def _on(severity: str) -> str:
    """The colour of text on a status: white on amber cannot be read."""
    return "#24292f" if severity == "warning" else "white"
