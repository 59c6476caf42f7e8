"""A level that changes is found where it changes, and noise is no change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evkit.views.change_point_search import PENALTY, change_points

START = datetime(2013, 2, 8, 14, tzinfo=UTC)
SEEDS = st.integers(0, 2**32 - 1)


def minutes(n):
    return [START + timedelta(minutes=i) for i in range(n)]


def index_of(at):
    return round((at - START).total_seconds() / 60)


def found_in(values, kind, **more):
    return change_points(minutes(len(values)), [None if v is None else float(v) for v in values], kind, **more)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(10, 60), st.integers(10, 60), st.floats(6, 30), st.booleans())
def test_a_step_of_six_sigma_or_more_is_found_within_one_bucket(seed, before, after, sigmas, rises):
    """Durations: noise of sigma in the logarithm, and a step of so many of it."""
    rng = np.random.default_rng(seed)
    sigma = 0.15
    step = sigmas * sigma * (1 if rises else -1)
    levels = np.concatenate([np.zeros(before), np.full(after, step)])

    found = found_in(0.2 * np.exp(levels + rng.normal(0, sigma, before + after)), "duration")

    assert before in {i for f in found for i in (index_of(f.at) - 1, index_of(f.at), index_of(f.at) + 1)}
    change = min(found, key=lambda f: abs(index_of(f.at) - before))
    assert change.direction == ("rose" if rises else "fell")
    assert change.after / change.before == pytest.approx(np.exp(step), rel=0.35)
    assert change.confidence > 0.99
    assert change.evidence > 1


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.floats(0.5, 500), st.integers(15, 60), st.integers(15, 60))
def test_a_step_of_a_rate_is_found_at_every_level_of_counts(seed, rate, before, after):
    """At every level the same step: as many as make six sigma of counting noise."""
    rng = np.random.default_rng(seed)
    higher = (np.sqrt(rate) + 3.2) ** 2  # the root of a count has a noise of 1/2
    counts = np.concatenate([rng.poisson(rate, before), rng.poisson(higher, after)])

    found = found_in(counts, "count")

    assert [f for f in found if abs(index_of(f.at) - before) <= 1 and f.direction == "rose"]


STATIONARY = {
    "few counts": ("count", lambda rng, n: rng.poisson(0.3, n)),
    "counts": ("count", lambda rng, n: rng.poisson(100, n)),
    "counts with bursts": ("count", lambda rng, n: rng.negative_binomial(5, 5 / 105, n)),
    "durations": ("duration", lambda rng, n: 0.2 * np.exp(rng.normal(0, 0.5, n))),
    "durations with outliers": ("duration", lambda rng, n: 0.2 * np.exp(0.3 * rng.standard_t(3, n))),
    "durations with memory": ("duration", lambda rng, n: 0.2 * np.exp(0.5 * remembering(rng, n, 0.4))),
    "a lag of a few": ("amount", lambda rng, n: rng.poisson(4, n)),
}


def remembering(rng, n, part):
    noise = rng.normal(0, 1, n + 50)
    for i in range(1, n + 50):
        noise[i] += part * noise[i - 1]
    return noise[50:]


@pytest.mark.parametrize("length", [30, 120])
@pytest.mark.parametrize("name", STATIONARY)
def test_in_95_of_100_draws_of_stationary_noise_there_is_no_change(name, length):
    kind, draw = STATIONARY[name]
    rng = np.random.default_rng(20130208)

    false = sum(bool(found_in(draw(rng, length), kind)) for _ in range(100))

    assert false <= 5, f"{false} of 100"


@pytest.mark.parametrize(("share", "attempts"), [(0.02, 50), (0.3, 4), (0.0, 20), (0.5, 1000)])
def test_in_95_of_100_draws_of_a_steady_ratio_there_is_no_change(share, attempts):
    rng = np.random.default_rng(20130208)
    false = 0
    for _ in range(100):
        of = rng.poisson(attempts, 120)
        false += bool(found_in(rng.binomial(of, share), "ratio", of=list(of.astype(float))))

    assert false <= 5


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(20, 60), st.integers(20, 60))
def test_a_ratio_that_jumps_is_found_whatever_the_traffic(seed, before, after):
    rng = np.random.default_rng(seed)
    of = rng.poisson(np.linspace(40, 400, before + after)) + 1.0
    share = np.concatenate([np.full(before, 0.01), np.full(after, 0.4)])

    found = found_in(rng.binomial(of.astype(int), share), "ratio", of=list(of))

    (change,) = found
    assert abs(index_of(change.at) - before) <= 1
    assert change.before == pytest.approx(0.01, abs=0.01)
    assert change.after == pytest.approx(0.4, abs=0.05)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.lists(st.integers(0, 99), max_size=50, unique=True))
def test_buckets_that_were_not_measured_are_no_zeros(seed, missing):
    rng = np.random.default_rng(seed)
    values = [None if i in missing else v for i, v in enumerate(rng.poisson(50, 100))]

    assert [f for f in found_in(values, "count") if min(f.before, f.after) < 25] == []


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(20, 75), st.integers(1, 2), st.floats(5, 1000))
def test_a_spike_of_one_or_two_buckets_is_no_level(seed, at, length, factor):
    rng = np.random.default_rng(seed)
    values = 0.2 * np.exp(rng.normal(0, 0.1, 100))
    values[at : at + length] *= factor

    assert found_in(values, "duration") == []


def test_a_burst_is_two_changes_and_a_ramp_is_one():
    burst = [20] * 30 + [95] * 20 + [20] * 30
    ramp = [0] * 30 + [40 * 2**i for i in range(10)] + [20480] * 30

    up, down = found_in(burst, "count", of=[60.0] * 80)
    (climbed,) = found_in(ramp, "amount")

    assert (index_of(up.at), up.direction, index_of(down.at), down.direction) == (30, "rose", 50, "fell")
    assert (up.before, up.after) == (pytest.approx(20 / 60), pytest.approx(95 / 60))
    assert abs(index_of(climbed.at) - 30) <= 2
    assert 35 <= index_of(climbed.until) <= 41
    assert (climbed.before, climbed.after) == (0, 20480)


def test_a_change_too_small_to_matter_is_left_out_however_sure():
    assert found_in([1000] * 60 + [1200] * 60, "count") == []
    assert len(found_in([1000] * 60 + [1300] * 60, "count")) == 1
    assert found_in([10] * 60 + [15] * 60, "ratio", of=[1000.0] * 120) == []


@pytest.mark.parametrize("values", [[], [1], [0] * 120, [5] * 120, [None] * 120, [float("nan")] * 50, [1, 100] * 5])
def test_series_without_levels_have_none(values):
    for kind in ("count", "duration", "amount"):
        assert found_in(values, kind) == []
    assert found_in(values, "ratio", of=[0.0] * len(values)) == []


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0.001, 1000))
def test_the_unit_of_a_duration_does_not_matter(seed, factor):
    rng = np.random.default_rng(seed)
    values = np.concatenate([np.exp(rng.normal(0, 0.2, 40)), np.exp(rng.normal(2, 0.2, 40))])

    assert [f.at for f in found_in(values, "duration")] == [f.at for f in found_in(values * factor, "duration")]


def test_more_penalty_finds_less():
    rng = np.random.default_rng(3)
    values = np.exp(np.concatenate([rng.normal(0, 1, 40), rng.normal(2, 1, 40)]))

    assert len(found_in(values, "duration", penalty=PENALTY)) == 1
    assert found_in(values, "duration", penalty=50) == []
