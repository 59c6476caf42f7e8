"""evkit's tables, emptied: what a demo starts with. It makes sure before that nobody else has written to them."""

from __future__ import annotations

from psycopg import sql

from evkit import postgres
from evkit.errors import Refused
from evkit.postgres import Connection
from evkit.system import System


def forget_events(connection: Connection) -> None:
    """Empty every table of evkit's but the list of migrations, and count from 1 again."""
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'evkit'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition AND relname <> 'migration'"
    ).fetchall()
    tables = sql.SQL(", ").join(sql.Identifier("evkit", name) for (name,) in found)
    connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(tables))


def require_own(system: System, foreign: list[str], what: str, instead: str) -> None:
    """Raise Refused when topics of somebody else are in the outbox; `what` would empty it, `instead` is to be typed."""
    if foreign:
        raise Refused(
            f"{postgres.address(system.settings.postgres_dsn)} has events of {', '.join(sorted(foreign))}, which are not "
            f"the {what}'s, and the {what} starts with empty tables: give it a stack of its own ({instead})"
        )
