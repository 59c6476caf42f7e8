"""a named query → a frame of very many rows, without a Python object for each value.

The server writes text (COPY), polars reads it in a thread of its own while more arrives. It is read in pages (pages.py),
so that the snapshot of very many rows is not held for long. Measured against the others at hand, the same million rows:
Arrow by ADBC takes a second connection, another snapshot or an exported one, and more CPU for rows that are mostly text;
CSV costs the server a sixth more; Python rows take eight times as long and five times the memory. For a few rows it is as
quick as rows, but no quicker, so the views of a few rows do not come here.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from evkit import postgres
from evkit.sql import named
from evkit.system import System
from evkit.views.columns import COLUMNS, Column
from evkit.views.columns.column import Dtype
from evkit.views.frame import POLARS, groups_of
from evkit.views.pages import pages

# Chunks that wait for the reader, at most: what arrives faster than it is read waits in the socket, not here.
_WAITING_MAX = 2


def copied(
    system: System,
    view: str,
    noun: str,
    query: str,
    /,
    *,
    newest_first: bool = True,
    bounds: str | None = None,
    **parameters: Any,
) -> pl.DataFrame:
    """The rows of a named query as a polars frame with a view's columns, page by page in the query's own order.

    The query has `since`, `until` and `rows_max`; here they are a page's ends and what is still wanted. What it compares
    with them must be what it is sorted by first. A parameter `group` means what it means to `evkit.views.frame.fetch`.
    A moment that a frame cannot hold is null.

    Args:
        newest_first  how the query is sorted, and so which page is the first
        bounds        query of the same noun that says where the window begins and ends, the end included; it is asked when
                      a `since` or `until` is missing, or when pages are of something else than time

    Raises:
        UnknownGroup: evkit's tables know no such group; near matches are in `suggestions`.
        DatabaseUnreachable, NotMigrated, QueryTimeout: see `System.reading`.
    """
    columns = COLUMNS[view]
    with system.reading() as connection:
        if "group" in parameters:
            parameters["groups"] = groups_of(system, connection, parameters["group"])
        start, end = ends_of(connection, named(noun)[bounds] if bounds else None, parameters)
        if start is None:
            return pl.DataFrame(schema={c.name: POLARS[c.dtype] for c in columns})
        ends = ("since", "until") if isinstance(start, datetime) else ("first", "last")
        how: Any = {"newest_first": newest_first, "ends": ends, "rows_max": parameters["rows_max"]}
        return framed(system, connection, noun, query, columns, start, end, parameters, **how)


def framed(
    system: System,
    connection: postgres.Connection,
    noun: str,
    query: str,
    columns: Sequence[Column],
    start: Any,
    end: Any,
    parameters: Mapping[str, Any],
    **how: Any,
) -> pl.DataFrame:
    """The rows of all pages of a named query, one page under the other; see `paged`."""
    empty = pl.DataFrame(schema={c.name: POLARS[c.dtype] for c in columns})
    pages_of = paged(system, connection, (noun, query), columns, (start, end), parameters, **how)
    return pl.concat([empty, *(part for page in pages_of for part in page)], rechunk=False)


def paged(
    system: System,
    connection: postgres.Connection,
    name: tuple[str, str],
    columns: Sequence[Column],
    stretch: tuple[Any, Any],
    parameters: Mapping[str, Any],
    *,
    newest_first: bool = False,
    ends: tuple[str, str] = ("first", "last"),
    rows_max: int | None = None,
) -> Iterator[list[pl.DataFrame]]:
    """The rows of a named query page by page, each as frames of some of its rows, for who makes less of a page before the
    next is read.

    Args:
        name      of the query: noun and name
        stretch   that is cut into pages; its end is exclusive
        ends      what the query calls the ends of a page
        rows_max  so many are enough; the query is told how many of them are still wanted
    """
    wanted = [(c.name, c.dtype) for c in columns]
    script = named(name[0])[name[1]]
    left = rows_max
    with _Reader(columns) as reader:

        def read(first: Any, last: Any) -> list[_Part]:
            reader.page()  # of one that was cut off
            asked = {**parameters, ends[0]: first, ends[1]: last, "rows_max": left}
            postgres.copy_text(connection, script, asked, wanted, reader.take)
            return reader.page()

        before: list[_Part] = []
        for page in pages(system, connection, *stretch, read, newest_first=newest_first):
            # The one before: the last rows of a page become a frame while the server sends the next.
            if before:
                yield [part.result() for part, _ in before]
            before = page
            if left is not None:
                left -= sum(rows for _, rows in page)
                if left <= 0:
                    break
        if before:
            yield [part.result() for part, _ in before]


def ends_of(connection: postgres.Connection, bounds: bytes | None, parameters: dict[str, Any]) -> tuple[Any, Any]:
    if bounds is None:
        return parameters["since"], parameters["until"]
    row = connection.execute(bounds, parameters).fetchone()
    if row is None or row[0] is None:
        return None, None
    return row[0], row[1] + (1 if isinstance(row[1], int) else timedelta(microseconds=1))


# A frame in the making, and how many rows it has.
_Part = tuple[Future[pl.DataFrame], int]


class _Reader:
    """Chunks of rows as text → frames, in a thread of its own while more arrive."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._dtypes = {c.name: c.dtype for c in columns}
        self._waiting: deque[Future[pl.DataFrame]] = deque()
        self._page: list[_Part] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="evkit-rows")

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def take(self, chunk: bytes) -> None:
        part = self._thread.submit(rows_in, chunk, self._dtypes)
        self._page.append((part, chunk.count(b"\n")))
        self._waiting.append(part)
        while len(self._waiting) > _WAITING_MAX:
            self._waiting.popleft().result()

    def page(self) -> list[_Part]:
        """All parts since the last time; they may still be in the making."""
        page, self._page = self._page, []
        return page


# What COPY writes for characters that would end a field or a line.
_ESCAPED = {r"\b": "\b", r"\f": "\f", r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\v": "\v", "\\\\": "\\"}


def rows_in(chunk: bytes, dtypes: Mapping[str, Dtype]) -> pl.DataFrame:
    """The frame of a chunk that `evkit.postgres.copy_text` has handed on."""
    read = pl.read_csv(
        io.BytesIO(chunk),
        has_header=False,
        schema={name: pl.Int64() if dtype == "time" else POLARS[dtype] for name, dtype in dtypes.items()},
        separator="\t",
        quote_char=None,
        null_values=r"\N",
        empty_string_is_null=False,
    )
    is_escaped = chunk.count(b"\\") > chunk.count(rb"\N")  # an escaped backslash is two of them
    return read.with_columns(
        *(pl.col(name).cast(POLARS["time"]) for name, dtype in dtypes.items() if dtype == "time"),
        # One pass from the left, so that an escaped backslash begins nothing.
        *(
            pl.col(name).str.replace_many(list(_ESCAPED), list(_ESCAPED.values()))
            for name, dtype in dtypes.items()
            if dtype == "string" and is_escaped
        ),
    )
