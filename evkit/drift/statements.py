"""SQL that mends a difference, as text for a person to read and run. Identifiers are quoted where they need it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from psycopg import sql as compose

from evkit.drift.catalogue import Catalogue
from evkit.partitions import WIDTH, Layout, Range

Part = compose.Composable


def say(template: str, *parts: Part) -> str:
    """A statement: `say("ALTER TABLE {} SET LOGGED", table("relay"))`."""
    return compose.SQL(template).format(*parts).as_string()


def raw(text: str) -> compose.SQL:
    """What PostgreSQL itself has printed: a definition, a default, a type."""
    return compose.SQL(text)


def name(text: str) -> Part:
    """An identifier, in quotes: "offset" is a word of SQL."""
    return compose.Identifier(text)


def table(text: str) -> Part:
    """A table, index or sequence in schema evkit; in quotes only where it needs them, as a person would write it."""
    return raw(f"evkit.{text}") if re.fullmatch(r"[a-z_0-9]+", text) else compose.Identifier("evkit", text)


def type_of(column: dict[str, Any]) -> str:
    """A column's type, with its collation where it is not the type's own."""
    return str(column["type"]) + (f" COLLATE {column['collation']}" if column["collation"] else "")


def column(ident: str, about: dict[str, Any]) -> Part:
    """A column as CREATE TABLE and ADD COLUMN want it."""
    parts = [name(ident), raw(type_of(about))]
    if about["identity"]:
        parts.append(identity(about))
    if about["default"]:
        parts.append(raw(f"DEFAULT {about['default']}"))
    if about["not_null"]:
        parts.append(raw("NOT NULL"))
    return compose.SQL(" ").join(parts)


def identity(about: dict[str, Any]) -> Part:
    return raw(f"GENERATED {'ALWAYS' if about['identity'] == 'a' else 'BY DEFAULT'} AS IDENTITY")


def create(ident: str, about: dict[str, Any], layout: Layout) -> list[str]:
    """A table with all that belongs to it; a partitioned one with the ranges that it has, or that the other table has."""
    columns = compose.SQL(", ").join(column(n, c) for n, c in about["columns"].items())
    partition = raw(f" PARTITION BY {about['partition_by']}" if about["partition_by"] else "")
    options = raw(f" WITH ({', '.join(f'{k} = {v}' for k, v in about['options'].items())})" if about["options"] else "")
    statements = [say("CREATE TABLE {} ({}){}{}", table(ident), columns, partition, options)]
    statements += [
        say("ALTER TABLE {} ADD CONSTRAINT {} {}", table(ident), name(n), raw(definition))
        for n, definition in about["constraints"].items()
    ]
    # An index ON ONLY a partitioned table is valid as long as that has no partitions, and those to come get theirs.
    statements += [definition.replace(" ON ONLY ", " ON ") for definition in about["indexes"].values()]
    if about["partition_by"]:
        own = layout.ranges.get(ident) or {f"{ident}_{r.lower}": r for r in layout.all_ranges() or _first_ranges()}
        for leaf, range_ in sorted(own.items(), key=lambda item: item[1]):
            statements.append(
                say("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})",
                    table(leaf), table(ident), compose.Literal(range_.lower), compose.Literal(range_.upper))
            )  # fmt: skip
        statements.append(say("CREATE TABLE {} PARTITION OF {} DEFAULT", table(f"{ident}_rest"), table(ident)))
        if ident == "outbox":
            statements += [unique_id(leaf) for leaf in (*own, f"{ident}_rest")]
            statements.append("ALTER SEQUENCE evkit.outbox_position OWNED BY evkit.outbox.position")
    return statements


def unique_id(leaf: str, how: str = "") -> str:
    return say("CREATE UNIQUE INDEX {}{} ON {} (id)", raw(how), name(f"{leaf}_id"), table(leaf))


def _first_ranges() -> Iterable[Range]:
    return [Range(n * WIDTH, (n + 1) * WIDTH) for n in range(3)]


def rebuild(ident: str, about: dict[str, Any], found: Catalogue, layout: Layout) -> list[str]:
    """A table made anew with its rows, for what no ALTER can change."""
    leaves = found.leaves_of(ident)
    columns = compose.SQL(", ").join(name(c) for c in about["columns"] if c in found.tables[ident].columns)
    old = raw(f"evkit_old.{ident}")
    return [
        "BEGIN",
        "ALTER SEQUENCE evkit.outbox_position OWNED BY NONE",
        "CREATE SCHEMA evkit_old",
        *[say("ALTER TABLE {} SET SCHEMA evkit_old", table(n)) for n in (ident, *leaves)],
        *create(ident, about, layout),
        say("INSERT INTO {} ({}) SELECT {} FROM {}", table(ident), columns, columns, old),
        say("DROP TABLE {}", old),
        "DROP SCHEMA evkit_old",
        "COMMIT",
    ]


def constraint(ident: str, n: str, definition: str, has: str | None) -> list[str]:
    """Statements that make a constraint what it is to be; `has` is what it is."""
    if has == f"{definition} NOT VALID":
        return [say("ALTER TABLE {} VALIDATE CONSTRAINT {}", table(ident), name(n))]
    drop = [say("ALTER TABLE {} DROP CONSTRAINT {}", table(ident), name(n))] if has is not None else []
    return [*drop, say("ALTER TABLE {} ADD CONSTRAINT {} {}", table(ident), name(n), raw(definition))]


def index(ident: str, n: str, definition: str, has: str | None, found: Catalogue) -> list[str]:
    """Statements that build an index while writers go on: of a partitioned table, partition by partition."""
    if found.tables[ident].partition_by is None:
        if has == definition:
            return [say("REINDEX INDEX CONCURRENTLY {}", table(n))]
        drop = [say("DROP INDEX CONCURRENTLY {}", table(n))] if has is not None else []
        return [*drop, definition.replace("INDEX ", "INDEX CONCURRENTLY ", 1)]
    statements = []
    if has != definition:
        statements = [say("DROP INDEX {}", table(n))] if has is not None else []
        statements.append(definition)
    for leaf in found.leaves_of(ident):
        if has == definition and n in found.leaves[leaf].attached.values():
            continue
        child = f"{leaf}_{n.removeprefix(f'{ident}_')}_idx"
        if child in found.leaves[leaf].indexes and has == definition:
            statements.append(say("DROP INDEX CONCURRENTLY {}", table(child)))
        # "CREATE INDEX outbox_created_at ON ONLY evkit.outbox USING …": all but name and table is the partition's too.
        of_leaf = definition.replace(
            f"INDEX {n} ON ONLY evkit.{ident} ", f"INDEX CONCURRENTLY {child} ON evkit.{leaf} ", 1
        )
        statements += [of_leaf, say("ALTER INDEX {} ATTACH PARTITION {}", table(n), table(child))]
    return statements
