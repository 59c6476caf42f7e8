"""Reads a million rows in one way, and prints seconds, CPU seconds of this process, megabytes over its base, and those of
the frame itself as JSON.

python read.py view|rows|copy|narrow|narrow_rows|narrow_copy DSN ROWS
"""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import psutil
import psycopg

from evkit import postgres, views
from evkit.settings import Settings
from evkit.sql import named
from evkit.system import System
from evkit.views import columns as columns_of_views
from evkit.views.copied import copied
from evkit.views.frame import fetch, frame

COLUMNS = columns_of_views.COLUMNS
# About what an inbox row has, and what the anchors measured: an id, texts, numbers, moments.
NARROW = ("failed_at", "group", "event_type", "event_id", "key", "partition", "offset", "attempt", "duration_seconds")


def bytes_of(column: pl.Series) -> int:
    """What it takes in memory: of a text 16 bytes, and its own where it has over 12; polars' estimate leaves the 16 out."""
    if column.dtype != pl.String:
        return column.estimated_size()
    lengths = column.str.len_bytes()
    return 16 * len(column) + int(lengths.filter(lengths > 12).sum())


def main() -> None:
    way, dsn, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
    system = System(Settings(postgres_dsn=dsn, kafka={"bootstrap.servers": "127.0.0.1:1"}))
    until = datetime.now(UTC)
    given = {"since": until - timedelta(days=30), "until": until, "group": "billing", "rows_max": rows}
    query = named("errors")["errors"]
    narrow = way.startswith("narrow")
    if narrow:
        COLUMNS["errors"] = tuple(next(c for c in COLUMNS["errors"] if c.name == name) for name in NARROW)

    def to_nowhere() -> tuple[int, int]:
        wanted = ", ".join(f'q."{c.name}"' for c in COLUMNS["errors"])
        with postgres.connect(dsn) as connection:
            bound = psycopg.ClientCursor(connection).mogrify(query, given)
            server = connection.pgconn
            server.exec_(f"COPY (SELECT {wanted} FROM ({bound}) AS q) TO STDOUT (FORMAT binary)".encode())
            n = -1  # the trailer
            while server.get_copy_data(0)[0] > 0:
                n += 1
            while server.get_result():
                pass
        return n, 0

    def in_frame(found: pl.DataFrame) -> tuple[int, int]:
        return found.height, sum(map(bytes_of, found.get_columns()))

    def as_view() -> tuple[int, int]:
        return in_frame(copied(system, "errors", "errors", "errors", **given))

    def by_rows() -> tuple[int, int]:
        return in_frame(frame("errors", fetch(system, "errors", "errors", COLUMNS["errors"], **given)))

    work = {
        "copy": to_nowhere,
        "narrow_copy": to_nowhere,
        "view": as_view,
        "narrow": as_view,
        "rows": by_rows,
        "narrow_rows": by_rows,
    }[way]
    views.acts(system, "1s")  # imports, and the readers' threads, are base
    me = psutil.Process()
    base = top = me.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal top
        while not done.wait(0.01):
            top = max(top, me.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    started, used = time.perf_counter(), time.process_time()
    n, size = work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    done.set()
    watching.join()
    assert n >= rows - 1, (way, n)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "megabytes": (top - base) / 2**20,
                      "frame_megabytes": size / 2**20,
                      "columns": len(COLUMNS["errors"])}))  # fmt: skip


main()
