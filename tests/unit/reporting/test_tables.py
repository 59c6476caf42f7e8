"""Frames as static tables: units, unknown as a dash, and nothing that comes from events is markup."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from evkit.reporting.tables import ROWS_MAX, Table, quantity, shown

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


def test_hostile_values_and_column_names_are_escaped():
    table = Table([{HOSTILE: HOSTILE, "n": 1}], [HOSTILE, "n"], units={HOSTILE: HOSTILE})

    page = table._repr_html_()

    assert "<img" not in page
    assert "<script" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_units_of_a_views_columns_stand_in_the_header():
    frame = pl.DataFrame({"group": ["a"], "lag_seconds": [1.5], "lag_events": [3]})

    page = Table.of(frame)._repr_html_()

    assert "lag_seconds<br><small>s</small>" in page
    assert "lag_events<br><small>events</small>" in page
    assert ">group</th>" in page


def test_pandas_and_polars_frames_give_the_same_table():
    pandas = pytest.importorskip("pandas")
    polars = pl.DataFrame({"group": ["a", None], "lag_events": [3, None]})
    frame = pandas.DataFrame({"group": ["a", None], "lag_events": pandas.array([3, None], dtype="Int64")})

    assert Table.of(frame)._repr_html_() == Table.of(polars)._repr_html_()


def test_rows_beyond_the_limit_are_counted():
    table = Table([{"n": i} for i in range(ROWS_MAX + 7)], ["n"])

    assert table._repr_html_().count("<tr>") == ROWS_MAX + 1
    assert "and 7 more rows" in table._repr_html_()
    assert str(table).endswith("and 7 more rows")


def test_empty_frame_says_so():
    assert "no rows" in Table([], ["a"])._repr_html_()
    assert str(Table([], ["a"])) == "no rows"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (0.0, "0"),
        (0.01234, "0.0123"),
        (1234567, "1,234,567"),
        (12345.6, "12,346"),
        (datetime(2026, 2, 8, 14, 1, 2, tzinfo=UTC), "2026-02-08 14:01:02"),
        (b"\xff{}", "\\xff{}"),
        ("two\nlines\x1b[31m", "two lines [31m"),
        ("x" * 500, "x" * 159 + "…"),
    ],
)
def test_values_are_shown_as_people_read_them(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", "–"),
        (0, "s", "0 s"),
        (0.0042, "s", "4.2 ms"),
        (6.42, "s", "6.42 s"),
        (125, "s", "2 min 5 s"),
        (7260, "s", "2 h 1 min"),
        (200_000, "s", "2.3 days"),
        (0.051, "ratio", "5.1 %"),
        (1204, "letters", "1,204 letters"),
        (225.4, "1/s", "225/s"),
    ],
)
def test_quantities_carry_their_unit(value, unit, text):
    assert quantity(value, unit) == text
