"""Ranges that evkit.outbox and evkit.publication are cut into: which there are, and the statements that change them.

Both tables are cut at the same positions, so that an event and its publication go together. What no range covers lies in
the default partitions `*_rest`: a writer must never fail because nobody has made a range. Here are facts and statements;
runtime/retention.py runs them, drift.py prints them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from psycopg import sql as compose

from evkit import postgres
from evkit.sql import named

_SQL = named("partitions")

PARENTS = ("outbox", "publication")

# Positions in a range. A million rows of 300 bytes are a table of 300 MB: small enough to be dropped in milliseconds, big
# enough that a year at 100 events/s is 3,000 tables.
WIDTH = 1_000_000
# Empty ranges above the one that is being written: at 50,000 events/s two of them last 40 s, and they are looked after
# once a minute; what comes faster than that goes into *_rest and is adopted later.
AHEAD = 2
# How far above the last position a range ends that *_rest becomes: while its rows are looked through, a constraint keeps
# it below that end, and no writer may come near it meanwhile. 3,000,000 positions are a minute at 50,000 events/s.
REST_MARGIN = 4

_POSITION_MAX = 2**63 - 1
_BOUND = re.compile(r"FROM \('?(-?\d+|MINVALUE)'?\) TO \('?(-?\d+|MAXVALUE)'?\)")

Statement = compose.Composed


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Positions from `lower` up to, and without, `upper`."""

    lower: int
    upper: int

    def __str__(self) -> str:
        return f"[{self.lower}, {self.upper})"


@dataclass(slots=True)
class Layout:
    """How both tables are cut today.

    Attributes:
        owner          of evkit.outbox; who makes and drops its partitions acts as this role
        ranges         of each parent: leaf's name → range, attached ones
        defaults       of each parent: name of the default partition, or None
        detached       tables that are named like a partition and are none
        bytes          size of each leaf with its indexes and TOAST
        rows           the planner's estimate for each leaf; -1 before the first ANALYZE
        last_position  nobody has taken a position above it; 0 for a new outbox
    """

    owner: str = ""
    ranges: dict[str, dict[str, Range]] = field(default_factory=lambda: {parent: {} for parent in PARENTS})
    defaults: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(PARENTS))
    detached: list[str] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    last_position: int = 0

    def all_ranges(self) -> list[Range]:
        """Ranges that at least one of the two tables has, ascending."""
        return sorted({r for leaves in self.ranges.values() for r in leaves.values()})

    def leaf(self, parent: str, range_: Range) -> str | None:
        """Name of the leaf of one parent that covers exactly this range."""
        return next((name for name, r in self.ranges[parent].items() if r == range_), None)

    def lacking(self) -> list[tuple[str, Range]]:
        """(parent, range): ranges that only the other table has, and no table stands ready for."""
        every = [(p, r) for r in self.all_ranges() for p in PARENTS if self.leaf(p, r) is None]
        return [(p, r) for p, r in every if f"{p}_{r.lower}" not in self.detached]

    def ahead(self) -> list[Range]:
        """Ranges above the one that is being written, which nobody has written to."""
        return [r for r in self.all_ranges() if r.lower > self.last_position]

    def gaps(self) -> list[Range]:
        """Stretches that no range of either table covers; their rows lie in the default partitions."""
        found, reached = [], 0
        for r in self.all_ranges():
            if r.lower > reached:
                found.append(Range(reached, r.lower))
            reached = max(reached, r.upper)
        return [*found, Range(reached, _POSITION_MAX)]

    def next_ranges(self, rest_max: int = 0) -> list[Range]:
        """Ranges that should be made now; `rest_max` is the highest position in a default partition."""
        taken = [r.upper for r in self.all_ranges()]
        taken += [int(name.rpartition("_")[2]) + WIDTH for name in self.detached]
        lower = max(taken, default=0)
        if max(self.last_position, rest_max) >= lower:
            # Too late for the range that is being written: it stays in *_rest, and the next one begins above it.
            lower = (max(self.last_position, rest_max) // WIDTH + 1) * WIDTH
        return [Range(lower + n * WIDTH, lower + (n + 1) * WIDTH) for n in range(max(AHEAD - len(self.ahead()), 0))]

    def adoptable(self, filled: dict[Range, Range]) -> Range | None:
        """The range that the default partitions can become with all their rows; None when these lie in several gaps."""
        if len(filled) != 1:
            return None
        gap, rows = next(iter(filled.items()))
        if gap.upper < _POSITION_MAX:
            return gap
        return Range(gap.lower, (max(self.last_position, rows.upper) // WIDTH + REST_MARGIN) * WIDTH)


def layout(connection: postgres.Connection) -> Layout:
    """How both tables are cut today, and how far the sequence is."""
    found = Layout()
    for parent, leaf, bound, owner, rows, size in connection.execute(_SQL["layout"]).fetchall():
        if parent == "outbox":
            found.owner = owner
        if bound is None:
            found.detached.append(leaf)
            continue
        found.rows[leaf], found.bytes[leaf] = rows, size
        if bound == "DEFAULT":
            found.defaults[parent] = leaf
        elif match := _BOUND.search(bound):
            lower = -_POSITION_MAX if match[1] == "MINVALUE" else int(match[1])
            upper = _POSITION_MAX if match[2] == "MAXVALUE" else int(match[2])
            found.ranges[parent][leaf] = Range(lower, upper)
    row = connection.execute(_SQL["last_position"]).fetchone()
    found.last_position = row[0] if row else 0
    return found


def rest(connection: postgres.Connection, found: Layout) -> dict[Range, Range]:
    """Of each gap with rows in the default partitions: gap → lowest and highest position there (both included)."""
    filled = {}
    for gap in found.gaps():
        row = connection.execute(_SQL["rest_bounds"], {"first": gap.lower, "last": gap.upper}).fetchone()
        if row is not None and row[0] is not None:
            filled[gap] = Range(row[0], row[1])
    return filled


def leftovers(connection: postgres.Connection) -> list[Statement]:
    """Statements that remove what a killed adoption left on the default partitions; empty as a rule."""
    return [
        compose.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
            _table(table.rpartition(".")[2]), compose.Identifier(name)
        )
        for table, name in connection.execute(_SQL["rest_constraints"]).fetchall()
    ]


def make(range_: Range, parents: Iterable[str] = PARENTS) -> list[Statement]:
    """One transaction that adds a range to the tables.

    Built beside the parent and then attached: writers go on, since ATTACH shuts out nobody but who looks into the default
    partition. CREATE TABLE … PARTITION OF would shut out all of them.
    """
    statements = []
    for parent in parents:
        leaf = f"{parent}_{range_.lower}"
        bound = {"lower": compose.Literal(range_.lower), "upper": compose.Literal(range_.upper)}
        names = {
            "leaf": _table(leaf),
            "parent": _table(parent),
            "check": compose.Identifier("range_bound"),
            "index": compose.Identifier(f"{leaf}_id"),
        }
        statements.append(
            compose.SQL(
                "CREATE TABLE {leaf} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE, "
                "CONSTRAINT {check} CHECK (position >= {lower} AND position < {upper}))"
            ).format(**names, **bound)
        )
        if parent == "outbox":
            statements.append(compose.SQL("CREATE UNIQUE INDEX {index} ON {leaf} (id)").format(**names))
        statements.append(
            compose.SQL("ALTER TABLE {parent} ATTACH PARTITION {leaf} FOR VALUES FROM ({lower}) TO ({upper})").format(
                **names, **bound
            )
        )
        statements.append(compose.SQL("ALTER TABLE {leaf} DROP CONSTRAINT {check}").format(**names))
    return statements


def make_default(parent: str) -> list[Statement]:
    """Statements that add the default partition to a table that has none."""
    leaf = f"{parent}_rest"
    statements = [compose.SQL("CREATE TABLE {} PARTITION OF {} DEFAULT").format(_table(leaf), _table(parent))]
    if parent == "outbox":
        index = compose.Identifier(f"{leaf}_id")
        statements.append(compose.SQL("CREATE UNIQUE INDEX {} ON {} (id)").format(index, _table(leaf)))
    return statements


def keep_out(range_: Range) -> tuple[list[Statement], list[Statement], list[Statement]]:
    """(add, validate, remove): statements that prove to ATTACH that the default partitions hold nothing outside a range.

    Without the proof ATTACH looks through every row of the default partition while it shuts everybody out of it. Each
    `add` and `remove` is a transaction of milliseconds; `validate` may take long and shuts nobody out.
    """
    tables = [_table(f"{parent}_rest") for parent in PARENTS]
    lower, upper, name = compose.Literal(range_.lower), compose.Literal(range_.upper), compose.Identifier("rest_bound")
    add = compose.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK (position >= {} AND position < {}) NOT VALID")
    return (
        [add.format(table, name, lower, upper) for table in tables],
        [compose.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(table, name) for table in tables],
        [compose.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(table, name) for table in tables],
    )


def adopt(connection: postgres.Connection, gap: Range) -> list[Statement]:
    """One transaction that makes the default partitions a range, with all their rows, and puts empty ones in their place.

    No row is moved. The constraint of `keep_out(gap)` must be there and validated.
    """
    statements = []
    for parent in PARENTS:
        old, new = f"{parent}_rest", f"{parent}_{gap.lower}"
        statements.append(compose.SQL("ALTER TABLE {} DETACH PARTITION {}").format(_table(parent), _table(old)))
        statements.append(compose.SQL("ALTER TABLE {} RENAME TO {}").format(_table(old), compose.Identifier(new)))
        for (index,) in connection.execute(_SQL["rest_indexes"], (f"evkit.{old}",)).fetchall():
            renamed = compose.Identifier(index.replace(old, new, 1))
            statements.append(compose.SQL("ALTER INDEX {} RENAME TO {}").format(_table(index), renamed))
        statements.append(
            compose.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                _table(parent), _table(new), compose.Literal(gap.lower), compose.Literal(gap.upper)
            )
        )
        statements.append(
            compose.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(_table(new), compose.Identifier("rest_bound"))
        )
        statements += make_default(parent)
    return statements


def _table(name: str) -> compose.Identifier:
    return compose.Identifier("evkit", name)
