"""Intervals hold what they promise: the truth lies in nearly all of them, and chance seldom looks like a difference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evkit.views.resampling import BUCKETS, quantiles, ratios

SECONDS = np.full(BUCKETS, 5.0)


def in_buckets(values, buckets):
    """Counts by bucket and value, and the values."""
    unique, place = np.unique(values, return_inverse=True)
    counts = np.zeros((BUCKETS, len(unique)))
    np.add.at(counts, (buckets, place), 1)
    return counts, unique


def sample(rng, n, shift=0.0, memory=0.0):
    """Durations whose logarithm is normal; with memory, those of a bucket share a part that the next ones have some of."""
    buckets = rng.integers(0, BUCKETS, n)
    shared = rng.normal(0, 0.2 if memory else 0, BUCKETS)
    for i in range(1, BUCKETS):
        shared[i] += memory * shared[i - 1]
    return in_buckets(np.exp(np.round(rng.normal(shift, 0.5, n) + shared[buckets], 2)), buckets)


@pytest.mark.parametrize(
    "draw",
    [lambda rng: rng.poisson(4.0, BUCKETS), lambda rng: rng.negative_binomial(2, 2 / 6.0, BUCKETS)],
    ids=["steady", "in bursts"],
)
def test_intervals_of_rates_hold_the_truth_in_about_95_of_100(draw):
    rng = np.random.default_rng(1)
    found = [ratios((draw(rng), SECONDS), (draw(rng), SECONDS)) for _ in range(200)]

    flagged = sum(f.excludes_zero for f in found)
    assert 2 <= flagged <= 20, flagged  # 10 of 200 are nominal


def test_intervals_of_a_real_difference_hold_it():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        found = ratios((rng.poisson(4.0, BUCKETS), SECONDS), (rng.poisson(5.0, BUCKETS), SECONDS))
        held += found.low <= 0.2 <= found.high

    assert 180 <= held <= 199, held


def test_intervals_of_ratios_hold_the_truth_in_about_95_of_100():
    rng = np.random.default_rng(3)
    flagged = 0
    for _ in range(200):
        of = [rng.poisson(10, BUCKETS), rng.poisson(30, BUCKETS)]
        flagged += ratios(*[(rng.binomial(n, 0.05), n) for n in of]).excludes_zero

    assert 2 <= flagged <= 20, flagged


@pytest.mark.parametrize(("share", "n"), [(0.5, 300), (0.95, 1000), (0.99, 3000)])
@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_intervals_of_percentiles_hold_the_truth_in_about_95_of_100(share, n, memory):
    rng = np.random.default_rng(4)
    flagged = 0
    for _ in range(60):
        (a, values_a), (b, values_b) = sample(rng, n, memory=memory), sample(rng, n, memory=memory)
        flagged += quantiles(a, b, (values_a, values_b), [share])[0].excludes_zero

    assert flagged <= 7, flagged


def test_a_clear_difference_of_percentiles_is_found_with_its_size():
    rng = np.random.default_rng(5)
    (a, values_a), (b, values_b) = sample(rng, 2000), sample(rng, 2000, shift=np.log(2))

    (found,) = quantiles(a, b, (values_a, values_b), [0.5])

    assert found.excludes_zero
    assert found.low < 1 < found.high
    assert (found.a, found.b) == (pytest.approx(1, rel=0.05), pytest.approx(2, rel=0.05))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=300), st.sampled_from([0.01, 0.5, 0.95, 0.99]))
def test_a_percentile_is_that_of_the_values_themselves(values, share):
    counts, unique = in_buckets(np.array(values), np.arange(len(values)) % BUCKETS)

    (found,) = quantiles(counts, counts, (unique, unique), [share])

    assert found.a == found.b == np.quantile(values, share, method="inverted_cdf")


def test_the_same_data_give_the_same_interval_and_another_seed_another():
    rng = np.random.default_rng(6)
    a, b = (rng.poisson(4, BUCKETS), SECONDS), (rng.poisson(4, BUCKETS), SECONDS)

    assert ratios(a, b) == ratios(a, b)
    assert ratios(a, b) != ratios(a, b, seed=1)


def test_what_was_not_measured_has_neither_value_nor_interval():
    nothing, some = np.zeros(BUCKETS), np.ones(BUCKETS)

    assert ratios((nothing, nothing), (some, some)).a is None
    assert ratios((nothing, nothing), (some, some)).low is None
    assert ratios((nothing, some), (nothing, some)).excludes_zero is False
    (found,) = quantiles(np.zeros((BUCKETS, 1)), np.ones((BUCKETS, 1)), (np.zeros(1), np.ones(1)), [0.5])
    assert (found.a, found.b, found.low) == (None, 1, None)


def test_one_bad_moment_is_no_difference():
    """All failures in one bucket of 120: a window seen again would have had none as easily."""
    failed = np.zeros(BUCKETS)
    failed[7] = 40

    assert not ratios((np.zeros(BUCKETS), np.full(BUCKETS, 50)), (failed, np.full(BUCKETS, 50))).excludes_zero
