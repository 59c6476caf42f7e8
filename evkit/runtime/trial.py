"""dead letter → handler → nothing: try it in a transaction that is rolled back, and show what it would have written.

No attempt is counted and no state changes. What a handler does outside PostgreSQL happens, and so does what PostgreSQL
never rolls back: sequences go on, so the outbox has a hole where a follow-up event would have been, which the relay knows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql as compose
from psycopg.pq import TransactionStatus

from evkit import postgres
from evkit.error_texts import Quoted, quoted
from evkit.errors import RedriveRefused
from evkit.letter_states import OPEN
from evkit.masking import applying, hidden_headers, masked_document, masked_value
from evkit.runtime import together
from evkit.runtime.failure import Failure
from evkit.runtime.letter_record import delivery_of
from evkit.runtime.letters import show
from evkit.runtime.masked_letters import rows_as_seen
from evkit.sql import named
from evkit.system import System

if TYPE_CHECKING:
    from evkit.runtime.consumer import Consumer

_SQL = named("trial")

ROWS_MAX = 5
CHARACTERS_MAX = 200
# Rows are found by the transaction that wrote them, for which there is no index: of a large table only counts are shown.
_ROWS_SECONDS_MAX = 5

# Ours are also rows that are visible although their transaction runs still: savepoints have numbers of their own, which are
# above that of their transaction, from which age() counts.
_ROWS = compose.SQL("""
SELECT to_jsonb(t) FROM {} AS t
 WHERE CASE WHEN age(t.xmin) = 0 THEN true
            WHEN age(t.xmin) > 0 THEN false
            ELSE pg_xact_status((pg_current_xact_id()::text::bigint >> 32 << 32 | t.xmin::text::bigint)::text::xid8)
                 = 'in progress' END
 LIMIT {}
""")


@dataclass(frozen=True, slots=True)
class Written:
    """What would have been written into one table. `rows` are some of those inserted or updated, as they would be; None:
    they were not found in time."""

    table: str
    inserted: int
    updated: int
    deleted: int
    rows: list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Trial:
    """How a trial went.

    Attributes:
        error, stack_trace  what the handler raised; None: nothing
        tables              what it wrote, where PostgreSQL can still say so after an error
        follow_ups          events that it wrote: type, key, topic, payload; at most 5
    """

    letter_id: int
    handler: str | None
    ok: bool
    seconds: float
    error: str | None = None
    stack_trace: str | None = None
    tables: list[Written] = field(default_factory=list)
    follow_ups: list[dict[str, Any]] = field(default_factory=list)


def try_redrive(system: System, letter_id: int, consumer: Consumer) -> Trial:
    """Run an open letter's handler in a transaction that is rolled back, and tell what it would have done.

    What policies hide (`evkit.masking`) of the letter and of follow-up events is hidden there, and wherever the same text
    stands in rows; of errors see `evkit.error_texts`.

    Side effects: none in PostgreSQL (numbers of sequences apart); work outside PostgreSQL happens.

    Raises:
        UnknownLetter.
        RedriveRefused: the letter is not open, is in a redrive's hands, or of another group, or it has no handler.
        DatabaseUnreachable.
    """
    letter = show(system, letter_id)
    policies = system.settings.masking
    of_letter = applying(policies, letter.topic, letter.event_type or None)
    hidden = hidden_headers(letter.headers, of_letter)
    masked_value(letter.raw_value, of_letter, hidden)
    said = quoted(letter.raw_value, letter.headers, of_letter)
    if letter.consumer_group != consumer.group:
        raise RedriveRefused(
            f"letter {letter_id} is of group '{letter.consumer_group}', the given consumer is of '{consumer.group}'"
        )
    inbox = consumer.inbox(system, replay_id=f"try-{letter_id}")
    with (
        postgres.translated_errors(system.settings.postgres_dsn),
        system.writing("evkit dlq try", autocommit=True) as connection,
        connection.transaction(force_rollback=True),
    ):
        row = connection.execute(_SQL["letter"], {"letter_id": letter_id}).fetchone()
        if row is None:
            state = "in a redrive's hands" if letter.state in OPEN else letter.state
            raise RedriveRefused(f"letter {letter_id} is {state}: only an open one is tried")
        event_id, inbox.generation, retry_count, *rest = row
        delivery = delivery_of(event_id, rest, inbox.handlers)
        last = connection.execute(_SQL["last_position"]).fetchone()
        started = time.monotonic()
        error: Exception | None = None
        try:
            together.handle_one(connection, inbox, delivery, retry_count + 2)
            # What the commit would check.
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except (RedriveRefused, MemoryError):
            raise
        except Exception as raised:
            if postgres.is_lost(connection, raised):
                raise
            error = raised
        seconds = time.monotonic() - started
        failure = None if error is None else Failure.of(error)
        tables: list[Written] = []
        follow_ups: list[dict[str, Any]] = []
        if connection.info.transaction_status == TransactionStatus.INTRANS:
            written = connection.execute(
                _SQL["follow_ups"], {"position": last[0] if last else 0, "rows_max": ROWS_MAX}
            ).fetchall()
            for kind, key, topic, payload in written:
                seen = masked_document(payload, applying(policies, topic, kind), hidden)
                follow_ups.append({"type": kind, "key": key, "topic": topic, "payload": _cut(seen)})
            tables = _tables(connection, hidden)
        said = Quoted(said.is_hidden, (*said.texts, *hidden))
        return Trial(
            letter_id,
            delivery.handler.name if delivery.handler else None,
            failure is None,
            seconds,
            None if failure is None else f"{failure.error_class}: {said.message(failure.error_message)}",
            None if failure is None else said.stack(failure.stack_trace),
            tables,
            follow_ups,
        )


def _tables(connection: postgres.Connection, hidden: list[str]) -> list[Written]:
    found = []
    for schema, table, inserted, updated, deleted in connection.execute(_SQL["written"]).fetchall():
        rows: list[dict[str, Any]] | None = []
        if inserted or updated:
            query = _ROWS.format(compose.Identifier(schema, table), compose.Literal(ROWS_MAX))
            try:
                with connection.transaction():
                    connection.execute(_SQL["limit_time"], (f"{_ROWS_SECONDS_MAX}s",))
                    found_rows = rows_as_seen([row for (row,) in connection.execute(query).fetchall()], hidden)
                    rows = [{k: _cut(v) for k, v in row.items()} for row in found_rows]
            except psycopg.Error:
                rows = None
        found.append(Written(f"{schema}.{table}", inserted, updated, deleted, rows))
    return found


def _cut(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        value = str(value)
    if isinstance(value, str) and len(value) > CHARACTERS_MAX:
        return f"{value[:CHARACTERS_MAX]}… ({len(value):,} characters)"
    return value
