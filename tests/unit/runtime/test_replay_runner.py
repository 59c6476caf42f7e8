"""Which offsets a record stands for, how a throttle lets through, and that both add up; without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.errors import ReplayRefused
from evkit.runtime.replay_ledger import Shares, multirange, without
from evkit.runtime.replay_runner import Stretch, Throttle, require_same_topics

OFFSETS = st.integers(min_value=0, max_value=60)
PIECES = st.lists(st.tuples(OFFSETS, OFFSETS), max_size=6)


def joined(pieces):
    """Sorted and without overlaps, as the database gives them."""
    offsets = sorted({o for first, last in pieces for o in range(first, last)})
    found = []
    for offset in offsets:
        if found and found[-1][1] == offset:
            found[-1] = (found[-1][0], offset + 1)
        else:
            found.append((offset, offset + 1))
    return found


def in_pieces(pieces):
    return [o for first, last in pieces for o in range(first, last)]


@given(OFFSETS, OFFSETS, PIECES)
def test_what_is_left_is_what_was_not_done(start, end, pieces):
    done = joined(pieces)

    left = without(start, end, done)

    assert in_pieces(left) == [o for o in range(start, end) if o not in set(in_pieces(done))]


@given(PIECES)
def test_neighbours_are_written_as_one_range(pieces):
    apart = [(o, o + 1) for o in in_pieces(joined(pieces))]

    assert multirange(apart[::-1]) == "{" + ",".join(f"[{a},{b})" for a, b in joined(pieces)) + "}"


@given(st.data(), st.sets(OFFSETS), st.sets(OFFSETS), PIECES)
def test_every_offset_of_a_stretch_is_accounted_for_once(data, records, passed_over, pieces):
    """Whatever has no record, was passed over, or was done by an earlier process."""
    done = [(a, b) for a, b in joined(pieces) if b <= 50]
    stretch = Stretch(("t", 0), None, 0, 50, done)
    shares, handed_over = Shares(), []
    for offset in sorted(o for o in records if stretch.at <= o < 50):
        if stretch.step(offset):
            if offset in passed_over:
                stretch.passed_over()
                continue
            handed_over.append(offset)
            if (share := stretch.handed_over()) is not None:
                shares.put(stretch.place, offset, share)
    batch = [(("t", 0), offset) for offset in data.draw(st.permutations(handed_over))]
    stood_for, filtered = shares.of(batch)
    accounted = in_pieces(stood_for.get(stretch.place, ()))
    assert filtered + stretch.pending.filtered == len(
        {o for o in records & passed_over if o < 50} - set(in_pieces(done))
    )
    assert shares.forget(batch) == len(accounted)
    assert shares.forget(batch) == len(batch)  # nothing is left of them, so each would stand for itself
    stretch.reach(50)
    accounted += in_pieces(stretch.share().pieces)

    assert stretch.ended
    assert sorted(accounted) == [o for o in range(50) if o not in set(in_pieces(done))]
    assert handed_over == sorted(o for o in records - passed_over if o < 50 and o not in set(in_pieces(done)))


def test_stretch_that_is_done_is_at_its_end_and_one_that_is_half_done_goes_on_at_the_first_gap():
    whole = Stretch(("t", 0), None, 5, 10, [(5, 10)])
    half = Stretch(("t", 0), None, 5, 10, [(5, 7), (8, 9)])

    assert (whole.ended, whole.at) == (True, 10)
    assert (half.ended, half.at) == (False, 7)
    assert [half.step(o) for o in (7, 8, 9)] == [True, False, True]


def test_throttle_lets_through_its_rate_in_small_portions_and_saves_up_no_more():
    throttle = Throttle(100)
    went, largest = 0, 0
    for tick in range(2000):  # 10 ms each
        n = throttle.allowed(500, tick / 100)
        throttle.took(n)
        went += n
        largest = max(largest, n)

    assert went == pytest.approx(2000, abs=5)
    assert largest <= 10
    assert throttle.allowed(500, 10_000.0) == 10, "an hour of waiting is no credit for a flood"


def test_throttle_slower_than_one_a_second_still_lets_one_through_in_its_time():
    throttle = Throttle(0.5)
    assert throttle.allowed(5, 0.0) == 1
    throttle.took(1)
    assert throttle.allowed(5, 1.0) == 0
    assert throttle.wait_seconds() == pytest.approx(1.0)
    assert throttle.allowed(5, 2.0) == 1


def test_no_throttle_takes_what_is_wanted():
    throttle = Throttle(None)
    throttle.took(10_000)

    assert (throttle.allowed(500, 0.0), throttle.wait_seconds()) == (500, 0.0)


def test_topic_that_is_gone_or_another_one_ends_a_replay_and_one_that_nobody_tells_of_does_not():
    require_same_topics({"orders": "a"}, {"orders": "a"})
    require_same_topics({"orders": None}, {"orders": "b"})
    require_same_topics({"orders": "a"}, {"orders": None})

    with pytest.raises(ReplayRefused, match="topic 'orders' was deleted and made anew since this replay was planned"):
        require_same_topics({"orders": "a"}, {"orders": "b"})
    for now in ({}, {"orders": ""}):
        with pytest.raises(ReplayRefused, match="topic 'orders' is gone"):
            require_same_topics({"orders": "a"}, now)
