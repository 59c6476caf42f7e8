"""journey → one event's way through outbox, topic and groups, in time."""

from __future__ import annotations

from typing import Any

from evkit.figures.template import (
    BLUE,
    CRITICAL,
    OK,
    UNKNOWN,
    WARNING,
    Figure,
    count,
    empty,
    go,
    moment,
    seconds,
    span,
    styled,
    text,
    time_axis,
)
from evkit.views.frame import rows_of

_STAGES = {
    "written": BLUE,
    "published": BLUE,
    "attempt_failed": WARNING,
    "processed": OK,
    "replayed": OK,
    "redriven": OK,
    "resolved": OK,
    "parked": CRITICAL,
    "skipped": UNKNOWN,
    "retrying": WARNING,
    "archived": UNKNOWN,
    "purged": UNKNOWN,
}


def journey(frame: Any) -> Figure:
    """Draw the frame of `views.journey`: a lane for the outbox, one for the topic, one for each group; a dot a stop."""
    rows = rows_of(frame, "journey")
    if not rows:
        return empty("No journey to show", "no table knows this event")
    for row in rows:
        row["lane"] = (
            "outbox" if row["stage"] == "written"
            else f"topic {text(row['topic'], 40)}" if row["group"] is None
            else text(row["group"], 40)
        )  # fmt: skip
    # In the order of travel, whatever the times say.
    rank = {"written": 0, "published": 1}
    lanes = list(dict.fromkeys(r["lane"] for r in sorted(rows, key=lambda r: rank.get(r["stage"], 2))))
    figure = go.Figure()
    for lane in lanes:
        of_lane = [r for r in rows if r["lane"] == lane]
        figure.add_scatter(
            x=[moment(r["at"]) for r in of_lane], y=[lane] * len(of_lane), mode="lines", showlegend=False,
            line={"color": "#d0d7de", "width": 2}, hoverinfo="skip",
        )  # fmt: skip
    for stage in dict.fromkeys(r["stage"] for r in rows):
        of_stage = [r for r in rows if r["stage"] == stage]
        figure.add_scatter(
            x=[moment(r["at"]) for r in of_stage], y=[r["lane"] for r in of_stage], mode="markers",
            name=stage.replace("_", " "),
            marker={"size": 13, "color": _STAGES.get(stage, UNKNOWN), "line": {"width": 1, "color": "white"},
                    "symbol": "x" if stage in ("attempt_failed", "parked") else "circle"},
            customdata=[[text(r["detail"] or "", 160), seconds(r["total_seconds"])] for r in of_stage],
            hovertemplate=stage.replace("_", " ") + ", %{customdata[1]} after the first stop<br>%{customdata[0]}"
                          "<br>%{x}<extra></extra>",
        )  # fmt: skip
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=lanes[::-1], range=[-0.6, len(lanes) - 0.4]
    )
    time_axis(figure)
    failed = sum(r["stage"] == "attempt_failed" for r in rows)
    parked = sorted({r["group"] for r in rows if r["stage"] == "parked"})
    done = sorted({r["group"] for r in rows if r["stage"] in ("processed", "redriven", "replayed")})
    title = f"Handled by {count(len(done), 'group')}" if done else "Handled by no group yet"
    title += f" within {seconds(rows[-1]['total_seconds'])}" if done else ""
    if failed:
        title += f"; {count(failed, 'failed attempt')}"
    if parked:
        title += f"; a dead letter of {text(', '.join(parked))}"
    return styled(figure, title, span([r["at"] for r in rows]), height=190 + 46 * max(len(lanes), 2))
