"""What differs: known answers, and no false alarm in a selection that has nothing to do with anything."""

from __future__ import annotations

from itertools import combinations

import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from evkit.errors import InvalidParameter
from evkit.views.difference import chance, difference, interval


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((10, 10, 0, 20), 0.6791, 1.0000),
    ],
)
def test_the_interval_is_that_of_newcombes_table(counts, low, high):
    assert interval(*counts) == pytest.approx((low, high), abs=5e-5)


def test_chance_is_fishers_for_the_lady_and_her_tea():
    assert chance(4, 4, 0, 4) == pytest.approx(2 / 70)
    assert chance(3, 4, 1, 4) == pytest.approx(2 * 17 / 70)


@given(n=st.integers(1, 300), m=st.integers(1, 3000), data=st.data())
def test_chance_is_twice_the_tail_of_the_hypergeometric_distribution(n, m, data):
    k, j = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    whole = hypergeom(n + m, k + j, n)

    tail = whole.sf(k - 1) if k * (n + m) >= n * (k + j) else whole.cdf(k)
    assert chance(k, n, j, m) == pytest.approx(min(1, 2 * tail), rel=1e-6, abs=1e-300)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=6, max_size=9), st.data())
def test_of_all_selections_of_a_size_at_most_the_allowed_part_finds_something(rows, data):
    """Counted, not sampled: every selection of n rows out of these, one as likely as the other."""
    n = data.draw(st.integers(2, 4))
    whole = pl.DataFrame(rows, schema=["kind", "place"], orient="row").with_row_index()
    selections = list(combinations(range(len(rows)), n))

    alarms = 0
    for chosen in selections:
        inside = whole["index"].is_in(list(chosen))
        alarms += bool(difference(whole.filter(inside), whole.filter(~inside), ["kind", "place"], error=0.2))

    assert alarms <= 0.2 * len(selections)


@given(n=st.integers(1, 40), m=st.integers(1, 40), data=st.data())
def test_the_difference_lies_in_its_interval_and_turns_around_with_the_two_sides(n, m, data):
    k, j = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    low, high = interval(k, n, j, m)

    assert -1 <= low <= k / n - j / m <= high <= 1
    assert interval(j, m, k, n) == pytest.approx((-high, -low))


def frames(backend):
    ours = {"version": ["2"] * 18 + ["1"] * 2, "key": [f"k{i}" for i in range(20)], "bucket": [1, 2] * 10}
    theirs = {"version": ["2"] * 100 + ["1"] * 900, "key": [f"m{i}" for i in range(1000)], "bucket": [1, 2] * 500}
    make = pl.DataFrame if backend == "polars" else pd.DataFrame
    return make(ours), make(theirs)


@pytest.mark.parametrize("backend", ["polars", "pandas"])
def test_the_one_thing_that_differs_is_found_and_unique_keys_are_not(backend):
    found = difference(*frames(backend), ["version", "key", "bucket"])

    assert [(r["attribute"], r["value"]) for r in found] == [("version", "2"), ("version", "1")]
    first = found[0]
    assert (first["n_selection"], first["n_background"], first["distinct"]) == (18, 100, True)
    assert (first["selection_ratio"], first["background_ratio"]) == (0.9, 0.1)
    assert first["lift"] == pytest.approx(9)
    assert first["difference_low"] < 0.8 < first["difference_high"]


def test_noise_is_listed_on_request_and_after_what_is_distinct():
    found = difference(*frames("polars"), ["version", "bucket"], noise=True)

    assert [r["distinct"] for r in found] == [True, True, False, False]
    assert {r["attribute"] for r in found[2:]} == {"bucket"}


def test_rows_without_a_value_are_in_no_share_and_lift_over_nothing_is_null():
    ours = pl.DataFrame({"handler": ["a"] * 30 + [None] * 70})
    theirs = pl.DataFrame({"handler": ["b"] * 40 + [None] * 60})

    found = difference(ours, theirs, ["handler"])

    assert [(r["value"], r["selection_ratio"], r["lift"]) for r in found] == [("a", 1.0, None), ("b", 0.0, 0.0)]


def test_an_attribute_that_one_side_does_not_have_at_all_is_not_compared():
    assert difference(pl.DataFrame({"h": [None, None]}), pl.DataFrame({"h": ["b"] * 9}), ["h"], noise=True) == []
    with pytest.raises(InvalidParameter, match="has no column 'version'"):
        difference(pl.DataFrame({"h": ["b"]}), pl.DataFrame({"h": ["b"]}), ["version"])
