"""The outbox's sequence and the ranges of positions that it and its publications are cut into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import sql as compose

from evkit import partitions, postgres, sql
from evkit.drift.catalogue import Catalogue
from evkit.drift.difference import Difference
from evkit.drift.statements import raw, say, table
from evkit.partitions import AHEAD, PARENTS, WIDTH, Layout, Range, Statement
from evkit.sql import named

_SQL = named("drift")


def layout_of(connection: postgres.Connection, found: Catalogue, notes: list[str]) -> Layout:
    """How both tables are cut; an empty layout when that cannot be seen."""
    if "outbox_position" in found.sequences:
        try:
            return partitions.layout(connection)
        except psycopg.errors.InsufficientPrivilege as error:
            notes.append(f"partitions could not be looked at: {_first_line(error)}")
    return Layout()


def compare(
    connection: postgres.Connection, found: Catalogue, layout: Layout, notes: list[str]
) -> Iterator[Difference]:
    """Differences of the partitions, and of where the sequence stands."""
    if not all(parent in found.tables for parent in PARENTS) or "outbox_position" not in found.sequences:
        return
    try:
        yield from _position(connection, layout)
        yield from _partitions(connection, layout, notes)
    except psycopg.errors.InsufficientPrivilege as error:
        notes.append(f"partitions could not be looked at: {_first_line(error)}")


def sequences(found: Catalogue) -> Iterator[Difference]:
    """Differences of the sequences; they come first, for defaults need them."""
    expected: dict[str, Any] = sql.expected()["sequences"]
    for ident, wanted in expected.items():
        where, has = f"evkit.{ident}", found.sequences.get(ident)
        if has is None:
            # Dropped with CASCADE it has taken the column's default along, which is a difference of its own. With the
            # table it went away with it, and that gives it its owner.
            mend = [say("CREATE SEQUENCE {} AS {}", table(ident), raw(wanted["type"]))]
            if "outbox" in found.tables:
                mend.append(say("ALTER SEQUENCE {} OWNED BY {}", table(ident), raw(f"evkit.{wanted['owned_by']}")))
            columns = {"outbox": "position", "publication": "position", "relay": "settled_position"}
            taken = [
                say("(SELECT max({}) FROM {})", raw(column), table(t))
                for t, column in columns.items()
                if t in found.tables
            ]
            highest = raw(", ".join([*taken, "0"]))
            mend.append(say("SELECT setval('evkit.outbox_position', greatest({}) + 1, false)", highest))
            yield Difference(where, f"{where} is missing", mend)
            continue
        words = {
            "type": ("AS", "type"), "increment": ("INCREMENT BY", "increment"), "min": ("MINVALUE", "lowest value"),
            "max": ("MAXVALUE", "highest value"), "cache": ("CACHE", "cache"),
        }  # fmt: skip
        for key, (clause, called) in words.items():
            if has[key] != wanted[key]:
                why = ": a session that keeps numbers back breaks the order of a key" if key == "cache" else ""
                yield Difference(
                    where,
                    f"{called} of {where} is {has[key]}, expected {wanted[key]}{why}",
                    [say("ALTER SEQUENCE {} {} {}", table(ident), raw(clause), raw(str(wanted[key])))],
                )
        if has["cycle"] != wanted["cycle"]:
            yield Difference(
                where, f"{where} begins anew at its end", [say("ALTER SEQUENCE {} NO CYCLE", table(ident))]
            )
        if has["owned_by"] != wanted["owned_by"]:
            yield Difference(
                where,
                f"{where} belongs to {has['owned_by'] or 'no column'}, expected evkit.{wanted['owned_by']}",
                [say("ALTER SEQUENCE {} OWNED BY {}", table(ident), raw(f"evkit.{wanted['owned_by']}"))],
            )


def _position(connection: postgres.Connection, layout: Layout) -> Iterator[Difference]:
    row = connection.execute(_SQL["highest_position"]).fetchone()
    if row is not None and row[0] > layout.last_position:
        yield Difference(
            "evkit.outbox_position",
            f"evkit.outbox_position stands at {layout.last_position} and position {row[0]} is taken: the next events "
            "cannot be written, or are taken for published ones",
            [say("SELECT setval('evkit.outbox_position', {})", compose.Literal(row[0]))],
        )


def _partitions(connection: postgres.Connection, layout: Layout, notes: list[str]) -> Iterator[Difference]:
    for parent, default in layout.defaults.items():
        if default is None:
            yield Difference(
                f"evkit.{parent}",
                f"evkit.{parent} has no default partition: what no range covers cannot be written",
                _text(partitions.make_default(parent)),
            )
    if left := partitions.leftovers(connection):
        yield Difference(
            "evkit.outbox_rest",
            "a retention that was killed has left a constraint on the default partitions: writers are refused at its end",
            _text(left),
        )
    filled = partitions.rest(connection, layout)
    if filled:
        yield _rest(connection, layout, filled)
    for parent, range_ in layout.lacking():
        yield Difference(
            f"evkit.{parent}",
            f"evkit.{parent} has no partition for positions {range_}, which the other table has",
            _transaction(partitions.make(range_, [parent])),
        )
    yield from _detached(connection, layout, notes)
    if not filled and (lacking := layout.next_ranges()):
        made = [statement for range_ in lacking for statement in _transaction(partitions.make(range_))]
        yield Difference(
            "evkit.outbox",
            f"{len(layout.ahead())} empty range(s) above position {layout.last_position}, expected {AHEAD}: no relay makes "
            "them (`evkit outbox retention` does)",
            made,
        )


def _rest(connection: postgres.Connection, layout: Layout, filled: dict[Range, Range]) -> Difference:
    sentence = (
        "default partitions are not empty, the first position there is "
        f"{min(rows.lower for rows in filled.values())}: nobody made ranges in time (`evkit outbox retention` does it)"
    )
    range_ = layout.adoptable(filled)
    if range_ is None:
        return Difference("evkit.outbox_rest", f"{sentence}; they lie in ranges that are gone, and may stay", [])
    add, validate, _ = partitions.keep_out(range_)
    made = partitions.adopt(connection, range_)
    top = max(range_.upper, *(r.upper for r in layout.all_ranges()))
    above = [Range(top + n * WIDTH, top + (n + 1) * WIDTH) for n in range(AHEAD - len(layout.ahead()))]
    more = [statement for new in above for statement in _transaction(partitions.make(new))]
    return Difference("evkit.outbox_rest", sentence, [*_text(add), *_text(validate), *_transaction(made), *more])


def _detached(connection: postgres.Connection, layout: Layout, notes: list[str]) -> Iterator[Difference]:
    """Tables that are named like a partition and are none: with events that nobody has published, they are lost ones."""
    row = connection.execute(_SQL["settled"]).fetchone()
    settled = row[0] if row else 0
    for ident in layout.detached:
        parent, _, lower = ident.rpartition("_")
        range_ = Range(int(lower), int(lower) + WIDTH)
        other = next((r for r in layout.all_ranges() if r.lower == range_.lower), None)
        gap = next((g for g in layout.gaps() if g.lower <= range_.lower < g.upper), None)
        range_ = other or (Range(range_.lower, min(range_.upper, gap.upper)) if gap else range_)
        if not (other or gap) or settled >= range_.upper - 1:
            notes.append(f"table evkit.{ident} is no partition any more; drop it when nobody needs it")
            continue
        yield Difference(
            f"evkit.{ident}",
            f"evkit.{ident} is no partition any more, and not all of it is settled: its events are not published",
            [
                say("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})", table(parent), table(ident),
                    compose.Literal(range_.lower), compose.Literal(range_.upper))
            ],
        )  # fmt: skip


def _text(given: Sequence[Statement]) -> list[str]:
    return [statement.as_string() for statement in given]


def _transaction(given: Sequence[Statement]) -> list[str]:
    return ["BEGIN", *_text(given), "COMMIT"]


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]
