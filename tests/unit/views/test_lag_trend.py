"""Slopes, drain times and hot partitions, by numbers that can be worked out on paper."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.views.lag_trend import Slope, hot_partitions, slope, time_to_drain, time_to_retention


def test_slope_of_a_line_is_its_own_and_so_is_its_band():
    found = slope([(t, 5 + 2 * t) for t in range(20)])

    assert (found.per_second, found.low, found.high) == (2, 2, 2)
    assert found.significant


def test_outliers_of_a_quarter_do_not_move_the_slope():
    points = [(t, 3.0 * t + (10_000 if t % 4 == 3 else 0)) for t in range(40)]

    assert slope(points).per_second == pytest.approx(3, abs=0.5)


def test_slope_of_noise_is_not_significant():
    draw = random.Random(5)

    assert not slope([(t, draw.gauss(100, 10)) for t in range(40)]).significant


def test_three_points_have_a_slope_and_no_certainty():
    found = slope([(0, 0), (1, 1), (2, 2)])

    assert found.per_second == 1
    assert not found.significant


def test_fewer_points_or_one_time_have_no_slope():
    assert slope([(0, 1), (1, 2)]) is None
    assert slope([(1, 1), (1, 2), (1, 3)]) is None


def test_band_of_an_example_worked_by_hand():
    """Kendall's S of ten points has the variance 10·9·25/18 = 125; the band's ranks are (45 ± 1.96·√125)/2."""
    values = [1, 3, 2, 5, 4, 7, 6, 9, 8, 10]
    slopes = sorted((values[j] - values[i]) / (j - i) for i in range(10) for j in range(i + 1, 10))

    found = slope(list(enumerate(values)))

    assert (found.low, found.high) == (slopes[11], slopes[34])


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e6, 1e6)), max_size=60))
def test_band_holds_its_slope(points):
    if found := slope(sorted(points)):
        assert found.low <= found.per_second <= found.high


def test_drain_time_of_a_shrinking_lag_has_a_band():
    found = time_to_drain(1_200, Slope(-10, -12, -8, 20))

    assert (found.low, found.seconds, found.high) == (100, 120, 150)


def test_growing_lag_is_never_drained_and_an_unclear_one_is_not_known():
    assert time_to_drain(1_200, Slope(10, 8, 12, 20)).seconds == math.inf
    assert time_to_drain(1_200, Slope(-10, -12, 8, 20)).seconds is None
    assert time_to_drain(1_200, None).seconds is None
    assert time_to_drain(0, None).seconds == 0


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.floats(1e-3, 1e6))
def test_at_the_time_of_retention_the_lag_is_all_that_the_log_keeps(lag, more, growth):
    seconds = time_to_retention(lag, lag + more, Slope(growth, growth, growth, 20))

    assert lag + growth * seconds == pytest.approx(lag + more)


@given(st.integers(-10, 100), st.integers(0, 100), st.none() | st.floats(-5, 5), st.floats(0, 5))
def test_retention_takes_unread_records_now_later_never_or_nobody_can_say(lag, retained, growth, width):
    velocity = None if growth is None else Slope(growth, growth - width, growth + width, 20)

    seconds = time_to_retention(lag, retained, velocity)

    if lag <= 0:
        assert seconds == math.inf
    elif lag >= retained:
        assert seconds == 0
    elif velocity is None or not velocity.significant:
        assert seconds is None
    elif growth < 0:
        assert seconds == math.inf
    else:
        assert 0 < seconds < math.inf


def test_one_of_four_partitions_can_be_hot():
    """In standard deviations the most that one of four can be from the mean is 1.73: a rule of two would be silent."""
    found = hot_partitions({0: 10, 1: 9_000, 2: 12, 3: 8})

    assert [hot.partition for hot in found] == [1]
    assert found[0].share == pytest.approx(0.9967, abs=1e-4)
    assert found[0].share_even == 0.25


def test_alike_few_or_hardly_lagging_partitions_are_not_hot():
    assert hot_partitions({0: 900, 1: 1_000, 2: 1_100, 3: 950}) == []
    assert hot_partitions({0: 5, 1: 90_000}) == []
    assert hot_partitions({0: 0, 1: 3, 2: 0, 3: 0}) == []
    assert hot_partitions({}) == []


def test_others_that_are_all_alike_leave_one_infinitely_far():
    assert hot_partitions({0: 0, 1: 500, 2: 0, 3: 0})[0].deviations == math.inf
