"""a window → stretches of it, each read in a transaction of its own: no view holds a snapshot for long.

A snapshot keeps vacuum from every table of the database, the service's own ones too. So what grows with the window is read
in pages, on one connection: a page is a stretch of time, or of positions, as long as can be read in a third of what a
snapshot may take. The stretches touch and do not overlap, so no row is read twice and none is left out. What is counted is
asked whole first, for a moment: most windows are done with it, in one snapshot, and the others have lost little.

The window's end is frozen before the first page. What commits while the pages are read, under a time that lies in the
window, is there if its page was still to come, and not otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row

from evkit import postgres
from evkit.sql import named
from evkit.system import System

Bound = TypeVar("Bound", datetime, int)
Read = TypeVar("Read")

# The first page is short, for nobody knows yet how much is in it: even at 100,000 events a second it is read at once.
FIRST_SECONDS, FIRST_POSITIONS = 10.0, 20_000
# What a page may take, of what a snapshot may, and after how many times that it is cut off: it has more in it than was
# thought, and shorter ones are quicker than waiting for its end. The whole is given up earlier.
_SHARE, _CUT_AT, _WHOLE_CUT_AT = 0.3, 2.0, 0.5
# How much longer or shorter the next page may be, and how often one is tried again that was cut off. None is longer than
# this part of all, nor of a stretch that was too much at once: behind an hour of nothing a surge may begin.
_GROWTH, _CUTS_MAX, _PART_MAX, _DENSE_MAX = 4.0, 2, 1 / 20, 1 / 8


def pages(
    system: System,
    connection: postgres.Connection,
    start: Bound,
    end: Bound,
    read: Callable[[Bound, Bound], Read],
    *,
    newest_first: bool = False,
) -> Iterator[Read]:
    """What `read(first, last)` returns for each page of start to end, the end exclusive; each is one transaction.

    A page that is cut off for its time is read again in shorter ones. Who wants no more stops iterating.

    Raises:
        QueryTimeout: also a short page takes too long.
    """
    allowed = system.settings.snapshot_seconds_max
    wanted, fixed = _SHARE * allowed, float("inf")
    shortest: Any = timedelta(microseconds=1) if isinstance(start, datetime) else 1
    length: Any = timedelta(seconds=FIRST_SECONDS) if isinstance(start, datetime) else FIRST_POSITIONS
    longest = max(_times(end - start, _PART_MAX), length)
    low, high, cuts, whole = start, end, 0, not newest_first and _WHOLE_CUT_AT > 0
    dense: list[tuple[Bound, Bound, Any]] = []
    while low < high:
        dense = [(a, b, most) for a, b, most in dense if a < high and b > low]
        length = min([length, *(most for _, _, most in dense)])
        first, last = (max(low, _before(high, length)), high) if newest_first else (low, min(high, _after(low, length)))
        if whole:
            first, last = low, high
        last_try = not whole and (cuts == _CUTS_MAX or length <= shortest)
        connection.rollback()
        began = perf_counter()
        try:
            if not last_try:
                _cut_after(connection, wanted * (_WHOLE_CUT_AT if whole else _CUT_AT))
            found = read(first, last)
        except psycopg.errors.QueryCanceled as error:
            if last_try or "user request" in str(error):
                raise
            if not whole:
                cuts += 1
                dense.append((first, last, max(_times(last - first, _DENSE_MAX), shortest)))
                length = max(_times(last - first, 1 / _GROWTH**2), shortest)
            whole = False
            continue
        finally:
            if not connection.closed:
                connection.rollback()
        cuts, whole = 0, False
        # What the quickest page took is what any page takes, however short: it is no reason for more and shorter ones.
        took = perf_counter() - began
        fixed = min(fixed, took)
        factor = min(max(max(wanted - fixed, wanted / 2) / max(took - fixed, 1e-6), 1 / _GROWTH), _GROWTH)
        length = min(max(_times(length, factor), shortest), longest)
        low, high = (low, first) if newest_first else (last, high)
        yield found


def _cut_after(connection: postgres.Connection, seconds: float) -> None:
    """End statements of this transaction that take longer; that of the whole session holds for the others."""
    connection.execute("SELECT set_config('statement_timeout', %s, true)", (f"{max(round(seconds * 1000), 1)}ms",))


def gathered(
    system: System,
    connection: postgres.Connection,
    noun: str,
    query: str,
    start: datetime,
    end: datetime,
    parameters: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """All rows of a named query that is asked page by page, with `first` and `last` for the page's ends.

    Made for queries that count: each page has its own counts, and the caller adds them up.
    """

    cursor = connection.cursor(row_factory=dict_row)

    def read(first: datetime, last: datetime) -> list[dict[str, Any]]:
        return cursor.execute(named(noun)[query], {**parameters, "first": first, "last": last}).fetchall()

    return [row for rows in pages(system, connection, start, end, read) for row in rows]


def _after(at: Any, length: Any) -> Any:
    try:
        return at + length
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _before(at: Any, length: Any) -> Any:
    try:
        return at - length
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _times(length: Any, factor: float) -> Any:
    try:
        return length * factor if isinstance(length, timedelta) else int(length * factor)
    except OverflowError:
        return timedelta.max
