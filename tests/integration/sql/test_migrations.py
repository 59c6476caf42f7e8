"""Tables made by migrations and tables as they are written down are the same; and every query fits them."""

from __future__ import annotations

import re

import psycopg
import pytest
from psycopg import sql as compose

from evkit import postgres, sql
from evkit.errors import NotMigrated

CATALOGUE = """
SELECT 'column', table_name, column_name, ordinal_position::text, data_type, is_nullable, column_default,
       is_identity, collation_name
  FROM information_schema.columns WHERE table_schema = 'evkit'
 UNION ALL
SELECT 'index', tablename, indexname, '', indexdef, '', '', '', '' FROM pg_indexes WHERE schemaname = 'evkit'
 UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, '', pg_get_constraintdef(oid), '', '', '', ''
  FROM pg_constraint WHERE connamespace = 'evkit'::regnamespace AND contype <> 'n'
 UNION ALL
SELECT 'setting', relname, '', '', reloptions::text, '', '', '', '' FROM pg_class
 WHERE relnamespace = 'evkit'::regnamespace AND relkind IN ('r', 'p')
 ORDER BY 1, 2, 3
"""


@pytest.fixture
def bare_database(evkit_stack):
    """An empty database."""
    name = "bare_tables"
    with psycopg.connect(evkit_stack.postgres_dsn, autocommit=True) as connection:
        connection.execute(compose.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(compose.Identifier(name)))
        connection.execute(compose.SQL("CREATE DATABASE {}").format(compose.Identifier(name)))
        yield f"{evkit_stack.postgres_dsn.rpartition('/')[0]}/{name}"
        connection.execute(compose.SQL("DROP DATABASE {} WITH (FORCE)").format(compose.Identifier(name)))


def catalogue(dsn):
    with psycopg.connect(dsn) as connection:
        return connection.execute(CATALOGUE).fetchall()


def test_tables_built_from_scratch_and_by_migrations_are_equal(evkit_database, bare_database):
    with psycopg.connect(bare_database) as connection:
        connection.execute(sql.tables())

    assert catalogue(bare_database) == catalogue(evkit_database)


def test_migrating_twice_changes_nothing_and_a_bare_database_says_what_it_lacks(bare_database):
    with postgres.connect(bare_database) as connection, pytest.raises(NotMigrated, match="run `evkit migrate`"):
        postgres.require_migrated(connection)

    first = postgres.migrate(bare_database)

    assert first == [f"{number:04}_{name}" for number, name, _ in sql.migrations()]
    assert postgres.migrate(bare_database) == []
    with postgres.connect(bare_database) as connection:
        postgres.require_migrated(connection)


def test_failing_migration_leaves_the_database_as_it_was(bare_database, monkeypatch):
    good, bad = (1, "good", b"CREATE TABLE evkit.a (n int)"), (2, "bad", b"CREATE TABLE evkit.b (n int); SELECT 1 / 0")
    monkeypatch.setattr(sql, "migrations", lambda: [good, bad])

    with pytest.raises(psycopg.errors.DivisionByZero):
        postgres.migrate(bare_database)

    with postgres.connect(bare_database) as connection:
        assert postgres.applied_migrations(connection) == [1]
        assert connection.execute("SELECT to_regclass('evkit.a'), to_regclass('evkit.b')").fetchone() == (
            "evkit.a",
            None,
        )


def test_migration_numbers_are_one_by_one():
    assert [number for number, *_ in sql.migrations()] == list(range(1, len(sql.migrations()) + 1))


@pytest.mark.parametrize(("noun", "name"), [(noun, name) for noun in sql.nouns() for name in sql.named(noun)])
def test_every_query_fits_the_tables(noun, name, evkit_database):
    """PostgreSQL parses and analyses it: a column that was renamed is found here and not at night."""
    query = sql.named(noun)[name].decode()
    if query.startswith(("LISTEN", "SET")) or "CREATE TEMPORARY" in query:  # no query: nothing of the tables is in it
        return
    if query.upper().lstrip("- \n").startswith("COPY") or "\nCOPY" in query:
        query = re.sub(r"COPY (\S+) \((.*)\) FROM STDIN.*", r"SELECT \2 FROM \1", query)
    names: list[str] = []

    def numbered(match):
        if match[1] is None:
            names.append(f"positional {len(names)}")
        elif match[1] not in names:
            names.append(match[1])
        return f"${len(names) if match[1] is None else names.index(match[1]) + 1}"

    prepared = re.sub(r"%(?:\((\w+)\))?[sb]", numbered, query).replace("%%", "%")

    with psycopg.connect(evkit_database) as connection:
        connection.execute(sql.named("replay")["dry_arm"])  # the one table that only a session has
        connection.execute(b"PREPARE q AS " + prepared.encode())
