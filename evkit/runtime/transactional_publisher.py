"""rows → topic: publish a batch and the number of its claim in one Kafka transaction, so that it is there once.

Who reads with `isolation.level=read_committed` sees each event once, whatever dies. The number is committed as an offset
of the relay's own group, in the transaction of the batch; PostgreSQL has the positions of every claim that is not marked
yet. After a crash the two together tell which claims reached the topic: those up to the committed number.

A transactional.id fences: a producer that starts with it ends every older one, and whatever that had open is aborted.
An acknowledged commit counts when the partitions show it (decisions.py): until then its batch stays under way, unmarked,
and nothing is aborted that could take it along. Whoever takes over decides what was left undecided: by a transaction of
its own on those partitions that is aborted, after which what is there is there and the rest is published again.

A committed number expires when the relay has been away for a week (`offsets.retention.minutes`): the last marked claim in
PostgreSQL is then the higher one, and wins.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, cast

from evkit import kafka, records
from evkit.errors import BrokerUnreachable
from evkit.event import CE_ID, TARGET_GROUP
from evkit.kafka import KafkaError, KafkaException, TopicPartition
from evkit.runtime import refusal
from evkit.runtime.batch import Batch
from evkit.runtime.decisions import Decisions
from evkit.runtime.publisher import Publisher, Trouble
from evkit.runtime.relay_metrics import RelayMetrics
from evkit.settings import Settings

log = logging.getLogger(__name__)

# After this long the broker aborts a transaction whose relay hangs; whoever reads committed data waits so long at most.
_TRANSACTION_SECONDS = 30
# An acknowledged commit that its partitions do not show after so long will not show by itself.
_UNDECIDED_SECONDS = 10.0
# So long the successor waits for markers that are on their way, and for its own.
_MARKERS_SECONDS = 2.0


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
        self._decisions = Decisions(settings)
        self._begun_at: float | None = None  # of the transaction that is open

    def committed_claim(self, topics: Iterable[str] = ()) -> int:
        """Number of the last claim that is in its topics, -1 when none is known. Fences every older relay first.

        `topics` are those of claims that are not marked: what an older relay has left undecided there is aborted.
        """
        try:
            kafka.create_topics(self._settings, {kafka.RELAY_TOPIC: 1})
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() in refusal.FATAL:
                raise refusal.stopped(self._settings, error, topic=kafka.RELAY_TOPIC) from None
            raise refusal.failed(self._settings, error) from None
        self._take_back()
        self._producer = self._client()
        if left := self._decisions.open_partitions(topics, _MARKERS_SECONDS):
            self._abort_what_is_open(left)
        try:
            return self._stable_offset()
        except BrokerUnreachable:  # also what a number gives that was left undecided
            self._abort_what_is_open([])
            return self._stable_offset()

    def _abort_what_is_open(self, places: list[tuple[str, int]]) -> None:
        """Let the partitions, and the relay's own group, decide against what no marker came for.

        Raises:
            PublishFailed: they are still open after it, by a transaction of somebody else.
        """
        names = ", ".join(f"{topic}/{partition}" for topic, partition in places[:10]) or f"group {self._name}"
        log.warning("what an older relay has left undecided is aborted, and published again: %s", names)
        producer = self._producer
        assert producer is not None
        producer.begin_transaction()
        for topic, partition in places:
            # Nobody who reads committed records sees it; consumers of evkit that read all skip what is another group's.
            producer.produce(topic, b"", b"evkit", partition, headers={TARGET_GROUP: kafka.RELAY_TOPIC})
        until = time.monotonic() + self._settings.kafka_timeout_seconds
        while len(producer) and time.monotonic() < until:
            producer.poll(0.1)
        self._send_claim(0)
        producer.abort_transaction(self._settings.kafka_timeout_seconds)
        self._confirm()
        topics = {topic for topic, _ in places}
        if still := set(self._decisions.open_partitions(topics, _MARKERS_SECONDS)) & set(places):
            topic, partition = min(still)
            raise refusal.PublishFailed(
                f"{topic}/{partition} has an open transaction that is not this relay's, and what a relay has left behind "
                "it cannot be seen: wait for its end, or abort it (kafka-transactions.sh find-hanging)"
            )

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
                self._wait_until_decided()
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
            self._send_claim(batch.claim)
        except KafkaException as failure:
            return cast("KafkaError", failure.args[0])
        return None

    def _send_claim(self, claim: int) -> None:
        """Put the claim's number into the transaction.

        In a thread of its own, which may be left behind: after a restart of the broker this call of librdkafka 2.16 may
        never return, whatever timeout it is given (its issues 5456 and 5511; the fault run met it at every second one).
        """
        producer, failures = self._producer, []
        assert producer is not None
        seconds = self._settings.kafka_timeout_seconds
        offsets = [TopicPartition(kafka.RELAY_TOPIC, 0, claim)]

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
        self._decisions.forget()
        return []

    def poll(self, seconds: float) -> list[Batch]:
        """The batches whose transactions are committed, and shown; waits at most so long for one.

        Raises:
            PublishFailed: one is not shown, and will not be by itself.
        """
        done: list[Batch] = []
        until = time.monotonic() + seconds
        while self._under_way:
            self._look()
            while self._under_way and self._decisions.is_decided(self._under_way[0]):
                done.append(self._under_way.popleft())
                self._end(done[-1])
            if done or time.monotonic() >= until:
                break
            time.sleep(0.0005)
        return done

    def _look(self) -> None:
        """Ask which batches are decided; raises PublishFailed when the answer is too late to be trusted or to come."""
        self._decisions.look()
        since, begun_at, now = self._decisions.undecided_since, self._begun_at, time.monotonic()
        # The broker aborts what is open too long, and what is undecided before it: after that it is decided, and gone.
        aborted = begun_at is not None and now - begun_at > 0.8 * _TRANSACTION_SECONDS
        if (since is not None and now - since > _UNDECIDED_SECONDS) or (aborted and not self._decisions.all_decided):
            raise refusal.PublishFailed(
                f"Kafka at {self._settings.bootstrap_servers} has acknowledged a commit, and does not show it: "
                f"{self._decisions.words()}"
            )

    def _wait_until_decided(self) -> None:
        """Before anything is aborted: that would take along what is acknowledged and undecided."""
        until = time.monotonic() + self._settings.kafka_timeout_seconds
        while not self._decisions.all_decided:
            self._look()
            if time.monotonic() > until:
                raise refusal.PublishFailed(
                    f"Kafka at {self._settings.bootstrap_servers} has acknowledged a commit, and does not answer whether "
                    f"it is shown: {self._decisions.words()}"
                )
            self._pause(0.002)

    def _transaction(self, batch: Batch) -> None:
        dealt = {u.position for u in batch.unpublished}
        rows = [row for row in batch.rows if row[0] not in dealt]
        self._producer.begin_transaction()
        self._begun_at = time.monotonic()
        self._produce(batch, rows)
        while not batch.is_answered:
            self._serve(0.1)
            self._pause(0)
        if not batch.answers:
            self._wait_until_decided()
            self._producer.abort_transaction(self._settings.kafka_timeout_seconds)
            self._begun_at = None
            return
        self._send_claim(batch.claim)
        try:
            self._producer.commit_transaction(_TRANSACTION_SECONDS)
        except KafkaException as failure:
            # Committed or not: the next producer fences this one, and the committed number tells.
            error = failure.args[0]
            if error.code() in refusal.FENCED or error.code() in refusal.FATAL:
                raise
            log.warning("commit of claim %s has no known end: %s", batch.claim, error.str())
            self._wait_until_decided()
            self._take_back()
            self._producer = self._client()
            if self._stable_offset() < batch.claim:
                raise
        self._begun_at = None
        self._decisions.add(batch)

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
