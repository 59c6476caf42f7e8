"""What a consumer refuses before it asks a server."""

from __future__ import annotations

import math

import pytest

from evkit import Consumer
from evkit.errors import UsageError


@pytest.mark.parametrize(
    "wrong",
    [
        {"parked_key_events_max": 0},
        {"parked_group_events_max": -1},
        {"hung_seconds": 0},
        {"hung_seconds": -1.0},
        {"hung_seconds": math.nan},
    ],
)
def test_a_cap_that_nothing_fits_under_is_refused_with_its_name_and_value(wrong):
    ((name, value),) = wrong.items()

    with pytest.raises(UsageError, match=rf"consumer 'billing' needs .*{name}.*{value}"):
        Consumer("billing", ["order"], **wrong)


def test_a_handler_may_be_allowed_to_take_for_ever():
    assert Consumer("billing", ["order"], hung_seconds=math.inf).hung_seconds == math.inf
