"""The two ways in which durations are drawn: one range a row for a window, lines over buckets of time."""

from __future__ import annotations

from typing import Any

from evkit.figures.template import (
    CRITICAL,
    SECONDS_MIN,
    WARNING,
    Figure,
    go,
    log_seconds,
    make_subplots,
    moment,
    seconds,
    thinned,
    time_axis,
)

_MARKS = (
    ("p50_seconds", "median", "circle"),
    ("p95_seconds", "p95", "diamond"),
    ("p99_seconds", "p99", "square"),
    ("max_seconds", "longest", "line-ns-open"),
)


def ranges(rows: list[dict[str, Any]], colour: str) -> Figure:
    """A row for each of `rows`: median to longest as a line with marks, the oldest waiting one beside it.

    Rows have `name` (safe text), the percentiles, `p99_is_lower_bound` and `waiting` (seconds or None).
    """
    figure = go.Figure()
    measured = [r for r in rows if r["p50_seconds"] is not None]
    for row in measured:
        figure.add_scatter(
            x=[_drawn(row["p50_seconds"]), _drawn(row["max_seconds"])], y=[row["name"]] * 2, mode="lines",
            line={"color": colour, "width": 3}, opacity=0.35, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
    for column, label, symbol in _MARKS:
        figure.add_scatter(
            x=[_drawn(r[column]) for r in measured], y=[r["name"] for r in measured], mode="markers", name=label,
            marker={"color": colour, "size": 11, "symbol": symbol, "line": {"width": 2, "color": colour}},
            customdata=[[r["name"], _said(r, column)] for r in measured],
            hovertemplate="%{customdata[0]}<br>" + label + ": %{customdata[1]}<extra></extra>",
        )  # fmt: skip
    waiting = [r for r in rows if r["waiting"]]
    if waiting:
        figure.add_scatter(
            x=[_drawn(r["waiting"]) for r in waiting], y=[r["name"] for r in waiting], mode="markers",
            name="oldest still waiting",
            marker={"color": WARNING, "size": 13, "symbol": "triangle-right", "line": {"width": 1, "color": CRITICAL}},
            customdata=[[r["name"], seconds(r["waiting"])] for r in waiting],
            hovertemplate="%{customdata[0]}<br>oldest still waiting: %{customdata[1]}<extra></extra>",
        )  # fmt: skip
    names = [r["name"] for r in rows]
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names[::-1], range=[-0.6, len(names) - 0.4]
    )
    figure.update_xaxes(**log_seconds())
    return figure


def over_time(rows: list[dict[str, Any]], colour_of: dict[str, str], waiting: str) -> Figure:
    """Median and p99 per series and bucket on a logarithmic axis; below, how many of each bucket still wait.

    Rows have `series` (safe text), `bucket_at`, `bucket_seconds`, the percentiles, `pending_n`, `p99_is_lower_bound`.
    """
    pending = any(r["pending_n"] for r in rows)
    single = len(colour_of) == 1  # then the legend names the lines, else the series
    figure = make_subplots(
        rows=2 if pending else 1, cols=1, shared_xaxes=True, vertical_spacing=0.06,
        row_heights=[0.72, 0.28] if pending else [1.0],
    )  # fmt: skip
    for name, colour in colour_of.items():
        of_series = [r for r in rows if r["series"] == name]
        for column, width, label in (("p99_seconds", 2.5, "p99"), ("p50_seconds", 1.2, "median")):
            values = [None if r[column] is None else _drawn(r[column]) for r in of_series]
            xs, ys = thinned([moment(r["bucket_at"]) for r in of_series], values)
            figure.add_scatter(
                row=1, col=1, x=xs, y=ys, mode="lines+markers" if len(xs) < 3 else "lines",
                name=label if single else name, legendgroup=label if single else name, showlegend=single or label == "p99",
                line={"color": colour, "width": width, "dash": "solid" if label == "p99" else "dot"},
                customdata=[None if y is None else seconds(y) for y in ys],
                hovertemplate=name.replace("%", "&#37;") + " " + label + ": %{customdata}<br>%{x}<extra></extra>",
            )  # fmt: skip
        bounds = [r for r in of_series if r["p99_is_lower_bound"]]
        if bounds:
            figure.add_scatter(
                row=1, col=1, x=[moment(r["bucket_at"]) for r in bounds], y=[_drawn(r["p99_seconds"]) for r in bounds],
                mode="markers", name="still waiting: p99 is higher", showlegend=single,
                marker={"color": WARNING, "size": 9, "symbol": "triangle-up", "line": {"width": 1, "color": CRITICAL}},
                hoverinfo="skip",
            )  # fmt: skip
        if pending:
            figure.add_bar(
                row=2, col=1, x=[moment(r["bucket_at"]) for r in of_series], y=[r["pending_n"] for r in of_series],
                marker={"color": colour}, name=name, showlegend=False,
                hovertemplate="%{y:,} " + waiting + "<br>%{x}<extra>" + name.replace("%", "&#37;") + "</extra>",
            )  # fmt: skip
    figure.update_yaxes(**log_seconds("y"), row=1, col=1)
    if pending:
        figure.update_yaxes(title_text=f"{waiting} (events)", rangemode="tozero", row=2, col=1)
        figure.update_layout(barmode="stack")
    time_axis(figure, row=2 if pending else 1, col=1)
    figure.update_layout(hovermode="x")
    return figure


def _said(row: dict[str, Any], column: str) -> str:
    bound = "at least " if row["p99_is_lower_bound"] and column == "p99_seconds" else ""
    return bound + seconds(row[column])


def _drawn(value: float) -> float:
    return max(value, SECONDS_MIN)
