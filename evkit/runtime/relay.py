"""outbox table → topic: publish what committed transactions have written, in the order of each key.

The relay reads a batch, publishes it, waits for the broker's answers and marks what was confirmed, in this order. A crash
between publish and mark publishes again what had already reached the topic; the inbox makes that harmless (inbox.py). No
crash loses an event.

Reading is the part where such relays lose events. Positions come from a sequence, and a sequence's order is not the order
of commits: when position 8 is visible, 7 may belong to a transaction that is still open, or that was rolled back. So:

- Every position that a read skipped is a *hole*, and it is looked at again in every later read.
- A hole is given the relay's own transaction id, taken *after* the read that found it. The table takes a row's
  transaction id before its position, so whoever holds position 7 has a smaller id than ours.
- A hole is forgotten when a later snapshot, in which it was looked at and still empty, has an xmin above that id: by
  then everybody who could have filled it has ended, so nobody ever will.

Rows of one key cannot be inverted by this as long as their writers hold a lock on the key: whoever takes position 9 after
waiting for 7's lock does so after 7's commit, so a snapshot that shows 9 shows 7.

No transaction id is kept in the database: after a restart the stretches without a publication are holes again, with a
new id. Positions and publications are all that is needed, also after a restore into another cluster.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from evkit import kafka, postgres
from evkit.errors import DatabaseUnreachable, NotMigrated
from evkit.sql import named
from evkit.system import System, connect

log = logging.getLogger(__name__)

_SQL = named("relay")

# Looked for again at least this often while there is work; a relay that finds nothing slows down from 20 to 100 ms.
POLL_SECONDS_MIN = 0.02
POLL_SECONDS_MAX = 0.1
# How often a standby asks whether the leader is gone.
STANDBY_SECONDS = 0.5
# Between two tries at an event that could not be published.
RETRY_SECONDS = 1.0


@dataclass(slots=True)
class Row:
    """One outbox row as it travels to the broker: bytes where Kafka wants bytes."""

    position: int
    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, str | bytes | None]]


# Partition, offset and time (of the monotonic clock) of the broker's answer.
Confirmation = tuple[int, int, float]


@dataclass(slots=True)
class Hole:
    """Positions first..last that a read skipped; `xid` is a transaction id taken after that read."""

    first: int
    last: int
    xid: int


class GapAwareCursor:
    """Reads outbox rows so that none is lost and none of a key overtakes another; see the module's docstring.

    Attributes:
        high   highest position seen
        holes  positions up to `high` that may still be filled, ascending
    """

    def __init__(self, connection: postgres.Connection, settled: int) -> None:
        self._connection = connection
        self.high = settled
        self.holes: list[Hole] = []

    def recover(self) -> None:
        """Start after a crash: what has no publication below the last published position is a hole until read."""
        with self._connection.cursor() as cursor:
            settled = self.high
            ranges = cursor.execute(_SQL["unpublished_ranges"], {"settled": settled}).fetchall()
            row = cursor.execute(_SQL["last_published"], (settled,)).fetchone()
        if row is not None and row[0] > settled:
            self.high = row[0]
            if ranges:
                xid = self._own_xid()
                self.holes = [Hole(first, last, xid) for first, last in ranges]

    def read(self, events_max: int) -> list[tuple[Any, ...]]:
        """Rows that were not read before, ascending by position, at most `events_max`."""
        with self._connection.cursor(binary=True) as cursor:
            cursor.execute(
                _SQL["read"],
                {
                    "high": self.high,
                    "hole_first": [h.first for h in self.holes],
                    "hole_last": [h.last for h in self.holes],
                    "events_max": events_max,
                },
            )
            answer = cursor.fetchall()
        xmin = answer[0][0]
        rows = [row[1:] for row in answer if row[1] is not None]
        # A read that stopped at its limit has not looked at what lies above its last row.
        looked_until = rows[-1][0] if len(rows) == events_max else max(self.high, rows[-1][0] if rows else 0)
        self._settle_holes([row[0] for row in rows], xmin, looked_until)
        self._remember_holes([row[0] for row in rows if row[0] > self.high])
        return rows

    @property
    def settled(self) -> int:
        """Every position up to here was read or will never exist."""
        return self.holes[0].first - 1 if self.holes else self.high

    def _settle_holes(self, found: list[int], xmin: int, looked_until: int) -> None:
        """Cut what was filled out of the holes, and forget those that nobody can fill any more."""
        filled = [p for p in found if p <= self.high]
        kept: list[Hole] = []
        for hole in self.holes:
            first = hole.first
            pieces = []
            for position in filled:
                if hole.first <= position <= hole.last:
                    if first < position:
                        pieces.append(Hole(first, position - 1, hole.xid))
                    first = position + 1
            if first <= hole.last:
                pieces.append(Hole(first, hole.last, hole.xid))
            kept += [p for p in pieces if not (p.last <= looked_until and xmin > p.xid)]
        self.holes = kept

    def _remember_holes(self, found: list[int]) -> None:
        """Remember every position that was skipped on the way to the new high-water mark."""
        skipped, expected = [], self.high + 1
        for position in found:
            if position > expected:
                skipped.append((expected, position - 1))
            expected = position + 1
        if skipped:
            xid = self._own_xid()  # after the read, and only when needed: an idle relay uses up none
            self.holes += [Hole(first, last, xid) for first, last in skipped]
        if found:
            self.high = found[-1]

    def _own_xid(self) -> int:
        row = self._connection.execute(_SQL["own_xid"]).fetchone()
        assert row is not None
        return int(row[0])


class Relay:
    """Moves committed outbox rows to their topics, at least once and in the order of each key.

    One relay leads per outbox and name, by a session lock; others stand by and take over within a second. At a failure it
    stops, writes what failed into evkit.relay, and tries again from that event: no later one overtakes it. While
    PostgreSQL or Kafka is away it waits and goes on when they are back.

    Args:
        system            where; default: `evkit.connect()`
        name              of this outbox's relay
        batch_events_max  most events between two marks
        source            CloudEvents `source` of what is published
        on_batch          called with the number of events after each marked batch (tests, metrics)
    """

    def __init__(
        self,
        system: System | None = None,
        *,
        name: str = "default",
        batch_events_max: int = 5000,
        source: str = "/evkit/outbox",
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        self.system = system or connect()
        self.name = name
        self.batch_events_max = batch_events_max
        self.leading = threading.Event()
        self._source = source
        self._on_batch = on_batch
        self._stop = threading.Event()
        self._connection: postgres.Connection | None = None
        self._producer: Any = None
        self._cursor: GapAwareCursor | None = None
        self._unpublished: list[Row] = []  # read, not yet confirmed: what a failure left over

    def run(self) -> None:
        """Publish until `stop()`; returns when the last batch is marked.

        Raises:
            NotMigrated: the database has no evkit tables. Everything else is waited out.
        """
        pause = POLL_SECONDS_MIN
        waited_for: str | None = None
        while not self._stop.is_set():
            try:
                if not self._lead():
                    self._stop.wait(STANDBY_SECONDS)
                    continue
                published = self.step()
                if waited_for:
                    log.warning("relay goes on after: %s", waited_for)
                    waited_for = None
            except NotMigrated:
                self.close()
                raise
            except Exception as error:
                lost = self._connection is None or postgres.is_lost(self._connection, error)
                if not lost and not isinstance(error, DatabaseUnreachable):
                    log.exception("relay failed, trying again in %s s", RETRY_SECONDS)
                elif str(error) != waited_for:
                    log.warning("relay waits: %s", error)
                waited_for = str(error)
                self._let_go()
                self._stop.wait(RETRY_SECONDS)
                continue
            pause = POLL_SECONDS_MIN if published else min(pause * 1.5, POLL_SECONDS_MAX)
            if self._unpublished:
                self._stop.wait(RETRY_SECONDS)
            elif published < self.batch_events_max:
                self._stop.wait(pause)
        self.close()

    def stop(self) -> None:
        """Ask `run` to end after the batch in hand; may be called from any thread or a signal handler."""
        self._stop.set()

    def step(self) -> int:
        """Read one batch, publish it and mark it; returns how many events are published and marked.

        Takes the lead first, if it has not got it; returns 0 when another relay leads. For scripts and tests that
        drive the relay by hand; `run` calls it in a loop.
        """
        if not self._lead():
            return 0
        assert self._cursor is not None
        if not self._unpublished:
            rows = self._cursor.read(self.batch_events_max)
            self._unpublished = [self._row(row) for row in rows]
        batch = self._unpublished
        if not batch:
            self._move()
            return 0
        confirmed, failure = self._publish(batch)
        self._unpublished = batch[len(confirmed) :]
        self._mark(batch, confirmed, failure)
        if confirmed and self._on_batch is not None:
            self._on_batch(len(confirmed))
        return len(confirmed)

    def close(self) -> None:
        """Give up the lead and the connections. What is unconfirmed stays unpublished and is sent again later."""
        self._let_go()

    # --- leading ------------------------------------------------------------------------------------------------------

    def _lead(self) -> bool:
        """True when this relay holds the outbox's lock, with a cursor that knows what is published."""
        if self._cursor is not None:
            return True
        if self._connection is None:
            connection = self.system.writing("evkit relay", autocommit=True)
            try:
                postgres.require_migrated(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        row = self._connection.execute(_SQL["lead"], (self.name,)).fetchone()
        if row is None or not row[0]:
            return False
        self._connection.execute(_SQL["register"], (self.name,))
        settled = self._connection.execute(_SQL["settled"], (self.name,)).fetchone()
        assert settled is not None
        cursor = GapAwareCursor(self._connection, settled[0])
        cursor.recover()
        self._settled = settled[0]
        self._cursor = cursor
        self._unpublished = []
        self.leading.set()
        log.info("relay '%s' leads from position %s with %s open holes", self.name, cursor.high, len(cursor.holes))
        return True

    def _let_go(self) -> None:
        self.leading.clear()
        self._cursor = None
        self._unpublished = []
        if self._producer is not None:
            # What is still queued must not be sent after another relay took over.
            self._producer.purge()
            self._producer.flush(5)
            self._producer = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- publishing ---------------------------------------------------------------------------------------------------

    def _row(self, row: tuple[Any, ...]) -> Row:
        position, topic, aggregatetype, key, value, event_id, event_type, schema_version, more, created_at = row
        headers: list[tuple[str, str | bytes | None]] = [
            ("ce_specversion", "1.0"),
            ("ce_id", event_id),
            ("ce_type", event_type),
            ("ce_source", self._source),
            ("ce_time", created_at),
            ("content-type", "application/json"),
            ("ce_schemaversion", str(schema_version)),
        ]
        if more is not None:
            headers += json.loads(more).items()
        return Row(position, topic or aggregatetype, key, value, headers)

    def _publish(self, batch: list[Row]) -> tuple[list[Confirmation], str | None]:
        """Send a batch and wait for the broker's answer to every event.

        Returns the confirmations before the first failure, and that failure's text. What was confirmed after it does not
        count: its key may be the failed one's, and it is sent again behind it.
        """
        if self._producer is None:
            self._producer = kafka.producer(self.system.settings)
        producer = self._producer
        answers: list[Confirmation | str | None] = [None] * len(batch)
        open_answers = len(batch)

        def answered(index: int, error: Any, message: Any) -> None:
            nonlocal open_answers
            open_answers -= 1
            answers[index] = (
                error.str() if error is not None else (message.partition(), message.offset(), time.monotonic())
            )

        sent = 0
        try:
            for index, row in enumerate(batch):
                while True:
                    try:
                        producer.produce(
                            row.topic,
                            row.value,
                            row.key,
                            headers=row.headers,
                            on_delivery=functools.partial(answered, index),
                        )
                        break
                    except BufferError:  # the client's queue is full: let it send
                        producer.poll(0.1)
                        if self._stop.is_set():
                            raise
                sent += 1
        except (kafka.KafkaException, BufferError) as error:
            # This event cannot even be queued (too large for the producer, say). Those behind it are not sent.
            answers[sent] = str(error)
        open_answers -= len(batch) - sent
        deadline: float | None = None
        while open_answers > 0:
            producer.poll(0.1)
            if self._stop.is_set():
                deadline = deadline or time.monotonic() + 5
                if time.monotonic() > deadline:
                    break
        confirmed: list[Confirmation] = []
        for answer in answers:
            if not isinstance(answer, tuple):
                break
            confirmed.append(answer)
        if len(confirmed) == len(batch):
            return confirmed, None
        failure = answers[len(confirmed)]
        # A producer that failed once may hold later events of the key back for another try; a new one holds nothing.
        producer.purge()
        producer.flush(5)
        self._producer = None
        return confirmed, failure if isinstance(failure, str) else "the broker did not answer before the relay stopped"

    # --- marking ------------------------------------------------------------------------------------------------------

    def _mark(self, batch: list[Row], confirmed: list[Confirmation], failure: str | None) -> None:
        """Record what the broker confirmed, and how far everything is settled, in one transaction.

        Only what was confirmed: a mark without a confirmation is a lost event, the reverse only a second copy.
        """
        assert self._connection is not None
        with self._connection.transaction():
            if confirmed:
                # The time of the broker's answer, told on the database's clock, as created_at is: no skew between them.
                clock = self._connection.execute(_SQL["clock"]).fetchone()
                assert clock is not None
                at_zero: datetime = clock[0] - timedelta(seconds=time.monotonic())
                with self._connection.cursor().copy(_SQL["mark"]) as copy:
                    copy.set_types(["int8", "int4", "int8", "timestamptz"])
                    for row, (partition, offset, answered_at) in zip(batch, confirmed, strict=False):
                        published_at = at_zero + timedelta(seconds=answered_at)
                        copy.write_row((row.position, partition, offset, published_at))
                self._move()
            if failure is not None:
                position = batch[len(confirmed)].position
                self._connection.execute(
                    _SQL["fail"], {"name": self.name, "position": position, "error": failure[:2000]}
                )
        if failure is not None:
            log.error("event at outbox position %s cannot be published: %s", batch[len(confirmed)].position, failure)

    def _move(self) -> None:
        """Write down how far everything is settled, when that has changed."""
        assert self._cursor is not None
        assert self._connection is not None
        settled = self._cursor.settled
        if self._unpublished:
            settled = min(settled, self._unpublished[0].position - 1)
        if settled != self._settled:
            self._connection.execute(_SQL["move"], {"settled": settled, "name": self.name})
            self._settled = settled
