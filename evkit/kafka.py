"""Kafka: records, producers, consumers, offsets, admin. The only place that opens confluent-kafka.

Settings that matter for correctness or were measured are set here, once, with their reasons; a property that the user
gives in evkit.toml wins, except where a promise would break.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import confluent_kafka as ck
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import ListOffsetsResultInfo, OffsetSpec
from confluent_kafka.cimpl import NewTopic

from evkit.admin_client import Admin
from evkit.client_log import Repeats
from evkit.errors import BrokerRefused, BrokerUnreachable, EvkitError, UnknownTopic
from evkit.settings import Settings

__all__ = [
    "OFFSET_BEGINNING", "OFFSET_INVALID", "TIMESTAMP_CREATE_TIME", "TIMESTAMP_LOG_APPEND_TIME", "AdminClient", "KafkaError",
    "KafkaException", "Message", "OffsetSpec", "TopicPartition",
]  # fmt: skip

log = logging.getLogger(__name__)

EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
NEWEST: OffsetSpec = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]

# One partition, no records: an exactly-once relay commits the number of its claim as an offset on it, in a group
# `evkit.relay.<id>`. Nobody consumes it, so it is no topic or group to any list or view.
RELAY_TOPIC = "evkit.relay"

_CLIENT_LOG = logging.getLogger("evkit.kafka.client")
# librdkafka writes its own lines to stderr, past every log setting of the service; ours go through logging.
_CLIENT_LOG.addHandler(logging.NullHandler())
# The relay asks for `enable.gapless.guarantee` on purpose (runtime/publisher.py); its tests are what makes it trusted.
_CLIENT_LOG.addFilter(lambda record: "enable.gapless.guarantee is experimental" not in record.getMessage())
_CLIENT_LOG.addFilter(Repeats())


# --- records ----------------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """A record as the broker gave it: bytes untouched, so that a dead letter can keep them; decoding.py reads it.

    Attributes:
        topic, partition, offset   where it is
        key, value                 raw bytes, None when the record has none
        headers                    (name, raw value) in the record's order; a name may repeat, a value may be None
        timestamp                  UTC, or None when the record has none (or one that is no time of the years 1 to 9999)
        timestamp_type             "append" (the broker's clock), "create" (the producer's) or "none"
        leader_epoch               of the partition's leader at the time of the read, or None
        received_at                UTC, this machine's clock
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp: datetime | None
    timestamp_type: str
    leader_epoch: int | None
    received_at: datetime


_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
TIMESTAMP_TYPES = {TIMESTAMP_LOG_APPEND_TIME: "append", TIMESTAMP_CREATE_TIME: "create"}


def record_of(message: Message, received_at: datetime) -> Record:
    """A client's message as a Record; no decoding, cannot fail on the content."""
    kind, millis = message.timestamp()
    timestamp_type = TIMESTAMP_TYPES.get(kind, "none")
    # Half of the time of Record(...), which every record of a topic costs.
    return tuple.__new__(Record, (
        message.topic(), message.partition(), message.offset(), message.key(), message.value(), message.headers() or [],
        None if timestamp_type == "none" else moment(millis), timestamp_type, message.leader_epoch(), received_at,
    ))  # fmt: skip


@functools.lru_cache(1000)  # records come many in a millisecond
def moment(millis: int) -> datetime | None:
    """Of a record's timestamp, milliseconds since 1970; None for one that is no time of the years 1 to 9999."""
    try:
        return _EPOCH + millis * _MILLISECOND
    except OverflowError:  # a producer may write any number there
        return None


def fallback_event_id(record: Record) -> str:
    """The id of a record that carries none: where it is, which is unique as long as the topic lives."""
    return f"{record.topic}/{record.partition}/{record.offset}"


# --- clients ----------------------------------------------------------------------------------------------------------


def _client(settings: Settings, **ours: Any) -> dict[str, Any]:
    """librdkafka's configuration: the user's properties under `ours`, logging through logging."""
    return {"client.id": "evkit", **settings.kafka, **ours, "logger": _CLIENT_LOG}


def producer(settings: Settings, **properties: Any) -> Producer:
    """A producer that keeps order and does not give up on a short outage.

    Idempotent with acks from all replicas: the order of a partition survives retries. Messages time out after five
    minutes only, because a timed-out message is the one way in which an idempotent producer leaves a gap.
    `murmur2_random` puts a key into the same partition as the Java clients do.
    """
    ours: dict[str, Any] = {
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "delivery.timeout.ms": 300_000,
        "linger.ms": 0,
        "queue.buffering.max.messages": 200_000,
    }
    return Producer(_client(settings, **(ours | properties)))


def consumer(settings: Settings, group: str, **properties: Any) -> Consumer:
    """A consumer that commits only what it was told is done, and whose fetcher never sleeps a second.

    librdkafka's default `fetch.queue.backoff.ms` of 1000 stalls a fast consumer: 1M records took 7.0 s with it and
    2.0 s with 1 ms, at the same CPU (measured on Kafka 4.3.1).
    """
    ours: dict[str, Any] = {
        "group.id": group,
        "enable.auto.offset.store": False,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "fetch.queue.backoff.ms": 1,
        "queued.min.messages": 20_000,
        "enable.partition.eof": False,
    }
    return Consumer(_client(settings, **(ours | properties)))


def admin(settings: Settings) -> AdminClient:
    """An admin client; it connects when it is first asked something.

    What went wrong lately is in `errors`, with the time of the monotonic clock: a question to a broker that does not let
    the client in is told only that nobody answered.
    """
    errors: deque[tuple[float, KafkaError]] = deque(maxlen=20)
    client = Admin(_client(settings, error_cb=lambda error: errors.append((time.monotonic(), error))))
    client.errors = errors  # type: ignore[attr-defined]
    return client


def require_broker(settings: Settings, client: AdminClient | None = None) -> None:
    """Raise BrokerUnreachable unless a broker answers within `settings.kafka_timeout_seconds`."""
    client = admin(settings) if client is None else client
    try:
        client.list_topics(timeout=settings.kafka_timeout_seconds)
    except KafkaException as error:
        raise failed(settings, error, client) from None


# What a client says when nobody answers; anything else is an answer.
_NO_ANSWER = {
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE,
}

# What a client says while it goes on trying to get in.
_NOT_LET_IN = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
    KafkaError._SSL,
}


def is_refusal(error: KafkaError) -> bool:
    """Whether a broker says that we may not: a right that is lacking, which no waiting cures."""
    return error.code() in {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }


def failed(settings: Settings, error: KafkaException, client: AdminClient | None = None) -> EvkitError:
    """The sentence for a client's error: nobody answers, or somebody refuses (no authorisation, a wrong password)."""
    cause = error.args[0]
    if not isinstance(cause, KafkaError):
        return BrokerUnreachable(settings.bootstrap_servers, str(cause))
    if cause.code() not in _NO_ANSWER:
        return BrokerRefused(settings.bootstrap_servers, cause)
    if client is not None:
        client.poll(0)  # lets it tell what has happened meanwhile
        since = time.monotonic() - settings.kafka_timeout_seconds - 1
        for at, lately in reversed(getattr(client, "errors", ())):
            if at > since and lately.code() in _NOT_LET_IN:
                return BrokerRefused(settings.bootstrap_servers, lately)
    return BrokerUnreachable(settings.bootstrap_servers, cause.str())


# --- topics and offsets -----------------------------------------------------------------------------------------------


def topics(settings: Settings, client: AdminClient | None = None) -> dict[str, int]:
    """Number of partitions by topic, internal topics (Kafka's and `RELAY_TOPIC`) left out.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    found = _all_topics(settings, admin(settings) if client is None else client)
    return {name: n for name, n in found.items() if not name.startswith("__") and name != RELAY_TOPIC}


def _all_topics(settings: Settings, client: AdminClient) -> dict[str, int]:
    try:
        metadata = client.list_topics(timeout=settings.kafka_timeout_seconds)
    except KafkaException as error:
        raise failed(settings, error, client) from None
    return {name: len(t.partitions) for name, t in sorted(metadata.topics.items())}


def create_topics(settings: Settings, partitions: Mapping[str, int], **config: str) -> list[str]:
    """Create the topics that are not there yet; returns the names of those that were made.

    They use LogAppendTime, so that a record's timestamp is the broker's clock and offsets can be found by time;
    `config` adds or overrides topic settings. An existing topic is left as it is.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
        KafkaException: the broker refuses, for example for want of authorisation.
    """
    client = admin(settings)
    present = _all_topics(settings, client)  # who may use a topic need not have the right to make it
    new = [
        NewTopic(name, num_partitions=n, config={"message.timestamp.type": "LogAppendTime", **config})
        for name, n in partitions.items()
        if name not in present
    ]
    made = []
    for name, future in (
        client.create_topics(new, request_timeout=settings.kafka_timeout_seconds).items() if new else ()
    ):
        try:
            future.result()
            made.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # someone else made it meanwhile
                raise
    return made


def topic_bytes_max(settings: Settings, topic: str) -> int | None:
    """Largest batch that a topic takes (`max.message.bytes`); None when the broker does not say (no authorisation)."""
    client = admin(settings)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    try:
        (future,) = client.describe_configs([resource], request_timeout=settings.kafka_timeout_seconds).values()
        return int(future.result()["max.message.bytes"].value)
    except (KafkaException, KeyError, ValueError):
        return None


def cluster_id(settings: Settings, client: AdminClient | None = None) -> str:
    """The cluster's own id, which stays the same whatever its addresses are.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    client = admin(settings) if client is None else client
    try:
        return str(client.list_topics(timeout=settings.kafka_timeout_seconds).cluster_id)
    except KafkaException as error:
        raise failed(settings, error, client) from None


# The coordinator of a group moves, or has not begun yet: it, or another one, answers in a moment.
_NOT_READY = {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS}


def is_not_ready(error: KafkaError) -> bool:
    """Whether a group's coordinator will answer in a moment."""
    return error.code() in _NOT_READY


def committed(
    settings: Settings, group: str, partitions: Iterable[TopicPartition], *, stable: bool = False
) -> dict[tuple[str, int], int]:
    """Next offset a group will read of these, where it has committed one; `stable`: that no open transaction can change.

    A consumer that never joins asks: an admin client ends its process by a segmentation fault when the coordinator is not
    ready (measured with librdkafka 2.16.1 on a new broker).

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`. BrokerRefused: no authorisation.
    """
    asker = consumer(settings, group, **{"isolation.level": "read_committed" if stable else "read_uncommitted"})
    until = time.monotonic() + settings.kafka_timeout_seconds
    try:
        while True:
            try:
                answers = asker.committed(list(partitions), timeout=max(until - time.monotonic(), 0.1))
                for refused in (tp.error for tp in answers if tp.error is not None):
                    raise KafkaException(refused)
                return {(tp.topic, tp.partition): tp.offset for tp in answers if tp.offset >= 0}
            except KafkaException as error:
                if not is_not_ready(error.args[0]) or time.monotonic() > until:
                    raise failed(settings, error) from None
                time.sleep(0.1)
    finally:
        asker.close()


# What a broker says to who asks it as the leader that it was once, or is not any more.
_OTHER_LEADER = {KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.NOT_LEADER_FOR_PARTITION}


def is_moved(asked: Future[Any]) -> bool:
    """Whether the partition has another leader, or epoch, than the client that asked knows; waits for the answer."""
    error = asked.exception()
    return isinstance(error, KafkaException) and error.args[0].code() in _OTHER_LEADER


def refresh_leaders(client: AdminClient) -> None:
    """Let a client learn who leads now, in a second at most: until somebody asks for the topics, librdkafka's questions for
    offsets go on with the leader epoch that it has, and are refused (measured after a broker's restart)."""
    try:
        client.list_topics(timeout=1.0)
    except KafkaException as error:
        log.info("no leaders yet: %s", error)


def list_offsets(
    client: AdminClient, request: Mapping[TopicPartition, OffsetSpec], **options: Any
) -> dict[TopicPartition, Future[ListOffsetsResultInfo]]:
    """What an admin client's own says: of each partition the answer, or KafkaException where the broker refuses or does not
    answer in time. Waits for nothing. To the client itself the latter is an answer, an offset of -1001, which every
    comparison takes for a small one: nobody else asks it."""
    if not request:
        return {}
    told: dict[TopicPartition, Future[ListOffsetsResultInfo]] = {}
    for place, asked in client.list_offsets(dict(request), **options).items():
        told[place] = Future()
        asked.add_done_callback(functools.partial(_tell, told[place]))
    return told


def _tell(future: Future[Any], asked: Future[Any]) -> None:
    error = asked.exception()
    if error is None and asked.result().offset == OFFSET_INVALID:
        error = KafkaException(KafkaError(KafkaError._TIMED_OUT))
    if error is None:
        future.set_result(asked.result())
    else:
        future.set_exception(error)


def was_answered(asked: Future[Any]) -> bool:
    """Whether a broker has answered; a refusal is an answer too."""
    error = asked.exception()
    cause = error.args[0] if isinstance(error, KafkaException) else None
    return error is None or (isinstance(cause, KafkaError) and cause.code() not in _NO_ANSWER)


def partitions_of(settings: Settings, names: Iterable[str], client: AdminClient | None = None) -> list[TopicPartition]:
    """All partitions of the named topics, sorted by topic and partition.

    Raises:
        UnknownTopic: the cluster has no topic of this name; near matches are in `suggestions`.
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    known = topics(settings, client)
    found = []
    for name in sorted(set(names)):
        if name not in known:
            raise UnknownTopic(name, known, where=f"to the cluster at {settings.bootstrap_servers}")
        found += [TopicPartition(name, p) for p in range(known[name])]
    return found


def topic_id(settings: Settings, topic: str, client: AdminClient | None = None) -> str:
    """A topic's own id: one made anew under its name has another.

    Raises:
        BrokerRefused: there is no such topic, or no authorisation to see it.
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    client = admin(settings) if client is None else client
    wanted = ck.TopicCollection([topic])
    try:
        (future,) = client.describe_topics(wanted, request_timeout=settings.kafka_timeout_seconds).values()
        return str(future.result().topic_id)
    except KafkaException as error:
        raise failed(settings, error, client) from None


def groups(settings: Settings, client: AdminClient | None = None) -> dict[str, str]:
    """State by consumer group ("stable", "empty", "dead", …), sorted by name; those of relays left out."""
    # Held by a name until the answer is there: a client that is collected meanwhile answers with nothing.
    client = admin(settings) if client is None else client
    try:
        listing = client.list_consumer_groups(request_timeout=settings.kafka_timeout_seconds).result()
    except KafkaException as error:
        raise failed(settings, error, client) from None
    if listing.errors and not listing.valid:  # also of brokers that did not answer in time
        first = listing.errors[0]
        raise failed(settings, first if isinstance(first, KafkaException) else KafkaException(first), client)
    for told in listing.errors:
        log.warning("a broker did not tell its groups: %s", told)
    return {
        g.group_id: g.state.name.lower()
        for g in sorted(listing.valid, key=lambda g: str(g.group_id))
        if not g.group_id.startswith(f"{RELAY_TOPIC}.")
    }


def offsets(
    settings: Settings,
    partitions: Iterable[TopicPartition],
    spec: OffsetSpec | None = None,
    client: AdminClient | None = None,
) -> dict[tuple[str, int], int]:
    """Offsets by (topic, partition): the end offsets, or what `spec` asks for.

    The end offset is the high watermark: the next one the broker will assign to a visible record or marker.
    """
    spec = spec or LATEST
    wanted = dict.fromkeys(partitions, spec)
    if not wanted:
        return {}
    client = admin(settings) if client is None else client
    asked = list_offsets(client, wanted, request_timeout=settings.kafka_timeout_seconds)
    if any(is_moved(future) for future in asked.values()):
        refresh_leaders(client)
        asked = list_offsets(client, wanted, request_timeout=settings.kafka_timeout_seconds)
    try:
        return {(tp.topic, tp.partition): future.result().offset for tp, future in asked.items()}
    except KafkaException as error:
        raise failed(settings, error, client) from None


def start_offsets(
    settings: Settings, partitions: Iterable[TopicPartition], client: AdminClient | None = None
) -> dict[tuple[str, int], int]:
    """First offset that each partition still has."""
    return offsets(settings, partitions, EARLIEST, client)


def offsets_at(
    settings: Settings, partitions: Iterable[TopicPartition], at: datetime, client: AdminClient | None = None
) -> dict[tuple[str, int], int]:
    """First offset whose record's timestamp is `at` or later; -1 where there is none yet."""
    # Timestamps are whole milliseconds: rounded down, the end of a window would leave out those that are just before it.
    millis = max(0, -((_EPOCH - at) // _MILLISECOND))  # no record is older than 1970, and Kafka knows no time before
    return offsets(settings, partitions, OffsetSpec.for_timestamp(millis), client)
