"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

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


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2h", "now-2h", "now"),
        ("last 2h", "now-2h", "now"),
        ("last 2 hours", "now-2h", "now"),
        (" 90 min ", "now-90m", "now"),
        ("2013-02-08T10:00Z/2013-02-08T11:00Z", "now-2h", "now-1h"),
        ("2013-02-08T10:00/now", "now-2h", "now"),
        ("now-3h / now-2h", "now-3h", "now-2h"),
        ("2013-02-08T10:00Z/30m", "now-2h", "now-90m"),
        ("30m/now-1d", "now-1470m", "now-1d"),
        ("2013-02-08 11:00/2013-02-08 12:00 Europe/Berlin", "now-2h", "now-1h"),
        ("2013-02-08T11:00[Europe/Berlin]/2013-02-08T11:00[UTC]", "now-2h", "now-1h"),
        ("2013-02-08 05:00 America/New_York/2013-02-08 12:00 Europe/Berlin", "now-2h", "now-1h"),
    ],
)
def test_window_reads_a_length_and_a_pair_of_times(text, start, end):
    assert Window.parse(text, now=NOW) == Window.of(start, end, now=NOW)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("2 moons", "is no window: write 2h, 'last 2h'"),
        ("yesterday", "is no window"),
        ("last", "is no window"),
        ("", "is no window"),
        ("0s", "a window of 0 s is empty: take a length above zero"),
        ("999999999999d", "longer than the calendar"),
        ("99999999d", "leaves the calendar"),
        ("now-999999d/now", "outside the calendar"),
        ("/now", "has no start"),
        ("now-1h/", "has no end"),
        ("1h/2h", "two lengths and no time"),
        ("now/now", "is empty: its end must be after its start"),
        ("now/now-1h", "is reversed and so is empty"),
        ("now-1h/then", "end of the window 'then' is no time"),
        ("incident:INC-12", "is a name, and here only times are understood"),
        ("2013-02-08T10:00/2013-02-08T11:00 Europe/Berlino", "did you mean 'Europe/Berlin'"),
        ("2013-02-08T10:00/2013-02-08T11:00 ../../etc/passwd", "is no time"),
    ],
)
def test_what_is_no_window_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(InvalidParameter, match=sentence):
        Window.parse(text, now=NOW)


def test_a_window_with_a_name_is_whatever_the_one_who_knows_it_says():
    known = {("incident", "INC-12"): Window.last("1h", now=NOW)}

    assert Window.parse("incident:INC-12", resolve=lambda *named: known[named]).seconds == 3600


def test_days_of_daylight_saving_have_23_and_25_hours():
    assert Window.parse("2026-03-29T00:00/2026-03-30T00:00 Europe/Berlin").seconds == 23 * 3600
    assert Window.parse("2026-10-25T00:00/2026-10-26T00:00", zone="Europe/Berlin").seconds == 25 * 3600


def test_a_local_time_that_comes_twice_or_never_is_refused_with_what_to_write():
    with pytest.raises(InvalidParameter, match=r"comes twice in Europe/Berlin.* write 2026-10-25T02:30\+01:00 or 2026"):
        Window.parse("2026-10-25T02:30/2026-10-25T05:00 Europe/Berlin")
    with pytest.raises(InvalidParameter, match=r"end of the window 2026-03-29T02:30 does not exist in Europe/Berlin"):
        Window.parse("2026-03-29T00:30/2026-03-29T02:30 Europe/Berlin")
    assert Window.parse("2026-10-25T02:30+02:00/2026-10-25T02:30+01:00").seconds == 3600


def test_the_future_is_refused_and_a_window_that_ends_in_it_is_not():
    with pytest.raises(InvalidParameter, match="it is in the future, and there is no history yet"):
        Window.parse("now+1h/now+2h", now=NOW).require_begun(now=NOW)
    assert Window.parse("now-1h/now+1h", now=NOW).require_begun(now=NOW).seconds == 7200


def test_a_start_in_the_future_is_not_called_reversed_where_nobody_said_an_end():
    with pytest.raises(InvalidParameter, match="it is in the future"):
        Window.of("now+1h")
    with pytest.raises(InvalidParameter, match="reversed"):
        Window.of("now-1h", "now-2h")


def test_a_window_of_bare_times_is_in_utc_and_checked_too():
    berlin = ZoneInfo("Europe/Berlin")

    made = Window(datetime(2026, 7, 1, 12, tzinfo=berlin), datetime(2026, 7, 1, 11))  # noqa: DTZ001 - without a zone it is UTC

    assert (made.start, made.start.tzinfo) == (datetime(2026, 7, 1, 10, tzinfo=UTC), UTC)
    with pytest.raises(InvalidParameter, match="reversed"):
        Window(made.end, made.start)


MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2035, 1, 1))  # noqa: DTZ001 - hypothesis wants them so
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"]


@given(MOMENTS, MOMENTS)
def test_a_window_is_read_back_from_its_own_text(one, other):
    start, end = sorted((one, other))
    if start == end:
        return

    assert Window.parse(str(Window(start, end))) == Window(start, end)


@given(MOMENTS, st.sampled_from(ZONES))
def test_a_local_time_is_the_moment_at_which_clocks_show_it_or_is_refused(local, zone):
    try:
        moment = instant(f"{local.isoformat()} {zone}")
    except InvalidParameter as refused:
        assert "comes twice" in str(refused) or "does not exist" in str(refused)
        return

    assert moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == local


@given(st.datetimes(datetime(2026, 10, 25, 1), datetime(2026, 10, 25, 4)))  # noqa: DTZ001
def test_no_local_time_of_the_hour_that_comes_twice_is_guessed(local):
    is_twice = 2 <= local.hour < 3

    try:
        instant(local.isoformat(), zone="Europe/Berlin")
        assert not is_twice
    except InvalidParameter:
        assert is_twice
