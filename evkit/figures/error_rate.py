"""error rate → what part of the attempts failed, where and when."""

from __future__ import annotations

from typing import Any

from evkit.figures.template import (
    CRITICAL,
    UNKNOWN,
    Figure,
    colours,
    count,
    empty,
    go,
    make_subplots,
    moment,
    seconds,
    span,
    styled,
    text,
    time_axis,
)
from evkit.views.frame import rows_of

_BARS_MAX = 30
_BY = ("handler", "code_version", "error_class", "fingerprint")


def error_rate(frame: Any) -> Figure:
    """Draw the frame of `views.error_rate`: a bar for each group and event type, or lines when it has buckets.

    The grey part of a bar is dealt with: its dead letters are resolved, archived or purged. What the frame is told apart
    `by` has bars and lines of its own; attempts that nobody knows have none.
    """
    rows = rows_of(frame, "error_rate")
    if not rows:
        return empty("No attempts to show", "no event was attempted in this window")
    return _over_time(rows) if len({r["bucket_at"] for r in rows}) > 1 else _bars(rows)


def _title(rows: list[dict[str, Any]]) -> str:
    live = [r for r in rows if not r["replay"]] or rows
    if _split(rows):  # such rows may share their attempts, which must not be added up
        worst = max(live, key=lambda r: r["attempt_error_ratio"] or 0)
        if worst["failures"]:
            share = "" if worst["attempts"] is None else f" ({worst['attempt_error_ratio'] or 0:.1%})"
            return f"{_name(worst, split=True)} failed most: {_of_attempts(worst)}{share}"
        return "No failure"
    groups: dict[str, list[int]] = {}
    for row in live:
        total = groups.setdefault(row["group"], [0, 0, 0])
        for i, column in enumerate(("failures", "attempts", "failures_dealt_with")):
            total[i] += row[column]
    name, (failures, attempts, dealt_with) = max(groups.items(), key=lambda g: g[1][0] / max(g[1][1], 1))
    if not failures:
        return f"No failure in {count(sum(g[1] for g in groups.values()), 'attempt')}"
    title = f"{text(name)} failed most: {failures:,} of {count(attempts, 'attempt')} ({failures / attempts:.1%})"
    if dealt_with == failures:
        title += ", all dealt with since"
    elif dealt_with:
        title += f", {dealt_with:,} dealt with since"
    return title


def _bars(rows: list[dict[str, Any]]) -> Figure:
    ordered = sorted(rows, key=lambda r: (-(r["attempt_error_ratio"] or 0), r["group"], r["event_type"]))[:_BARS_MAX]
    split = _split(rows)
    names = [_name(r, split=split) for r in ordered]
    figure = go.Figure()
    for column, label, colour in (("open", "failed", CRITICAL), ("dealt", "failed, dealt with since", UNKNOWN)):
        values = [
            (r["failures"] - r["failures_dealt_with"] if column == "open" else r["failures_dealt_with"])
            / max(r["attempts"] or 0, 1)
            * (r["attempts"] is not None)
            for r in ordered
        ]
        if column == "dealt" and not any(values):
            continue
        figure.add_bar(
            orientation="h", y=names, x=values, name=label, marker={"color": colour},
            customdata=[[n, _of_attempts(r), r["dead"], text(r["handler"] or "–")]
                        for n, r in zip(names, ordered, strict=True)],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]} failed<br>"
                          "%{customdata[2]:,} events died<br>%{customdata[3]}<extra></extra>",
        )  # fmt: skip
    longest = max(r["attempt_error_ratio"] or 0 for r in ordered)
    for row, name in zip(ordered, names, strict=True):
        attempts = "unknown" if row["attempts"] is None else f"{row['attempts']:,}"
        said = f"{row['failures']:,} of {attempts}" + (f", {row['dead']:,} died" if row["dead"] else "")
        figure.add_annotation(
            x=row["attempt_error_ratio"] or 0, y=name, text=said, showarrow=False, xanchor="left", xshift=6
        )
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1], showgrid=False)
    figure.update_xaxes(
        title_text="failed attempts / attempts", tickformat=".1~%", range=[0, max(longest * 1.45, 0.01)]
    )
    if longest * 1.45 > 1:  # the room on the right is for the words: no ratio is there
        figure.update_xaxes(tickvals=[0, 0.25, 0.5, 0.75, 1])
    figure.update_layout(barmode="stack")
    window = f"window of {seconds(rows[0]['bucket_seconds'])} from {rows[0]['bucket_at']:%Y-%m-%d %H:%M:%S} UTC"
    n = "" if split else f"n = {count(sum(r['attempts'] or 0 for r in rows), 'attempt')} · "
    return styled(figure, _title(rows), f"{n}{window}", height=170 + 30 * max(len(ordered), 3))


def _over_time(rows: list[dict[str, Any]]) -> Figure:
    """Ratio per group above, number of failures below: 50 % of two attempts looks like what it is."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.55, 0.45])
    split = _split(rows)
    names = [_name(r, split=True) if split else r["group"] for r in rows]
    palette = colours(names)
    for group, colour in palette.items():
        buckets: dict[Any, list[int]] = {}
        for row, series in zip(rows, names, strict=True):
            if series == group:
                total = buckets.setdefault(row["bucket_at"], [0, 0])
                total[0] += row["failures"]
                total[1] += row["attempts"] or 0
        xs = [moment(b) for b in sorted(buckets)]
        totals = [buckets[b] for b in sorted(buckets)]
        name = group if split else text(group, 40)
        figure.add_scatter(
            row=1, col=1, x=xs, y=[f / a if a else None for f, a in totals], mode="lines+markers", name=name,
            legendgroup=name, line={"color": colour, "width": 2}, marker={"size": 4}, customdata=totals,
            hovertemplate="%{y:.1%}: %{customdata[0]:,} of %{customdata[1]:,}<br>%{x}<extra></extra>",
        )  # fmt: skip
        figure.add_bar(
            row=2, col=1, x=xs, y=[f for f, _ in totals], name=name, legendgroup=name, showlegend=False,
            marker={"color": colour}, hovertemplate="%{y:,} failures<br>%{x}<extra></extra>",
        )  # fmt: skip
    figure.update_yaxes(title_text="failed / attempts", tickformat=".0%", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="failures", rangemode="tozero", row=2, col=1)
    figure.update_layout(barmode="stack")
    time_axis(figure, row=2, col=1)
    length = seconds(max(r["bucket_seconds"] for r in rows))
    subtitle = f"buckets of {length} · {span([r['bucket_at'] for r in rows])}"
    return styled(figure, _title(rows), subtitle, height=480)


def _name(row: dict[str, Any], *, split: bool = False) -> str:
    parts = [text(row[c], 40) for c in ("group", "event_type", *(_BY if split else ())) if row[c]]
    return " · ".join(parts) + (" (replay)" if row["replay"] else "")


def _split(rows: list[dict[str, Any]]) -> bool:
    """Whether the frame tells failures apart by more than group and event type."""
    cells = {(r["bucket_at"], r["group"], r["event_type"], r["replay"]) for r in rows}
    return len(cells) < len(rows) or any(r["attempts"] is None or any(r[c] for c in _BY[1:]) for r in rows)


def _of_attempts(row: dict[str, Any]) -> str:
    if row["attempts"] is None:
        return f"{row['failures']:,} of an unknown number of attempts"
    return f"{row['failures']:,} of {count(row['attempts'], 'attempt')}"
