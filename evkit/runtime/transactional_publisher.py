"""rows → topic: publish a batch and the number of its claim in one Kafka transaction, so that it is there once.

Who reads with `isolation.level=read_committed` sees each event once, whatever dies. The number is committed as an offset
of the relay's own group, in the transaction of the batch; PostgreSQL has the positions of every claim that is not marked
yet. After a crash the two together tell which claims reached the topic: those up to the committed number.

A transactional.id fences: a producer that starts with it ends every older one, and whatever that had open is aborted.
A committed number expires when the relay has been away for a week (`offsets.retention.minutes`): the last marked claim in
PostgreSQL is then the higher one, and wins.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, cast

from evkit import kafka, records
from evkit.event import CE_ID
from evkit.kafka import KafkaError, KafkaException, TopicPartition
from evkit.runtime import refusal
from evkit.runtime.batch import Batch
from evkit.runtime.publisher import Publisher, Trouble
from evkit.runtime.relay_metrics import RelayMetrics
from evkit.settings import Settings

log = logging.getLogger(__name__)

# After this long the broker aborts a transaction whose relay hangs; whoever reads committed data waits so long at most.
_TRANSACTION_SECONDS = 30


class TransactionalPublisher(Publisher):
    """Publishes batch by batch, each once. Args: see Publisher; `relay_id` names the transactional.id and the
    group; `confirm` raises when this relay does not lead any more."""

    def __init__(
        self,
        settings: Settings,
        source: str,
        *,
        relay_id: str,
        confirm: Callable[[], Any] = lambda: None,
        hold: bool = True,
        may_publish: Callable[[], bool] = lambda: True,
        stop: threading.Event | None = None,
        metrics: RelayMetrics | None = None,
    ) -> None:
        super().__init__(settings, source, hold=hold, may_publish=may_publish, stop=stop, metrics=metrics)
        self._confirm = confirm
        self._name = f"{kafka.RELAY_TOPIC}.{relay_id}"
        self._group = kafka.consumer(settings, self._name)  # only for its metadata: it joins nothing
        self._cursor = TopicPartition(kafka.RELAY_TOPIC, 0)

    def committed_claim(self) -> int:
        """Number of the last claim that is in its topics, -1 when none is known. Fences every older relay first."""
        try:
            kafka.create_topics(self._settings, {kafka.RELAY_TOPIC: 1})
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() in refusal.FATAL:
                raise refusal.stopped(self._settings, error, topic=kafka.RELAY_TOPIC) from None
            raise refusal.failed(self._settings, error) from None
        self._take_back()
        self._producer = self._client()
        return self._stable_offset()

    def _stable_offset(self) -> int:
        found = kafka.committed(self._settings, self._name, [self._cursor], stable=True)
        return found.get((kafka.RELAY_TOPIC, 0), -1)

    def find(self, rows: list[tuple[Any, ...]], claimed_at: datetime) -> dict[int, tuple[int, int]]:
        """Where claimed rows (topic, id, position, key) are that reached their topics: position → (partition, offset)."""
        wanted: dict[str, dict[bytes, int]] = {}
        for topic, event_id, position, _ in rows:
            wanted.setdefault(topic, {})[event_id.encode()] = position
        found = {}
        for topic, positions in wanted.items():
            # Minutes of slack for clocks that differ; a topic without the broker's time has the producer's.
            for record in records.scan(self._settings, topic, since=claimed_at - timedelta(minutes=5)):
                raw_id = dict(record.headers).get(CE_ID) or b""
                if raw_id in positions:
                    found[positions.pop(raw_id)] = (record.partition, record.offset)
        return found

    def send(self, batch: Batch) -> None:
        """Publish the batch in a transaction of its own; returns when that is committed.

        Raises:
            RelayStopped, PublishFailed: see publisher.py; Fenced: another relay has taken over. Nothing is published then,
                or all of it is, which the committed claim tells.
        """
        self._begin(batch)
        while True:
            try:
                if self._producer is None:
                    self._producer = self._client()
                self._transaction(batch)
                if self._apart:
                    self._together()
                return
            except Trouble:
                reason = self._reason(batch)
                self._take_back()
                batch.answers.clear()
                if self._stop.is_set():
                    raise refusal.PublishFailed("the relay is stopping") from None
                if reason is not None and reason.code() in refusal.FATAL:
                    topics = {row[1].decode() for row in batch.rows}
                    raise refusal.stopped(
                        self._settings, reason, topic=topics.pop() if len(topics) == 1 else None
                    ) from None
                if reason is not None and reason.code() not in refusal.FENCED:
                    raise refusal.failed(self._settings, reason) from None
                words = [*self._failures.values(), *(e for e in (self._last_words, reason) if e is not None)]
                if any(error.code() in refusal.FENCED for error in words):
                    raise refusal.Fenced("another relay has taken over this outbox's transactional.id") from None
                if self._stopped and self._last_words is not None:
                    raise refusal.failed(self._settings, self._last_words) from None
                self._sort_out()
                # What was held is looked at again: what held it may be through.
                batch.unpublished[:] = [u for u in batch.unpublished if u.state != "held"]
                batch.answers.clear()
            except KafkaException as failure:
                error = failure.args[0]
                if error.code() in refusal.FENCED:
                    raise refusal.Fenced("another relay has taken over this outbox's transactional.id") from None
                if error.code() in refusal.FATAL:
                    raise refusal.stopped(self._settings, error) from None
                raise refusal.failed(self._settings, error) from None

    def _reason(self, batch: Batch) -> KafkaError | None:
        """Why the transaction cannot go on, when none of its messages says so: the broker may have refused it before it
        was sent any (no right to the topic). None when a message says it, or when there is nothing wrong with it.
        """
        judged = any(error.code() not in refusal.COLLATERAL for error in self._failures.values())
        if judged or self._stopped or self._producer is None:
            return None
        try:
            # Refused at once with the reason, in a failed transaction; in any other one it is without effect, for that
            # is never committed.
            self._send_claim(batch)
        except KafkaException as failure:
            return cast("KafkaError", failure.args[0])
        return None

    def _send_claim(self, batch: Batch) -> None:
        """Put the claim's number into the transaction.

        In a thread of its own, which may be left behind: after a restart of the broker this call of librdkafka 2.16 may
        never return, whatever timeout it is given (its issues 5456 and 5511; the fault run met it at every second one).
        """
        producer, failures = self._producer, []
        assert producer is not None
        seconds = self._settings.kafka_timeout_seconds
        offsets = [TopicPartition(kafka.RELAY_TOPIC, 0, batch.claim)]

        def send() -> None:
            try:
                producer.send_offsets_to_transaction(offsets, self._group.consumer_group_metadata(), seconds)
            except KafkaException as failure:
                failures.append(failure)

        thread = threading.Thread(target=send, name="evkit relay claim", daemon=True)
        thread.start()
        thread.join(seconds + 1)
        if thread.is_alive():
            self._producer = None  # the next one fences it
            raise refusal.PublishFailed(
                f"Kafka at {self._settings.bootstrap_servers} has not taken the claim into its transaction in {seconds:g} s"
            )
        if failures:
            raise failures[0]

    def close(self) -> None:
        """See Publisher."""
        super().close()
        self._group.close()

    def give_up(self) -> list[Batch]:
        """Take back what is not committed. Nothing of an unfinished transaction counts."""
        self._take_back()
        self._under_way.clear()
        return []

    def poll(self, seconds: float) -> list[Batch]:  # noqa: ARG002 - nothing to wait for
        """The batches whose transactions are committed."""
        done = list(self._under_way)
        self._under_way.clear()
        for batch in done:
            self._end(batch)
        return done

    def _transaction(self, batch: Batch) -> None:
        dealt = {u.position for u in batch.unpublished}
        rows = [row for row in batch.rows if row[0] not in dealt]
        self._producer.begin_transaction()
        self._produce(batch, rows)
        while not batch.is_answered:
            self._serve(0.1)
            self._pause(0)
        if not batch.answers:
            self._producer.abort_transaction(self._settings.kafka_timeout_seconds)
            return
        self._send_claim(batch)
        try:
            self._producer.commit_transaction(_TRANSACTION_SECONDS)
        except KafkaException as failure:
            # Committed or not: the next producer fences this one, and the committed number tells.
            error = failure.args[0]
            if error.code() in refusal.FENCED or error.code() in refusal.FATAL:
                raise
            log.warning("commit of claim %s has no known end: %s", batch.claim, error.str())
            self._take_back()
            self._producer = self._client()
            if self._stable_offset() < batch.claim:
                raise

    def _client(self) -> Any:
        self._failures.clear()
        self._stopped = False
        self._last_words = None
        client = kafka.producer(
            self._settings,
            **{
                "transactional.id": self._name,
                "transaction.timeout.ms": _TRANSACTION_SECONDS * 1000,
                "delivery.timeout.ms": _TRANSACTION_SECONDS * 1000,
                **self._properties(),
            },
        )
        while True:
            try:
                client.init_transactions(self._settings.kafka_timeout_seconds)
                # In this order: whoever leads after this confirmation fences us; nobody has led between it and our start.
                self._confirm()
                return client
            except KafkaException as failure:
                error = failure.args[0]
                if self._refused is not None or error.code() in refusal.FATAL:
                    raise refusal.stopped(self._settings, self._refused or error) from None
                if not error.retriable():
                    raise refusal.failed(self._settings, error) from None
                if self._stop.is_set():
                    raise refusal.PublishFailed("the relay is stopping") from None
