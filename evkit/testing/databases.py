"""database of a test that is over → one for the next test, as new: to wash one takes a fraction of cloning another.

A clone of evkit's tables is 500 files, which is most of what a small test costs. What a test wrote is truncated, what it
made is dropped, and sequences begin again; then the catalogs have to say what those of the template say, or the database
goes as a whole. A name is used once: whoever still asks for the database of a test that is over finds none.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import psycopg
from psycopg import sql

from evkit import postgres
from evkit.sql import named

log = logging.getLogger(__name__)

_SQL = named("testing")

# A session that is told to end is waited for so long; then the database is dropped, with force.
_END_MILLIS = 5000


@dataclass(frozen=True, slots=True)
class _Made:
    """What a database is made of: its catalogs in a word, its relations and schemas, the tables that are never empty."""

    catalogs: str
    relations: list[int]
    schemas: list[str]
    filled: list[str]


class Databases:
    """Databases of one server, each a clone of one template or as good as one.

    Args:
        dsn       of the server's database from which others are made and dropped
        template  name of the database to clone; nobody is connected to it, and it does not change
    """

    def __init__(self, dsn: str, template: str) -> None:
        self._dsn = dsn
        self._template = template
        self._washed: list[str] = []
        self._count = 0
        with postgres.connect(self.dsn_of(template), autocommit=True) as connection:
            self._made = _made(connection, None)

    def dsn_of(self, name: str) -> str:
        """Connection string of one of them."""
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
        return self.dsn_of(name)

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
                with postgres.connect(self.dsn_of(washed), autocommit=True) as inside:
                    clean = self._wash(inside)
            except psycopg.Error as error:
                log.info("database %s is not used again: %s", name, error)
                clean = False
            if clean:
                self._washed.append(washed)
            else:
                _drop(connection, washed)

    def close(self) -> None:
        """Drop those that nobody has."""
        with postgres.connect(self._dsn, autocommit=True) as connection:
            for name in self._washed:
                _drop(connection, name)
        self._washed.clear()

    def _wash(self, connection: postgres.Connection) -> bool:
        """Whether the database is as the template is, now."""
        made = self._made
        for (schema,) in connection.execute(_SQL["schemas"]).fetchall():
            if schema not in made.schemas:
                connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
        # One goes with another: what is left is asked for anew.
        while added := connection.execute(_SQL["added"], (made.relations,)).fetchone():
            kind, schema, relation = added
            connection.execute(sql.SQL("DROP {} {} CASCADE").format(sql.SQL(kind), sql.Identifier(schema, relation)))
        written = [
            sql.Identifier(schema, table)
            for schema, table in connection.execute(_SQL["tables"]).fetchall()
            if f"{schema}.{table}" not in made.filled and _has_rows(connection, schema, table)
        ]
        if written:
            connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join(written)))
        connection.execute(_SQL["restart_sequences"])
        connection.execute(_SQL["forget_statistics"])
        return _made(connection, made.filled) == made


def _rename(connection: postgres.Connection, name: str, into: str) -> None:
    connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(into)))


def _drop(connection: postgres.Connection, name: str) -> None:
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _has_rows(connection: postgres.Connection, schema: str, table: str) -> bool:
    row = connection.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(schema, table))).fetchone()
    return row is not None and bool(row[0])


def _made(connection: postgres.Connection, filled: list[str] | None) -> _Made:
    """`filled`: tables that are known to have rows always; None: those that have some now."""
    if filled is None:
        tables = connection.execute(_SQL["tables"]).fetchall()
        filled = [f"{schema}.{table}" for schema, table in tables if _has_rows(connection, schema, table)]
    parts = [str(connection.execute(_SQL["catalogs"]).fetchone())]
    for name in filled:
        content = sql.SQL("SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {} AS t")
        parts.append(str(connection.execute(content.format(sql.Identifier(*name.split(".", 1)))).fetchone()))
    relations = [oid for (oid,) in connection.execute(_SQL["relations"]).fetchall()]
    schemas = [name for (name,) in connection.execute(_SQL["schemas"]).fetchall()]
    return _Made(" ".join(parts), relations, schemas, filled)
