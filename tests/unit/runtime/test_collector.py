"""The garbage collector is eased while somebody is at work, and put back; what others have set stays."""

from __future__ import annotations

import gc

import pytest

from evkit.runtime.collector import OBJECTS_MIN, at_ease


@pytest.fixture(autouse=True)
def put_back():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_it_is_eased_until_the_last_one_leaves():
    gc.set_threshold(700, 11, 12)

    with at_ease():
        with at_ease():
            assert gc.get_threshold() == (OBJECTS_MIN, 11, 12)
        assert gc.get_threshold() == (OBJECTS_MIN, 11, 12)

    assert gc.get_threshold() == (700, 11, 12)


@pytest.mark.parametrize("theirs", [0, OBJECTS_MIN + 1])
def test_one_that_is_off_or_waits_longer_is_left_as_it_is(theirs):
    gc.set_threshold(theirs, 10, 10)

    with at_ease():
        assert gc.get_threshold() == (theirs, 10, 10)

    assert gc.get_threshold() == (theirs, 10, 10)


def test_what_somebody_sets_meanwhile_stays():
    gc.set_threshold(700, 10, 10)

    with at_ease():
        gc.set_threshold(900, 10, 10)

    assert gc.get_threshold() == (900, 10, 10)


def test_it_is_put_back_after_an_error_too():
    gc.set_threshold(700, 10, 10)

    with pytest.raises(KeyError), at_ease():
        raise KeyError

    assert gc.get_threshold() == (700, 10, 10)
