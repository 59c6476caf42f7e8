"""Kafka → the records of a stretch of a topic, read where they are: a plan first, then rows, and what was not read.

Three views of one reading. `scan_plan` reads almost nothing and says what a scan would cost; `scan` gives the records;
`scan_coverage` reads as `scan` does, keeps no record, and says of each partition how far it came and how many matched.
Who wants both of one reading takes `scan_with_coverage`. Nothing else could carry the coverage: a polars frame has no place
for remarks, and those of a pandas frame are lost in its first copy. All of them log a warning when something was not read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from evkit.errors import InvalidParameter
from evkit.system import System
from evkit.views.broker import broker
from evkit.views.errors import ROWS_MAX
from evkit.views.frame import Frame, Frames, WindowLike, frame, frame_of_chunks, require_backend, view
from evkit.views.scan.range import Offsets, ranges_of
from evkit.views.scan.reader import ROW_LIMIT, Reader, sizes
from evkit.views.scan.rows import Rows
from evkit.window import present

log = logging.getLogger(__name__)

# A scan is a question of somebody who waits; what takes longer is said to be not scanned.
SECONDS_MAX = 300.0
# For the estimate of a scan's time: what two cores do, with the broker on them too, of records of 400 bytes in six headers
# and a value (tests/benchmarks/views/test_scan.py); and never more bytes than a network of 1 Gbit/s has.
_RECORDS_PER_SECOND = 150_000
_BYTES_PER_SECOND = 100_000_000
# Of each partition, to know how big its records are.
_SAMPLE_RECORDS = 50
_SAMPLE_SECONDS = 5.0


class Scanned(NamedTuple):
    """What one reading gave: frames of `views.scan` and of `views.scan_coverage`."""

    records: Frame
    coverage: Frame


@view("scan_plan")
def scan_plan(
    system: System,
    topic: str,
    window: WindowLike = None,
    *,
    offsets: Offsets | None = None,
    partitions: Iterable[int] | None = None,
    frames: Frames = "polars",
) -> Frame:
    """What a scan of this would read, a row for each partition; the same ranges are scanned when it is run at once.

    Sizes are those of up to 50 records from the middle of each range, times are those of evkit's benchmark on its machine:
    both are estimates. To scan exactly this, hand its offsets to `scan`.

    Args:
        window      a `Window`, "2h", "FROM/TO"; default: the last hour
        offsets     (from, until) of all, or by partition {0: (from, until)}; with a window, its records in them
        partitions  only these; default: all

    Columns: see columns/

    Sorted by partition.

    Raises:
        UnknownTopic: the cluster has no such topic; the closest names are in `suggestions`.
        InvalidParameter: window, offsets or partitions are none.
        BrokerUnreachable, BrokerRefused.
    """
    ranges, _ = ranges_of(system, topic, window, offsets, partitions)
    middles = {}
    for p, (first, last) in ranges.items():
        middle = first + (last - first) // 2
        middles[p] = (middle, min(middle + _SAMPLE_RECORDS, last))
    sampled = sizes(system, topic, middles, seconds_max=_SAMPLE_SECONDS)
    every = [size for of in sampled.values() for size in of]
    now = present()
    rows = []
    for p, (first, last) in ranges.items():
        of = sampled[p] or every  # a partition in whose middle there are only markers has records like the others
        mean = round(sum(of) / len(of)) if of else None
        records = last - first
        size = 0 if not records else None if mean is None else records * mean
        seconds = None if size is None else max(records / _RECORDS_PER_SECOND, size / _BYTES_PER_SECOND)
        rows.append([topic, p, first, last, records, mean, size, seconds, now])
    return frame("scan_plan", rows, frames)


@view("scan")
def scan(
    system: System,
    topic: str,
    window: WindowLike = None,
    *,
    offsets: Offsets | None = None,
    partitions: Iterable[int] | None = None,
    headers: Iterable[str] = (),
    fields: Iterable[str] = (),
    where: str | Iterable[str] = (),
    payload: bool = False,
    rows_max: int = ROWS_MAX,
    seconds_max: float = SECONDS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """The records of a stretch of a topic, whoever wrote them: one row each.

    Where each partition ends is asked before the first record is read, and nothing behind that is. Reading joins no group
    and commits nothing. What was not read is logged as a warning, and is in the frame of `scan_coverage`.

    Args:
        window       a `Window`, "2h", "FROM/TO"; default: the last hour. By the records' timestamps: where producers stamp
                     them, one that comes after the range's end in the log is missed, whatever its stamp
        offsets      (from, until) of all, or by partition {0: (from, until)}; with a window, its records in them
        partitions   only these; default: all
        headers      names of headers; each is a column `header:NAME`. Of one that comes twice the last counts
        fields       paths in the JSON payload ("items.0.price"); each is a column `field:PATH`, as text
        where        conditions that all must hold: "key=k1", "event_type!=order.placed", "header:tenant~acme",
                     "field:customer.id=7"; `=`, `!=`, `~` (contains), compared as text
        payload      also the values and headers, in columns `value` and `headers`
        rows_max     most rows; the scan ends there, and the oldest of each partition are kept
        seconds_max  the scan ends after so many seconds

    Columns: see columns/

    What policies hide (`evkit.masking`) is hidden in columns and conditions alike; `masking` says where.

    In the order of each partition; partitions take turns. Records that were written in a transaction which is open or was
    aborted are no rows.

    Raises:
        UnknownTopic: the cluster has no such topic; the closest names are in `suggestions`.
        InvalidParameter: window, offsets, partitions, a path or a condition cannot be read.
        BrokerUnreachable: no answer for `settings.kafka_timeout_seconds`, also in the middle. BrokerRefused.
    """
    require_backend(frames)
    rows = Rows(topic, headers=headers, fields=fields, where=where, payload=payload, masking=system.settings.masking)
    chunks, _ = _read(system, topic, rows, window, offsets, partitions, rows_max, seconds_max, keep=True)
    return frame_of_chunks("scan", chunks, frames, extra=rows.extra)


@view("scan_coverage")
def scan_coverage(
    system: System,
    topic: str,
    window: WindowLike = None,
    *,
    offsets: Offsets | None = None,
    partitions: Iterable[int] | None = None,
    fields: Iterable[str] = (),
    where: str | Iterable[str] = (),
    rows_max: int | None = None,
    seconds_max: float = SECONDS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """How far a scan comes, and how many records match, by partition; reads what `scan` reads and keeps nothing of it.

    Args:
        rows_max  the scan ends when so many records have matched; default: none. The others are those of `scan`.

    Columns: see columns/

    Sorted by partition. A range is scanned from its start, so what is left is `scanned_until_offset` to `until_offset`:
    hand these to `scan` as offsets to go on. `open_transaction`: what follows may be read when a transaction ends.
    `deleted`: retention took it away meanwhile.

    Raises: see `scan`.
    """
    require_backend(frames)
    rows = Rows(topic, fields=fields, where=where, masking=system.settings.masking)
    _, reader = _read(system, topic, rows, window, offsets, partitions, rows_max, seconds_max, keep=False)
    return frame("scan_coverage", reader.coverage(rows.matched, rows.unparsed, present()), frames)


def scan_with_coverage(
    system: System,
    topic: str,
    window: WindowLike = None,
    *,
    offsets: Offsets | None = None,
    partitions: Iterable[int] | None = None,
    headers: Iterable[str] = (),
    fields: Iterable[str] = (),
    where: str | Iterable[str] = (),
    payload: bool = False,
    rows_max: int = ROWS_MAX,
    seconds_max: float = SECONDS_MAX,
    frames: Frames = "polars",
) -> Scanned:
    """The frames of `scan` and `scan_coverage` of one reading: `records, coverage = views.scan_with_coverage(...)`."""
    require_backend(frames)
    rows = Rows(topic, headers=headers, fields=fields, where=where, payload=payload, masking=system.settings.masking)
    chunks, reader = _read(system, topic, rows, window, offsets, partitions, rows_max, seconds_max, keep=True)
    coverage = frame("scan_coverage", reader.coverage(rows.matched, rows.unparsed, present()), frames)
    return Scanned(frame_of_chunks("scan", chunks, frames, extra=rows.extra), coverage)


def _read(
    system: System,
    topic: str,
    rows: Rows,
    window: WindowLike,
    offsets: Offsets | None,
    partitions: Iterable[int] | None,
    rows_max: int | None,
    seconds_max: float,
    *,
    keep: bool,
) -> tuple[list[pl.DataFrame], Reader]:
    if rows_max is not None and rows_max < 1:
        raise InvalidParameter(f"rows_max must be 1 or more, not {rows_max}", name="rows_max", value=rows_max)
    if seconds_max <= 0:
        raise InvalidParameter("seconds_max must be above zero", name="seconds_max", value=seconds_max)
    headers, payload = rows.needs
    broker(system).require_seen(headers, payload=payload)
    ranges, seen = ranges_of(system, topic, window, offsets, partitions)
    rows.between = None if seen is None else (seen.start, seen.end)
    reader = Reader(system, topic, ranges, seconds_max=seconds_max)
    chunks: list[pl.DataFrame] = []
    found = 0
    for batch in reader:
        chunk, until = rows.of(batch), len(batch.messages)
        if rows_max is not None and found + chunk.height > rows_max:
            room = rows_max - found
            until = chunk["index"][room]
            reader.cut(batch, until, ROW_LIMIT)
            chunk = chunk.head(room)
        found += chunk.height
        rows.count(chunk, until)
        if keep:
            chunks.append(chunk)
    if (unscanned := reader.unscanned()) is not None:
        log.warning("scan: %s", unscanned)
    return chunks, reader
