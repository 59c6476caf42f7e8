"""a window → stretches of it, each read in a transaction of its own: no view holds a snapshot for long.

A snapshot keeps vacuum from every table of the database, the service's own ones too. So what grows with the window is read
in pages, on one connection: a page is a stretch of time, or of positions, as long as can be read in a third of what a
snapshot may take. The stretches touch and do not overlap, so no row is read twice and none is left out.

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
# What a page may take, of what a snapshot may; the rest is for a page that turns out to have more in it.
_SHARE = 0.3
# How much longer or shorter the next page may be, and how often one is tried again that was cut off.
_GROWTH, _CUTS_MAX = 4.0, 2


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
    wanted, fixed = _SHARE * system.settings.snapshot_seconds_max, float("inf")
    shortest: Any = timedelta(microseconds=1) if isinstance(start, datetime) else 1
    length: Any = timedelta(seconds=FIRST_SECONDS) if isinstance(start, datetime) else FIRST_POSITIONS
    low, high, cuts = start, end, 0
    while low < high:
        first, last = (max(low, _before(high, length)), high) if newest_first else (low, min(high, _after(low, length)))
        connection.rollback()
        began = perf_counter()
        try:
            found = read(first, last)
        except psycopg.errors.QueryCanceled:
            if cuts == _CUTS_MAX or length <= shortest:
                raise
            cuts += 1
            length = max(_times(min(length, last - first), 1 / _GROWTH**2), shortest)
            continue
        finally:
            if not connection.closed:
                connection.rollback()
        cuts = 0
        # What the quickest page took is what any page takes, however short: it is no reason for more and shorter ones.
        took = perf_counter() - began
        fixed = min(fixed, took)
        factor = min(max(max(wanted - fixed, wanted / 2) / max(took - fixed, 1e-6), 1 / _GROWTH), _GROWTH)
        length = max(_times(length, factor), shortest)
        low, high = (low, first) if newest_first else (last, high)
        yield found


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
