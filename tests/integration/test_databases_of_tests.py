"""The databases of tests: each is as a clone of the template is, whatever the test before did to it."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from evkit import Event, outbox, postgres
from evkit.testing.databases import Databases


@pytest.fixture
def databases(evkit_stack):
    made = Databases(evkit_stack.postgres_dsn, "evkit_databases_template")
    yield made
    made.close()
    with postgres.connect(evkit_stack.postgres_dsn, autocommit=True) as connection:
        for name in ("first", "second"):
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


WASHED = {
    "nothing": [],
    "a table": [
        "CREATE TABLE effect (id bigserial PRIMARY KEY, event text)",
        "INSERT INTO effect (event) VALUES ('a')",
    ],
    "a schema": ["CREATE SCHEMA shop", "CREATE TABLE shop.item (id int)", "CREATE VIEW shop.items AS TABLE shop.item"],
    "a sequence": ["CREATE SEQUENCE numbers"],
    "a partition": [
        "CREATE TABLE whole (id int) PARTITION BY LIST (id)",
        "CREATE TABLE part PARTITION OF whole DEFAULT",
    ],
    "a view on ours": ["CREATE VIEW waiting AS SELECT * FROM evkit.outbox"],
    "a temporary table": ["CREATE TEMPORARY TABLE t (id int)"],
}
DROPPED = {
    "a table that refers to ours": ["CREATE TABLE mine (number int REFERENCES evkit.migration)"],
    "a column": ["ALTER TABLE evkit.outbox ADD COLUMN mine text"],
    "a dropped table": ["DROP TABLE evkit.annotation"],
    "a dropped partition": ["DROP TABLE evkit.outbox_1000000"],
    "another name": ["ALTER TABLE evkit.annotation RENAME TO other"],
    "an index": ["CREATE INDEX mine ON evkit.annotation (text)"],
    "a default": ["ALTER TABLE evkit.annotation ALTER COLUMN text SET DEFAULT 'k'"],
    "a constraint": ["ALTER TABLE evkit.annotation ADD CHECK (kind <> 'mine')"],
    "a trigger": [
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER mine BEFORE INSERT ON evkit.outbox FOR EACH ROW EXECUTE FUNCTION nothing()",
    ],
    "a function": ["CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'"],
    "a type": ["CREATE TYPE colour AS ENUM ('red')"],
    "a right": ["GRANT SELECT ON evkit.outbox TO PUBLIC"],
    "a right in the schema": ["GRANT CREATE ON SCHEMA evkit TO PUBLIC"],
    "a right of PostgreSQL's own": ["REVOKE EXECUTE ON FUNCTION pg_sleep(float8) FROM PUBLIC"],
    "a setting": ["ALTER DATABASE first SET work_mem = '1MB'"],
    "a limit of sessions": ["ALTER DATABASE first CONNECTION LIMIT 7"],
    "statistics": ["ANALYZE evkit.outbox"],
    "a migration that is not known": ["INSERT INTO evkit.migration (number, name) VALUES (9999, 'mine')"],
    "a migration that is gone": ["DELETE FROM evkit.migration WHERE number = 1"],
    "a publication": ["CREATE PUBLICATION mine FOR TABLE evkit.outbox"],
}


def oid(connection):
    """Which database it is, whatever its name."""
    return connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()[0]


def used(databases, statements):
    """The database of a test that wrote three events and did this; it is given back."""
    with postgres.connect(databases.take("first"), autocommit=True) as connection:
        with connection.transaction():
            outbox.write_many(connection, [Event("order.placed", f"k{i}", {"i": i}) for i in range(3)])
        for statement in statements:
            connection.execute(statement)
        found = oid(connection)
    databases.give_back("first")
    return found


@pytest.mark.parametrize("what", WASHED)
def test_what_a_test_wrote_and_made_is_gone_in_the_same_database(what, databases):
    before = used(databases, WASHED[what])

    with postgres.connect(databases.take("second"), autocommit=True) as connection:
        assert oid(connection) == before
        assert connection.execute("SELECT count(*) FROM evkit.outbox").fetchone() == (0,)
        made = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace UNION ALL "
            "SELECT nspname FROM pg_namespace WHERE nspname = 'shop'"
        )
        assert made.fetchall() == []
        with connection.transaction():
            outbox.write_many(connection, [Event("order.placed", "k", {})])
        assert connection.execute("SELECT position FROM evkit.outbox").fetchall() == [(1,)]


@pytest.mark.parametrize("what", DROPPED)
def test_a_database_that_is_not_as_before_is_not_used_again(what, databases):
    before = used(databases, DROPPED[what])

    with postgres.connect(databases.take("second"), autocommit=True) as connection:
        assert oid(connection) != before


def test_sessions_of_a_test_that_is_over_end_and_find_no_database_any_more(databases):
    dsn = databases.take("first")
    left = postgres.connect(dsn)
    left.execute("SELECT 1")

    databases.give_back("first")
    databases.take("second")

    with pytest.raises(psycopg.OperationalError):
        left.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(dsn)


def test_a_database_that_its_test_dropped_is_missed_by_nobody(databases, evkit_stack):
    databases.take("first")
    with postgres.connect(evkit_stack.postgres_dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE first")

    databases.give_back("first")

    with postgres.connect(databases.take("second")) as connection:
        assert connection.execute("SELECT count(*) FROM evkit.outbox").fetchone() == (0,)


def test_two_at_a_time_are_two(databases):
    with postgres.connect(databases.take("first")) as one, postgres.connect(databases.take("second")) as other:
        assert oid(one) != oid(other)
