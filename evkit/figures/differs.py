"""differs → what a selection of events has more, or less, of than the rest."""

from __future__ import annotations

from typing import Any

from evkit.figures.template import BLUE, UNKNOWN, Figure, count, empty, go, styled, text
from evkit.views.frame import rows_of

_BARS_MAX = 15


def differs(frame: Any) -> Figure:
    """Draw the frame of `views.differs`: for each value two bars, its share in the selection and in the rest.

    The most certain differences are on top, 15 at most; values that chance explains are not drawn.
    """
    rows = rows_of(frame, "differs")
    found = [r for r in rows if r["distinct"]]
    if not found:
        return empty("Nothing sets these events apart", "no attribute differs by more than chance explains")
    shown = found[:_BARS_MAX]
    # A category of its own for each pair, whatever the values are called.
    places = [str(i) for i in range(len(shown))]
    labels = [f"<b>{text(r['attribute'], 24)}</b> {text(r['value'], 36)}" for r in shown]
    figure = go.Figure()
    for ratio, n, name, colour in (
        ("background_ratio", "n_background", "all others", UNKNOWN),
        ("selection_ratio", "n_selection", "selection", BLUE),
    ):
        figure.add_bar(
            orientation="h", y=places, x=[r[ratio] for r in shown], name=name, marker={"color": colour},
            text=[f"{r[ratio]:.1%}" for r in shown], textposition="outside", cliponaxis=False,
            customdata=[[label, r[n], _between(r)] for label, r in zip(labels, shown, strict=True)],
            hovertemplate="%{customdata[0]}<br>" + name + ": %{x:.1%}, %{customdata[1]:,} events<br>%{customdata[2]}"
                          "<extra></extra>",
        )  # fmt: skip
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=places[::-1], showgrid=False, tickmode="array",
        tickvals=places, ticktext=labels,
    )  # fmt: skip
    figure.update_xaxes(
        title_text="part of the events that have the attribute", tickformat=".0%", range=[0, 1.12],
        tickvals=[0, 0.25, 0.5, 0.75, 1],
    )  # fmt: skip
    figure.update_layout(barmode="group", bargap=0.28, bargroupgap=0.06, legend={"traceorder": "reversed"})
    first = shown[0]
    title = (
        f"{text(first['attribute'], 24)} {text(first['value'], 36)} is {first['selection_ratio']:.0%} of the selection and "
        f"{first['background_ratio']:.0%} of the rest"
    )
    more = len(found) - len(shown)
    subtitle = f"{count(len(found), 'value')} with a difference that chance does not explain"
    subtitle += f", the {len(shown)} most certain" if more else ""
    return styled(figure, title, subtitle, height=190 + 46 * max(len(shown), 2))


def _between(row: dict[str, Any]) -> str:
    low, high = row["difference_low"], row["difference_high"]
    return f"difference {row['difference']:+.1%}, 95 % interval {low:+.1%} to {high:+.1%}"
