"""a named query → a frame of very many rows, without a Python object for each value.

The server writes CSV (COPY), polars reads it in a thread of its own while more arrives. Measured against the two others at
hand, the same million rows: Arrow by ADBC takes a second connection, another snapshot or an exported one, and more CPU for
rows that are mostly text; Python rows take eight times as long and five times the memory. For a few rows it is as quick
as rows, but no quicker, so the views of a few rows do not come here.
"""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import polars as pl

from evkit import postgres
from evkit.sql import named
from evkit.system import System
from evkit.views.columns import COLUMNS, Column
from evkit.views.frame import POLARS, groups_of

# Chunks that wait for the reader, at most: what arrives faster than it is read waits in the socket, not here.
_WAITING_MAX = 2


def copied(system: System, view: str, noun: str, query: str, /, **parameters: Any) -> pl.DataFrame:
    """The rows of a named query as a polars frame with a view's columns, read in one read-only transaction.

    `group` in the parameters means what it means to `evkit.views.frame.fetch`. A moment that a frame cannot hold is null.

    Raises:
        UnknownGroup: evkit's tables know no such group; near matches are in `suggestions`.
        DatabaseUnreachable, NotMigrated, QueryTimeout: see `System.reading`.
    """
    columns = COLUMNS[view]
    schema = {c.name: pl.Int64() if c.dtype == "time" else POLARS[c.dtype] for c in columns}
    waiting: deque[Future[pl.DataFrame]] = deque()
    parts: list[pl.DataFrame] = []

    with ThreadPoolExecutor(1, thread_name_prefix="evkit-csv") as reader:

        def take(chunk: bytes) -> None:
            waiting.append(reader.submit(_read, chunk, schema, columns))
            while len(waiting) > _WAITING_MAX:
                parts.append(waiting.popleft().result())

        with system.reading() as connection:
            if "group" in parameters:
                parameters["groups"] = groups_of(system, connection, parameters["group"])
            wanted = [(c.name, c.dtype) for c in columns]
            postgres.copy_csv(connection, named(noun)[query], parameters, wanted, take)
        parts += [part.result() for part in waiting]
    if not parts:
        return pl.DataFrame(schema={c.name: POLARS[c.dtype] for c in columns})
    return pl.concat(parts, rechunk=False)


def _read(chunk: bytes, schema: dict[str, Any], columns: tuple[Column, ...]) -> pl.DataFrame:
    # An empty field is null, a quoted empty one an empty text: so COPY writes them, and so polars reads them.
    read = pl.read_csv(io.BytesIO(chunk), has_header=False, schema=schema)
    return read.with_columns(pl.col(c.name).cast(POLARS["time"]) for c in columns if c.dtype == "time")
