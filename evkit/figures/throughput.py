"""publish rate and throughput → what comes in, what goes out, and what lies between."""

from __future__ import annotations

from typing import Any

from evkit.figures.template import (
    BLUE,
    SKY,
    WARNING,
    Figure,
    clock,
    count,
    empty,
    make_subplots,
    moment,
    seconds,
    span,
    styled,
    text,
    thinned,
    time_axis,
)
from evkit.views.frame import rows_of

# Panels one can compare at a glance; the smaller ones are summed up in the last.
_PANELS_MAX = 4
# A bucket of which less than this lies in the window shows noise, not a rate.
_COVERED_MIN = 0.5
_BAND = "rgba(230, 159, 0, 0.55)"  # the colour of a warning, so that grid and lines stay visible through it


def publish_rate(frame: Any) -> Figure:
    """Draw the frame of `views.publish_rate`: events per second written and published, a panel for each topic.

    The lines lie on each other as long as the relay keeps up; published below written is the outbox filling, above it the
    outbox draining. The smaller topics of many share one panel. Buckets cut to less than half are left out.
    """
    rows = [r for r in rows_of(frame, "publish_rate") if r["written"] is not None]
    if not rows:
        return empty("No events to show", "no event was written in this window or in the day before it")
    panels = _panels(rows, "topic", ("written", "published"))
    length = max(r["bucket_seconds"] for r in rows)
    figure = _stacked(panels)
    for index, of_panel in enumerate(panels.values(), start=1):
        drawn = [r for r in of_panel if r["bucket_seconds"] >= _COVERED_MIN * length]
        for column, label, colour, width in (("written", "written", SKY, 4.5), ("published", "published", BLUE, 1.8)):
            xs, ys = thinned([moment(r["bucket_at"]) for r in drawn], [r[column] / r["bucket_seconds"] for r in drawn])
            figure.add_scatter(
                row=index, col=1, x=xs, y=ys, mode="lines", name=label, legendgroup=label, showlegend=index == 1,
                line={"color": colour, "width": width, "shape": "hv"},
                hovertemplate="%{y:,.3g} " + label + "/s<br>%{x}<extra></extra>",
            )  # fmt: skip
    figure.update_yaxes(rangemode="tozero", title_text="events/s", tickformat=",")
    time_axis(figure, row=len(panels), col=1)
    written, published = sum(r["written"] for r in rows), sum(r["published"] for r in rows)
    covered = sum(r["bucket_seconds"] for r in rows if r["topic"] == rows[0]["topic"])
    title = f"{count(published, 'event')} published, {published / covered:,.3g}/s"
    if written > published:
        title += f"; {count(written - published, 'event')} more were written"
    elif published > written:
        title += f"; {count(published - written, 'event')} of them written before"
    else:
        title += ", all that were written"
    subtitle = f"{count(len({r['topic'] for r in rows}), 'topic')}, buckets of {seconds(length)} · "
    return styled(
        figure, title, subtitle + span([r["bucket_at"] for r in rows]), height=170 + 190 * max(len(panels), 1)
    )


def throughput(frame: Any) -> Figure:
    """Draw the frame of `views.throughput` as a river: published above, dealt with below, the backlog between them.

    Both lines count events from the start of the window. The height of the band is how many events wait, its width how
    long they do. A flat lower line is a group that stands still.
    """
    rows = rows_of(frame, "throughput")
    if not rows:
        return empty("No throughput to show", "no group has handled anything in the last seven days")
    for row in rows:
        row["place"] = f"{row['group']} · {row['topic']}"
    panels = _panels(rows, "place", ("published", "dealt_with", "backlog"))
    figure = _stacked(panels)
    for index, of_panel in enumerate(panels.values(), start=1):
        dealt, above, xs = [], [], []
        total = 0
        for row in of_panel:
            total += row["dealt_with"]
            xs.append(moment(row["bucket_at"]))
            dealt.append(total)
            above.append(total + row["backlog"])
        # The band between two lines needs the lower one drawn right before the upper one; drawn again, it lies on top.
        for ys, label, shown, line, fill in (
            (dealt, "dealt with", False, {"width": 0}, {"hoverinfo": "skip"}),
            (above, "published", True, {"color": SKY, "width": 4.5}, {"fill": "tonexty", "fillcolor": _BAND}),
            (dealt, "dealt with", True, {"color": BLUE, "width": 1.8}, {}),
        ):
            thin_x, thin_y = thinned(xs, ys)
            if "hoverinfo" not in fill:
                fill["hovertemplate"] = "%{y:,} " + label + "<br>%{x}<extra></extra>"
            figure.add_scatter(
                row=index, col=1, x=thin_x, y=thin_y, mode="lines", name=label, legendgroup=label,
                showlegend=shown and index == 1, line=line, **fill,
            )  # fmt: skip
    figure.add_scatter(x=[None], y=[None], mode="markers", name="waiting between them",
                       marker={"color": WARNING, "symbol": "square", "size": 11})  # fmt: skip
    figure.update_yaxes(rangemode="tozero", title_text="events", tickformat=",")
    time_axis(figure, row=len(panels), col=1)
    worst = max(rows, key=lambda r: r["backlog"])
    if worst["backlog"] <= 0:
        title = "Every group kept up: nothing was waiting at the end of any bucket"
    else:
        last = [r for r in rows if r["place"] == worst["place"]][-1]["backlog"]
        title = f"{text(worst['group'])} had up to {count(worst['backlog'], 'event')} waiting"
        title += f" ({clock(worst['bucket_at'])}), "
        title += "none at the end" if last <= 0 else f"{last:,} at the end"
    subtitle = f"events since the start of the window, buckets of {seconds(max(r['bucket_seconds'] for r in rows))} · "
    return styled(figure, title, subtitle + span([r["bucket_at"] for r in rows]), height=170 + 190 * len(panels))


def _panels(rows: list[dict[str, Any]], by: str, columns: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    """Rows by panel, the biggest first; what does not fit is added up, bucket by bucket, in a last panel."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        panels.setdefault(row[by], []).append(row)
    ordered = dict(sorted(panels.items(), key=lambda p: -sum(r[columns[0]] for r in p[1])))
    if len(ordered) <= _PANELS_MAX:
        return ordered
    names = list(ordered)
    rest: dict[Any, dict[str, Any]] = {}
    for name in names[_PANELS_MAX - 1 :]:
        for row in ordered.pop(name):
            kept = rest.setdefault(row["bucket_at"], row | dict.fromkeys(columns, 0))
            for column in columns:
                kept[column] += row[column]
    ordered[f"{len(names) - _PANELS_MAX + 1} smaller ones"] = [rest[k] for k in sorted(rest)]
    return ordered


def _stacked(panels: dict[str, list[dict[str, Any]]]) -> Figure:
    figure = make_subplots(
        rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.26 / max(len(panels), 1) if len(panels) > 1 else 0,
        subplot_titles=[text(name) for name in panels] if len(panels) > 1 else [text(next(iter(panels)))],
    )  # fmt: skip
    figure.update_annotations(font={"size": 13}, x=0, xanchor="left")
    return figure
