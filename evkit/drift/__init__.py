"""The database against what evkit expects: every difference as a sentence and the SQL that mends it.

What is expected is what PostgreSQL says of the tables that sql/tables.sql makes, kept in sql/expected.json. Things that
users have added to evkit's tables are notes and no differences, unless they make evkit fail. Looking changes nothing.

    catalogue.py   what PostgreSQL says
    tables.py      columns, constraints, indexes, storage
    ranges.py      sequence and partitions of the outbox
    statements.py  the SQL that mends
"""

from __future__ import annotations

from collections.abc import Iterator

from evkit import postgres, roles, sql
from evkit.drift import catalogue, ranges, tables
from evkit.drift.difference import Difference, Drift

__all__ = ["Difference", "Drift", "compare"]


def compare(dsn: str, *, prefix: str = roles.PREFIX, timeout_seconds: float = 10.0) -> Drift:
    """Compare a database with what this evkit expects. Reads only.

    Raises:
        DatabaseUnreachable: PostgreSQL does not answer.
    """
    report = Drift(postgres.address(dsn))
    with (
        postgres.translated_errors(dsn),
        postgres.connect(
            dsn,
            application_name="evkit migrate --check",
            read_only=True,
            autocommit=True,
            timeout_seconds=timeout_seconds,
        ) as connection,
    ):
        # With migrations to come the rest would be a list of what they change.
        if pending := list(_migrations(connection)):
            report.differences = pending
            return report
        found = catalogue.read(connection)
        layout = ranges.layout_of(connection, found, report.notes)
        report.differences = [
            *ranges.sequences(found),
            *tables.compare(found, layout, report.notes),
            *ranges.compare(connection, found, layout, report.notes),
        ]
        report.notes += catalogue.others(connection)
        acts, notes, absent = roles.compare(connection, prefix)
        report.differences += [Difference("roles", sentence, [act.as_string()]) for sentence, act in acts]
        report.notes += notes
        if absent:
            report.notes.append(
                f"no {', no '.join(absent)}: `evkit migrate --roles` makes roles that may do what they need, and no more"
            )
    return report


def _migrations(connection: postgres.Connection) -> Iterator[Difference]:
    if pending := postgres.pending_migrations(connection):
        yield Difference("migrations", f"lacks {', '.join(pending)}: run `evkit migrate`", [])
    known = {number for number, *_ in sql.migrations()}
    if unknown := [number for number in postgres.applied_migrations(connection) if number not in known]:
        yield Difference(
            "migrations", f"has migration {unknown[-1]}, which this evkit does not know: install a newer evkit", []
        )
