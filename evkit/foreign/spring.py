"""Spring Kafka: what its DeadLetterPublishingRecoverer writes, and retry topics, whose headers have other names.

    kafka_dlt-original-topic              text
    kafka_dlt-original-partition          4 bytes, big-endian
    kafka_dlt-original-offset             8 bytes, big-endian
    kafka_dlt-original-timestamp          8 bytes, big-endian, milliseconds
    kafka_dlt-original-timestamp-type     CreateTime, LogAppendTime or NoTimestampType
    kafka_dlt-original-consumer-group     since 2.8, when a listener has failed
    kafka_dlt-exception-fqcn              class; nearly always ListenerExecutionFailedException, a wrapper
    kafka_dlt-exception-cause-fqcn        class of its cause (2.8, 2.9), of the first that is no wrapper (3.3 to 4.1)
    kafka_dlt-exception-message           of the wrapper; from 3.3 on followed by "; " and that of the cause
    kafka_dlt-exception-stacktrace
    kafka_dlt-key-exception-…             fqcn, message, stacktrace: the key could not be deserialized

Retry topics (@RetryableTopic) write `kafka_original-…` and `kafka_exception-…` instead (only the group keeps its name), and
`retry_topic-attempts` (4 bytes: number of the next delivery), `retry_topic-original-timestamp` and
`retry_topic-backoff-timestamp` (as many bytes as they need). `kafka_deliveryAttempt` (4 bytes) is there when the container
counts.

A record that is given up on again gets the original-… headers once more, unless it is told otherwise, and exception-… ones
that replace the others. So the first of the former say where the event was, and the last group is that of the exception.
Read from the records that spring-kafka 4.1.2 writes; names from its KafkaHeaders and RetryTopicHeaders.

What was deserialized is serialized again on its way: with a JsonDeserializer, say, the value need not be the original's
bytes.
"""

from __future__ import annotations

from typing import Any

from evkit.foreign import java
from evkit.foreign.letter import STACK_CHARACTERS_MAX, ForeignLetter, Reading, keep
from evkit.foreign.outgoing import Letter, Outgoing, facts_of, millis, text, without

NAME = "spring"
# The headers of the recoverer, and of the one that retry topics use.
_DLT, _RETRY = "kafka_dlt-", "kafka_"
GROUP = "kafka_dlt-original-consumer-group"
_ATTEMPTS = "retry_topic-attempts"
_DELIVERY_ATTEMPT = "kafka_deliveryAttempt"

_ORIGINAL = ("topic", "partition", "offset", "timestamp", "timestamp-type")
_EXCEPTION = ("exception-fqcn", "exception-cause-fqcn", "exception-message", "exception-stacktrace")
_KEY_EXCEPTION = ("key-exception-fqcn", "key-exception-message", "key-exception-stacktrace")
_MARKS = frozenset(
    [GROUP]
    + [f"{prefix}original-{name}" for prefix in (_DLT, _RETRY) for name in _ORIGINAL]
    + [f"{prefix}{name}" for prefix in (_DLT, _RETRY) for name in (*_EXCEPTION, *_KEY_EXCEPTION)]
)
# Java objects that a container leaves when a key or value could not be deserialized, on the way to the recoverer.
_OWN = _MARKS | {
    _ATTEMPTS, "retry_topic-original-timestamp", "retry_topic-backoff-timestamp", _DELIVERY_ATTEMPT,
    "springDeserializerExceptionKey", "springDeserializerExceptionValue",
}  # fmt: skip
_TIMESTAMP_TYPES = {"CreateTime": "create", "LogAppendTime": "append", "NoTimestampType": "none"}
_TIMESTAMP_NAMES = {kind: name for name, kind in _TIMESTAMP_TYPES.items()}


def marks(name: str) -> bool:
    """Whether a header of this name says that Spring has given the record up."""
    return name in _MARKS


def read(reading: Reading) -> ForeignLetter:
    """The letter in a record; never raises for what is in it."""
    prefix = _DLT if reading.has(f"{_DLT}original-topic") or not reading.has(f"{_RETRY}original-topic") else _RETRY
    name = {part: f"{prefix}original-{part}" for part in _ORIGINAL}
    topic = reading.topic(name["topic"])
    partition = reading.binary(name["partition"], 4)
    offset = reading.binary(name["offset"], 8)
    reading.require_place(name["topic"], name["partition"], name["offset"])
    kind = reading.word(name["timestamp-type"], 0)
    facts: dict[str, Any] = {}
    error = _error(reading, prefix, facts)
    if (times := reading.count(name["topic"])) > 1:
        facts["given_up"] = times
        keep(facts, "last_topic", reading.topic(name["topic"], -1))
    attempts = reading.binary(_ATTEMPTS, 4, -1)
    return ForeignLetter(
        dialect=NAME,
        found=reading.record,
        key=reading.record.key,
        headers=reading.without(_OWN),
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp=reading.time(name["timestamp"], reading.binary(name["timestamp"], 8, signed=True)),
        timestamp_type=_TIMESTAMP_TYPES.get(kind or "", "none"),
        group=reading.group(GROUP),
        attempts=reading.binary(_DELIVERY_ATTEMPT, 4, -1) if attempts is None else max(1, attempts - 1),
        failed_at=reading.record.timestamp,
        facts=facts,
        problems=tuple(reading.problems),
        **error,
    )


def _error(reading: Reading, prefix: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What was raised: of the value where both value and key could not be deserialized, else of what there is."""
    of = (
        prefix
        if reading.has(f"{prefix}exception-fqcn") or not reading.has(f"{prefix}key-exception-fqcn")
        else f"{prefix}key-"
    )
    if of != prefix:
        facts["of"] = "key"
    elif reading.has(f"{prefix}key-exception-fqcn"):
        keep(facts, "key_exception_class", reading.word(f"{prefix}key-exception-fqcn"))
        keep(facts, "key_exception_message", reading.prose(f"{prefix}key-exception-message"))
    wrapper = reading.word(f"{of}exception-fqcn")
    cause = reading.word(f"{prefix}exception-cause-fqcn")
    message = reading.prose(f"{of}exception-message")
    stack = reading.prose(f"{of}exception-stacktrace", characters_max=STACK_CHARACTERS_MAX)
    causes = java.chain(stack or "")
    raised, root = java.raised(causes), java.root(causes)
    for name, value in (("exception_class", wrapper), ("cause_class", cause), ("exception_message", message)):
        keep(facts, name, value)
    if raised is None:  # no stack trace, or none of Java
        return {"error_class": cause or wrapper, "error_message": message, "stack_trace": stack}
    # From 3.3 on the header has both messages, whole; in a stack trace a message of several lines may end too early.
    if len(causes) > 1 and causes[0].message is not None and message is not None and raised.class_name == cause:
        _, found, whole = message.partition(f"{causes[0].message}; ")
        raised.message = whole if found and raised.message is not None else raised.message
    return {
        "error_class": raised.class_name,
        "error_message": raised.message,
        "stack_trace": stack,
        "root_cause": None if root is None or root is raised else str(root),
    }


def write(letter: Letter) -> Outgoing:
    """The record that DeadLetterPublishingRecoverer 4.1 would send; without a partition, which its topic may not have.

    A letter that came from Spring gets the wrapper and the messages back that it came with. One of evkit's own has no
    wrapper: its class is the exception's and the cause's, as Spring writes it where nothing is wrapped.
    """
    facts = facts_of(letter, NAME)
    error_class = str(facts.get("cause_class") or letter.error_class)
    of = f"{_DLT}key-" if facts.get("of") == "key" else _DLT
    headers = without(letter.headers, {f"{_DLT}{name}" for name in (*_EXCEPTION, *_KEY_EXCEPTION)})
    headers += [
        (f"{of}exception-fqcn", text(str(facts.get("exception_class") or letter.error_class))),
        (f"{_DLT}exception-cause-fqcn", text(error_class)),
    ]
    # An exception without a message has no such header.
    message = facts.get("exception_message") if "exception_class" in facts else letter.error_message
    if message is not None:
        headers.append((f"{of}exception-message", text(message)))
    headers += [
        (f"{of}exception-stacktrace", text(letter.stack_trace)),
        (f"{_DLT}original-topic", text(letter.topic)),
        (f"{_DLT}original-partition", letter.partition.to_bytes(4, "big", signed=True)),
        (f"{_DLT}original-offset", letter.offset.to_bytes(8, "big", signed=True)),
        (f"{_DLT}original-timestamp", millis(letter.appended_at).to_bytes(8, "big", signed=True)),
        (f"{_DLT}original-timestamp-type", text(_TIMESTAMP_NAMES[letter.timestamp_type])),
        (GROUP, text(letter.consumer_group)),
    ]
    return Outgoing(letter.raw_key, letter.raw_value, headers, None)
