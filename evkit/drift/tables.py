"""Columns, constraints, indexes and storage of evkit's tables against those expected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from psycopg import sql as compose

from evkit import sql
from evkit.drift import statements
from evkit.drift.catalogue import Catalogue, Table
from evkit.drift.difference import Difference
from evkit.drift.statements import name, raw, say, table
from evkit.partitions import PARENTS, Layout

# The transaction id must be taken before the position (tables.sql), and PostgreSQL computes defaults in column order.
_BEFORE = {"outbox": ("txid", "position")}


def compare(found: Catalogue, layout: Layout, notes: list[str]) -> Iterator[Difference]:
    """Differences of all tables and partitions; what users added goes to `notes`."""
    expected: dict[str, Any] = sql.expected()["tables"]
    for ident, wanted in expected.items():
        where = f"evkit.{ident}"
        if (has := found.tables.get(ident)) is None:
            yield Difference(where, f"{where} is missing", statements.create(ident, wanted, layout))
        elif has.partition_by != wanted["partition_by"]:
            is_, needs = has.partition_by or "not partitioned", wanted["partition_by"] or "not partitioned"
            yield Difference(where, f"{where} is {is_}, expected {needs}: only a new table mends it", [])
        elif not _in_order(ident, has):
            earlier, later = _BEFORE[ident]
            yield Difference(
                f"{where}.{earlier}",
                f"{where}.{earlier} must stand before {later}, or the relay loses events of slow transactions: stop "
                "writers and relays, run this script, which builds the table anew, then `evkit migrate --roles` again",
                statements.rebuild(ident, wanted, found, layout),
            )
        else:
            yield from _columns(ident, wanted["columns"], has, notes)
            yield from _constraints(ident, wanted["constraints"], has, notes)
            yield from _indexes(ident, wanted["indexes"], found, notes)
            yield from _storage(ident, wanted["options"], has, notes)
    for ident, leaf in found.leaves.items():
        yield from _leaf(ident, leaf, found, notes)
    partition = re.compile(rf"({'|'.join(PARENTS)})_[0-9]+")  # one that is not attached; see ranges.py
    notes += [
        f"table evkit.{t} is not evkit's" for t in found.tables if t not in expected and not partition.fullmatch(t)
    ]


def _in_order(ident: str, has: Table) -> bool:
    if ident not in _BEFORE:
        return True
    earlier, later = _BEFORE[ident]
    order = list(has.columns)
    return later not in order or earlier in order[: order.index(later)]


def _columns(ident: str, wanted: dict[str, Any], has: Table, notes: list[str]) -> Iterator[Difference]:
    for column, needs in wanted.items():
        if column in has.columns:
            yield from _column(ident, column, needs, has.columns[column])
        else:
            where = f"evkit.{ident}.{column}"
            add = say("ALTER TABLE {} ADD COLUMN {}", table(ident), statements.column(column, needs))
            yield Difference(where, f"{where} is missing", [add])
    for column, about in has.columns.items():
        if column in wanted:
            continue
        where = f"evkit.{ident}.{column}"
        if about["not_null"] and not (about["default"] or about["identity"] or about["generated"]):
            yield Difference(
                where,
                f"{where} is not evkit's and wants a value that evkit does not give: no row can be written",
                [say("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL", table(ident), name(column))],
            )
        else:
            notes.append(f"column {where} is not evkit's")


def _column(ident: str, column: str, needs: dict[str, Any], has: dict[str, Any]) -> Iterator[Difference]:
    where = f"evkit.{ident}.{column}"

    def alter(what: str, *parts: compose.Composable) -> str:
        return say("ALTER TABLE {} ALTER COLUMN {} " + what, table(ident), name(column), *parts)

    if (is_type := statements.type_of(has)) != (type_ := statements.type_of(needs)):
        change = [alter("TYPE {} USING {}::{}", raw(type_), name(column), raw(needs["type"]))]
        if has["default"] and needs["default"]:
            # A default is not cast along with its column.
            change = [alter("DROP DEFAULT"), *change, alter("SET DEFAULT {}", raw(needs["default"]))]
            has = has | {"default": needs["default"]}
        yield Difference(where, f"{where} is {is_type}, expected {type_}", change)
    if has["not_null"] != needs["not_null"]:
        is_, verb = ("may be null", "SET") if needs["not_null"] else ("may not be null", "DROP")
        yield Difference(where, f"{where} {is_}", [alter(f"{verb} NOT NULL")])
    if has["generated"] != needs["generated"]:
        yield Difference(where, f"{where} is computed from other columns", [alter("DROP EXPRESSION")])
    elif has["default"] != needs["default"]:
        yield Difference(
            where,
            f"default of {where} is {has['default'] or 'nothing'}, expected {needs['default'] or 'nothing'}",
            [alter("SET DEFAULT {}", raw(needs["default"])) if needs["default"] else alter("DROP DEFAULT")],
        )
    if has["identity"] != needs["identity"]:
        change = [alter("DROP IDENTITY")] if has["identity"] else []
        if needs["identity"]:
            change.append(alter("ADD {}", statements.identity(needs)))
            change.append(
                say(
                    "SELECT setval(pg_get_serial_sequence({}, {}), (SELECT coalesce(max({}), 0) + 1 FROM {}), false)",
                    compose.Literal(f"evkit.{ident}"), compose.Literal(column), name(column), table(ident),
                )
            )  # fmt: skip
        kinds = {"": "not numbered by an identity", "a": "GENERATED ALWAYS", "d": "GENERATED BY DEFAULT"}
        yield Difference(where, f"{where} is {kinds[has['identity']]}, expected {kinds[needs['identity']]}", change)


def _constraints(ident: str, wanted: dict[str, str], has: Table, notes: list[str]) -> Iterator[Difference]:
    where, extra = f"evkit.{ident}", {n: d for n, d in has.constraints.items() if n not in wanted}
    for n, definition in wanted.items():
        if (is_ := has.constraints.get(n)) == definition:
            continue
        other = next((x for x, d in extra.items() if d == definition), None)
        if is_ is None and other is not None:
            notes.append(f"constraint {n} of {where} is called {other}")
            del extra[other]
            continue
        state = "missing" if is_ is None else is_
        yield Difference(
            where,
            f"constraint {n} of {where} is {state}, expected {definition}",
            statements.constraint(ident, n, definition, is_),
        )
    notes += [f"constraint {n} of {where} is not evkit's: {d}" for n, d in extra.items()]


def _indexes(ident: str, wanted: dict[str, str], found: Catalogue, notes: list[str]) -> Iterator[Difference]:
    has, where = found.tables[ident], f"evkit.{ident}"
    extra = {n: d for n, d in has.indexes.items() if n not in wanted}
    for n, definition in wanted.items():
        is_ = has.indexes.get(n)
        if is_ == definition and n not in has.invalid:
            continue
        other = next((x for x, d in extra.items() if d.replace(x, n, 1) == definition and x not in has.invalid), None)
        if is_ is None and other is not None:
            notes.append(f"index {n} of {where} is called {other}")
            del extra[other]
            continue
        sentence = f"index {n} of {where} is {'missing' if is_ is None else is_}, expected {definition}"
        if is_ == definition:
            sentence = (
                f"index {n} of {where} is not valid: a part of it was never built, and nothing is looked up by it"
            )
        yield Difference(where, sentence, statements.index(ident, n, definition, is_, found))
    notes += [f"index {n} of {where} is not evkit's: {d}" for n, d in extra.items()]


def _storage(ident: str, wanted: dict[str, str], has: Table, notes: list[str]) -> Iterator[Difference]:
    """Storage and autovacuum settings, logging and row security."""
    where = f"evkit.{ident}"
    for option, value in wanted.items():
        if (is_ := has.options.get(option)) != value:
            yield Difference(
                where,
                f"{option} of {where} is {is_ or 'not set'}, expected {value}",
                [say("ALTER TABLE {} SET ({} = {})", table(ident), raw(option), raw(value))],
            )
    for option, value in has.options.items():
        if option == "autovacuum_enabled" and value.lower() in ("false", "off", "0", "no"):
            yield Difference(
                where,
                f"autovacuum of {where} is turned off: what is dead in it is never cleared away",
                [say("ALTER TABLE {} RESET (autovacuum_enabled)", table(ident))],
            )
        elif option not in wanted:
            notes.append(f"setting {option} = {value} of {where} is not evkit's")
    if has.unlogged:
        sentence = f"{where} is unlogged: a crash of the server empties it"
        yield Difference(where, sentence, [say("ALTER TABLE {} SET LOGGED", table(ident))])
    if has.row_security:
        sentence = f"{where} has row security: rows that the relay does not see are never published"
        yield Difference(where, sentence, [say("ALTER TABLE {} DISABLE ROW LEVEL SECURITY", table(ident))])


def _leaf(ident: str, leaf: Table, found: Catalogue, notes: list[str]) -> Iterator[Difference]:
    """What a partition has of its own."""
    where, unique = f"evkit.{ident}", f"{ident}_id"
    assert leaf.parent is not None
    yield from _storage(ident, {}, leaf, notes)
    if leaf.parent == "outbox" and not leaf.has_unique_id:
        drop = [say("DROP INDEX {}", table(unique))] if unique in leaf.indexes else []
        yield Difference(
            where,
            f"{where} has no unique index on id: one id could be written twice",
            [*drop, statements.unique_id(ident, "CONCURRENTLY ")],
        )
    if (owner := found.tables[leaf.parent].owner) != leaf.owner:
        yield Difference(
            where,
            f"{where} belongs to {leaf.owner}, and evkit.{leaf.parent} to {owner}, who could not drop it",
            [say("ALTER TABLE {} OWNER TO {}", table(ident), name(owner))],
        )
    notes += [
        f"constraint {n} of {where} is not evkit's: {d}" for n, d in leaf.constraints.items() if n != "rest_bound"
    ]
    notes += [
        f"index {n} of {where} is not evkit's: {leaf.indexes[n]}"
        for n, parent_index in leaf.attached.items()
        if parent_index is None and n != unique and n not in leaf.invalid
    ]
