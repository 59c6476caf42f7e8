"""two frames → the attribute values by which they differ, more than chance explains. Pure: no connection.

Of a value that K of all N rows have, a selection of n rows that has nothing to do with it holds a number that follows the
hypergeometric distribution; the two-sided probability of one as far off as k is twice the smaller tail (Fisher's exact
test).
Many values are looked at, so each attribute may spend an equal part of the error, and each of its values an equal part of
that (Bonferroni): in a selection drawn at random the chance of a single distinct value is below `error`, whatever the data.
How large a difference is, is told by the 95 % interval of two proportions from Wilson's scores: R. G. Newcombe, Interval
estimation for the difference between independent proportions, Statistics in Medicine 17 (1998) 873-890, method 10.

Rows count as independent. Events that share one cause (a burst of one key) do not, so a value is where to look, no proof.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import narwhals.stable.v2 as nw

from evkit.errors import InvalidParameter

# The chance of calling anything distinct in a selection that is drawn at random.
ERROR = 0.05
_Z95 = NormalDist().inv_cdf(0.975)


def difference(
    selection: Any, background: Any, attributes: Sequence[str], *, error: float = ERROR, noise: bool = False
) -> list[dict[str, Any]]:
    """Rows of the view `differs`: each value's share in the selection against its share in the background, ranked.

    Both are polars or pandas DataFrames with these columns, and no row is in both. A row without a value (null) is left out
    of that attribute's shares. Ranked by the end of the interval that is nearer to zero: by what is certain, not by what is
    striking.

    Args:
        error  chance of a false distinct value
        noise  also values whose difference chance explains, after the distinct ones

    Raises:
        InvalidParameter: a frame lacks one of the columns.
    """
    compared = []
    for attribute in attributes:
        ours, theirs = _counts(selection, attribute), _counts(background, attribute)
        if ours and theirs:
            compared.append((attribute, ours, theirs))
    rows = []
    for attribute, ours, theirs in compared:
        n, m = sum(ours.values()), sum(theirs.values())
        values = ours.keys() | theirs.keys()
        allowed = error / len(compared) / len(values)
        chance = _chances(n, m)
        for value in values:
            k, j = ours[value], theirs[value]
            distinct = len(values) > 1 and chance(k, j) <= allowed
            if distinct or noise:
                rows.append(_row(attribute, value, k, n, j, m, distinct))
    return sorted(rows, key=_most_certain)


def interval(k: int, n: int, j: int, m: int) -> tuple[float, float]:
    """95 % interval of k/n - j/m (Newcombe's method 10)."""
    p, q = k / n, j / m
    (p_low, p_high), (q_low, q_high) = _wilson(k, n), _wilson(j, m)
    return (
        max(-1.0, p - q - math.hypot(p - p_low, q_high - q)),
        min(1.0, p - q + math.hypot(p_high - p, q - q_low)),
    )


def chance(k: int, n: int, j: int, m: int) -> float:
    """How likely a selection at random of n rows out of n + m is as far off as one that holds k of k + j."""
    having, lacking = k + j, n + m - k - j
    # The tail on the side of k, from k outwards, each term from the one before; they fall, so the rest soon adds nothing.
    outwards = 1 if k * (n + m) >= n * having else -1
    term = total = math.exp(_log_comb(having, k) + _log_comb(lacking, n - k) - _log_comb(n + m, n))
    at = k
    while term > total * 1e-17:
        if outwards > 0:
            term *= (having - at) * (n - at) / ((at + 1) * (lacking - n + at + 1))
        else:
            term *= at * (lacking - n + at) / ((having - at + 1) * (n - at + 1))
        total += term
        at += outwards
    return min(1.0, 2 * total)


def _log_comb(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _chances(n: int, m: int) -> Callable[[int, int], float]:
    # Most of 100,000 keys have one of a few pairs of counts; each is worked out once.
    known: dict[tuple[int, int], float] = {}

    def told(k: int, j: int) -> float:
        if (k, j) not in known:
            known[k, j] = chance(k, n, j, m)
        return known[k, j]

    return told


def _wilson(k: int, n: int) -> tuple[float, float]:
    z = _Z95
    middle, reach = k + z * z / 2, z * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(0.0, (middle - reach) / (n + z * z)), min(1.0, (middle + reach) / (n + z * z))


def _counts(given: Any, attribute: str) -> Counter[str]:
    native = nw.from_native(given, eager_only=True)
    if attribute not in native.columns:
        raise InvalidParameter(
            f"this frame has no column '{attribute}' to compare by", name="attributes", value=attribute
        )
    counted: Counter[str] = Counter()
    for value, n in native.get_column(attribute).drop_nulls().value_counts().iter_rows():
        counted[str(value)] += n
    return counted


def _row(attribute: str, value: str, k: int, n: int, j: int, m: int, distinct: bool) -> dict[str, Any]:
    low, high = interval(k, n, j, m)
    return {
        "attribute": attribute,
        "value": value,
        "n_selection": k,
        "n_background": j,
        "selection_ratio": k / n,
        "background_ratio": j / m,
        "difference": k / n - j / m,
        "difference_low": low,
        "difference_high": high,
        "lift": (k / n) / (j / m) if j else None,
        "distinct": distinct,
    }


def _most_certain(row: dict[str, Any]) -> tuple[Any, ...]:
    low, high = row["difference_low"], row["difference_high"]
    certain = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return (not row["distinct"], -certain, -row["difference"], row["attribute"], row["value"])
