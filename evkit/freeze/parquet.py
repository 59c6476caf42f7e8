"""Rows of what Kafka said ↔ Parquet files of a freeze."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from evkit.freeze.manifest import File, path_of, sha256

_PAGE_ROWS = 50_000
# Of values, which may have a megabyte each.
_PAGE_BYTES = 32 * 2**20

# The files of kafka/: names and types of their columns.
_PLACE = [("topic", pa.string()), ("partition", pa.int32())]
_AT = pa.timestamp("us", "UTC")
FILES: dict[str, pa.Schema] = {
    name: pa.schema(columns)
    for name, columns in {
        "groups": [("group", pa.string()), ("state", pa.string())],
        "members": [
            ("group", pa.string()), *_PLACE, ("member_id", pa.string()),
            ("client_id", pa.string()), ("host", pa.string()), ("partitions", pa.int32()),
        ],
        "asked": [("group", pa.string())],
        "committed": [("group", pa.string()), *_PLACE, ("offset", pa.int64())],
        "topics": [
            ("topic", pa.string()), ("partitions", pa.int32()), ("topic_id", pa.string()), ("timestamp_type", pa.string()),
            ("compacted", pa.bool_()), ("has_facts", pa.bool_()),
        ],
        "offsets": [("spec", pa.string()), *_PLACE, ("offset", pa.int64())],
        "unread": [
            ("isolation", pa.string()), *_PLACE, ("offset", pa.int64()),
            ("stamped_at", _AT),
        ],
        "ends": [*_PLACE, ("offset", pa.int64()), ("stamped_millis", pa.int64())],
        "ends_of": [
            *_PLACE, ("start_offset", pa.int64()), ("end_offset", pa.int64()),
            ("ahead_offset", pa.int64()), ("ahead_at", _AT), ("why_missing", pa.string()),
        ],
        "log": [
            ("partition", pa.int32()), ("offset", pa.int64()), ("stamped_at", _AT), ("key", pa.binary()),
            ("value", pa.binary()),
        ],
        "log_bounds": [
            ("partition", pa.int32()), ("start_offset", pa.int64()), ("stable_offset", pa.int64()),
            ("end_offset", pa.int64()), ("read_at", _AT),
        ],
        "records": [
            *_PLACE, ("offset", pa.int64()), ("stamp_kind", pa.int32()), ("stamped_millis", pa.int64()),
            ("key", pa.binary()), ("value", pa.binary()), ("value_bytes", pa.int64()),
            ("header_names", pa.list_(pa.string())), ("header_values", pa.list_(pa.binary())),
        ],
        "records_of": [
            *_PLACE, ("first_offset", pa.int64()), ("end_offset", pa.int64()), ("why_missing", pa.string()),
        ],
    }.items()
}  # fmt: skip


def write(folder: Path, name: str, rows: Iterable[Sequence[Any]]) -> File:
    """Write the rows of a file of kafka/, in pages."""
    path, schema = path_of(folder, "kafka", name), FILES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    count = size = 0
    values = schema.get_field_index("value")
    try:
        with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            page: list[Sequence[Any]] = []

            def put() -> None:
                columns: list[Sequence[Any]] = list(zip(*page, strict=True)) if page else [()] * len(schema)
                writer.write_table(
                    pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
                )
                page.clear()

            for row in rows:
                page.append(row)
                count += 1
                if values >= 0:
                    size += len(row[values] or b"")
                if len(page) == _PAGE_ROWS or size > _PAGE_BYTES:
                    put()
                    size = 0
            put()
    except BaseException:
        path.unlink(missing_ok=True)  # a server went away in the middle: this is missing then
        raise
    return File(rows=count, bytes=path.stat().st_size, sha256=sha256(path), columns=schema.names)


def read(folder: Path, name: str, where: Sequence[tuple[str, str, Any]] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of such a file, page by page; `where` in the words of pyarrow's filters."""
    path = path_of(folder, "kafka", name)
    if where is not None:
        yield from pa.parquet.read_table(path, filters=list(where)).to_pylist()
        return
    for page in pa.parquet.ParquetFile(path).iter_batches():
        yield from page.to_pylist()
