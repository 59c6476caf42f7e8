"""topic → handler: poll, decode, handle, and only then store the offset.

One thread polls and never waits for a handler: while events are being handled, fetching is paused and polling goes on, so a
slow handler keeps its partitions. Handlers run on `concurrency` lanes; all events of one key go through the same lane, in
order. An offset is stored when everything before it in its partition is committed in PostgreSQL (inbox.py), so killing the
consumer at any point loses nothing and handles nothing twice.

When partitions are taken away, the batch in hand is finished first, its offsets are committed, and then they go. When they
are lost (the group has moved on without us), nothing is committed; the inbox keeps what both would do from happening twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

from evkit import kafka
from evkit.errors import BrokerUnreachable, UsageError
from evkit.kafka import Record, TopicPartition
from evkit.runtime.handler import Function, Handlers
from evkit.runtime.inbox import Counts, Inbox, Stopped
from evkit.runtime.retry import Retry
from evkit.system import System, connect

if TYPE_CHECKING:
    from pydantic import BaseModel

log = logging.getLogger(__name__)

# How long partitions that are being taken away may hold up a rebalance until the batch in hand is done.
DRAIN_SECONDS_MAX = 30.0


class Consumer:
    """Handles the events of some topics for one consumer group, each once, in the order of each key.

        billing = evkit.Consumer("billing", ["order"])

        @billing.handler("order.placed")
        def bill(event, tx):
            tx.execute("INSERT INTO bill ...", ...)

        billing.run()

    Args:
        group             consumer group; also the scope of the inbox, so it must never be derived from a function's name
        topics            to subscribe to
        system            where; default: `evkit.connect()`, asked when the consumer starts
        concurrency       lanes that handle keys in parallel; 1 is the fast one for handlers that only use PostgreSQL
        batch_events_max  most events handled in one transaction; the guarantee does not depend on it
        retry             when a failed event is tried again before it becomes a dead letter
        code_version      kept with each failure, to tell releases apart
        protocol          Kafka's group protocol: "consumer" (KIP-848, Kafka 4.0 on) or "classic"
    """

    def __init__(
        self,
        group: str,
        topics: Sequence[str],
        *,
        system: System | None = None,
        concurrency: int = 1,
        batch_events_max: int = 500,
        retry: Retry | None = None,
        code_version: str | None = None,
        protocol: Literal["consumer", "classic"] = "consumer",
    ) -> None:
        if not group:
            raise UsageError("a consumer needs the name of its group")
        if isinstance(topics, str) or not topics:
            raise UsageError(f"consumer '{group}' needs a list of topics, not {topics!r}")
        if concurrency < 1 or batch_events_max < 1:
            raise UsageError(
                f"consumer '{group}' needs concurrency and batch_events_max of at least 1, "
                f"not {concurrency} and {batch_events_max}"
            )
        self.group = group
        self.topics = list(topics)
        self.system = system
        self.concurrency = concurrency
        self.batch_events_max = batch_events_max
        self.retry = retry or Retry()
        self.code_version = code_version
        self.protocol = protocol
        self.handlers = Handlers()
        self.counts = Counts()
        self.assigned = threading.Event()
        self._stop = threading.Event()
        self._client: Any = None
        self._lanes: list[Inbox] = []
        self._pool: ThreadPoolExecutor | None = None
        self._in_hand: _Batch | None = None
        self._kept: list[Any] = []  # came while a batch was in hand; handled next

    def handler(
        self, *types: str, model: type[BaseModel] | None = None, batch: bool = False
    ) -> Callable[[Function], Function]:
        """Register the decorated function for event types; without types, for all that have no handler of their own.

        The function is called as `f(event, tx)`, with `batch=True` as `f(events, tx)` for a run of events in order. With
        `model`, a pydantic class, `event.payload` is an instance of it, also for events of older and newer versions.
        Events of types without a handler are skipped (and counted).
        """

        def registered(function: Function) -> Function:
            self.handlers.add(types, function, model, batch)
            return function

        return registered

    def run(self) -> None:
        """Consume until `stop()`; then finish the batch in hand, commit its offsets and leave the group.

        While Kafka or PostgreSQL is away it waits, from the start on, and goes on when they are back.

        Raises:
            UsageError: there is no handler.
            MemoryError: as it comes.
        """
        said = False
        try:
            while not self._stop.is_set():
                try:
                    self.step(timeout_seconds=0.25)
                except BrokerUnreachable as error:  # at the start; later the client itself waits for its broker
                    if not said:
                        log.warning("group %s waits: %s", self.group, error)
                        said = True
                    self._stop.wait(1.0)
        except Stopped:
            log.info("consumer of group %s stops inside a batch; the rest of it comes again", self.group)
        finally:
            self.close()

    def stop(self) -> None:
        """Ask `run` to end; may be called from any thread or a signal handler."""
        self._stop.set()

    def step(self, timeout_seconds: float = 1.0) -> int:
        """Poll once and handle what came; returns how many records that was. For scripts and tests; `run` loops on it.

        Raises:
            UsageError: there is no handler.
            BrokerUnreachable: at the first call, when no broker answers.
        """
        client = self._started()
        messages = self._kept or self._poll(client, timeout_seconds)
        self._kept = []
        records = self._records(messages)
        if not records:
            return 0
        batch = _Batch(records)
        self._in_hand = batch
        try:
            self._handle(client, batch)
            self._store(client, batch)
        finally:
            self._in_hand = None
        return len(records)

    def close(self) -> None:
        """Leave the group, committing what is stored, and close all connections."""
        if self._client is not None:
            client, self._client = self._client, None
            client.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None
        for lane in self._lanes:
            lane.close()
        self._lanes = []

    # --- polling ------------------------------------------------------------------------------------------------------

    def _started(self) -> Any:
        if self._client is not None:
            return self._client
        if not self.handlers:
            raise UsageError(f"consumer '{self.group}' has no handler: register one with @consumer.handler('type')")
        self.system = self.system or connect()
        kafka.require_broker(self.system.settings, self.system.admin)
        self._lanes = [self.inbox(self.system) for _ in range(self.concurrency)]
        self._pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix=f"evkit-{self.group}")
        client = kafka.consumer(
            self.system.settings,
            self.group,
            **{
                "group.protocol": self.protocol,
                # Only stored offsets are ever committed, once a second and at every rebalance and close.
                "enable.auto.commit": True,
                "auto.commit.interval.ms": 1000,
            },
            **({} if self.protocol == "consumer" else {"partition.assignment.strategy": "cooperative-sticky"}),
        )
        client.subscribe(self.topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        self._client = client
        return client

    def inbox(self, system: System, **more: Any) -> Inbox:
        """An inbox for this group and these handlers; replay and redrive take theirs from here too."""
        return Inbox(
            system, self.group, self.handlers, self.retry,
            code_version=self.code_version, stop=self._stop, **more,
        )  # fmt: skip

    def _poll(self, client: Any, timeout_seconds: float) -> list[Any]:
        # consume(n, timeout) waits for n messages or the whole timeout: take one, then what is there besides.
        first = client.poll(timeout_seconds)
        if first is None:
            return []
        return [first, *client.consume(self.batch_events_max - 1, 0)] if self.batch_events_max > 1 else [first]

    def _records(self, messages: list[Any]) -> list[Record]:
        now = datetime.now(UTC)
        records = []
        for message in messages:
            if (error := message.error()) is None:
                records.append(kafka.record_of(message, now))
            elif error.fatal():
                raise kafka.KafkaException(error)
            else:
                log.warning("group %s: %s", self.group, error.str())
        return records

    # --- handling -----------------------------------------------------------------------------------------------------

    def _handle(self, client: Any, batch: _Batch) -> None:
        """Handle a batch on the lanes, polling meanwhile so that the group knows we are alive."""
        assert self._pool is not None
        batch.futures = [
            self._pool.submit(lane.handle, records)
            for lane, records in zip(self._lanes, batch.by_key(self.concurrency), strict=True)
            if records
        ]
        # Most batches are done in milliseconds: pausing throws the fetched records away, so only long ones pay for it.
        _, running = wait(batch.futures, timeout=1.0)
        paused: list[TopicPartition] = []
        while running:
            if assignment := [tp for tp in client.assignment() if tp not in paused]:
                client.pause(assignment)
                paused += assignment
            message = client.poll(0.1)
            if message is not None:
                self._kept.append(message)
            _, running = wait(batch.futures, timeout=0)
        if paused:
            ours = client.assignment()
            client.resume([tp for tp in paused if tp in ours])
        for future in batch.futures:
            self.counts += future.result()

    def _store(self, client: Any, batch: _Batch) -> None:
        """Store the offsets of a handled batch, for the partitions that are still ours."""
        done = [
            TopicPartition(topic, partition, offset + 1)
            for (topic, partition), offset in batch.last_offsets().items()
            if (topic, partition) not in batch.gone
        ]
        if done:
            try:
                client.store_offsets(offsets=done)
            except kafka.KafkaException as error:
                # Not ours any more; whoever has them now finds our inbox rows.
                log.info("group %s: offsets not stored: %s", self.group, error)

    # --- rebalances ---------------------------------------------------------------------------------------------------

    def _on_assign(self, _client: Any, partitions: list[TopicPartition]) -> None:
        log.info("group %s is assigned %s", self.group, _names(partitions))
        self.assigned.set()

    def _on_revoke(self, client: Any, partitions: list[TopicPartition]) -> None:
        """Finish the batch in hand, store and commit, and only then let the partitions go."""
        batch = self._in_hand
        if batch is not None and batch.futures:
            _, running = wait(batch.futures, timeout=DRAIN_SECONDS_MAX)
            if not running and all(f.exception() is None for f in batch.futures):
                self._store(client, batch)
            else:
                log.warning(
                    "group %s gives up %s with a batch in hand; it is handled again", self.group, _names(partitions)
                )
            batch.gone |= {(tp.topic, tp.partition) for tp in partitions}
        try:
            client.commit(asynchronous=False)
        except kafka.KafkaException as error:
            if error.args[0].code() != kafka.KafkaError._NO_OFFSET:
                log.warning("group %s: offsets not committed before a rebalance: %s", self.group, error)
        self._forget(partitions)
        log.info("group %s gave up %s", self.group, _names(partitions))

    def _on_lost(self, _client: Any, partitions: list[TopicPartition]) -> None:
        """The group went on without us: commit nothing, forget what is in hand."""
        if self._in_hand is not None:
            self._in_hand.gone |= {(tp.topic, tp.partition) for tp in partitions}
        self._forget(partitions)
        log.warning("group %s lost %s: another member has them", self.group, _names(partitions))

    def _forget(self, partitions: list[TopicPartition]) -> None:
        gone = {(tp.topic, tp.partition) for tp in partitions}
        self._kept = [m for m in self._kept if (m.topic(), m.partition()) not in gone]


class _Batch:
    """Records in hand: polled, not yet stored."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        self.futures: list[Future[Counts]] = []
        self.gone: set[tuple[str, int]] = set()  # partitions that were taken away meanwhile
        self.started = time.monotonic()

    def by_key(self, lanes: int) -> list[list[Record]]:
        """The records split over lanes, all of one key in the same, in order. No key: by partition."""
        if lanes == 1:
            return [self.records]
        split: list[list[Record]] = [[] for _ in range(lanes)]
        for record in self.records:
            name = record.key if record.key is not None else f"{record.topic}/{record.partition}".encode()
            split[crc32(name) % lanes].append(record)
        return split

    def last_offsets(self) -> dict[tuple[str, int], int]:
        """Highest offset in hand by (topic, partition)."""
        return {(r.topic, r.partition): r.offset for r in self.records}


def _names(partitions: list[TopicPartition]) -> str:
    return ", ".join(f"{tp.topic}/{tp.partition}" for tp in partitions) or "nothing"
