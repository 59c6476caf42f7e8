"""What a notebook shows, marked by its role, so that the page of a report can lay it out anew.

Each output carries `{"evkit": {"role": …}}` in its metadata. Charts travel as plotly's mimetype and tables as static HTML:
both draw in JupyterLab also when the notebook is not trusted, which every notebook that papermill has made is not.
"""

from __future__ import annotations

import html
import re
import sys
from typing import TYPE_CHECKING, Any

from evkit.reporting.tables import Table, quantity, shown

if TYPE_CHECKING:
    from evkit.monitors import Diagnosis
    from evkit.reporting.summary import Summary
    from evkit.system import System
    from evkit.window import Window

# The colours of figures.STATUS_COLOURS, darkened until white words on them can be read (contrast 4.5 and more).
BADGES = {"ok": "#00694f", "warning": "#8a5a00", "critical": "#b43e00", "unknown": "#5c636a"}


def _publish(role: str, name: str, data: dict[str, Any]) -> None:
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import publish_display_data

    if InteractiveShell.initialized():
        publish_display_data(  # type: ignore[no-untyped-call]
            data, metadata={"evkit": {"role": role, "name": name}}
        )
    else:  # a plain script: the text form is complete on its own
        sys.stdout.write(f"{data['text/plain']}\n")


def plain_text(markup: str | None) -> str:
    """A title as plotly has it, without its markup and entities."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup or "")).split())


def beginning(system: System, window: Window) -> None:
    """One line: which system, which window."""
    settings = system.settings
    line = (
        f"profile {settings.profile}, Kafka {settings.bootstrap_servers}, "
        f"{window.start:%Y-%m-%d %H:%M:%S} to {window.end:%Y-%m-%d %H:%M:%S} UTC"
    )
    _publish("banner", "beginning", {"text/html": f"<p>{html.escape(line)}</p>", "text/plain": line})


def chart(name: str, title: str, figure: Any) -> None:
    """A figure as plotly's mimetype alone; the text says its title for whoever cannot see it."""
    import json

    document = json.loads(figure.to_json())
    document["config"] = {"displaylogo": False, "responsive": True}
    _publish("chart", name, {"application/vnd.plotly.v1+json": document, "text/plain": f"[chart] {title}"})


def table(name: str, made: Table, *, folded: bool = True) -> None:
    """A table; folded away below its chart, or open where it stands alone."""
    inner = made._repr_html_()
    count = f"{len(made.rows):,} row{'' if len(made.rows) == 1 else 's'}"
    if folded:
        inner = f"<details><summary>data: {count}</summary>{inner}</details>"
    _publish("table", name, {"text/html": inner, "text/plain": str(made)})


def note(text: str, *, role: str = "note") -> None:
    """A sentence."""
    _publish(role, "note", {"text/html": f"<p>{html.escape(text)}</p>", "text/plain": text})


def unmeasured(name: str, why: str) -> None:
    """What stands where a chart would be, when its numbers could not be measured."""
    text = f"{name} could not be measured: {why}"
    _publish("unmeasured", name, {"text/html": f"<p><strong>{html.escape(text)}</strong></p>", "text/plain": text})


def badge(severity: str, word: str = "") -> str:
    """A severity, or another word, on the severity's colour."""
    style = f"background-color:{BADGES[severity]};color:#ffffff;padding:2px 8px;border-radius:4px"
    return f'<span style="{style}"><strong>{(word or severity).upper()}</strong></span>'


def verdict(summary: Summary) -> None:
    """The verdict and all findings that need attention, the worst first; the others as a count."""
    bad = [f for f in summary.findings if f.severity != "ok"]
    items = "".join(
        f"<tr><td>{badge(f.severity)}</td><td>{html.escape(f.monitor)}</td><td>{html.escape(shown(f.subject))}</td>"
        f'<td style="text-align:right">{html.escape(quantity(f.value, f.unit))}</td>'
        f'<td style="text-align:left">{html.escape(f.sentence)}</td></tr>'
        for f in bad
    )
    fine = len(summary.findings) - len(bad)
    text = [summary.verdict.upper() + ": " + summary.sentence]
    text += [f"{f.severity:<8}  {f.monitor:<12}  {f.sentence}" for f in bad]
    page = f"<p>{badge(summary.verdict)} {html.escape(summary.sentence)}</p>"
    if items:
        heads = "".join(f"<th>{h}</th>" for h in ("severity", "monitor", "about", "value", "finding"))
        page += f'<table class="evkit"><thead><tr>{heads}</tr></thead><tbody>{items}</tbody></table>'
    if fine:
        page += f"<p>{fine} finding{'' if fine == 1 else 's'} ok</p>"
    _publish("verdict", "verdict", {"text/html": page, "text/plain": "\n".join(text)})


def diagnosis(found: Diagnosis) -> None:
    """What triage found: each cause with its harm, its numbers, what is probably behind it, and a command to copy."""
    items, text = "", [found.sentence]
    for cause in found.causes:
        items += (
            f"<dt>{badge(cause.harm.severity, cause.harm)} "
            f"<strong>{html.escape(shown(cause.name).replace('_', ' '))}</strong>: {html.escape(cause.sentence)}</dt>"
            f"<dd>{html.escape(cause.likely)}<br><code>{html.escape(cause.next_step)}</code></dd>"
        )
        text += [
            f"{cause.harm:<6}  {cause.name}: {cause.sentence}",
            f"        {cause.likely}",
            f"        {cause.next_step}",
        ]
    page = f"<p>{html.escape(found.sentence)}</p>"
    page += f"<dl>{items}</dl>" if items else ""
    _publish("diagnosis", "diagnosis", {"text/html": page, "text/plain": "\n".join(text)})
    for name, why in found.unmeasured.items():
        unmeasured(name, why)


def next_steps(steps: list[tuple[str, str]]) -> None:
    """Commands to copy, each once, with the sentence that leads to it."""
    first: dict[str, str] = {}
    for step, why in steps:
        first.setdefault(step, why)
    if not first:
        note("Nothing asks for a next step.", role="steps")
        return
    items = "".join(
        f"<dt><code>{html.escape(step)}</code></dt><dd>{html.escape(why)}</dd>" for step, why in first.items()
    )
    text = "\n".join(f"{step}\n    {why}" for step, why in first.items())
    _publish("steps", "next_steps", {"text/html": f"<dl>{items}</dl>", "text/plain": text})


def ending(summary: Summary) -> None:
    """The last line: the verdict, and what changed."""
    line = f"{summary.verdict.upper()} (exit code {summary.exit_code}): {summary.sentence}"
    if summary.compared_with:
        before, changed = summary.compared_with["before"]["generated_at"][:19], summary.compared_with["sentence"]
        line += f" Compared with {before}: {changed}."
    _publish("ending", "ending", {"text/html": f"<p>{html.escape(line)}</p>", "text/plain": line})
