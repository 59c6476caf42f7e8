"""The page of a report needs nothing from anywhere, and nothing that came from an event is markup or script in it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from evkit.reporting import html
from evkit.reporting.summary import FindingResult, MonitorResult, Seen, Summary, Unmeasured

HOSTILE = "</script><img src=x onerror=alert(1)><script>alert(2)</script>{{ 7*7 }}<!--"


def a_summary(text="calm", **more):
    facts = {"severity": "critical", "subject": text, "value": 3.0, "unit": "s", "threshold": 1.0, "sentence": text}
    values = {
        "report": "health", "notebook": "health/90_health_report", "title": text, "verdict": "critical", "exit_code": 2,
        "sentence": text, "generated_at": datetime(2026, 2, 8, tzinfo=UTC),
        "window": Seen(start=datetime(2026, 2, 7, tzinfo=UTC), end=datetime(2026, 2, 8, tzinfo=UTC)),
        "system": {"profile": text, "postgres": text, "kafka": text}, "parameters": {text: text},
        "monitors": [MonitorResult(monitor="latency", findings=1, **facts)],
        "findings": [FindingResult(monitor="latency", next_step=text, **facts)],
        "unmeasured": [Unmeasured(what=text, why=text)], "versions": {"evkit": text},
    }  # fmt: skip
    return Summary(**(values | more))


def evkit_output(role, name, data):
    return new_output("display_data", data=data, metadata={"evkit": {"role": role, "name": name}})


def a_figure(text):
    return {
        "data": [{"type": "bar", "x": [text], "y": [1], "text": [text]}],
        "layout": {
            "title": {"text": "a &lt;b&gt;<br>line", "subtitle": {"text": "below"}},
            "margin": {"t": 92},
            "height": 400,
        },
    }


def a_notebook(*outputs, words="# Q?\n\nHow to read."):
    return new_notebook(cells=[new_markdown_cell(words), new_code_cell("x = 1", outputs=list(outputs))])


def test_hostile_text_from_anywhere_is_never_markup():
    notebook = a_notebook(
        evkit_output("chart", "lag", {"application/vnd.plotly.v1+json": a_figure(HOSTILE), "text/plain": HOSTILE}),
        new_output("stream", name="stdout", text=HOSTILE),
        new_output("error", ename=HOSTILE, evalue=HOSTILE, traceback=[HOSTILE]),
        new_output("display_data", data={"text/html": HOSTILE, "text/plain": HOSTILE}),
        words=f"# {HOSTILE}\n\n{HOSTILE}",
    )

    page, _ = html.page(a_summary(HOSTILE, error=HOSTILE), notebook)

    own_scripts = re.findall(r'<script nonce="[^"]+">', page) + re.findall(
        r'<script type="application/json" nonce="[^"]+">', page
    )
    without_plotly = page.replace(html._plotly(), "")
    assert len(re.findall(r"<script", without_plotly)) == len(own_scripts) == 3
    assert "<img" not in without_plotly
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", page)[0]


def test_html_of_others_appears_as_its_text():
    notebook = a_notebook(new_output("display_data", data={"text/html": "<b>styled</b>", "text/plain": "plain words"}))

    page, _ = html.page(a_summary(), notebook)

    assert "<b>styled</b>" not in page
    assert "plain words" in page


def test_page_refers_to_nothing_outside_itself():
    notebook = a_notebook(evkit_output("chart", "lag", {"application/vnd.plotly.v1+json": a_figure("x")}))

    page, _ = html.page(a_summary(), notebook)

    without_plotly = page.replace(html._plotly(), "")
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", without_plotly)
    assert "url(" not in without_plotly
    assert page.count(html._plotly()) == 1


def test_titles_of_charts_are_text_of_the_page():
    notebook = a_notebook(evkit_output("chart", "lag", {"application/vnd.plotly.v1+json": a_figure("x")}))

    page, charts = html.page(a_summary(), notebook)

    assert [(c.name, c.title) for c in charts] == [("lag", "a <b> line")]
    assert "<figcaption><strong>a &lt;b&gt; line</strong><small>below</small></figcaption>" in page
    drawn = json.loads(re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page)[0])
    assert "title" not in drawn["layout"]
    assert drawn["layout"]["height"] == 400 - (92 - 40)


def test_page_without_charts_carries_no_plotly():
    page, charts = html.page(a_summary(), a_notebook())

    assert charts == []
    assert len(page) < 50_000


def test_page_of_a_report_that_never_ran_says_why():
    page, _ = html.page(
        a_summary(error="the kernel died", verdict="unknown", system={}, window=None, monitors=[]), None
    )

    assert "the kernel died" in page
    assert "UNKNOWN" in page


@pytest.mark.parametrize("verdict", ["ok", "warning", "critical", "unknown"])
def test_verdict_is_said_in_words_and_colour(verdict):
    page, _ = html.page(a_summary(verdict=verdict), None)

    assert f'<span class="badge {verdict}">{verdict.upper()}</span>' in page


def test_headline_does_not_repeat_the_badge():
    summary = a_summary(sentence="critical (2 critical, 1 warning): billing is late (very): see")

    page, _ = html.page(summary, None)

    assert "<span>2 critical, 1 warning: billing is late (very): see</span>" in page


def test_cells_for_the_notebook_alone_are_left_out():
    notebook = new_notebook(
        cells=[new_markdown_cell("# Q?\n\nx"), new_markdown_cell("## Twice", metadata={"tags": ["notebook-only"]})]
    )

    page, _ = html.page(a_summary(), nbformat.from_dict(notebook))

    assert "Twice" not in page
