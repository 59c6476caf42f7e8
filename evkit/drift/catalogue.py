"""What PostgreSQL says of evkit's tables, sequences and partitions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evkit import postgres
from evkit.partitions import PARENTS
from evkit.sql import named

_SQL = named("drift")

_COLUMN = ("type", "not_null", "default", "identity", "generated", "collation")
_SEQUENCE = ("type", "increment", "min", "max", "cache", "cycle", "owned_by")


@dataclass(slots=True)
class Table:
    """A table, or a partition, of which only what its parent does not say.

    Attributes:
        partition_by   "RANGE (position)", or None
        options        storage and autovacuum settings
        columns        name → type, not_null, default, identity, generated, collation, in the table's order
        constraints    name → definition
        indexes        name → definition; without those of constraints
        parent         of a partition
        attached       of a partition's index → the parent's index that it is a part of
        invalid        indexes that nothing is looked up by
        has_unique_id  of a partition: a valid unique index on id alone
    """

    owner: str
    parent: str | None
    unlogged: bool
    row_security: bool
    partition_by: str | None
    options: dict[str, str]
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    constraints: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)
    attached: dict[str, str | None] = field(default_factory=dict)
    invalid: set[str] = field(default_factory=set)
    has_unique_id: bool = False


@dataclass(slots=True)
class Catalogue:
    """Tables and partitions by name, and sequences: name → type, increment, min, max, cache, cycle, owned_by."""

    tables: dict[str, Table]
    leaves: dict[str, Table]
    sequences: dict[str, dict[str, Any]]

    def leaves_of(self, parent: str) -> list[str]:
        return sorted(name for name, leaf in self.leaves.items() if leaf.parent == parent)


def read(connection: postgres.Connection) -> Catalogue:
    """All of schema evkit. Sets the connection's search_path to nothing, which makes every definition the same text."""
    connection.execute(_SQL["nothing_on_the_path"])
    every: dict[str, Table] = {}
    for name, parent, owner, unlogged, row_security, options, partition_by in connection.execute(_SQL["relations"]):
        pairs = dict(sorted(option.split("=", 1) for option in options or []))
        every[name] = Table(owner, parent, unlogged, row_security, partition_by, pairs)
    for table, column, *facts in connection.execute(_SQL["columns"]):
        every[table].columns[column] = dict(zip(_COLUMN, facts, strict=True))
    for table, name, definition in connection.execute(_SQL["constraints"]):
        every[table].constraints[name] = definition
    for table, name, definition, valid, parent_index, unique_id in connection.execute(_SQL["indexes"]):
        every[table].indexes[name] = definition
        every[table].attached[name] = parent_index
        if not valid:
            every[table].invalid.add(name)
        every[table].has_unique_id |= unique_id and valid
    return Catalogue(
        tables={name: table for name, table in every.items() if table.parent is None},
        leaves={name: table for name, table in every.items() if table.parent in PARENTS},
        sequences={
            name: dict(zip(_SEQUENCE, facts, strict=True)) for name, *facts in connection.execute(_SQL["sequences"])
        },
    )


def others(connection: postgres.Connection) -> list[str]:
    """Triggers, views and functions in schema evkit: none is evkit's."""
    return [f"{row[0]} is not evkit's" for row in connection.execute(_SQL["others"]).fetchall()]


def snapshot(connection: postgres.Connection) -> dict[str, Any]:
    """What sql/expected.json is to say, from a database in which sql/tables.sql was run and nothing else."""
    found = read(connection)
    kept = ("partition_by", "options", "columns", "constraints", "indexes")
    return {
        "tables": {name: {key: getattr(table, key) for key in kept} for name, table in found.tables.items()},
        "sequences": found.sequences,
    }
