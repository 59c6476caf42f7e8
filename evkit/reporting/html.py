"""notebook + summary → one page that needs nothing else: verdict first, then findings, the six, charts with their data.

nbconvert's page would ask five scripts of two CDNs and show no chart at all (plotly's mimetype is not known to it). This
one asks nothing: plotly.js is inside it once, charts are drawn from the mimetype's JSON, and a content security policy with
a nonce lets no other script run, wherever it came from. HTML is taken from an output only when evkit made it (and escaped
it); anything else appears as the text it also carries. Code stays in the notebook.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evkit.reporting.display import plain_text
from evkit.reporting.summary import Chart, FindingResult, Summary
from evkit.reporting.tables import quantity, shown

_PARTS = Path(__file__).parent / "page"
_PLOTLY = "application/vnd.plotly.v1+json"
# The header, findings and appendix of the page say these already.
_ROLES_SHOWN_ELSEWHERE = ("banner", "verdict", "ending", "steps")
_NOT_ON_PAGE = "notebook-only"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CHART_HEIGHT = 420
# Room for the legend above a chart, once its title is out of it.
_MARGIN_TOP = 40

# Which chart explains which monitor.
_CHART_OF = {
    "publish_rate": ("publish_rate",),
    "relay_lag": ("relay_lag_over_time", "relay_lag"),
    "consumer_lag": ("lag", "throughput"),
    "latency": ("latency_over_time", "latency"),
    "error_rate": ("error_rate",),
    "dead_letters": ("dead_letters",),
}


@dataclass(frozen=True, slots=True)
class Block:
    """One thing on the page, in the notebook's order: markdown, chart, table, text, unmeasured, error or image."""

    kind: str
    html: str = ""
    text: str = ""
    more: str = ""
    name: str = ""
    figure: str = ""
    height: int = _CHART_HEIGHT


def page(summary: Summary, notebook: Any | None) -> tuple[str, list[Chart]]:
    """The page of a report as text, and the charts on it in their order.

    `notebook` is the executed one (nbformat 4), or None when there is nothing but the summary.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    blocks = [] if notebook is None else list(_blocks(notebook))
    how_to_read = next((b.html for b in blocks if b.kind == "intro"), "")
    blocks = [b for b in blocks if b.kind != "intro"]
    charts = [Chart(name=b.name, title=b.text) for b in blocks if b.kind == "chart"]
    names = {c.name for c in charts}
    links = {m: next((c for c in of if c in names), "") for m, of in _CHART_OF.items()}
    environment = Environment(loader=FileSystemLoader(_PARTS), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters.update(quantity=quantity, shown=shown, moment=_moment, duration=_duration)
    rendered = environment.get_template("page.html.jinja").render(
        s=summary,
        blocks=blocks,
        headline=_headline(summary),
        how_to_read=how_to_read,
        links=links,
        alarming=[f for f in summary.findings if f.severity != "ok"],
        fine=[f for f in summary.findings if f.severity == "ok"],
        changes=_changes(summary),
        new=_new(summary),
        nonce=secrets.token_urlsafe(16),
        css=(_PARTS / "page.css").read_text(encoding="utf-8"),
        script=(_PARTS / "page.js").read_text(encoding="utf-8"),
        plotly=_plotly() if charts else "",
    )
    return rendered, charts


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


def _headline(summary: Summary) -> str:
    """The verdict's sentence without its first word, which the badge beside it says."""
    sentence = summary.sentence.removeprefix(summary.verdict).lstrip(": ")
    return sentence[1:].replace("): ", ": ", 1) if sentence.startswith("(") else sentence


def _changes(summary: Summary) -> dict[str, dict[str, Any]]:
    rows = (summary.compared_with or {}).get("monitors", [])
    return {row["monitor"]: row for row in rows}


def _new(summary: Summary) -> set[tuple[str, str, str]]:
    """The findings that the report before did not have."""
    return {FindingResult.model_validate(f).identity for f in (summary.compared_with or {}).get("new", [])}


# --- cells ------------------------------------------------------------------------------------------------------------


def _blocks(notebook: Any) -> Iterator[Block]:
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    first = True
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if _NOT_ON_PAGE in tags:
            continue
        if cell.cell_type == "markdown":
            if "papermill-error-cell-tag" in tags:
                continue  # the page says it in its head
            source = cell.source
            if first and source.startswith("# "):
                first = False
                rest = source.partition("\n")[2].strip()
                yield Block("intro", html=markdown.render(rest))
            else:
                yield Block("markdown", html=markdown.render(source))
        elif cell.cell_type == "code":
            for output in cell.outputs:
                yield from _output(output)


def _output(output: Any) -> Iterator[Block]:
    if output.output_type == "stream":
        text = _ANSI.sub("", output.text).strip()
        if text:
            yield Block("text", text=text)
        return
    if output.output_type == "error":
        yield Block("error", text=f"{output.ename}: {output.evalue}", name=_ANSI.sub("", "\n".join(output.traceback)))
        return
    data, ours = output.data, output.metadata.get("evkit", {})
    role = ours.get("role", "")
    if role in _ROLES_SHOWN_ELSEWHERE:
        return
    if _PLOTLY in data:
        yield _chart(data[_PLOTLY], ours.get("name", "chart"))
    elif role and "text/html" in data:
        yield Block(
            "unmeasured" if role == "unmeasured" else "table", html=data["text/html"], name=ours.get("name", "")
        )
    elif "image/png" in data:
        yield Block("image", text=str(data["image/png"]).replace("\n", ""), name=str(data.get("text/plain", "image")))
    elif "text/plain" in data:
        yield Block("text", text=_ANSI.sub("", str(data["text/plain"])))


def _chart(document: dict[str, Any], name: str) -> Block:
    """A chart with its title taken out of the drawing: as text of the page it wraps, can be copied and is read aloud."""
    layout = dict(document.get("layout", {}))
    title = layout.pop("title", None) or {}
    markup = title if isinstance(title, str) else title.get("text") or ""
    subtitle = "" if isinstance(title, str) else (title.get("subtitle") or {}).get("text", "")
    margin = dict(layout.get("margin", {}))
    freed = min(margin.get("t", 0) - _MARGIN_TOP, layout.get("height") or _CHART_HEIGHT) if markup else 0
    height = layout.get("height") or _CHART_HEIGHT
    if freed > 0:
        height -= freed
        layout |= {"margin": margin | {"t": _MARGIN_TOP}, "height": height}
    figure = {"data": document.get("data", []), "layout": layout, "config": document.get("config", {})}
    # Inside a script element nothing is markup but its end, and `<!--`; JSON knows another way of writing "<".
    text = json.dumps(figure, ensure_ascii=False).replace("<", "\\u003c")
    return Block(
        "chart", text=plain_text(markup) or name, more=plain_text(subtitle), name=name, figure=text, height=int(height)
    )


# --- words ------------------------------------------------------------------------------------------------------------


def _moment(value: datetime | str | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    return quantity(seconds, "s")
