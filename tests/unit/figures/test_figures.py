"""Figures say what the frame says, and nothing that an event could make them say."""

from __future__ import annotations

import html
import json
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evkit import figures
from evkit.figures import template
from evkit.views.columns import COLUMNS
from evkit.views.frame import frame

NOW = datetime(2013, 2, 8, 14, tzinfo=UTC)
HOSTILE = '<a href="https://evil.example">x</a><script>alert(2)</script> $\\alpha$ %{customdata[0]} \x1b[31m\nnext'


def percentiles(seconds):
    return {"p50_seconds": seconds / 4, "p95_seconds": seconds / 2, "p99_seconds": seconds, "max_seconds": seconds * 2,
            "p99_is_lower_bound": False}  # fmt: skip


def rows_of_view(view, name="billing", n=3):
    """A few plausible rows of any view; everything that comes from outside is called `name`."""
    rows = []
    for i in range(n):
        row = {}
        for column in COLUMNS[view]:
            match column.dtype:
                case "string":
                    row[column.name] = f"{name}{i}"
                case "time":
                    row[column.name] = NOW + timedelta(seconds=10 * i)
                case "bool":
                    row[column.name] = False
                case "float64":
                    row[column.name] = 1.0 + i
                case _:
                    row[column.name] = i + 1
        rows.append(row)
    known = {
        "status": "behind",
        "state": "open",
        "stage": "attempt_failed",
        "spread": "poison",
        "group_state": "stable",
    }
    for row in rows:
        row.update({k: v for k, v in known.items() if k in row})
        row.update({k: v for k, v in percentiles(0.5).items() if k in row})
        if "distinct" in row:
            row |= {"distinct": True, "selection_ratio": 0.6, "background_ratio": 0.1, "difference_low": 0.4}
        if "segment" in row:
            row["segment"] = "total"
        if "attempt_error_ratio" in row:
            row |= {"attempts": 10, "failures": 4, "failures_dealt_with": 1, "attempt_error_ratio": 0.4}
    return rows


DRAWN = [name for name in COLUMNS if hasattr(figures, name)]


@pytest.mark.parametrize("view", DRAWN)
def test_every_figure_has_a_sentence_units_and_the_one_template(view):
    drawn = getattr(figures, view)(frame(view, rows_of_view(view)))

    assert len(drawn.layout.title.text.split()) >= 4
    assert drawn.layout.template == figures_template()
    labels = " ".join(axis.title.text or "" for axis in drawn.select_xaxes()) + " ".join(
        axis.title.text or "" for axis in drawn.select_yaxes()
    )
    assert any(unit in labels for unit in ("(s)", "seconds", "events", "UTC", "attempts", "letters"))


@pytest.mark.needs_browser
def test_a_browser_finds_neither_links_nor_scripts_of_an_event_in_the_figures(chromium, tmp_path):
    parts = [
        getattr(figures, view)(frame(view, rows_of_view(view, name=HOSTILE))).to_html(
            full_html=False, include_plotlyjs=view == DRAWN[0]
        )
        for view in DRAWN
    ]
    page = tmp_path / "figures.html"
    page.write_text(f"<!doctype html><meta charset='utf-8'><body>{''.join(parts)}</body>", encoding="utf-8")

    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip

    drawn = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    assert drawn.count('class="main-svg"') >= len(DRAWN)
    assert not re.findall(r"<a\b[^>]*evil\.example", drawn)
    assert "&lt;a href=" in drawn


def figures_template():
    from plotly import io

    return io.templates[template.TEMPLATE]


def shown_texts(value):
    """Every text of a figure's JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("template", "hovertemplate", "texttemplate"):
                yield from shown_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from shown_texts(inner)


@pytest.mark.parametrize("view", [*DRAWN, "dead_letter_groups"])
def test_text_that_comes_from_events_is_never_markup_formula_or_template(view):
    rows = rows_of_view(view, name=HOSTILE)
    draw = figures.dead_letters if view == "dead_letter_groups" else getattr(figures, view)

    drawn = draw(frame(view, rows))

    document = json.loads(drawn.to_json())
    for text in shown_texts(document):
        assert "<a" not in text
        assert "<script" not in text
        assert "$" not in text
        assert "\x1b" not in text
    for trace in document["data"]:
        for forbidden in ("<a", "<script", "$", "%{customdata[0]} next"):
            assert forbidden not in trace.get("hovertemplate", "")


def test_hostile_text_of_findings_is_shown_as_it_is():
    row = {"severity": "critical", "monitor": "latency", "subject": HOSTILE, "sentence": HOSTILE}

    drawn = figures.overview([row])

    cells = drawn.data[0].cells["values"]
    assert "<a" not in cells[2][0]
    assert "<script" not in cells[3][0]
    assert html.unescape(cells[2][0]).startswith('<a href="https://evil.example">x</a>')


@settings(deadline=None)  # the first frame of a run loads its library
@given(st.text(max_size=300))
def test_safe_text_is_one_line_without_markup(value):
    safe = template.text(value)

    assert "<" not in safe
    assert ">" not in safe
    assert "$" not in safe
    assert "%{" not in safe
    assert safe.isprintable()
    assert len(html.unescape(safe)) <= 64


def test_names_that_look_like_numbers_or_dates_stay_names():
    rows = [r | {"group": g} for r, g in zip(rows_of_view("latency"), ("1e5", "2013-02-08", "07"), strict=True)]

    drawn = figures.latency(frame("latency", rows))

    assert drawn.layout.yaxis.type == "category"


# --- lag --------------------------------------------------------------------------------------------------------------


def lag_rows(n):
    return [
        r | {"group": f"g{i % 7}", "topic": f"t{i % 5}", "partition": i} for i, r in enumerate(rows_of_view("lag", n=n))
    ]


def test_the_title_of_lag_names_the_group_that_is_furthest_behind():
    rows = rows_of_view("lag")

    assert figures.lag(frame("lag", rows)).layout.title.text == (
        "billing2 is 3 s behind: 3 events unread, the oldest in billing2/3"
    )


def test_lag_that_was_not_measured_is_drawn_in_words_not_as_zero():
    row = rows_of_view("lag", n=1)[0] | {"lag_events": None, "lag_seconds": None, "status": "no_commit"}

    drawn = figures.lag(frame("lag", [row]))

    assert list(drawn.data[0].text) == ["not measured"]
    assert drawn.layout.title.text == "The lag of 1 partition could not be measured, nothing else is behind"


@pytest.mark.parametrize("n", [1, 30, 31, 400])
def test_many_partitions_are_folded_until_their_names_can_be_read(n):
    drawn = figures.lag(frame("lag", lag_rows(n)))

    bars = {y for trace in drawn.data for y in trace.y}
    assert len(bars) <= 30
    total = sum(sum(t.x) for t in drawn.data if t.xaxis in (None, "x"))
    assert total == sum(r["lag_events"] for r in lag_rows(n))


# --- over time --------------------------------------------------------------------------------------------------------


def test_a_trace_keeps_its_spikes_and_has_at_most_a_few_thousand_points():
    ys = [1.0] * 50_000
    ys[33_333] = 99.0

    xs, thin = template.thinned(list(range(50_000)), ys)

    assert len(xs) <= template.POINTS_MAX
    assert max(thin) == 99.0
    assert xs == sorted(xs)


def test_published_and_written_are_drawn_as_rates_per_topic():
    rows = [
        {"bucket_at": NOW + timedelta(seconds=10 * i), "bucket_seconds": 10.0, "topic": t, "written": 50, "published": 20,
         "partial": False}
        for t in ("order", "payment") for i in range(4)
    ]  # fmt: skip

    drawn = figures.publish_rate(frame("publish_rate", rows))

    assert [list(t.y) for t in drawn.data if t.name == "published"] == [[2.0] * 4] * 2
    assert drawn.layout.title.text == "160 events published, 4/s; 240 events more were written"


def test_the_river_lies_between_dealt_with_and_published():
    rows = [
        {"bucket_at": NOW + timedelta(seconds=10 * i), "bucket_seconds": 10.0, "group": "billing", "topic": "order",
         "published": 10, "dealt_with": d, "backlog": b, "partial": False}
        for i, (d, b) in enumerate([(10, 0), (0, 10), (0, 20), (30, 0)])
    ]  # fmt: skip

    drawn = figures.throughput(frame("throughput", rows))

    published = next(t for t in drawn.data if t.name == "published" and t.x[0] is not None)
    assert list(published.y) == [10, 20, 30, 40]
    assert drawn.layout.title.text == "billing had up to 20 events waiting (14:00:20), none at the end"


def test_a_p99_with_waiting_events_is_called_a_lower_bound():
    row = rows_of_view("latency", n=1)[0] | {"pending_n": 9, "p99_is_lower_bound": True, "p99_seconds": 80.0,
                                             "max_seconds": 90.0, "oldest_pending_seconds": 90.0}  # fmt: skip

    drawn = figures.latency(frame("latency", [row]))

    assert drawn.layout.title.text == "billing0: p99 is at least 80 s; 9 events still waiting"


def test_a_status_has_the_same_colour_in_every_figure():
    lag = figures.lag(frame("lag", rows_of_view("lag", n=1)))
    letters = figures.dead_letters(frame("dead_letters", rows_of_view("dead_letters", n=1)))

    assert lag.data[0].marker.color == figures.STATUS_COLOURS["behind"] == figures.STATUS_COLOURS["warning"]
    assert letters.data[0].marker.color == figures.STATUS_COLOURS["open"] == figures.STATUS_COLOURS["critical"]


def test_statuses_and_series_never_share_a_colour():
    assert not set(template.SERIES) & {figures.STATUS_COLOURS[s] for s in ("ok", "warning", "critical", "unknown")}


def test_drawing_changes_neither_the_frame_nor_plotlys_default_template():
    from plotly import io

    given_frame = frame("latency", rows_of_view("latency"))
    before = given_frame.clone(), io.templates.default

    figures.latency(given_frame)

    assert given_frame.equals(before[0])
    assert io.templates.default == before[1]
