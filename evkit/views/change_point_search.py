"""(times, values) → change points: where a series went to another level and stayed there. Pure: numbers in, numbers out.

1. Every value becomes one whose noise does not depend on its level: counts by Anscombe's root, ratios by the arcsine root,
   durations and lags by the logarithm. Then a step from 1/s to 3/s and one from 100/s to 300/s are judged alike.
2. The noise is measured from the differences of neighbours, which steps hardly touch, and never taken to be less than
   counting alone makes it. Noise that is carried over from bucket to bucket looks like levels: how much of it is shows
   once the plain levels are taken away, and then more proof is needed (it is the long-run variance that counts).
3. Spikes of one or two buckets are taken out, and what is half as far out is clipped; neither is a change of level.
4. PELT finds the cut into segments with the least squared error plus a penalty for each cut. The penalty is 3 log n times
   the noise: the modified BIC for changes in the mean of normal data, stricter than the 2 log n of plain BIC. Of 60
   series of 120 buckets of each of seven kinds of noise, 3 log n found a change in none, 2 log n in 0 or 1, log n in up
   to 43.
5. A change too small to matter is left out, and changes that follow one another in the same direction are one, a ramp.

Sources: PELT, Killick, Fearnhead and Eckley 2012 (here by the library ruptures); the penalty, Zhang and Siegmund 2007
(modified BIC); the root of counts, Anscombe 1948.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal

import numpy as np

# counts per bucket; parts of a count; durations; amounts that wait (0 and up, over magnitudes).
Kind = Literal["count", "ratio", "duration", "amount"]

# A level is what lasts so many buckets; below this many in all there is none to compare it with.
BUCKETS_MIN = 4
SERIES_MIN = 12
# Times the noise and log n: see above.
PENALTY = 3.0
# Values further from their neighbours than so many times the noise count as that far away, and the far ones as their
# neighbours do.
_CLIP, _SPIKE = 3.0, 6.0
# What is carried over from one bucket to the next is not believed beyond this: the penalty would have no bound.
_CARRIED_MAX = 0.9
# The least change worth a line: by this factor, and of a ratio by so much as well.
FACTOR_MIN = 1.25
RATIO_CHANGE_MIN = 0.01
# Noise is never taken to be less: one event more or less; 5 % of a duration; a fifth of an amount.
_NOISE_MIN = {"count": 1.0, "ratio": 0.0, "duration": 0.05, "amount": 0.2}


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """Where a level changed.

    Attributes:
        at          time of the first value of the new level
        until       of a ramp, time of the first value of its last level; None for a step
        before      level before: the mean of counts (per unit of exposure) and of ratios, the median of all else
        after       level after
        confidence  1 - the chance that noise makes such a change anywhere in the series, as far as noise is normal
        evidence    what the change explains, over the penalty; above 1
    """

    at: datetime
    until: datetime | None
    before: float
    after: float
    confidence: float
    evidence: float

    @property
    def direction(self) -> str:
        return "rose" if self.after > self.before else "fell"


def change_points(
    times: Sequence[datetime],
    values: Sequence[float | None],
    kind: Kind = "amount",
    *,
    of: Sequence[float | None] | None = None,
    penalty: float = PENALTY,
) -> list[ChangePoint]:
    """Where a series changed its level, in order.

    Args:
        times   of the buckets, in order
        values  one a bucket; None was not measured, and is left out (0 is a value). Of a ratio: what is counted
        kind    what the values are: `count` (events in a bucket), `ratio` (values of `of`), `duration` (seconds, 0 and up),
                `amount` (a lag)
        of      of a count, the exposure of each bucket (its seconds; default: 1 each); of a ratio, out of how many
        penalty times the noise and log n, for each change; more finds less

    No change in fewer than 12 values, and no level shorter than 4. Values below 0 count as 0.
    """
    kept = [
        (at, max(float(v), 0.0), 1.0 if of is None else float(of[i] or 0.0))
        for i, (at, v) in enumerate(zip(times, values, strict=True))
        if v is not None and not math.isnan(v) and (of is None or (of[i] or 0.0) > 0)
    ]
    if len(kept) < SERIES_MIN:
        return []
    moments = [at for at, *_ in kept]
    raw, weights = np.array([v for _, v, _ in kept]), np.array([w for *_, w in kept])
    levelled, noise_min = _levelled(raw, weights, kind)
    noise = _noise(levelled, noise_min)
    smooth = _without_spikes(levelled, noise)
    # What is carried over shows once the levels are taken away: first those that nobody can doubt.
    carried = _carried(smooth, _cuts(smooth, 2 * penalty * math.log(len(kept)) * noise**2), noise)
    # Neighbours that have noise in common differ less than their noise; and their mean is less sure than it looks.
    long_run = noise * math.sqrt((1 + carried) / (1 - carried) / (1 - carried))
    price = penalty * math.log(len(kept)) * long_run**2
    bounds = _cuts(smooth, price)
    bounds = _without_small(bounds, smooth, raw, weights, kind, penalty * math.log(len(kept)))
    return _found(bounds, moments, smooth, raw, weights, kind, long_run, price)


def _levelled(raw: Any, weights: Any, kind: Kind) -> tuple[Any, float]:
    """Values whose noise does not depend on their level, and the least that it can be."""
    least = _NOISE_MIN[kind]
    if kind == "count":
        # Buckets of another length than the usual one are scaled to it: their noise is a little off, their level is not.
        usual = float(np.median(weights))
        return 2 * np.sqrt(raw * usual / weights + 3 / 8), least
    if kind == "ratio":
        share = np.clip((raw + 3 / 8) / (weights + 3 / 4), 0, 1)
        return np.arcsin(np.sqrt(share)), max(float(np.sqrt(np.mean(1 / (4 * weights + 2)))), least)
    if kind == "duration":
        return np.log(np.maximum(raw, 1e-4)), least
    return np.log(raw + 10.0), least


def _noise(values: Any, least: float) -> float:
    """Standard deviation of the noise, from the differences of neighbours without those far out, which steps make."""
    differences = np.diff(values)
    scale = 1.4826 * float(np.median(np.abs(differences)))
    kept = differences[np.abs(differences) <= 3 * scale]
    return max(math.sqrt(float(np.mean(np.square(kept))) / 2), least) if scale > 0 else least


def _carried(values: Any, bounds: list[int], noise: float) -> float:
    """What part of its noise a bucket has from the one before, by what is left of the values without their levels.

    A short series shows less of it than there is, and shows it badly: it counts as more.
    """
    n = len(values)
    left = np.concatenate([values[a:b] - values[a:b].mean() for a, b in pairwise(bounds)])
    pairs = np.ones(n - 1, dtype=bool)
    pairs[[b - 1 for b in bounds[1:-1]]] = False
    # Not less than the noise is taken for: what is left of a series that does not vary is rounding.
    whole = max(float(np.square(left).sum()), n * noise**2)
    shown = float((left[:-1] * left[1:])[pairs].sum()) / whole
    return min(max(shown + (len(bounds) - 1) / n + 1 / math.sqrt(n), 0.0), _CARRIED_MAX)


def _without_spikes(values: Any, noise: float) -> Any:
    """Values no further than some noise from the median of the five around them, and that median for those far away.

    Clipped, a spike is still seen: two buckets of it beside one that is high by chance made a level of four, in 10 of 3,000
    series; taken out, in none. With all that is clipped taken out, 2 of 4,000 true steps were not found; so in none.
    """
    padded = np.pad(values, 2, mode="edge")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    off = np.abs(values - around)
    return np.where(off > _SPIKE * noise, around, np.clip(values, around - _CLIP * noise, around + _CLIP * noise))


def _cuts(values: Any, price: float) -> list[int]:
    """Where segments begin and end, 0 and the length included."""
    import ruptures

    # The kernel "linear" is the squared error, and this search is PELT, in C.
    search = ruptures.KernelCPD(kernel="linear", min_size=BUCKETS_MIN, jump=1).fit(values.reshape(-1, 1))
    return [0, *(int(cut) for cut in search.predict(pen=price))]


def _level(raw: Any, weights: Any, kind: Kind, start: int, end: int) -> float:
    if kind in ("count", "ratio"):
        return float(raw[start:end].sum() / weights[start:end].sum())
    return float(np.median(raw[start:end]))


def _matters(before: float, after: float, kind: Kind) -> bool:
    low, high = min(before, after), max(before, after)
    return high > low * FACTOR_MIN and (kind != "ratio" or high - low >= RATIO_CHANGE_MIN)


def _is_proven(raw: Any, weights: Any, bounds: list[int], proof: float) -> bool:
    """Whether two ratios differ by more than counting makes them, each with all that it is of.

    Buckets of a ratio are of unequally many, which the search for the cut does not know.
    """
    (a, b, c) = bounds
    first, second = float(weights[a:b].sum()), float(weights[b:c].sum())
    apart = [math.asin(math.sqrt((float(k) + 3 / 8) / (n + 3 / 4)))
             for k, n in ((raw[a:b].sum(), first), (raw[b:c].sum(), second))]  # fmt: skip
    return 4 * (apart[0] - apart[1]) ** 2 / (1 / first + 1 / second) > proof


def _without_small(bounds: list[int], values: Any, raw: Any, weights: Any, kind: Kind, proof: float) -> list[int]:
    """The bounds without those at which too little changes, the smallest first; a ramp of small steps is not small."""
    bounds = list(bounds)
    while len(bounds) > 2:
        levels = [_level(raw, weights, kind, a, b) for a, b in pairwise(bounds)]
        ups = [b > a for a, b in pairwise(levels)]
        small = []
        for i in range(1, len(bounds) - 1):
            before, after = levels[i - 1], levels[i]
            beside = [j for j in (i - 2, i) if 0 <= j < len(ups) and ups[j] == ups[i - 1]]
            proven = kind != "ratio" or _is_proven(raw, weights, bounds[i - 1 : i + 2], proof)
            if not proven or (not beside and not _matters(before, after, kind)):
                gap = abs(float(values[bounds[i - 1] : bounds[i]].mean() - values[bounds[i] : bounds[i + 1]].mean()))
                small.append((gap, i))
        if not small:
            break
        del bounds[min(small)[1]]
    return bounds


def _found(
    bounds: list[int], moments: list[datetime], values: Any, raw: Any, weights: Any, kind: Kind, long_run: float,
    price: float,
) -> list[ChangePoint]:  # fmt: skip
    """The change points, those of one ramp as one."""
    segments = list(pairwise(bounds))
    levels = [_level(raw, weights, kind, a, b) for a, b in segments]
    found = []
    i = 1
    while i < len(segments):
        first = i
        up = levels[i] > levels[i - 1]
        # A level that lasted only a moment on the way in one direction belongs to the way.
        brief = max(BUCKETS_MIN + 2, len(values) // 10)
        while i + 1 < len(segments) and (levels[i + 1] > levels[i]) == up and segments[i][1] - segments[i][0] <= brief:
            i += 1
        before, after = levels[first - 1], levels[i]
        if _matters(before, after, kind):
            a, b = values[slice(*segments[first - 1])], values[slice(*segments[i])]
            explained = (float(a.mean()) - float(b.mean())) ** 2 * len(a) * len(b) / (len(a) + len(b))
            chance = math.erfc(math.sqrt(explained / 2) / long_run) * len(values)
            until = moments[segments[i][0]] if i > first else None
            found.append(
                ChangePoint(moments[segments[first][0]], until, before, after, 1 - min(chance, 1.0), explained / price)
            )
        i += 1
    return found
