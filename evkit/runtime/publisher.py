"""rows → topic: publish in the order of each key, with the broker's answer to every single event.

Order under failure. An idempotent producer keeps the order of a partition only while nothing fails for good: when the
broker refuses the third of five messages, the default is to go on with the fourth. So the producer is told to guarantee
that there is no gap (`enable.gapless.guarantee`: a message that fails for good stops the producer) and never to give up by
itself (`message.timeout.ms` 0). When it stops, everything unanswered is taken back and sent again by a new producer, from
the failed event on. A second copy of what had arrived after all comes behind the first one, so order holds.

What an error means is in refusal.py. An event that will never be taken is parked, later events of its key are held behind
it, all others flow.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from evkit import kafka
from evkit.event import CE_CAUSATION_ID, CE_CORRELATION_ID, CE_SCHEMA_VERSION, TRACEPARENT
from evkit.kafka import KafkaError, KafkaException
from evkit.runtime import refusal, tracing
from evkit.runtime.batch import Batch, Unpublished, headers_of
from evkit.runtime.outbox_cursor import Row
from evkit.runtime.relay_metrics import RelayMetrics
from evkit.settings import Settings

log = logging.getLogger(__name__)

# Every so many rows the answers are looked at, and whether we may still publish.
_ROWS_BETWEEN_LOOKS = 500
# A topic that was made a moment ago may not be known everywhere yet.
_TOPIC_SECONDS = 1.0
# An unknown topic is asked for again after this long, not for each of its events.
_UNKNOWN_TOPIC_SECONDS = 10.0
# Answers that a client still has in hand when it is taken back come at once; after this long they count as lost.
_TAKE_BACK_SECONDS = 2.0
# What a topic takes is asked again after this long at the earliest, not for each large event.
_BYTES_MAX_SECONDS = 1.0
# What the client sends at all: the topic decides. Batches stay at a megabyte (batch.size), one event may be larger.
_MESSAGE_BYTES_MAX = 100_000_000
# What a record costs besides key, value and headers: batch header and varints, rounded up.
_RECORD_OVERHEAD_BYTES = 200


class Trouble(Exception):
    """A message failed, or the producer stopped: see `_failures` and `_stopped`."""


class Publisher:
    """Publishes batches at least once; several may be under way.

    Args:
        settings     where the brokers are
        source       CloudEvents `source`
        hold         hold the key of an event that cannot be published (else only that event is skipped)
        may_publish  asked every few hundred rows: False while the lead is not certain, and publishing waits
        stop         set: give up waiting
        metrics      counts what is published, and what fails

    Attributes:
        held         (topic, key) → position of the parked row that later ones wait behind
        waiting_since  when the oldest unanswered batch was sent, monotonic clock; None when nothing waits
        trouble      the client's last words about the brokers, or None
    """

    def __init__(
        self,
        settings: Settings,
        source: str,
        *,
        hold: bool = True,
        may_publish: Callable[[], bool] = lambda: True,
        stop: threading.Event | None = None,
        metrics: RelayMetrics | None = None,
    ) -> None:
        self._metrics = metrics or RelayMetrics()
        self.held: dict[tuple[str, str], int] = {}
        self.trouble: str | None = None
        self._settings = settings
        self._source = source.encode()
        self._hold = hold
        self._may_publish = may_publish
        self._stop = stop or threading.Event()
        self._under_way: deque[Batch] = deque()
        self._producer: Any = None
        self._failures: dict[int, KafkaError] = {}
        self._stopped = False
        self._refused: KafkaError | None = None
        self._last_words: KafkaError | None = None  # of a client that has stopped
        self._topics: dict[bytes, str] = {}
        self._unknown: dict[bytes, tuple[float, str, str]] = {}
        self._bytes_max: dict[str, int] = {}
        self._bytes_max_asked_at: dict[str, float] = {}
        self._batch_bytes = 1_000_000
        self._apart = False  # each message in a request of its own, to find those that are refused
        self._clock = [0]  # microseconds at the last look for answers

    @property
    def waiting_since(self) -> float | None:
        return self._under_way[0].started if self._under_way else None

    @property
    def under_way(self) -> int:
        """Number of batches that are not wholly answered."""
        return len(self._under_way)

    def prepare(self) -> None:
        """Connect, so that the first event does not wait for that."""
        if self._producer is None:
            self._producer = self._client()

    def send(self, batch: Batch) -> None:
        """Hand a batch to the producer; returns before it is answered.

        Raises:
            RelayStopped, PublishFailed: see the module. What was confirmed by then is in what `give_up` returns.
        """
        self._begin(batch)
        try:
            self._produce(batch, batch.rows)
        except Trouble:
            self._mend()

    def _begin(self, batch: Batch) -> None:
        batch.started = time.monotonic()
        batch.span = tracing.publish_span(
            (row[1].decode() for row in batch.rows),
            (None if row[11] is None else row[11].decode() for row in batch.rows),
            len(batch.rows),
        )
        self._under_way.append(batch)
        if batch.redo:
            self._metrics.retried.add(len(batch.rows))

    def _end(self, batch: Batch) -> None:
        if batch.span is not None:
            parked = next((u.error_class for u in batch.unpublished if u.error_class), None)
            batch.span.end(error_type=parked)
        metrics = self._metrics
        metrics.batches.add()
        metrics.batch_seconds.observe(time.monotonic() - batch.started)
        metrics.batch_events.observe(len(batch.rows))
        metrics.published.add(len(batch.answers))
        if not batch.unpublished:  # else those that went are not looked for: it is a size, not an account
            metrics.published_bytes.add(sum([len(row[3]) for row in batch.rows]))

    def poll(self, seconds: float) -> list[Batch]:
        """Batches that are wholly answered by now, in the order in which they were sent; waits at most so long for one."""
        try:
            # A failure that is mended in `send` may leave all answered: there is no client then, and nothing to wait for.
            if not all(batch.is_answered for batch in self._under_way):
                self._serve(seconds)
        except Trouble:
            self._mend()
        done = []
        while self._under_way and self._under_way[0].is_answered:
            done.append(self._under_way.popleft())
            self._end(done[-1])
        return done

    def give_up(self) -> list[Batch]:
        """Take back what is unanswered; returns the batches with something confirmed, as not whole."""
        self._take_back()
        given_up = [b for b in self._under_way if b.answers]
        self._drop_overtakers()
        for batch in self._under_way:
            self._metrics.published.add(len(batch.answers))
            if batch.span is not None:
                batch.span.end(error_type="given up")
            batch.whole = False
            batch.unpublished = []
        self._under_way.clear()
        return given_up

    def forget_topics(self) -> None:
        """Ask the cluster again about topics that it did not know or that took too little: they may be mended."""
        self._unknown.clear()
        self._bytes_max_asked_at.clear()

    def close(self) -> None:
        """Take back what is unanswered and forget the client."""
        self.give_up()

    # --- producing ----------------------------------------------------------------------------------------------------

    def _client(self) -> Any:
        self._failures.clear()
        self._stopped = False
        self._last_words = None
        never = {"message.timeout.ms": 0, "enable.gapless.guarantee": True}
        return kafka.producer(self._settings, **never, **self._properties())

    def _properties(self) -> dict[str, Any]:
        most = self._settings.kafka.get("message.max.bytes", _MESSAGE_BYTES_MAX)
        apart = {"batch.num.messages": 1} if self._apart else {}
        return {
            "batch.size": self._batch_bytes,
            "message.max.bytes": most,
            # For so long the client waits for a topic that is gone, and with it whatever is in the same batch.
            "topic.metadata.propagation.max.ms": 3000,
            "error_cb": self._on_error,
            **apart,
        }

    def _on_error(self, error: KafkaError) -> None:
        self.trouble = error.str()
        if error.code() in refusal.FATAL:
            self._refused = error

    def _answers_to(self, batch: Batch) -> Callable[[int, Any, Any], None]:
        """What the client calls with the answer to one row; a function of its own, for it is called for each event."""
        append, failures, clock = batch.answers.append, self._failures, self._clock

        def answered(position: int, error: Any, message: Any) -> None:
            if error is None:
                append((position, message.partition(), message.offset(), clock[0]))
            else:
                failures[position] = error

        return answered

    def _serve(self, seconds: float) -> None:
        """Take the broker's answers; raises Trouble when one of them is a failure."""
        assert self._producer is not None
        self._clock[0] = time.monotonic_ns() // 1000
        try:
            if self._producer.poll(seconds) and self.trouble is not None:
                self.trouble = None
        except KafkaException as error:
            self._stopped = True
            self._last_words = error.args[0]
        if self._refused is not None:
            raise refusal.stopped(self._settings, self._refused)
        if self._failures or self._stopped:
            raise Trouble

    def _produce(self, batch: Batch, rows: Iterable[Row]) -> None:  # noqa: PLR0912, PLR0915 - the hot loop: no call a row
        if self._producer is None:
            self._producer = self._client()
        produce = self._producer.produce
        answered = self._answers_to(batch)
        partial, topics, source = functools.partial, self._topics, self._source
        count = 0
        for row in rows:
            (
                position,
                raw_topic,
                key,
                value,
                event_id,
                event_type,
                version,
                more,
                created_at,
                correlation,
                cause,
                trace,
            ) = row
            count += 1
            if count == _ROWS_BETWEEN_LOOKS:
                count = 0
                self._serve(0)
                while not self._may_publish():
                    self._pause(0.01)
            topic = topics.get(raw_topic) or self._topic(raw_topic)
            if topic is None:
                _, error_class, why = self._unknown[raw_topic]
                self._park(batch, row, raw_topic.decode(), error_class, why)
                continue
            if self.held and key:
                blocked_by = self.held.get((topic, key.decode()))
                if blocked_by is not None and blocked_by < position:
                    batch.unpublished.append(Unpublished(position, topic, key.decode(), "held", blocked_by))
                    continue
            headers: dict[str, Any] = {
                "ce_specversion": b"1.0",
                "ce_id": event_id,
                "ce_type": event_type,
                "ce_source": source,
                "ce_time": created_at,
                "content-type": b"application/json",
            }
            if version != 1:  # a record without this header is of version 1
                headers[CE_SCHEMA_VERSION] = str(version)
            if correlation is not None:
                headers[CE_CORRELATION_ID] = correlation
            if cause is not None:
                headers[CE_CAUSATION_ID] = cause
            if trace is not None:
                headers[TRACEPARENT] = trace
            if more is not None:
                try:
                    headers = headers_of(more) | headers
                except ValueError as wrong:
                    self._park(batch, row, topic, "InvalidHeaders", str(wrong))
                    continue
            if len(value) > self._bytes_max.get(topic, 1_000_000) - _RECORD_OVERHEAD_BYTES:
                most = self._bytes_max.get(topic)
                if most is not None and len(value) + len(key) > most:
                    most = self._ask_bytes_max(topic)
                if most is not None and len(value) + len(key) > most:
                    why = f"payload and key are {len(value) + len(key):,} bytes, the topic takes {most:,}"
                    self._park(batch, row, topic, "MSG_SIZE_TOO_LARGE", why)
                    continue
            while True:
                try:
                    # By position, for speed: topic, value, key, partition, on_delivery, its other name, timestamp, headers
                    produce(topic, value, key or None, -1, partial(answered, position), None, 0, headers)
                    break
                except BufferError:  # the client's queue is full: let it send
                    self._serve(0.05)
                    if self._stop.is_set():
                        raise refusal.PublishFailed("the relay is stopping") from None
                except KafkaException as error:
                    cause_of = error.args[0]
                    if cause_of.code() in refusal.POISON:
                        self._park(batch, row, topic, cause_of.name(), cause_of.str())
                        break
                    self._failures[position] = cause_of
                    raise Trouble from None
                except (TypeError, ValueError) as error:
                    self._park(batch, row, topic, type(error).__name__, str(error))
                    break
        self._serve(0)

    def _park(self, batch: Batch, row: Row, topic: str, error_class: str, error: str) -> None:
        position, key = row[0], row[2].decode()
        if self._hold and key:
            blocked_by = self.held.get((topic, key))
            if blocked_by is not None and blocked_by < position:  # it is behind another one already
                batch.unpublished.append(Unpublished(position, topic, key, "held", blocked_by))
                return
            self.held[topic, key] = position
        state = "parked" if self._hold else "skipped"
        batch.unpublished.append(Unpublished(position, topic, key, state, None, 1, error_class, error[:2000]))
        self._metrics.failed.add(1, "poison")
        log.error(
            "event at outbox position %s cannot be published and is %s: %s",
            position, state, error[:500],
            extra={"position": position, "topic": topic, "error_class": error_class},
        )  # fmt: skip

    def _topic(self, raw: bytes) -> str | None:
        """The topic's name once the cluster is known to have it, with its size limit; None when it has not (`_unknown`)."""
        if raw in self._unknown and time.monotonic() < self._unknown[raw][0]:
            return None
        name = raw.decode()
        deadline = time.monotonic() + _TOPIC_SECONDS
        while True:
            try:
                known = self._producer.list_topics(name, timeout=self._settings.kafka_timeout_seconds).topics.get(name)
            except KafkaException as error:
                if self._refused is not None:
                    raise refusal.stopped(self._settings, self._refused) from None
                raise refusal.failed(self._settings, error.args[0]) from None
            except (ValueError, TypeError) as error:
                self._unknown[raw] = (time.monotonic() + _UNKNOWN_TOPIC_SECONDS, type(error).__name__, str(error))
                return None
            problem = known.error if known is not None else None
            if known is not None and problem is None:
                break
            if problem is not None and problem.code() in refusal.FATAL:
                raise refusal.stopped(self._settings, problem, topic=name)
            if time.monotonic() > deadline or (problem is not None and problem.code() == KafkaError.TOPIC_EXCEPTION):
                text = problem.str() if problem is not None else "the cluster does not know it"
                error_class = problem.name() if problem is not None else "UNKNOWN_TOPIC_OR_PART"
                why = f"topic '{name[:249]}': {text}; make it, then `evkit outbox retry`"
                self._unknown[raw] = (time.monotonic() + _UNKNOWN_TOPIC_SECONDS, error_class, why)
                return None
            self._pause(0.1)
        self._topics[raw] = name
        self._unknown.pop(raw, None)
        most = self._ask_bytes_max(name)
        if most is not None and most < self._batch_bytes:
            # A batch larger than what the topic takes would be refused with every innocent event in it.
            self._batch_bytes = max(most - _RECORD_OVERHEAD_BYTES, 1)
            self._stopped = True
            raise Trouble  # go on with a new producer, of smaller batches
        return name

    def _ask_bytes_max(self, topic: str) -> int | None:
        """What the topic takes; asked again before an event is parked for it, for somebody may have raised it."""
        asked_at = self._bytes_max_asked_at.get(topic)
        if asked_at is not None and time.monotonic() - asked_at < _BYTES_MAX_SECONDS:
            return self._bytes_max.get(topic)
        most = kafka.topic_bytes_max(self._settings, topic)
        if most is not None:
            self._bytes_max[topic] = most
        self._bytes_max_asked_at[topic] = time.monotonic()
        return most

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise refusal.PublishFailed("the relay is stopping")

    # --- after a failure ----------------------------------------------------------------------------------------------

    def _take_back(self) -> None:
        """Nothing of this client's is sent any more; every message has its answer, or is unanswered for good."""
        if self._producer is None:
            return
        producer, self._producer = self._producer, None
        self._clock[0] = time.monotonic_ns() // 1000
        producer.purge()
        # Not by flush(): when the client has stopped, the binding raises in the middle of its loop, and the next answer's
        # callback is then called with that exception set (SystemError, and now and then a crash of the process). A poll
        # ends where it raises.
        deadline = time.monotonic() + _TAKE_BACK_SECONDS
        while len(producer) and time.monotonic() < deadline:
            try:
                producer.poll(0.05)
            except KafkaException:
                continue

    def _drop_overtakers(self) -> None:
        """What was confirmed behind an unanswered event of the same key does not count: it is sent again behind that."""
        first: dict[tuple[bytes, bytes], int] = {}
        for batch in self._under_way:
            dealt = {a[0] for a in batch.answers} | {u.position for u in batch.unpublished}
            for row in batch.rows:
                if row[2] and row[0] not in dealt:
                    first.setdefault((row[1], row[2]), row[0])
        if not first:
            return
        for batch in self._under_way:
            late = {r[0] for r in batch.rows if first.get((r[1], r[2]), r[0]) < r[0]}
            if late:
                batch.answers[:] = [a for a in batch.answers if a[0] not in late]

    def _left(self) -> list[tuple[Batch, list[Row]]]:
        """Rows of each batch under way that are neither confirmed nor given up."""
        left = []
        for batch in self._under_way:
            dealt = {a[0] for a in batch.answers} | {u.position for u in batch.unpublished}
            rows = [row for row in batch.rows if row[0] not in dealt]
            if rows:
                left.append((batch, rows))
        return left

    def _mend(self) -> None:
        """Take everything back, find and park what is poison, and send the rest again, until that works."""
        while True:
            self._take_back()
            self._drop_overtakers()
            self._sort_out()
            try:
                for batch, rows in self._left():
                    self._metrics.retried.add(len(rows))
                    self._metrics.redelivered.add(len(rows))
                    self._produce(batch, rows)
                if self._apart:
                    while not all(batch.is_answered for batch in self._under_way):
                        self._serve(0.1)
                        self._pause(0)
                    self._together()
                return
            except Trouble:
                continue

    def _together(self) -> None:
        """Send in batches again, from the next message on."""
        self._take_back()
        self._apart = False

    def _sort_out(self) -> None:
        """Judge the failures; raises unless they are poison, and then parks those."""
        failures = {p: e for p, e in self._failures.items() if e.code() not in refusal.COLLATERAL}
        for position, error in failures.items():
            if error.code() in refusal.FATAL:
                topic = next((r[1].decode() for b in self._under_way for r in b.rows if r[0] == position), None)
                raise refusal.stopped(self._settings, error, topic=topic)
        for error in failures.values():
            if error.code() not in refusal.POISON:
                raise refusal.failed(self._settings, error)
        suspects = [(b, row) for b in self._under_way for row in b.rows if row[0] in failures]
        for _, row in suspects:  # whatever it was refused for: is the topic as we know it?
            self._topics.pop(row[1], None)
        self._bytes_max_asked_at.clear()
        if len(suspects) > 1 and not self._apart:
            # A refused batch of messages fails with every message in it. Sent apart, each speaks for itself.
            self._apart = True
            if any(failures[row[0]].code() in refusal.TOO_LARGE for _, row in suspects):
                self._batch_bytes = max(self._batch_bytes // 2, 1000)  # the topic may not tell us its limit
            return
        for batch, row in suspects:
            error = failures[row[0]]
            self._park(batch, row, row[1].decode(), error.name(), error.str())
