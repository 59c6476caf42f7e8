"""What all figures share: colours, one template, titles, and text that is never markup."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from evkit.errors import MissingExtra

try:
    import plotly.graph_objects as go
    import plotly.io as pio
    from plotly.subplots import make_subplots
except ImportError as error:  # pragma: no cover - only without the extra
    raise MissingExtra("views", "drawing a figure") from error

__all__ = ["Figure", "go", "make_subplots"]

Figure = Any  # plotly.graph_objects.Figure, which carries no types

TEMPLATE = "plotly_white+evkit"

# Okabe and Ito's colours, which people with any colour vision can tell apart; each status has its own in every figure.
OK, WARNING, CRITICAL, UNKNOWN = "#009E73", "#E69F00", "#D55E00", "#999999"
BLUE, SKY, PURPLE = "#0072B2", "#56B4E9", "#CC79A7"
STATUS_COLOURS = {
    "ok": OK,
    "warning": WARNING,
    "critical": CRITICAL,
    "unknown": UNKNOWN,
    # of a partition
    "behind": WARNING,
    "data_loss": CRITICAL,
    "ahead": PURPLE,
    "no_commit": UNKNOWN,
    "open_transaction": SKY,
    # of a dead letter
    "open": CRITICAL,
    "retrying": WARNING,
    "resolved": OK,
    "archived": UNKNOWN,
    "purged": UNKNOWN,
}
# For groups and topics: none of the statuses' colours, so that a line is never taken for a judgement.
SERIES = (BLUE, PURPLE, SKY, "#332288", "#44AA99", "#882255", "#999933", "#666666")

# What a title or label may hold; the rest of a long payload is in the frame.
_LABEL_CHARACTERS = 64
# A browser draws this many points a trace without waiting, and no screen has more columns of pixels.
POINTS_MAX = 2_000

_GRID = "#e6e8eb"
_INK = "#24292f"
_FAINT = "#57606a"

pio.templates["evkit"] = go.layout.Template(
    layout={
        "font": {"family": "Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif", "size": 13, "color": _INK},
        "title": {
            "x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top",
            "pad": {"t": 18, "l": 16}, "font": {"size": 16},
            "subtitle": {"font": {"size": 12, "color": _FAINT}},
        },
        "colorway": list(SERIES),
        "margin": {"l": 16, "r": 36, "t": 92, "b": 16},
        "xaxis": {"automargin": True, "gridcolor": _GRID, "linecolor": "#afb8c1", "zeroline": False, "ticks": "outside",
                  "tickcolor": "#afb8c1", "title": {"standoff": 12, "font": {"color": _FAINT, "size": 12}}},
        "yaxis": {"automargin": True, "gridcolor": _GRID, "zeroline": False, "ticklabelstandoff": 6,
                  "title": {"standoff": 12, "font": {"color": _FAINT, "size": 12}}},
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom", "font": {"size": 12},
                   "tracegroupgap": 0},
        "hoverlabel": {"align": "left", "font": {"size": 12}},
        # Upright beside the plot: lying over it, it covers the title of a narrow figure.
        "modebar": {"orientation": "v", "bgcolor": "rgba(0,0,0,0)", "color": "#c4c9cf", "activecolor": _FAINT},
        "bargap": 0.35,
        "hovermode": "closest",
    }
)  # fmt: skip

# Ticks of a logarithmic axis of seconds, as people say them.
_SECONDS_TICKS = {
    0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h",
    36_000: "10 h", 86_400: "1 day", 604_800: "1 week",
}  # fmt: skip
# Below it a latency cannot be drawn on a logarithmic axis; PostgreSQL's clock ticks in microseconds.
SECONDS_MIN = 0.0005


def text(value: object, characters: int = _LABEL_CHARACTERS) -> str:
    """A value as text for a label, a title or a hover: no markup, no formula, one line, not too long.

    Plotly reads a part of HTML (links included) in every text, `$…$` as a formula where MathJax is loaded, and `%{…}` in
    templates; error messages and keys come from outside and may hold any of them.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    if len(line) > characters:
        line = line[: characters - 1] + "…"
    return html.escape(line, quote=False).replace("$", "&#36;").replace("%{", "&#37;{")


def styled(figure: Figure, title: str, subtitle: str = "", *, height: int = 420) -> Figure:
    """The figure in evkit's template with a title that is a sentence; both texts must be safe already (see `text`)."""
    lines = textwrap.wrap(title, 80, break_long_words=False, break_on_hyphens=False) or [""]
    shown: dict[str, Any] = {"text": "<br>".join(lines)}
    if subtitle:
        shown["subtitle"] = {"text": subtitle}
    figure.update_layout(template=TEMPLATE, title=shown, height=height)
    figure.update_layout(margin={"t": 92 + 22 * (len(lines) - 1)})
    return figure


def empty(title: str, why: str) -> Figure:
    """A figure for a frame without rows: it says so, instead of showing axes that could be taken for zero."""
    figure = go.Figure()
    figure.add_annotation(text=why, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False,
                          font={"size": 15, "color": _FAINT})  # fmt: skip
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return styled(figure, title, height=240)


def moment(value: datetime) -> datetime:
    """A time as plotly draws it: UTC without a zone, for plotly.js drops zones."""
    return value.astimezone(UTC).replace(tzinfo=None)


def clock(value: datetime) -> str:
    """A time in a sentence."""
    return value.astimezone(UTC).strftime("%H:%M:%S")


def span(moments: Sequence[datetime]) -> str:
    """The stretch of time of a subtitle: date once, both ends, UTC."""
    first, last = min(moments).astimezone(UTC), max(moments).astimezone(UTC)
    end = last.strftime("%H:%M:%S") if first.date() == last.date() else last.strftime("%Y-%m-%d %H:%M:%S")
    return f"{first.strftime('%Y-%m-%d %H:%M:%S')} – {end} UTC"


def seconds(value: float) -> str:
    """A duration in a sentence or a label."""
    if value < 1:
        return f"{value * 1000:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    whole = round(value)
    if whole < 7200:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{value / 3600:.1f} h" if value < 172_800 else f"{value / 86_400:.1f} days"


def count(n: float, one: str) -> str:
    """A number with its noun: 1 event, 1,204 events."""
    return f"{n:,.0f} {one if n == 1 else one + 's'}"


def log_seconds(axis: str = "x") -> dict[str, Any]:
    """Settings of a logarithmic axis of seconds."""
    return {
        "type": "log",
        "tickmode": "array",
        "tickvals": list(_SECONDS_TICKS),
        "ticktext": list(_SECONDS_TICKS.values()),
        "minor": {"showgrid": False},
        "title": {"text": "seconds, logarithmic"} if axis == "x" else {"text": "seconds (log)"},
    }


def time_axis(figure: Figure, **where: Any) -> None:
    """Label the time axis; where there are several panels, the lowest one."""
    figure.update_xaxes(type="date", **where)
    figure.update_xaxes(title_text="time (UTC)", **where)


def thinned(xs: Sequence[Any], ys: Sequence[float | None], points_max: int = POINTS_MAX) -> tuple[list[Any], list[Any]]:
    """At most `points_max` points of a line, the least and the greatest of each stretch kept, so that spikes survive."""
    if len(xs) <= points_max:
        return list(xs), list(ys)
    stretch = -(-len(xs) * 2 // points_max)
    kept: list[int] = []
    for start in range(0, len(xs), stretch):
        indexes = [i for i in range(start, min(start + stretch, len(xs))) if ys[i] is not None]
        if not indexes:
            kept.append(start)  # a gap stays a gap
            continue
        low = min(indexes, key=lambda i: ys[i])  # type: ignore[arg-type, return-value]
        high = max(indexes, key=lambda i: ys[i])  # type: ignore[arg-type, return-value]
        kept += sorted({low, high})
    return [xs[i] for i in kept], [ys[i] for i in kept]


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, the same for the same set of names in every figure."""
    return {name: SERIES[i % len(SERIES)] for i, name in enumerate(sorted(set(names)))}
