"""database of a test that is over → one for the next test, as new: to wash one takes a fraction of cloning another.

A clone of evkit's tables is 500 files, which is most of what a small test costs. What a test wrote is truncated, what it
made is dropped, and sequences begin again; then the catalogs have to say what those of the template say, or the database
goes as a whole. A name is used once: whoever still asks for the database of a test that is over finds none.
"""

from __future__ import annotations

import logging
import os

import psycopg
from psycopg import sql

from evkit import postgres
from evkit.sql import named

log = logging.getLogger(__name__)

_SQL = named("testing")

# A session that is told to end is waited for so long; then the database is dropped, with force.
_END_MILLIS = 5000


class Databases:
    """Databases of one server with evkit's tables, each a clone of one template or as good as one.

    Args:
        dsn       of the server's database from which others are made and dropped
        template  name of the database to clone, which is made here
    """

    def __init__(self, dsn: str, template: str) -> None:
        self._dsn = dsn
        self._template = template
        self._washed: list[str] = []
        self._count = 0
        with postgres.connect(dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(template)))
        postgres.migrate(self._dsn_of(template))
        with postgres.connect(self._dsn_of(template), autocommit=True) as connection:
            self._schemas = [name for (name,) in connection.execute(_SQL["schemas"]).fetchall()]
            self._relations = [oid for (oid,) in connection.execute(_SQL["relations"]).fetchall()]
            self._filled = [table for table in _tables(connection) if _has_rows(connection, table)]
            self._state = self._state_of(connection)

    def _dsn_of(self, name: str) -> str:
        return f"{self._dsn.rpartition('/')[0]}/{name}"

    def take(self, name: str) -> str:
        """A database of this name, with the template's tables and nothing else; returns its connection string."""
        with postgres.connect(self._dsn, autocommit=True) as connection:
            if self._washed:
                _rename(connection, self._washed.pop(), name)
            else:
                connection.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                        sql.Identifier(name), sql.Identifier(self._template)
                    )
                )
        return self._dsn_of(name)

    def give_back(self, name: str) -> None:
        """End all sessions of a database whose test is over; wash it, or drop it."""
        self._count += 1
        washed = f"evkit_washed_{os.getpid()}_{self._count}"  # workers share a server with EVKIT_TEST_STACK_HOME
        with postgres.connect(self._dsn, autocommit=True) as connection:
            try:
                connection.execute(_SQL["end_sessions"], (_END_MILLIS, name))
                _rename(connection, name, washed)
            except psycopg.Error as error:  # somebody was quick to come back, or the test has dropped it
                log.info("database %s is not used again: %s", name, error)
                _drop(connection, name)
                return
            try:
                with postgres.connect(self._dsn_of(washed), autocommit=True) as inside:
                    clean = self._wash(inside)
            except psycopg.Error as error:
                log.info("database %s is not used again: %s", name, error)
                clean = False
            if clean:
                self._washed.append(washed)
            else:
                _drop(connection, washed)

    def close(self) -> None:
        """Drop those that nobody has, and the template."""
        with postgres.connect(self._dsn, autocommit=True) as connection:
            for name in [*self._washed, self._template]:
                _drop(connection, name)
        self._washed.clear()

    def _wash(self, connection: postgres.Connection) -> bool:
        """Whether the database is as the template is, now."""
        for (schema,) in connection.execute(_SQL["schemas"]).fetchall():
            if schema not in self._schemas:
                connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
        # One goes with another: what is left is asked for anew.
        while added := connection.execute(_SQL["added"], (self._relations,)).fetchone():
            kind, schema, relation = added
            connection.execute(sql.SQL("DROP {} {} CASCADE").format(sql.SQL(kind), sql.Identifier(schema, relation)))
        written = [t for t in _tables(connection) if t not in self._filled and _has_rows(connection, t)]
        if written:
            connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join(written)))
        connection.execute(_SQL["restart_sequences"])
        connection.execute(_SQL["forget_statistics"])
        return self._state_of(connection) == self._state

    def _state_of(self, connection: postgres.Connection) -> list[str]:
        """What the catalogs say, and what is in the tables that are not empty in the template, in a word each."""
        content = sql.SQL("SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {} AS t")
        found = [connection.execute(_SQL["catalogs"]).fetchone()]
        found += [connection.execute(content.format(table)).fetchone() for table in self._filled]
        return [str(row) for row in found]


def _rename(connection: postgres.Connection, name: str, into: str) -> None:
    connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(into)))


def _drop(connection: postgres.Connection, name: str) -> None:
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _tables(connection: postgres.Connection) -> list[sql.Identifier]:
    return [sql.Identifier(schema, table) for schema, table in connection.execute(_SQL["tables"]).fetchall()]


def _has_rows(connection: postgres.Connection, table: sql.Identifier) -> bool:
    row = connection.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table)).fetchone()
    return row is not None and bool(row[0])
