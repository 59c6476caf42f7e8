"""What every view promises to whoever reads its frame, in polars and in pandas."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import pytest

from evkit import figures, monitors, views
from evkit.errors import InvalidParameter
from evkit.views.columns import COLUMNS
from evkit.views.frame import columns_of, frame, rows_of
from evkit.views.six import SIX

NOW = datetime(2013, 2, 8, 14, 0, 0, 123456, tzinfo=UTC)
SAMPLE = {"string": "text", "int32": 7, "int64": 2**40, "float64": 0.25, "bool": True, "time": NOW, "binary": b"x"}
PANDAS = {"string": "str", "int32": "Int32", "int64": "Int64", "float64": "float64", "bool": "boolean",
          "time": "datetime64[us, UTC]"}  # fmt: skip


@pytest.mark.parametrize("view", COLUMNS)
def test_an_empty_frame_has_all_columns_with_their_dtypes(view, frame_backend):
    empty = frame(view, [], frame_backend)

    assert columns_of(empty) == [c.name for c in COLUMNS[view]]
    if frame_backend == "polars":
        assert isinstance(empty, pl.DataFrame)
        assert empty.schema == frame(view, [[SAMPLE[c.dtype] for c in COLUMNS[view]]]).schema
        times = [empty.schema[c.name] for c in COLUMNS[view] if c.dtype == "time"]
        assert all(t == pl.Datetime("us", "UTC") for t in times)
    else:
        assert isinstance(empty, pd.DataFrame)
        assert {n: str(t) for n, t in empty.dtypes.items()} == {c.name: PANDAS[c.dtype] for c in COLUMNS[view]}


@pytest.mark.parametrize("view", COLUMNS)
def test_rows_come_back_as_they_were_and_every_missing_value_as_none(view, frame_backend):
    full = {c.name: SAMPLE[c.dtype] for c in COLUMNS[view]}
    nothing = dict.fromkeys(full)

    assert rows_of(frame(view, [full, nothing], frame_backend), view) == [full, nothing]


@pytest.mark.parametrize("zone", ["Etc/UTC", "UTC", "America/New_York"])
def test_times_are_utc_whatever_zone_the_server_names(zone, frame_backend):
    there = NOW.astimezone(ZoneInfo(zone))

    made = frame("acts", [{"acted_at": there}], frame_backend)

    assert str(made["acted_at"].dtype) in ("datetime64[us, UTC]", "Datetime(time_unit='us', time_zone='UTC')")
    assert rows_of(made, "acts")[0]["acted_at"] == NOW


@pytest.mark.parametrize("view", COLUMNS)
def test_help_of_a_view_lists_its_columns_with_dtype_and_unit(view):
    text = getattr(views, view).__doc__

    for column in COLUMNS[view]:
        kind = column.dtype + (f", {column.unit}" if column.unit else "")
        assert any(x.split() == f"{column.name} {kind} {column.meaning}".split() for x in text.splitlines())


def test_the_six_are_measured_judged_and_drawn_under_known_names():
    assert tuple(monitors.MONITORS) == SIX
    for view in ("lag", "publish_rate", "error_rate", "dead_letters", "latency", "relay_lag"):
        assert view in views.__all__
        assert view in figures.__all__


@pytest.mark.parametrize(
    ("judge", "view"),
    [
        (monitors.consumer_lag, "lag"),
        (monitors.publish_rate, "publish_rate"),
        (monitors.error_rate, "error_rate"),
        (monitors.dead_letters, "dead_letter_groups"),
        (monitors.dead_letters, "dead_letters"),
        (monitors.latency, "latency"),
        (monitors.relay_lag, "relay_lag"),
    ],
)
def test_a_monitor_of_an_empty_frame_says_one_thing_and_never_zero_for_unknown(judge, view, frame_backend):
    found = judge(frame(view, [], frame_backend))

    assert len(found) == 1
    assert found[0].severity in ("ok", "unknown")
    if found[0].severity == "unknown":
        assert found[0].value is None


@pytest.mark.parametrize(
    ("draw", "view"),
    [(getattr(figures, name), name) for name in COLUMNS if hasattr(figures, name)]
    + [(figures.dead_letters, "dead_letter_groups")],
)
def test_a_figure_of_an_empty_frame_says_why_there_is_nothing_to_draw(draw, view, frame_backend):
    drawn = draw(frame(view, [], frame_backend))

    assert drawn.layout.title.text
    assert [a.text for a in drawn.layout.annotations]
    assert not drawn.data


@pytest.mark.parametrize("given", [None, [1, 2], "lag", {"group": ["a"]}])
def test_what_is_no_frame_is_refused_with_the_view_that_is_needed(given):
    with pytest.raises(InvalidParameter, match=r"a frame of views\.lag is needed"):
        monitors.consumer_lag(given)


def test_a_frame_of_another_view_is_refused_with_the_column_it_lacks(frame_backend):
    with pytest.raises(InvalidParameter, match="has no column 'group'"):
        figures.lag(frame("relay_lag", [], frame_backend))


def test_an_unknown_backend_is_refused():
    with pytest.raises(InvalidParameter, match="take polars or pandas"):
        frame("lag", [], "spark")
