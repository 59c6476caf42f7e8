"""Benchmarks print ratios to something measured in the same run; they assert nothing about time.

uv run pytest tests/benchmarks -s
"""

from __future__ import annotations

import statistics
import time

import pytest


@pytest.fixture
def compare():
    """`compare("what", ours, other, rounds=3)`: events per second of both, interleaved, and the median of the ratios.

    Each argument is a function that does the work and returns how many events it was.
    """

    def run(what, ours, other, rounds=3):
        rates = {"ours": [], "other": []}
        for _ in range(rounds):
            for name, work in (("other", other), ("ours", ours)):
                seconds, events = work()
                rates[name].append(events / seconds)
        ratios = [a / b for a, b in zip(rates["ours"], rates["other"], strict=True)]
        print(
            f"\n{what}: {statistics.median(rates['ours']):,.0f}/s against {statistics.median(rates['other']):,.0f}/s, "
            f"ratio {statistics.median(ratios):.1f} (from {min(ratios):.1f} to {max(ratios):.1f}, {rounds} rounds)"
        )

    return run


@pytest.fixture
def timed():
    """`timed(work)` → (seconds, work's result)."""

    def run(work):
        started = time.perf_counter()
        result = work()
        return time.perf_counter() - started, result

    return run
