"""Roles of least privilege: who writes events, who relays them, who samples, and who only looks.

Four group roles that nobody logs in as; a service's own login role is made a member (`GRANT evkit_writer TO orders`). Rows
are reached through evkit.outbox and evkit.publication, whose privileges are what counts, so partitions need no grants, and
those to come need none either. Making and dropping partitions is for the owner of the tables (runtime/retention.py).
"""

from __future__ import annotations

import psycopg
from psycopg import sql as compose

from evkit import postgres, sql
from evkit.sql import named

_SQL = named("roles")

# Beside another evkit in the same PostgreSQL server, whose roles are shared by all its databases, take another one.
PREFIX = "evkit"

Privileges = dict[tuple[str, str], frozenset[str]]
Act = tuple[str, compose.Composed]


def expected(prefix: str = PREFIX) -> dict[str, Privileges]:
    """role → (kind, name) → privileges."""
    enter: Privileges = {("SCHEMA", "evkit"): frozenset({"USAGE"})}
    positions = ("SEQUENCE", "outbox_position")
    return {
        # INSERT and no SELECT: a service that was broken into cannot read the other services' events. What it has
        # scheduled it may look up and take back.
        f"{prefix}_writer": enter | {
            ("TABLE", "outbox"): frozenset({"INSERT"}),
            ("TABLE", "scheduled"): frozenset({"INSERT", "SELECT", "DELETE"}),
            positions: frozenset({"USAGE"}),
        },
        # Publishes, parks, moves what is due into the outbox; `evkit outbox retry | skip` leave audit rows.
        f"{prefix}_relay": enter | {
            ("TABLE", "outbox"): frozenset({"SELECT", "INSERT"}),
            ("TABLE", "publication"): frozenset({"SELECT", "INSERT"}),
            # UPDATE is what PostgreSQL asks of SELECT … FOR UPDATE.
            ("TABLE", "scheduled"): frozenset({"SELECT", "UPDATE", "DELETE"}),
            ("TABLE", "unpublishable"): frozenset({"SELECT", "INSERT", "UPDATE"}),
            ("TABLE", "relay"): frozenset({"SELECT", "INSERT", "UPDATE"}),
            ("TABLE", "audit"): frozenset({"SELECT", "INSERT", "UPDATE"}),
            ("TABLE", "migration"): frozenset({"SELECT"}),
            positions: frozenset({"USAGE", "SELECT"}),
        },
        # `evkit sample`: its own tables, and nothing of anybody's events.
        f"{prefix}_sampler": enter | {
            ("TABLE", "lag_sample"): frozenset({"SELECT", "INSERT", "DELETE"}),
            ("TABLE", "commit_log"): frozenset({"SELECT", "INSERT", "DELETE"}),
            ("TABLE", "commit_log_gap"): frozenset({"SELECT", "INSERT", "DELETE"}),
            ("TABLE", "commit_log_tail"): frozenset({"SELECT", "INSERT", "UPDATE"}),
            ("TABLE", "migration"): frozenset({"SELECT"}),
        },
        # Views, notebooks, reports, `evkit migrate --check`.
        f"{prefix}_reader": enter | {positions: frozenset({"SELECT"})}
        | {("TABLE", table): frozenset({"SELECT"}) for table in sql.expected()["tables"]},
    }  # fmt: skip


def compare(connection: postgres.Connection, prefix: str = PREFIX) -> tuple[list[Act], list[str], list[str]]:
    """(acts, notes, absent): what differs, as a sentence and the statement that mends it; what is only worth knowing; and
    roles that do not exist.
    """
    wanted = expected(prefix)
    names = list(wanted)
    acts: list[Act] = []
    notes: list[str] = []
    found = {row[0]: row[1:] for row in connection.execute(_SQL["roles"], (names,)).fetchall()}
    for name, (can_login, is_super, bypasses, member_of) in found.items():
        role = compose.Identifier(name)
        if can_login:
            acts.append((f"{name} can log in; it is meant as a group", _alter("ALTER ROLE {} NOLOGIN", role)))
        if is_super or bypasses:
            what = "is a superuser" if is_super else "passes row security by"
            acts.append((f"{name} {what}", _alter("ALTER ROLE {} NOSUPERUSER NOBYPASSRLS", role)))
        if member_of:
            notes.append(f"{name} is a member of {', '.join(member_of)}, and may do what these may")
    granted: dict[str, dict[tuple[str, str], set[str]]] = {name: {} for name in names}
    for name, kind, target, parent, privilege in connection.execute(_SQL["privileges"], (names,)).fetchall():
        # What a role may do with the table it may do with a partition; needless, and no harm.
        if parent is None or privilege not in wanted[name].get(("TABLE", parent), frozenset()):
            granted[name].setdefault((kind, target), set()).add(privilege)
    for name in found:
        for target in sorted({*wanted[name], *granted[name]}):
            has, needs = granted[name].get(target, set()), wanted[name].get(target, frozenset())
            if lacks := sorted(needs - has):
                acts.append((f"{name} may not {_and(lacks)} {_on(target)}", _grant("GRANT", "TO", lacks, target, name)))
            if extra := sorted(has - needs):
                acts.append((f"{name} may {_and(extra)} {_on(target)}", _grant("REVOKE", "FROM", extra, target, name)))
    return acts, notes, [name for name in names if name not in found]


def plan(connection: postgres.Connection, prefix: str = PREFIX) -> list[Act]:
    """All that makes the roles what they are meant to be: create those that are absent, grant, revoke."""
    acts, _, absent = compare(connection, prefix)
    wanted = expected(prefix)
    for name in absent:
        acts.append((f"{name} does not exist", _alter("CREATE ROLE {} NOLOGIN", compose.Identifier(name))))
        for target, needs in sorted(wanted[name].items()):
            privileges = sorted(needs)
            acts.append((f"{name} may then {_and(privileges)} {_on(target)}",
                         _grant("GRANT", "TO", privileges, target, name)))  # fmt: skip
    return acts


def apply(connection: postgres.Connection, prefix: str = PREFIX) -> str | None:
    """Do all of the plan or nothing; returns why nothing, in words, when this user may not do all of it."""
    try:
        with connection.transaction():
            for _, statement in plan(connection, prefix):
                connection.execute(statement)
            # Who may not grant is told so by a warning at most.
            if left := plan(connection, prefix):
                why = f"{left[0][0]}, and user {connection.info.user} cannot change it"
                raise psycopg.Rollback
            return None
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.DuplicateObject) as error:
        return str(error).splitlines()[0]
    return why


def _alter(statement: str, role: compose.Identifier) -> compose.Composed:
    return compose.SQL(statement).format(role)


def _grant(verb: str, to: str, privileges: list[str], target: tuple[str, str], role: str) -> compose.Composed:
    kind, name = target
    column = ""
    if kind.startswith("COLUMN "):
        kind, column = "TABLE", f" ({kind.removeprefix('COLUMN ')})"
    return compose.SQL("{verb} {what} ON {kind} {name} {to} {role}").format(
        verb=compose.SQL(verb),
        what=compose.SQL(", ".join(privilege + column for privilege in privileges)),
        kind=compose.SQL(kind),
        name=compose.Identifier(name) if kind == "SCHEMA" else compose.Identifier("evkit", name),
        to=compose.SQL(to),
        role=compose.Identifier(role),
    )


def _on(target: tuple[str, str]) -> str:
    kind, name = target
    if kind == "SCHEMA":
        return "on schema evkit"
    if kind.startswith("COLUMN "):
        return f"on column {kind.removeprefix('COLUMN ')} of evkit.{name}"
    return f"on sequence evkit.{name}" if kind == "SEQUENCE" else f"on evkit.{name}"


def _and(privileges: list[str]) -> str:
    return ", ".join(privileges)
