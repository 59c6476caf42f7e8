"""Wait for a signal instead of for time: ask again until the answer is the wanted one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def until(ask: Callable[[], Answer], wanted: Callable[[Answer], object] = bool, *, seconds: float = 120.0) -> Answer:
    """Ask until the answer is the wanted one (by default: anything that is true), and return it.

    Args:
        seconds  how long at most; generous, for it is only waited for when the test fails

    Raises:
        AssertionError: with the last answer, when the wanted one has not come.
    """
    end = time.monotonic() + seconds
    while not wanted(answer := ask()):
        assert time.monotonic() < end, answer
        time.sleep(0.02)
    return answer
