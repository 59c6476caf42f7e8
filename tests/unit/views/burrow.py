"""Burrow's rules, told again for comparison; no code of Burrow's, and not shipped.

As its evaluator and its in-memory storage have them (linkedin/Burrow, core/internal/evaluator/caching.go and
core/internal/storage/inmemory.go), with their defaults: the last ten commits, no minimum distance between them, no minimum
of completeness, no allowed lag. A commit is stored with the lag of its moment, against the broker offset of the last look.
"""

from __future__ import annotations

from itertools import pairwise

INTERVALS = 10

Slot = tuple[int, float, int]  # offset, time of the commit, lag at that moment


def burrow(
    commits: list[tuple[float, int | None]],
    ends: list[tuple[float, int]],
    now: float,
    *,
    intervals: int = INTERVALS,
    min_distance: float = 0.0,
    minimum_complete: float = 0.0,
    allowed_lag: int = 0,
) -> str:
    """OK, WARN, STALL, STOP or REWIND.

    Args:
        commits  (at, offset) in order; None for an offset that was forgotten, which Burrow does not look at
        ends     (at, end offset): what its own looks at the broker found
    """
    looks = [e for e in ends if e[0] <= now]
    slots: list[Slot] = []
    i = 0
    for at, offset in commits:
        if at > now or offset is None:
            continue
        while i < len(looks) and looks[i][0] <= at:
            i += 1
        if i == 0:
            continue  # it knows no such partition yet, and drops the commit
        lag = max(looks[i - 1][1] - offset, 0)
        if slots and at - slots[-1][1] < min_distance:
            slots[-1] = (offset, slots[-1][1], lag)
        else:
            slots = [*slots[-(intervals - 1) :], (offset, at, lag)]
    if not slots or not looks or len(slots) < minimum_complete * intervals:
        return "OK"
    offsets, times, lags = zip(*slots, strict=True)
    if max(looks[-1][1] - offsets[-1], 0) <= allowed_lag:
        return "OK"
    caught_up = any(end <= offsets[-1] for _, end in looks[-intervals:])
    if now - times[-1] > times[-1] - times[0] and not caught_up:
        return "STOP"
    first = next((k for k in range(1, len(offsets)) if offsets[k] < offsets[k - 1]), None)
    if first is not None and max(offsets[first:]) < offsets[first - 1]:
        return "REWIND"
    if all(lag > allowed_lag for lag in lags):
        if len(set(offsets)) == 1:
            return "STALL"
        if all(b >= a for a, b in pairwise(lags)):
            return "WARN"
    return "OK"
