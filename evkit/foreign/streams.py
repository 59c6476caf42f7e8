"""Kafka Streams: what its exception handlers write with errors.dead.letter.queue.topic.name (KIP-1034), all of it text.

    __streams.errors.topic, .partition, .offset    where the record was
    __streams.errors.exception                     class
    __streams.errors.message                       no value when the exception has none
    __streams.errors.stacktrace

Nothing names the consumer group, which is the application id. Key, value, headers and timestamp are those of the source
record. Read from the records that Kafka Streams 4.3.1 writes (4.2.0 writes the same); names from its ExceptionHandlerUtils.
"""

from __future__ import annotations

from evkit.foreign import java
from evkit.foreign.letter import STACK_CHARACTERS_MAX, ForeignLetter, Reading, kept_timestamp

NAME = "streams"
PREFIX = "__streams.errors."
_TOPIC, _PARTITION, _OFFSET = f"{PREFIX}topic", f"{PREFIX}partition", f"{PREFIX}offset"
_EXCEPTION, _MESSAGE, _STACK = f"{PREFIX}exception", f"{PREFIX}message", f"{PREFIX}stacktrace"


def marks(name: str) -> bool:
    """Whether a header of this name says that Streams has given the record up."""
    return name.startswith(PREFIX)


def read(reading: Reading) -> ForeignLetter:
    """The letter in a record; never raises for what is in it."""
    error_class = reading.word(_EXCEPTION)
    error_message = reading.prose(_MESSAGE)
    stack = reading.prose(_STACK, characters_max=STACK_CHARACTERS_MAX)
    causes = java.chain(stack or "")
    raised, root = java.raised(causes), java.root(causes)
    if raised is not None and raised is not causes[0]:
        error_class, error_message = raised.class_name, raised.message
    reading.require_place(_TOPIC, _PARTITION, _OFFSET)
    return ForeignLetter(
        dialect=NAME,
        found=reading.record,
        key=reading.record.key,
        headers=reading.without(frozenset(), (PREFIX,)),
        topic=reading.topic(_TOPIC),
        partition=reading.partition(_PARTITION),
        offset=reading.number(_OFFSET),
        error_class=error_class,
        error_message=error_message,
        stack_trace=stack,
        root_cause=None if root is None or root is raised else str(root),
        problems=tuple(reading.problems),
        **kept_timestamp(reading.record),
    )
