"""two samples, cut into buckets of time → their difference, with the interval that chance alone could make. Pure.

Events of one moment are alike: they wait for the same lock, they fail of the same outage. Drawn one by one they would
seem to prove far more than they do. So what is drawn again, with replacement, is time: runs of neighbouring buckets with
all that is in them (the circular block bootstrap). The interval is the percentile one, stretched by the little that so
few blocks make it too narrow. Draws are seeded: the same data gives the same interval.

Source: Politis and Romano 1992, the circular block bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

# So many buckets a window is cut into, and so many neighbours are drawn together.
BUCKETS = 120
_RUN = 4
DRAWS = 2_000
SEED = 20130208


@dataclass(frozen=True, slots=True)
class Difference:
    """b - a, and the interval of it; both ends None where nothing varies or nothing was measured."""

    a: float | None
    b: float | None
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def ratios(a: tuple[Any, Any], b: tuple[Any, Any], *, confidence: float = 0.95, seed: int = SEED) -> Difference:
    """The difference of two ratios of sums (a rate is events over seconds); each is (counts, of what) by bucket."""
    points: list[float | None] = []
    draws = []
    for side, drawn in zip((a, b), _draws(len(a[0]), seed), strict=True):
        over, under = (np.asarray(part, float) for part in side)
        if under.sum() <= 0:
            points.append(None)
            continue
        point = float(over.sum() / under.sum())
        whole = drawn @ under
        points.append(point)
        draws.append(np.divide(drawn @ over, whole, out=np.full(len(whole), point), where=whole > 0))
    return _difference(points, draws, len(a[0]), confidence)


def quantiles(
    a: Any, b: Any, values: tuple[Any, Any], shares: Sequence[float], *, confidence: float = 0.95, seed: int = SEED
) -> list[Difference]:
    """The differences of quantiles; each sample is counts by bucket (rows) and value (columns, whose values rise)."""
    points: list[list[float | None]] = [[] for _ in shares]
    draws: list[list[Any]] = [[] for _ in shares]
    for counts, of, chosen in zip((np.asarray(a), np.asarray(b)), values, _draws(len(a), seed), strict=True):
        cumulated = np.cumsum(counts.sum(axis=0))[None, :]
        is_empty = cumulated[0, -1] <= 0
        # Counts are whole, and far below where single precision rounds them.
        drawn = None if is_empty else np.cumsum(chosen @ counts.astype("f4"), axis=1)
        for n, share in enumerate(shares):
            if drawn is None:
                points[n].append(None)
                continue
            point = float(of[_rank(cumulated, share)[0]])
            points[n].append(point)
            draws[n].append(np.where(drawn[:, -1] > 0, of[_rank(drawn, share)], point))
    return [_difference(points[n], draws[n], len(a), confidence) for n in range(len(shares))]


def _rank(cumulated: Any, share: float) -> Any:
    """Column of the smallest value that at least this share of the row's counts do not exceed."""
    needed = np.ceil(share * cumulated[:, -1:].astype("f8") - 1e-6)
    return (cumulated < np.maximum(needed, 1)).sum(axis=1).clip(0, cumulated.shape[1] - 1)


@lru_cache(maxsize=4)
def _draws(buckets: int, seed: int) -> tuple[Any, Any]:
    """How often each bucket is in each draw, for either side: matrices of draws by buckets."""
    rng = np.random.default_rng(seed)
    return _drawn(buckets, rng), _drawn(buckets, rng)


def _drawn(buckets: int, rng: np.random.Generator) -> Any:
    run = min(_RUN, buckets)
    starts = rng.integers(0, buckets, (DRAWS, -(-buckets // run)))
    chosen = ((starts[:, :, None] + np.arange(run)) % buckets).reshape(DRAWS, -1)[:, :buckets]
    flat = chosen + np.arange(DRAWS)[:, None] * buckets
    return np.bincount(flat.ravel(), minlength=DRAWS * buckets).reshape(DRAWS, buckets).astype("f4")


def _difference(points: list[float | None], draws: list[Any], buckets: int, confidence: float) -> Difference:
    a, b = points
    if a is None or b is None:
        return Difference(a, b, None, None)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws[1] - draws[0], [tail, 1 - tail])
    stretch = (buckets / max(buckets - _RUN, 1)) ** 0.5
    apart = b - a
    return Difference(a, b, apart + stretch * (float(low) - apart), apart + stretch * (float(high) - apart))
