"""journey → one event's way through outbox, topic and groups, in time."""

from __future__ import annotations

from typing import Any

from evkit.figures.template import (
    BLUE,
    CRITICAL,
    OK,
    PURPLE,
    SKY,
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
    "scheduled": BLUE,
    "written": BLUE,
    "appended": SKY,
    "published": BLUE,
    "received": SKY,
    "caused": PURPLE,
    "unpublishable": CRITICAL,
    "held": WARNING,
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


_OUTBOX = ("scheduled", "written", "unpublishable", "held", "relay_retry", "relay_skipped")


def journey(frame: Any) -> Figure:
    """Draw the frame of `views.journey`: a lane for the outbox, one for the topic, one for each group; a dot a stop.

    What the event caused has a lane of its own. A stop whose time cannot be, by the others, has a thick red edge.
    """
    rows = rows_of(frame, "journey")
    if not rows:
        return empty("No journey to show", "no table knows this event")
    for row in rows:
        row["lane"] = (
            "outbox" if row["stage"] in _OUTBOX
            else "caused" if row["stage"] == "caused"
            else f"topic {text(row['topic'], 40)}" if row["group"] is None
            else text(row["group"], 40)
        )  # fmt: skip
    # In the order of travel, whatever the times say.
    rank = dict.fromkeys(_OUTBOX, 0) | {"appended": 1, "published": 1, "caused": 3}
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
            marker={"size": 13, "color": _STAGES.get(stage, UNKNOWN),
                    "line": {"width": [2.5 if r["impossible"] else 1 for r in of_stage],
                             "color": [CRITICAL if r["impossible"] else "white" for r in of_stage]},
                    "symbol": "x" if stage in ("attempt_failed", "parked") else "circle"},
            customdata=[
                [text(r["detail"] or "", 160), seconds(r["total_seconds"]), text(r["event_id"], 40),
                 text(f"cannot be: {r['impossible']}", 160) if r["impossible"] else f"clock: {text(r['clock'], 12)}"]
                for r in of_stage
            ],
            hovertemplate=stage.replace("_", " ") + ", %{customdata[1]} after the first stop<br>%{customdata[0]}"
                          "<br>event %{customdata[2]}<br>%{x}, %{customdata[3]}<extra></extra>",
        )  # fmt: skip
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=lanes[::-1], range=[-0.6, len(lanes) - 0.4]
    )
    time_axis(figure)
    failed = sum(r["stage"] == "attempt_failed" for r in rows)
    parked = sorted({r["group"] for r in rows if r["stage"] == "parked"})
    done = sorted({r["group"] for r in rows if r["stage"] in ("processed", "redriven", "replayed")})
    events = len({r["event_id"] for r in rows if r["stage"] != "caused"})
    title = f"Handled by {count(len(done), 'group')}" if done else "Handled by no group yet"
    title = title if events == 1 else f"{count(events, 'event')}, {title[0].lower()}{title[1:]}"
    title += f" within {seconds(rows[-1]['total_seconds'])}" if done else ""
    if failed:
        title += f"; {count(failed, 'failed attempt')}"
    if parked:
        title += f"; a dead letter of {text(', '.join(parked))}"
    return styled(figure, title, span([r["at"] for r in rows]), height=190 + 46 * max(len(lanes), 2))
