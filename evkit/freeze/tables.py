"""evkit's tables → Parquet: the rows of a window and what belongs to them, each value as PostgreSQL writes it.

Rows travel as CSV by COPY, and come back the same way (loading.py), so that PostgreSQL alone decides how a value is
written and read. In Parquet numbers, times, truth values and texts are typed; everything else (json, bytea, arrays, ranges,
xid8) is the text that PostgreSQL has for it.

Reading holds no snapshot longer than some seconds. What fits into that is one moment; what does not goes on in a later
snapshot, in which rows that came meanwhile are left out. Consumers' tables are read before the outbox: the other way round
an event could be handled that was never written.
"""

from __future__ import annotations

import io
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from psycopg import sql as compose

from evkit import postgres
from evkit.freeze.manifest import File, Missing, path_of, sha256
from evkit.freeze.masked_errors import errors_as_seen
from evkit.masking import MASK, Policy
from evkit.postgres import integer_array, text_array
from evkit.sql import named
from evkit.system import System
from evkit.window import Window

_SQL = named("freeze")

# How long before the window rows are copied: as far back as latency and throughput look for what was written before.
LOOKBACK = timedelta(hours=1)
# A snapshot that is older is given back: it keeps vacuum from the tables of the service.
SNAPSHOT_SECONDS_MAX = 3.0
# Of a page as CSV; with payloads a row may have a megabyte.
_PAGE_BYTES = 16 * 2**20
_PAGE_ROWS = (100, 100_000)
# Ids of one query: each is a look into an index of every partition.
_IDS = 5_000

_ARROW = {
    "bigint": pa.int64(),
    "integer": pa.int32(),
    "smallint": pa.int16(),
    "boolean": pa.bool_(),
    "double precision": pa.float64(),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}

# What stands in the place of payloads. A value keeps its length, which a view shows; zeros are nearly nothing in Parquet.
_ZEROS = "CASE WHEN t.raw_value IS NOT NULL THEN decode(repeat('00', octet_length(t.raw_value)), 'hex') END"
_NO_VALUES = "array_fill(NULL::bytea, ARRAY[cardinality(t.header_names)])"
_WITHOUT_PAYLOADS = {
    ("outbox", "payload"): "'null'::json",
    ("scheduled", "payload"): "'null'::json",
    ("dead_letter", "raw_value"): _ZEROS,
    ("dead_letter", "header_values"): _NO_VALUES,
    ("dead_letter", "edit"): "t.edit - 'difference'",
    # A stack quotes values, and what a framework has said of a letter has a stack of its own; views show neither but
    # beside a payload. The message stays, where no policy is about the event: it is what a failure is recognised by.
    ("dead_letter", "stack_trace"): "''::text",
    ("dead_letter", "source_facts"): "NULL::jsonb",
    ("attempt", "stack_trace"): "''::text",
    ("parked", "raw_value"): _ZEROS,
    ("parked", "header_values"): _NO_VALUES,
}
# Headers of events are text to text; of those that a policy names, whichever its topic is, only that they were there.
_MASKED_HEADERS = """CASE WHEN t.headers IS NOT NULL THEN (
    SELECT coalesce(json_object_agg(h.key, CASE WHEN h.key = ANY ({}) THEN {} ELSE h.value END), '{{}}')
      FROM json_each_text(t.headers) h) END"""
# What may be about people in a freeze; keys and ids are whatever the service takes for them.
_PERSONAL = (
    "keys and ids of events and records",
    "error messages of events that no policy is about, which may quote a payload",
    "headers that no policy names",
    "who acted, with notes, reasons and tickets",
    "names, client addresses and hosts of database sessions and group members",
)
_PERSONAL_PAYLOADS = ("payloads and all headers of events and letters, as they are", "stack traces")
# Of these nothing is told, not even the length: a view that asks for them is refused, and does not see nothing.
UNSEEN = {
    ("outbox", "payload"),
    ("scheduled", "payload"),
    ("dead_letter", "header_values"),
    ("parked", "header_values"),
}

# In which order the tables that grow with the traffic are read; the others before them, in one snapshot.
_DOWNSTREAM_FIRST = ("key_version", "inbox", "attempt", "publication", "outbox")
_SERVER = ("server_locks", "server_sessions", "server_prepared")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Table:
    """A table as its catalogue has it: columns with their types, in order, and the primary key."""

    name: str
    columns: dict[str, str]
    key: list[str]


@dataclass(slots=True)
class Copied:
    """What became of the tables: files by name, what is missing, and the moments of reading."""

    at: datetime
    migration: int
    files: dict[str, File] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    snapshots: int = 1
    read_until: datetime | None = None
    groups: list[str] = field(default_factory=list)


def moment_of(connection: postgres.Connection) -> datetime:
    """Now, by the database's clock."""
    row = connection.execute(_SQL["moment"]).fetchone()
    assert row is not None
    return cast(datetime, row[0])


def catalogue(connection: postgres.Connection) -> dict[str, Table]:
    """evkit's tables, without partitions and the list of migrations."""
    found: dict[str, Table] = {}
    keys: dict[str, dict[int, str]] = {}
    for name, column, kind, place in connection.execute(_SQL["columns"]).fetchall():
        found.setdefault(name, Table(name, {}, [])).columns[column] = kind
        if place >= 0:
            keys.setdefault(name, {})[place] = column
    for name, table in found.items():
        table.key.extend(column for _, column in sorted(keys.get(name, {}).items()))
    return found


def estimated(system: System, window: Window) -> dict[str, tuple[int, int]]:
    """Rows and bytes of each table that a freeze of the window would read, as the planner guesses.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    with system.reading() as connection:
        values = _values(window, moment_of(connection))
        found = {}
        for name in catalogue(connection):
            query: Any = _all(name)
            if name in _DOWNSTREAM_FIRST:
                query = _query(f"{name}_window")
            if name not in _DOWNSTREAM_FIRST and connection.execute(_SQL["is_empty"], {"name": name}).fetchone() == (
                True,
            ):
                continue  # the planner takes a table that it has never looked at for a small one
            row = connection.execute(compose.SQL("EXPLAIN (FORMAT JSON) ") + query, values | {"first": 0}).fetchone()
            assert row is not None
            plan = row[0][0]["Plan"]
            found[name] = (plan["Plan Rows"], plan["Plan Rows"] * plan["Plan Width"])
        return found


def copy(
    system: System, window: Window, folder: Path, *, payloads: bool, progress: Progress = lambda *_: None
) -> Copied:
    """Copy the tables into `folder/postgres/`; the moment of the first snapshot is that of the freeze.

    Raises:
        DatabaseUnreachable, NotMigrated, QueryTimeout: see `System.reading`.
    """
    with system.reading() as connection:
        copy = _Copy(connection, window, folder, payloads, progress)
        copy.policies = system.settings.masking
        copy.masked_headers = sorted({p.header for p in system.settings.masking if p.header is not None})
        return copy.run()


def personal(*, payloads: bool) -> list[str]:
    """What may be about people in a freeze, in words."""
    return [*_PERSONAL, *(_PERSONAL_PAYLOADS if payloads else ())]


def end_of(window: Window, at: datetime) -> datetime:
    """The end of a window that is frozen at a moment; one that ended just now goes on to that moment."""
    return window.end if window.is_past(at) else at


def _values(window: Window, at: datetime) -> dict[str, Any]:
    """What the queries are given."""
    earlier = window.start - LOOKBACK
    until = end_of(window, at)
    day = window.start - max(window.end - window.start, timedelta(days=1))
    return {"earlier": earlier, "until": until, "at": at, "day": min(day, earlier)}


class _Copy:
    """One reading of the tables."""

    def __init__(
        self, connection: postgres.Connection, window: Window, folder: Path, payloads: bool, progress: Progress
    ) -> None:
        self.connection, self.folder, self.payloads, self.progress = connection, folder, payloads, progress
        self.tables = catalogue(connection)
        migration = max(postgres.applied_migrations(connection))
        self._new_snapshot()
        at = moment_of(connection)
        self.values = _values(window, at)
        self.copied = Copied(at=at, migration=migration)
        self._open: dict[str, _Rows] = {}
        self.masked_headers: list[str] = []
        self.policies: tuple[Policy, ...] = ()

    def run(self) -> Copied:
        try:
            for name in _SERVER:
                self._table(name, self._server)
            for name in self.tables:
                if name not in _DOWNSTREAM_FIRST:
                    self._table(name, lambda rows: rows.read(_all(rows.table.name), {}))
            if "dead_letter" in self._open:
                self._table("dead_letter", self._letters)
            self.copied.groups = self._column(named("lag")["known_groups"])
            self.values["groups"] = text_array(self.copied.groups)
            for name in _DOWNSTREAM_FIRST:
                self._table(name, getattr(self, f"_{name}"))
            self._belonging()
            self.copied.read_until = moment_of(self.connection)
            self.connection.rollback()
        finally:
            for rows in self._open.values():
                rows.close()
        for name, rows in self._open.items():
            self.copied.files[name] = rows.file()
        return self.copied

    # --- tables -------------------------------------------------------------------------------------------------------

    def _table(self, name: str, read: Callable[[_Rows], None]) -> None:
        """Read one table; one that may not be read is missing, and the others go on."""
        self.breathe()
        table = self.tables.get(name, Table(name, {}, []))
        rows = self._open.get(name) or _Rows(self, table, path_of(self.folder, "postgres", name))
        self._open[name] = rows
        try:
            read(rows)
        except psycopg.errors.InsufficientPrivilege as error:
            self._new_snapshot()
            self.copied.snapshots += 1
            self.copied.missing.append(Missing(what=f"evkit.{name}", why=str(error).splitlines()[0]))
            rows.drop()
            del self._open[name]

    def _server(self, rows: _Rows) -> None:
        """Rows of the server's own views, under their columns' names."""
        name = rows.table.name
        description = self.connection.execute(_SQL[name]).description
        assert description is not None
        rows.table.columns.update({c.name: _OIDS.get(c.type_code, "text") for c in description})
        rows.read(_query(name), {})

    def _letters(self, rows: _Rows) -> None:
        rows.kept["event_id"].update(self._column(_SQL["letter_events"]))

    def _key_version(self, rows: _Rows) -> None:
        rows.read(_query("key_version_window"), self.values)

    def _inbox(self, rows: _Rows) -> None:
        rows.read(_query("inbox_window"), self.values, order=["processed_at"])
        rows.read(_query("inbox_newest"), self.values, belonging=True, keep=False)

    def _attempt(self, rows: _Rows) -> None:
        rows.read(_query("attempt_window"), self.values, order=["failed_at"])
        rows.read(_query("attempt_groups"), self.values, belonging=True, keep=False)

    def _publication(self, rows: _Rows) -> None:
        for first in self._column(_SQL["publication_first"]):
            if first is not None:
                rows.read(_query("publication_window"), self.values | {"first": first})

    def _outbox(self, rows: _Rows) -> None:
        for first in self._column(_SQL["outbox_first"]):
            if first is not None:
                rows.read(_query("outbox_window"), self.values | {"first": first})
        rows.read(_query("outbox_waiting"), self.values, belonging=True)
        rows.read(_query("outbox_topics"), self.values, belonging=True)
        positions = self._seen("publication", "position") | set(self._column(_SQL["unpublishable_positions"]))
        for some in _some(positions - rows.kept["position"]):
            rows.read(_query("outbox_positions"), self.values | {"positions": integer_array(some)}, belonging=True)
        for some in _some(self._ids() - rows.kept["id"]):
            rows.read(_query("outbox_events"), self.values | {"ids": text_array(some)}, belonging=True)

    def _belonging(self) -> None:
        """Of events that are in the freeze: their publication, attempts and inbox rows from before the window."""
        for some in _some(self._seen("outbox", "position") - self._seen("publication", "position")):
            values = self.values | {"positions": integer_array(some)}
            self._more("publication", "publication_positions", values)
        for some in _some(self._ids() | self._seen("outbox", "id")):
            values = self.values | {"ids": text_array(some)}
            self._more("inbox", "inbox_events", values)
            self._more("attempt", "attempt_events", values)

    def _more(self, name: str, query: str, values: Mapping[str, Any]) -> None:
        if (rows := self._open.get(name)) is not None:
            rows.read(_query(query), values, belonging=True)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _ids(self) -> set[str]:
        """Events that belong to the window: handled, tried or written in it, or with a letter that counts."""
        return (
            self._seen("dead_letter", "event_id") | self._seen("inbox", "event_id") | self._seen("attempt", "event_id")
        )

    def _seen(self, name: str, column: str) -> set[Any]:
        rows = self._open.get(name)
        return set() if rows is None else rows.kept[column]

    def _column(self, query: bytes) -> list[Any]:
        return [row[0] for row in self.connection.execute(query, self.values).fetchall()]

    def _new_snapshot(self) -> None:
        self.connection.rollback()
        self._since = time.monotonic()

    def breathe(self) -> None:
        """Between two tables or pages: give an old snapshot back."""
        if time.monotonic() - self._since > SNAPSHOT_SECONDS_MAX:
            self._new_snapshot()
            self.copied.snapshots += 1


# Columns whose values are looked up in the other tables.
_KEPT = {"inbox": ("event_id",), "attempt": ("event_id",), "publication": ("position",), "outbox": ("id", "position")}
_OIDS = {16: "boolean", 20: "bigint", 21: "smallint", 23: "integer", 1184: "timestamp with time zone"}


class _Rows:
    """The rows of one table on their way into its file.

    Attributes:
        kept  values of the columns that others are looked up by
    """

    def __init__(self, copy: _Copy, table: Table, path: Path) -> None:
        self.table = table
        self.kept: defaultdict[str, set[Any]] = defaultdict(set)
        self._copy, self._path = copy, path
        self._writer: pa.parquet.ParquetWriter | None = None
        self._belonging: set[tuple[Any, ...]] = set()  # keys of rows of other times: two queries may give the same
        self._page_rows = 500  # until it is known how long a row is
        self._rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(
        self,
        query: compose.SQL,
        values: Mapping[str, Any],
        *,
        order: Sequence[str] = (),
        belonging: bool = False,
        keep: bool = True,
    ) -> None:
        """All rows of a query, page by page, in the order of these columns and the primary key.

        Args:
            belonging  they are of other times than the window, and may have been read by another query
            keep       look up in the other tables what belongs to them
        """
        order = [*order, *self.table.key]
        last: Sequence[Any] | None = None
        while True:
            limit = self._page_rows
            page = self._page(query, values, order, last, limit)
            if page.num_rows:
                last = [page[column][-1].as_py() for column in order]
            self._write(self._new(page) if belonging else page, keep=keep)
            if page.num_rows < limit or not order:
                return
            self._copy.breathe()

    def _page(
        self,
        query: compose.SQL,
        values: Mapping[str, Any],
        order: Sequence[str],
        last: Sequence[Any] | None,
        limit: int,
    ) -> pa.Table:
        keys = compose.SQL(", ").join(compose.Identifier("t", column) for column in order)
        parts: list[compose.Composable] = [compose.SQL("COPY (SELECT "), self._columns(), compose.SQL(" FROM ("), query,
                                           compose.SQL(") AS t")]  # fmt: skip
        if last is not None:
            given = compose.SQL(", ").join(
                compose.SQL("{}::" + self.table.columns[column]).format(compose.Literal(value))
                for column, value in zip(order, last, strict=True)
            )
            parts.append(compose.SQL(" WHERE ({}) > ({})").format(keys, given))
        if order:
            parts.append(compose.SQL(" ORDER BY {} LIMIT {}").format(keys, compose.Literal(limit)))
        parts.append(compose.SQL(") TO STDOUT (FORMAT csv)"))
        page = io.BytesIO()
        with self._copy.connection.cursor() as cursor, cursor.copy(compose.Composed(parts), values) as copied:
            for block in copied:
                page.write(block)
        size = page.tell()
        page.seek(0)
        if not size:
            return self._schema().empty_table()
        table = pyarrow.csv.read_csv(
            page,
            pyarrow.csv.ReadOptions(column_names=self._schema().names, block_size=max(size + 1, 2**20)),
            pyarrow.csv.ParseOptions(newlines_in_values=True),
            pyarrow.csv.ConvertOptions(
                column_types=self._schema(), null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
                true_values=["t"], false_values=["f"],
            ),
        )  # fmt: skip
        if not self._copy.payloads and self._copy.policies and "error_message" in table.column_names:
            table = errors_as_seen(table, self._copy.policies)
        least, most = _PAGE_ROWS
        self._page_rows = min(max(table.num_rows * _PAGE_BYTES // size, least), most)
        return table

    def _columns(self) -> compose.Composed:
        expressions = []
        for column in self.table.columns:
            instead = None if self._copy.payloads else _WITHOUT_PAYLOADS.get((self.table.name, column))
            value: compose.Composable = compose.Identifier("t", column) if instead is None else compose.SQL(instead)
            if column == "headers" and not self._copy.payloads and (names := self._copy.masked_headers):
                value = compose.SQL(_MASKED_HEADERS).format(compose.Literal(names), compose.Literal(MASK))
            expressions.append(compose.SQL("{} AS {}").format(value, compose.Identifier(column)))
        return compose.SQL(", ").join(expressions)

    def _schema(self) -> pa.Schema:
        return pa.schema([(name, _ARROW.get(kind, pa.string())) for name, kind in self.table.columns.items()])

    def _new(self, page: pa.Table) -> pa.Table:
        keys = list(zip(*(page[column].to_pylist() for column in self.table.key), strict=True))
        mask = [key not in self._belonging for key in keys]
        self._belonging.update(keys)
        return page if all(mask) else page.filter(pa.array(mask, pa.bool_()))

    def _write(self, page: pa.Table, *, keep: bool = True) -> None:
        if self._writer is None:
            self._writer = pa.parquet.ParquetWriter(self._path, self._schema(), compression="zstd")
        if page.num_rows:
            self._writer.write_table(page)
        for column in _KEPT.get(self.table.name, ()) if keep else ():
            self.kept[column].update(page[column].to_pylist())
        self._rows += page.num_rows
        self._copy.progress(f"evkit.{self.table.name}", self._rows, 0)

    def close(self) -> None:
        if self._writer is None and self.table.columns:
            self._write(self._schema().empty_table())
        if self._writer is not None:
            self._writer.close()

    def drop(self) -> None:
        """Nothing of this table: it may not be read."""
        self.close()
        self._path.unlink(missing_ok=True)

    def file(self) -> File:
        """What lies there now; after `close`."""
        columns = list(self.table.columns)
        return File(rows=self._rows, bytes=self._path.stat().st_size, sha256=sha256(self._path), columns=columns)


def _query(name: str) -> compose.SQL:
    return compose.SQL(_SQL[name].decode())


def _all(table: str) -> Any:
    return compose.SQL("SELECT t.* FROM {} t").format(compose.Identifier("evkit", table))


def _some(values: set[Any]) -> Iterator[list[Any]]:
    """The values in parts, sorted: neighbours are on the same pages of an index."""
    ordered = sorted(values)
    for start in range(0, len(ordered), _IDS):
        yield ordered[start : start + _IDS]
