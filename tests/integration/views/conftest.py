"""Rows of evkit's tables as a test says them: who wrote, published and handled what, how many seconds ago."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from evkit.window import Window


class Past:
    """Writes history. Every time is given in seconds before `now`, which is the end of `window(seconds)`."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        row = self.connection.execute("SELECT clock_timestamp()").fetchone()
        self.now: datetime = row[0].astimezone(UTC)
        self._offset = 0

    def at(self, seconds_ago: float) -> datetime:
        return self.now - timedelta(seconds=seconds_ago)

    def window(self, seconds: float) -> Window:
        return Window(self.at(seconds), self.now)

    def write(
        self, event_id: str, ago: float, *, topic: str = "order", key: str = "k", published: float | None = None
    ) -> None:
        """An outbox row; with `published`, also the broker's confirmation that many seconds ago."""
        row = self.connection.execute(
            "INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, created_at) "
            "VALUES (%s, %s, %s, %s, '{}', %s) RETURNING position",
            (event_id, topic, key, f"{topic}.placed", self.at(ago)),
        ).fetchone()
        if published is not None:
            self._offset += 1
            self.connection.execute(
                "INSERT INTO evkit.publication VALUES (%s, 0, %s, %s)", (row[0], self._offset, self.at(published))
            )

    def handle(
        self, group: str, event_id: str, ago: float, *, written: float | None = None, topic: str = "order",
        outcome: str = "handled", replay_id: str | None = None, generation: int = 0,
    ) -> None:  # fmt: skip
        self.connection.execute(
            "INSERT INTO evkit.inbox (consumer_group, event_id, generation, event_type, topic, partition, \"offset\", key,"
            " outcome, created_at, received_at, processed_at, replay_id)"
            " VALUES (%s, %s, %s, %s, %s, 0, 1, 'k', %s, %s, %s, %s, %s)",
            (group, event_id, generation, f"{topic}.placed", topic, outcome,
             None if written is None else self.at(written), self.at(ago), self.at(ago), replay_id),
        )  # fmt: skip

    def fail(
        self, group: str, event_id: str, ago: float, *, attempt: int = 1, dead: bool = False, replay_id: str | None = None,
        fingerprint: str = "f1", topic: str = "order",
    ) -> None:  # fmt: skip
        self.connection.execute(
            "INSERT INTO evkit.attempt (consumer_group, event_id, event_type, topic, partition, \"offset\", key, attempt,"
            " failed_at, duration_seconds, handler, error_class, error_message, stack_trace, fingerprint, disposition,"
            " replay_id) VALUES (%s, %s, %s, %s, 0, 1, 'k', %s, %s, 0.1, 'shop.bill', 'KeyError', '''total''', 'Traceback',"
            " %s, %s, %s)",
            (group, event_id, f"{topic}.placed", topic, attempt, self.at(ago), fingerprint, "dead" if dead else "retry",
             replay_id),
        )  # fmt: skip

    def letter(
        self, group: str, event_id: str, ago: float, *, key: str | None = "k", state: str = "open",
        fingerprint: str = "f1", value: bytes | None = b"{}", topic: str = "order",
    ) -> int:  # fmt: skip
        row = self.connection.execute(
            "INSERT INTO evkit.dead_letter (consumer_group, event_id, event_type, topic, partition, \"offset\","
            " timestamp_type, key, raw_value, header_names, header_values, handler, error_class, error_message,"
            " stack_trace, fingerprint, first_failed_at, failed_at, retry_count, state, state_changed_at)"
            " VALUES (%s, %s, %s, %s, 0, 1, 'append', %s, %s, ARRAY['ce_id', 'x'], ARRAY['e'::bytea, NULL], 'shop.bill',"
            " 'KeyError', '''total''', 'Traceback', %s, %s, %s, 2, %s, %s) RETURNING letter_id",
            (group, event_id, f"{topic}.placed", topic, key, value, fingerprint, self.at(ago), self.at(ago), state,
             self.at(ago / 2)),
        ).fetchone()  # fmt: skip
        return int(row[0])

    def sql(self, query: str, *values: object, **named: object) -> None:
        self.connection.execute(query, named or values)


@pytest.fixture
def past(evkit_database: str) -> Iterator[Past]:
    made = Past(evkit_database)
    yield made
    made.connection.close()
