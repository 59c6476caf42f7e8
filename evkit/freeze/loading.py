"""Parquet of a freeze → a private PostgreSQL: evkit's tables as they were, and a clock that stands still.

Views run the SQL that they always run. Two things make it tell of then: the tables, and a schema `frozen` that stands
before pg_catalog in the search path of the role that looks. It has functions that tell the moment of the freeze, under the
names of those that tell the time, and the server's locks and sessions of then, under the names of PostgreSQL's own views.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
from psycopg import sql as compose

from evkit import postgres
from evkit.freeze.manifest import Manifest, path_of
from evkit.freeze.tables import UNSEEN
from evkit.local.postgres_server import DATABASE, PostgresServer
from evkit.sql import named

_SQL = named("freeze")

# Who looks. It may read what was copied and nothing else, and write nothing.
ROLE = "evkit_frozen"

_CLOCKS = ("now", "clock_timestamp", "statement_timestamp", "transaction_timestamp")

_LOCKS = """
CREATE TABLE frozen.pg_locks AS
SELECT s.locktype, (SELECT d.oid FROM pg_catalog.pg_database d
                     WHERE d.datname = current_database() AND s.is_here) AS database,
       coalesce(to_regclass('evkit.' || quote_ident(s.relation)),
                CASE WHEN s.relation LIKE 'outbox%' THEN to_regclass('evkit.outbox') END)::oid AS relation,
       s.virtualxid, s.transactionid::xid AS transactionid, s.classid::oid AS classid, s.objid::oid AS objid,
       s.objsubid::smallint AS objsubid, s.virtualtransaction, s.pid, s.mode, s.granted
  FROM frozen.server_locks s
"""
_SESSIONS = """
CREATE TABLE frozen.pg_stat_activity AS
SELECT s.pid, s.datname::name AS datname, s.usename::name AS usename, s.application_name,
       s.client_addr::inet AS client_addr, s.client_port, s.backend_start, s.xact_start, s.query_start, s.state_change,
       s.state, s.wait_event_type, s.wait_event, s.backend_type
  FROM frozen.server_sessions s
"""
_PREPARED = """
CREATE TABLE frozen.pg_prepared_xacts AS
SELECT s.transaction::xid AS transaction, s.gid, s.prepared, s.owner::name AS owner, s.database::name AS database
  FROM frozen.server_prepared s
"""


def dsn_of(server: PostgresServer, port: int) -> str:
    """The connection string of who looks."""
    return server.dsn(port).replace("//postgres@", f"//{ROLE}@", 1)


def load(server: PostgresServer, port: int, folder: Path, manifest: Manifest) -> None:
    """Fill an empty server with the tables of a freeze.

    They are loaded into the tables of the migration that they are of, and migrated then like any database.
    """
    dsn = server.dsn(port)
    with postgres.connect(server.dsn(port, "postgres"), autocommit=True) as connection:
        connection.execute(compose.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(compose.Identifier(DATABASE)))
        connection.execute(compose.SQL("CREATE DATABASE {}").format(compose.Identifier(DATABASE)))
    postgres.migrate(dsn, up_to=manifest.migration)
    with postgres.connect(dsn, application_name="evkit freeze") as connection:
        connection.execute(
            "SET session_replication_role = replica"
        )  # no foreign key is looked up: the rows fitted there
        connection.execute("SET synchronous_commit = off")
        connection.execute("CREATE SCHEMA frozen")
        for name in manifest.tables:
            if name.startswith("server_"):
                _make(connection, folder, name)
                _fill(connection, folder, "frozen", name)
            else:
                _fill(connection, folder, "evkit", name)
        connection.execute(_SQL["frozen_position"])
    postgres.migrate(dsn)
    with postgres.connect(dsn, application_name="evkit freeze", autocommit=True) as connection:
        for statement, needs in (
            (_LOCKS, "server_locks"),
            (_SESSIONS, "server_sessions"),
            (_PREPARED, "server_prepared"),
        ):
            if needs in manifest.tables:
                connection.execute(statement)
        _stop_clock(connection, manifest)
        _grant(connection, manifest)
        connection.execute("ANALYZE")


def _make(connection: postgres.Connection, folder: Path, name: str) -> None:
    """A table of the server's views, as they were read."""
    kinds = {"int16": "smallint", "int32": "integer", "int64": "bigint", "bool": "boolean", "string": "text"}
    schema = pyarrow.parquet.read_schema(path_of(folder, "postgres", name))
    columns = [
        compose.SQL("{} " + kinds.get(str(field.type), "timestamptz")).format(compose.Identifier(field.name))
        for field in schema
    ]
    connection.execute(
        compose.SQL("CREATE TABLE {} ({})").format(compose.Identifier("frozen", name), compose.SQL(", ").join(columns))
    )


def _fill(connection: postgres.Connection, folder: Path, schema: str, name: str) -> None:
    file = pyarrow.parquet.ParquetFile(path_of(folder, "postgres", name))
    columns = compose.SQL(", ").join(map(compose.Identifier, file.schema_arrow.names))
    statement = compose.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(compose.Identifier(schema, name), columns)
    options: Any = pyarrow.csv.WriteOptions(include_header=False)
    with connection.cursor() as cursor, cursor.copy(statement) as copied:
        for rows in file.iter_batches():
            page = io.BytesIO()
            pyarrow.csv.write_csv(rows, page, options)
            copied.write(page.getvalue())


def _stop_clock(connection: postgres.Connection, manifest: Manifest) -> None:
    moment = compose.Literal(manifest.frozen_at.isoformat())
    for name in _CLOCKS:
        connection.execute(
            compose.SQL(
                "CREATE FUNCTION {}() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE RETURN {}::timestamptz"
            ).format(compose.Identifier("frozen", name), moment)
        )


def _grant(connection: postgres.Connection, manifest: Manifest) -> None:
    """What was copied may be read, column by column where a column was not."""
    role = compose.Identifier(ROLE)
    connection.execute(compose.SQL("DROP ROLE IF EXISTS {}").format(role))
    connection.execute(compose.SQL("CREATE ROLE {} LOGIN").format(role))
    connection.execute(
        compose.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = frozen, pg_catalog").format(
            role, compose.Identifier(DATABASE)
        )
    )
    connection.execute(compose.SQL("GRANT USAGE ON SCHEMA evkit, frozen TO {}").format(role))
    connection.execute(compose.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA frozen TO {}").format(role))
    connection.execute(compose.SQL("GRANT SELECT ON evkit.migration, evkit.outbox_position TO {}").format(role))
    for name in manifest.tables:
        if name.startswith("server_"):
            continue
        what: compose.Composable = compose.SQL("SELECT")
        if not manifest.payloads and any(table == name for table, _ in UNSEEN):
            described = connection.execute(
                compose.SQL("SELECT * FROM {} LIMIT 0").format(compose.Identifier("evkit", name))
            )
            seen = [c.name for c in described.description or () if (name, c.name) not in UNSEEN]
            what = compose.SQL("SELECT ({})").format(compose.SQL(", ").join(map(compose.Identifier, seen)))
        connection.execute(compose.SQL("GRANT {} ON {} TO {}").format(what, compose.Identifier("evkit", name), role))
