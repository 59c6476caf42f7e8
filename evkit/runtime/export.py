"""dead letters → a file: JSONL, CSV or Parquet, one row a letter with its record; nothing is changed.

Letters are read and written as they come, so a million take no more memory than a thousand. A file is written beside its
place and moved there when it is complete: whoever finds it under its name has all of it.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, get_args

from evkit import foreign
from evkit.errors import MissingExtra, UsageError
from evkit.runtime import audit
from evkit.runtime.letters import FullLetter, Selection, records
from evkit.runtime.masked_letters import as_seen
from evkit.runtime.payload import text_of
from evkit.system import System

Format = Literal["jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

_RECORD = {"raw_key", "raw_value", "header_names", "header_values", "attempts", "edit", "source_facts"}
# The letter's columns by their names; the record's bytes as text or base64, and which of them it is.
COLUMNS = (
    *(f.name for f in fields(FullLetter) if f.name not in _RECORD),
    "record_key", "record_key_encoding", "record_value", "record_value_encoding", "headers",
)  # fmt: skip

# What a record in another framework's words has; the id is the letter's that it was made of.
DIALECT_COLUMNS = (
    "letter_id", "timestamp", "record_key", "record_key_encoding", "record_value", "record_value_encoding", "headers",
)  # fmt: skip

_ROWS_AT_ONCE = 1_000

Row = dict[str, Any]


def row_of(letter: FullLetter) -> Row:
    """A letter as one flat row, in the order of COLUMNS.

    Times are datetimes; headers a JSON list of [name, value, encoding] in the record's order; an encoding is "text",
    "base64", or None where there is no value.
    """
    row: Row = {name: getattr(letter, name) for name in COLUMNS if hasattr(letter, name) and name != "headers"}
    row["record_key"], row["record_key_encoding"] = _content(letter.raw_key)
    row["record_value"], row["record_value_encoding"] = _content(letter.raw_value)
    row["headers"] = _headers(letter.headers)
    return {name: row[name] for name in COLUMNS}


def dialect_row_of(letter: FullLetter, dialect: str) -> Row:
    """The record that another framework would have sent to its dead-letter topic, in the order of DIALECT_COLUMNS.

    Content and headers are written as in `row_of`; `timestamp` is None where the framework leaves it to the sending.

    Raises:
        UsageError: no letter can be written in this dialect.
    """
    out = foreign.to_dialect(letter, dialect)
    row: Row = {"letter_id": letter.letter_id, "timestamp": out.timestamp}
    row["record_key"], row["record_key_encoding"] = _content(out.key)
    row["record_value"], row["record_value_encoding"] = _content(out.value)
    row["headers"] = _headers(out.headers)
    return row


def export(
    system: System,
    selection: Selection,
    format: Format,
    out: Path | IO[str],
    *,
    force: bool = False,
    cell: Callable[[Any], Any] | None = None,
    rows: Callable[[FullLetter], Row] = row_of,
    dialect: str | None = None,
    unmasked: bool = False,
    reason: str | None = None,
) -> int:
    """Write the letters of a selection to a file, or as text to an open stream; returns how many. What policies hide
    (`evkit.masking`) is hidden.

    Args:
        force    write over a file that is there
        cell     makes a cell of a CSV file of a value; default: as csv does it
        rows     what is written of a letter
        dialect  "spring", "connect": not the letters but the records that this framework would have made of them, with its
                 headers (DIALECT_COLUMNS)
        unmasked  write everything, as a record must be that is given back to be handled
        reason    for the audit row of that

    Side effects: the file; with `unmasked`, an audit row first. No letter is changed.

    Raises:
        UsageError: the file is there and not to be overwritten, its folder is not there, Parquet is to go to a stream, or
            no letter can be written in this dialect.
        MissingExtra: Parquet without pyarrow.
        UnknownGroup, DatabaseUnreachable, NotMigrated: see `letters`; no file is left then.
    """
    if format not in FORMATS:
        raise UsageError(f"'{format}' is no format of an export: {', '.join(FORMATS)}")
    columns = COLUMNS
    if dialect is not None:
        foreign.require_dialect(dialect, tuple(foreign.OUTGOING))
        columns, rows = DIALECT_COLUMNS, partial(dialect_row_of, dialect=dialect)
    if unmasked:
        told = {"selection": {k: v for k, v in selection.parameters(None).items() if v is not None}}
        with system.writing("evkit dlq export") as connection:
            audit.end(connection, audit.begin(connection, "dead_letters.export_unmasked", str(out), told, reason), {})
    policies = () if unmasked else system.settings.masking
    letters = (rows(as_seen(letter, policies)[0]) for letter in records(system, selection, unmasked=unmasked))
    if not isinstance(out, Path):
        if format == "parquet":
            raise UsageError("Parquet is no text: give a file (--out FILE)")
        return _write_text(letters, columns, format, out, cell)
    with _complete(out, force=force) as path:
        if format == "parquet":
            return _write_parquet(letters, columns, path)
        with path.open("w", encoding="utf-8", newline="") as stream:
            return _write_text(letters, columns, format, stream, cell)


@contextmanager
def _complete(out: Path, *, force: bool) -> Iterator[Path]:
    """A temporary file in the folder of `out`, which takes its place at the end; gone when something goes wrong."""
    if out.exists() and not force:
        raise UsageError(f"{out} is there already: add --force to write over it")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent} to write {out.name} into")
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name[:100]}.", suffix=".part")
    os.close(handle)
    path = Path(name)
    try:
        yield path
        path.chmod(0o666 & ~_umask())
        path.replace(out)
    finally:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _write_text(
    letters: Iterable[Row],
    columns: tuple[str, ...],
    format: Format,
    stream: IO[str],
    cell: Callable[[Any], Any] | None,
) -> int:
    n = 0
    if format == "jsonl":
        for row in letters:
            # ASCII, and DEL too: what a terminal would act on stays inside JSON's escapes.
            line = json.dumps({name: _plain(value) for name, value in row.items()}).replace("\x7f", "\\u007f")
            stream.write(line + "\n")
            n += 1
        return n
    writer = csv.writer(stream)
    writer.writerow(columns)
    for row in letters:
        writer.writerow([cell(v) if cell else _plain(v) for v in row.values()])
        n += 1
    return n


def _write_parquet(letters: Iterable[Row], columns: tuple[str, ...], path: Path) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("views", "Parquet files") from None
    time = pa.timestamp("us", tz="UTC")
    kinds = {
        "letter_id": pa.int64(), "generation": pa.int32(), "partition": pa.int32(), "offset": pa.int64(),
        "schema_version": pa.int32(), "retry_count": pa.int32(), "leader_epoch": pa.int32(), "edited_from": pa.int64(),
        "replaced_by": pa.int64(), "source_partition": pa.int32(), "source_offset": pa.int64(), "timestamp": time,
    }  # fmt: skip
    schema = pa.schema([(c, kinds.get(c, time if c.endswith("_at") else pa.string())) for c in columns])
    n = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for some in _batches(letters):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
            n += len(some)
    return n


def _batches(letters: Iterable[Row]) -> Iterator[list[Row]]:
    some: list[Row] = []
    for row in letters:
        some.append(row)
        if len(some) == _ROWS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _content(raw: bytes | None) -> tuple[str | None, str | None]:
    if raw is None:
        return None, None
    text = text_of(raw)
    return (base64.b64encode(raw).decode(), "base64") if text is None else (text, "text")


def _headers(headers: Iterable[tuple[str, bytes | None]]) -> str:
    return json.dumps([[name, *_content(value)] for name, value in headers], ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value
