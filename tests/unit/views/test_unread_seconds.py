"""How old the oldest unread record was at the end of a window, from samples of where the partition ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from evkit.views.consumer_status import _method, _unread_seconds
from evkit.views.lag_window import Ends
from evkit.window import Window

START = datetime(2013, 2, 8, tzinfo=UTC)
WINDOW = Window(START, START + timedelta(seconds=40))


def judged(unread_events, lag_events):
    return SimpleNamespace(evidence=SimpleNamespace(unread_events=unread_events, lag_events=lag_events))


def ended(*ends):
    """Where the partition ended at each of so many moments, evenly over the window, its end the last one."""
    step = timedelta(seconds=40) / (len(ends) - 1)
    return [Ends(START + n * step, 0, end) for n, end in enumerate(ends)]


@pytest.mark.parametrize(
    ("unread", "past", "seconds", "method"),
    [
        (5, ended(0, 0, 5, 10, 10), 10.0, "grid"),
        (10, ended(0, 0, 0, 0, 10), 0.0, "grid"),  # all of it came in the last moment
        (0, ended(0, 0, 5, 10, 10), 0.0, "empty"),
        (None, ended(0, 0, 5, 10, 10), None, "none"),
        (5, [], None, "none"),
    ],
)
def test_it_is_as_old_as_the_first_sample_that_ends_beyond_what_was_committed(unread, past, seconds, method):
    found = _unread_seconds(judged(unread, unread), past, WINDOW)

    assert (found, _method(found, unread)) == (seconds, method)
