"""Kafka Connect: what the DeadLetterQueueReporter of a sink connector writes, all of it text.

    __connect.errors.topic, .partition, .offset     where the record was
    __connect.errors.connector.name, .task.id       the group is connect-NAME, unless the connector is configured otherwise
    __connect.errors.stage                          VALUE_CONVERTER, TRANSFORMATION, TASK_PUT, …
    __connect.errors.class.name                     what was executing
    __connect.errors.exception.class.name, .exception.message, .exception.stacktrace

Only with errors.deadletterqueue.context.headers.enable=true, which is not the default: without it the record is like the
original one, and nothing says that it is a dead letter. Its timestamp is the original one's. Read from the records that
Kafka Connect 4.3.1 writes; names from its DeadLetterQueueReporter.
"""

from __future__ import annotations

from typing import Any

from evkit.foreign import java
from evkit.foreign.letter import GROUP_BYTES_MAX, STACK_CHARACTERS_MAX, ForeignLetter, Reading, keep, kept_timestamp
from evkit.foreign.outgoing import Letter, Outgoing, facts_of, text, without

NAME = "connect"
PREFIX = "__connect.errors."
_TOPIC, _PARTITION, _OFFSET = f"{PREFIX}topic", f"{PREFIX}partition", f"{PREFIX}offset"
_CONNECTOR, _TASK, _STAGE, _EXECUTING = (
    f"{PREFIX}connector.name",
    f"{PREFIX}task.id",
    f"{PREFIX}stage",
    f"{PREFIX}class.name",
)
_CLASS, _MESSAGE = f"{PREFIX}exception.class.name", f"{PREFIX}exception.message"
_STACK = f"{PREFIX}exception.stacktrace"
_GROUP_PREFIX = "connect-"
# The group is made of the name, by what Connect puts before it.
_NAME_BYTES_MAX = GROUP_BYTES_MAX - len(_GROUP_PREFIX)


def marks(name: str) -> bool:
    """Whether a header of this name says that Connect has given the record up."""
    return name.startswith(PREFIX)


def read(reading: Reading) -> ForeignLetter:
    """The letter in a record; never raises for what is in it."""
    facts: dict[str, Any] = {}
    connector = reading.group(_CONNECTOR)
    if connector is not None and len(connector.encode()) > _NAME_BYTES_MAX:
        reading.problems.append(f"'{_CONNECTOR}' is too long for the group that is made of it")
        connector = None
    executing, exception_class = reading.word(_EXECUTING), reading.word(_CLASS)
    message = reading.prose(_MESSAGE)
    stack = reading.prose(_STACK, characters_max=STACK_CHARACTERS_MAX)
    causes = java.chain(stack or "")
    raised, root = java.raised(causes), java.root(causes)
    if raised is None or raised is causes[0]:  # the headers have all of its message
        error_class, error_message = exception_class, message
    else:
        error_class, error_message = raised.class_name, raised.message
    for name, value in (
        ("connector", connector), ("task", reading.word(_TASK)), ("stage", reading.word(_STAGE)), ("executing", executing),
        ("exception_class", exception_class), ("exception_message", message),
    ):  # fmt: skip
        keep(facts, name, value)
    reading.require_place(_TOPIC, _PARTITION, _OFFSET)
    return ForeignLetter(
        dialect=NAME,
        found=reading.record,
        key=reading.record.key,
        headers=reading.without(frozenset(), (PREFIX,)),
        topic=reading.topic(_TOPIC),
        partition=reading.partition(_PARTITION),
        offset=reading.number(_OFFSET),
        group=None if connector is None else f"{_GROUP_PREFIX}{connector}",
        error_class=error_class,
        error_message=error_message,
        stack_trace=stack,
        root_cause=None if root is None or root is raised else str(root),
        handler=executing,
        facts=facts,
        problems=tuple(reading.problems),
        **kept_timestamp(reading.record),
    )


def write(letter: Letter) -> Outgoing:
    """The record that Connect's reporter would send, had the letter's group been a connector.

    One that is none is named as if it were: `connect-` is taken from the group, the task is 0, the stage TASK_PUT.
    """
    facts = facts_of(letter, NAME)
    connector = facts.get("connector") or letter.consumer_group.removeprefix(_GROUP_PREFIX)
    # A Java exception without a message has a header without a value; ours have at least an empty message.
    message = facts.get("exception_message") if "exception_class" in facts else letter.error_message
    values: dict[str, str | None] = {
        _TOPIC: letter.topic,
        _PARTITION: str(letter.partition),
        _OFFSET: str(letter.offset),
        _CONNECTOR: str(connector),
        _TASK: str(facts.get("task", "0")),
        _STAGE: str(facts.get("stage", "TASK_PUT")),
        _EXECUTING: str(facts.get("executing") or letter.handler or "evkit"),
        _CLASS: str(facts.get("exception_class") or letter.error_class),
        _MESSAGE: message,
        _STACK: letter.stack_trace,
    }
    headers = without(letter.headers, set())
    headers += [(name, None if value is None else text(value)) for name, value in values.items()]
    return Outgoing(letter.raw_key, letter.raw_value, headers, letter.appended_at)
