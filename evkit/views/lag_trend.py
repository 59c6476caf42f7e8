"""lag of a window → does it grow, when is it gone, or deleted, which partitions hold it. Pure arithmetic; no servers, no
frames.

Slopes are Theil and Sen's: the median of the slopes between every two points. A burst, or one slow batch, moves a line of
least squares and "lag never fell" alike; the median stays with most of the window until 29 % of the points are outliers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist, median

# Lag that changes by less is steady: the clients' own rounding and commits in batches make as much (klag's dead band).
DEAD_BAND_EVENTS_PER_SECOND = 1.0

# 780 pairs: the band is as narrow as anybody reads it, and a status takes a millisecond.
_POINTS_MAX = 40


@dataclass(frozen=True, slots=True)
class Slope:
    """How fast a value changes, and how sure that is.

    Attributes:
        per_second  median slope between every two points, in units of the value a second
        low, high   band of 95 %, in the same unit; infinite where there are too few points to have one
        n           points it comes from

    Source: Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63 (1968); the band with ties
    as in Gilbert, "Statistical methods for environmental pollution monitoring" (1987), 16.4 and 16.5.
    """

    per_second: float
    low: float
    high: float
    n: int

    @property
    def significant(self) -> bool:
        """True when the band leaves no doubt about the direction."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Drain:
    """When a group has read what waits, at the pace of the window.

    Attributes:
        seconds    lag_events / -velocity; infinite for never (lag grows), None for not known
        low, high  the same at the edges of the velocity's band
    """

    seconds: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class HotPartition:
    """A partition that holds more of its topic's lag than its neighbours.

    Attributes:
        partition   its number
        lag_events  its lag
        share       of the topic's lag, 0 to 1
        share_even  what it would be if all partitions were alike: 1/n
        deviations  distance from the median in (normal-consistent) median absolute deviations; infinite when the
                    others are all alike
    """

    partition: int
    lag_events: int
    share: float
    share_even: float
    deviations: float


def slope(points: Sequence[tuple[float, float]], confidence: float = 0.95) -> Slope | None:
    """Slope of (seconds, value) points, by Theil and Sen; None for fewer than three, or all at one time.

    Of more than 40 points, 40 are taken, evenly and with both ends.
    """
    points = _thinned(points)
    if len(points) < 3:
        return None
    slopes = sorted((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x1 != x2)
    if not slopes:
        return None
    n = len(points)
    values = [y for _, y in points]
    ties = sum(t * (t - 1) * (2 * t + 5) for t in (values.count(v) for v in set(values)))
    deviation = math.sqrt(max(n * (n - 1) * (2 * n + 5) - ties, 0) / 18)
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * deviation
    below, above = (len(slopes) - reach) / 2, (len(slopes) + reach) / 2
    low = slopes[math.floor(below)] if below >= 0 else -math.inf
    high = slopes[min(math.ceil(above), len(slopes) - 1)] if above <= len(slopes) else math.inf
    return Slope(median(slopes), low, high, n)


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if len(points) <= _POINTS_MAX:
        return points
    last = len(points) - 1
    return [points[round(i * last / (_POINTS_MAX - 1))] for i in range(_POINTS_MAX)]


def time_to_drain(lag_events: int, velocity: Slope | None) -> Drain:
    """When the lag is gone if it goes on as in the window; a band, and two answers that are no number of seconds.

    Never is `float("inf")`: the lag grows. Not known is None: the velocity's band reaches over zero, so that any number
    would be made up. A lag of 0 is drained now, whatever the velocity.

    Args:
        lag_events  what waits now
        velocity    slope of the lag, events a second
    """
    if lag_events <= 0:
        return Drain(0.0, 0.0, 0.0)
    if velocity is None or not velocity.significant:
        return Drain(None, None, None)
    if velocity.per_second >= 0:
        return Drain(math.inf, math.inf, math.inf)
    return Drain(lag_events / -velocity.per_second, lag_events / -velocity.low, lag_events / -velocity.high)


def time_to_retention(lag_events: int, retained_events: int, velocity: Slope | None) -> float | None:
    """Seconds until retention deletes what is unread, if it goes on as in the window and the log keeps as many as it does.

    0 is now: the oldest record that is left is unread. Never is `float("inf")`: nothing waits, or the lag does not grow.
    Not known is None: the velocity's band reaches over zero.

    Args:
        lag_events       what waits now
        retained_events  what the log keeps, read or not; of a log from which nothing was deleted yet, this is no bound
        velocity         slope of the lag, events a second
    """
    if lag_events <= 0:
        return math.inf
    if lag_events >= retained_events:
        return 0.0
    if velocity is None or not velocity.significant:
        return None
    return (retained_events - lag_events) / velocity.per_second if velocity.per_second > 0 else math.inf


def hot_partitions(
    lag_events: Mapping[int, int], *, share_factor: float = 2.0, deviations_min: float = 3.5, lag_events_min: int = 100
) -> list[HotPartition]:
    """Partitions that hold far more of the topic's lag than the others, the largest first; empty when none does.

    Both must hold: a share above `share_factor` times 1/n, and a distance from the median of at least `deviations_min`
    median absolute deviations. Not the distance in standard deviations: one partition of n is never farther from the
    mean than sqrt(n - 1) of them, so of four none passes 1.73. Of one or two partitions none is hot: there is no "others".

    Args:
        lag_events      lag of each partition; below 0 counts as 0
        share_factor    how many times its even share
        deviations_min  see above
        lag_events_min  a topic with less lag than this has no hot partition: shares of a few events say nothing

    Source: the modified z-score, 0.6745 (x - median) / MAD, with 3.5 as its bound: Iglewicz and Hoaglin, "How to detect
    and handle outliers" (1993).
    """
    lags = {partition: max(n, 0) for partition, n in lag_events.items()}
    total = sum(lags.values())
    if len(lags) < 3 or total < max(lag_events_min, 1):
        return []
    middle = median(lags.values())
    spread = median(abs(n - middle) for n in lags.values())
    even = 1 / len(lags)
    found = []
    for partition, n in lags.items():
        distance = n - middle
        deviations = 0.6745 * distance / spread if spread else math.copysign(math.inf, distance) if distance else 0.0
        if n / total > share_factor * even and deviations >= deviations_min:
            found.append(HotPartition(partition, n, n / total, even, deviations))
    return sorted(found, key=lambda hot: (-hot.lag_events, hot.partition))
