"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.errors import InvalidParameter
from evkit.window import Window, duration, instant

NOW = datetime(2013, 2, 8, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOW),
        ("now-2h", NOW - timedelta(hours=2)),
        ("now + 90s", NOW + timedelta(seconds=90)),
        ("2013-02-08T12:00Z", NOW),
        ("2013-02-08T07:00-05:00", NOW),
        ("2013-02-08 12:00", NOW),
    ],
)
def test_instant_reads_iso_and_relative_times(text, moment):
    assert instant(text, now=NOW) == moment


@pytest.mark.parametrize("text", ["yesterday", "now-", "now-2", "2013-13-01", "", "now-2y"])
def test_what_is_no_time_is_refused_in_a_sentence(text):
    with pytest.raises(InvalidParameter, match="no (time|duration)"):
        instant(text, now=NOW)


@given(st.integers(0, 10_000), st.sampled_from("smhdw"))
def test_duration_reads_what_it_says(number, unit):
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]

    assert duration(f"{number}{unit}") == timedelta(seconds=number * seconds)


def test_window_ends_after_it_starts():
    assert Window.of("now-1h", "now", now=NOW).seconds == 3600
    assert Window.last("2h", now=NOW) == Window(NOW - timedelta(hours=2), NOW)
    with pytest.raises(InvalidParameter, match="is empty"):
        Window.of("now", "now-1h", now=NOW)
