"""broker's error → what to do about it: wait, stop, or park the event.

retriable   nobody's fault: PublishFailed; the relay waits, with jitter, and goes on from the first unanswered event
fatal       no authorisation, another cluster: RelayStopped; somebody has to do something first
poison      this event: too large, unknown topic; it is parked
fenced      another relay has taken over: Fenced
collateral  says only that another message has failed, or that we took this one back
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from evkit.errors import BrokerRefused, RelayStopped
from evkit.kafka import KafkaError, KafkaException
from evkit.settings import Settings

COLLATERAL = frozenset({
    KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._FATAL, KafkaError._GAPLESS_GUARANTEE,
    KafkaError._STATE,
})  # fmt: skip
TOO_LARGE = frozenset({
    KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE,
})  # fmt: skip
POISON = TOO_LARGE | frozenset({
    KafkaError.INVALID_RECORD, KafkaError.INVALID_MSG, KafkaError.TOPIC_EXCEPTION, KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC, KafkaError.POLICY_VIOLATION, KafkaError.INVALID_TIMESTAMP, KafkaError._BAD_MSG,
})  # fmt: skip
FATAL = frozenset({
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.UNSUPPORTED_SASL_MECHANISM, KafkaError.ILLEGAL_SASL_STATE,
    KafkaError.SECURITY_DISABLED, KafkaError.UNSUPPORTED_VERSION, KafkaError._AUTHENTICATION,
    KafkaError._UNSUPPORTED_FEATURE, KafkaError._INVALID_ARG,
})  # fmt: skip
FENCED = frozenset({
    KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_TXN_STATE,
})  # fmt: skip


class PublishFailed(Exception):
    """Raised when the brokers cannot take events now; the same ones can be tried again."""


class Fenced(Exception):
    """Raised when another relay has taken over on the Kafka side."""


def stopped(settings: Settings, error: KafkaError, topic: str | None = None) -> RelayStopped:
    """The sentence for a fatal error."""
    about = f" for topic '{topic}'" if topic else ""
    return RelayStopped(
        f"Kafka at {settings.bootstrap_servers} refuses the relay{about}: {error.str()} ({error.name()}); give its user "
        "the right to write (for exactly-once also its transactional.id and its group), or mend its password, then start "
        "it again"
    )


@contextlib.contextmanager
def judged(settings: Settings) -> Iterator[None]:
    """What the brokers answer in this block, outside of publishing, ends the relay or is waited out."""
    try:
        yield
    except (BrokerRefused, KafkaException) as error:
        cause = error.cause if isinstance(error, BrokerRefused) else error.args[0]
        raise (stopped if cause.code() in FATAL else failed)(settings, cause) from None


def failed(settings: Settings, error: KafkaError) -> PublishFailed:
    """The sentence for a retriable error."""
    return PublishFailed(
        f"Kafka at {settings.bootstrap_servers} cannot take events now: {error.str()} ({error.name()})"
    )
