"""evkit's tables, emptied: what a demo starts with. It makes sure before that nobody else has written to them."""

from __future__ import annotations

from psycopg import sql

from evkit.postgres import Connection


def forget_events(connection: Connection) -> None:
    """Empty every table of evkit's but the list of migrations, and count from 1 again."""
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'evkit'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition AND relname <> 'migration'"
    ).fetchall()
    tables = sql.SQL(", ").join(sql.Identifier("evkit", name) for (name,) in found)
    connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(tables))
