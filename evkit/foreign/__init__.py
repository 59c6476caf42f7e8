"""record of another framework's dead-letter topic → ForeignLetter, and a letter of evkit → a record in their words.

    dialect     written by                                     says
    spring      Spring Kafka's DeadLetterPublishingRecoverer   place, time, group, error, stack; attempts in retry topics
    connect     Kafka Connect's DeadLetterQueueReporter        place, connector, stage, error, stack
    streams     Kafka Streams (KIP-1034)                       place, error, stack; not the group
    karafka     Karafka Pro's Enhanced Dead Letter Queue       place, group, attempts; not the error
    watermill   Watermill's PoisonQueue middleware             topic, handler, text of the error; not the group
    arroyo      Arroyo's KafkaDlqProducer                      partition, offset; not the topic, the group or the error

Each has a module with the names of its headers and where they were read. Which one a record is, its headers say, never its
content; where it has those of several, it has been through several hands, and the last header decides. What another dialect
has left in it is a part of the original record then.

No header is trusted: anybody may write anything into a topic. What cannot be read is a sentence in the letter's `problems`,
and the rest is read. Nothing here opens a connection; `evkit.dead_letters.foreign` and `import_foreign` do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from evkit.errors import UsageError
from evkit.foreign import arroyo, connect, karafka, spring, streams, watermill
from evkit.foreign.letter import ForeignLetter, Reading
from evkit.foreign.outgoing import Letter, Outgoing
from evkit.kafka import Record

__all__ = ["DIALECTS", "Dialect", "ForeignLetter", "Letter", "Outgoing", "dialect_of", "read", "to_dialect"]

Dialect = Literal["spring", "connect", "streams", "karafka", "watermill", "arroyo"]
DIALECTS: tuple[str, ...] = get_args(Dialect)
# What letters can be written in.
OUTGOING: dict[str, Callable[[Letter], Outgoing]] = {
    spring.NAME: spring.write,
    connect.NAME: connect.write,
}

_READ: dict[str, Callable[[Reading], ForeignLetter]] = {
    module.NAME: module.read for module in (spring, connect, streams, karafka, watermill)
}
_MARKS: dict[str, Callable[[str], bool]] = {
    module.NAME: module.marks for module in (spring, connect, streams, karafka, watermill, arroyo)
}


def dialect_of(record: Record) -> str | None:
    """Which framework has given this record up, by its headers; None: none that evkit reads."""
    names = [name for name, _ in record.headers]
    for name in reversed(names):
        for dialect, marks in _MARKS.items():
            if marks(name) and (dialect != arroyo.NAME or not arroyo.is_somebody_elses(names)):
                return dialect
    return None


def read(record: Record, dialect: str | None = None, *, original_topic: str | None = None) -> ForeignLetter:
    """What a record of a dead-letter topic tells; never raises for what is in the record.

    Args:
        dialect         read it as this one's, whatever its headers say; default: what `dialect_of` says. A record of none
                        has a letter too, which says so in its problems
        original_topic  where the records were, for a dialect that does not write it (arroyo)

    Raises:
        UsageError: there is no such dialect.
    """
    require_dialect(dialect, DIALECTS)
    reading = Reading(record)
    found = dialect or dialect_of(record)
    if found == arroyo.NAME:
        return arroyo.read(reading, original_topic)
    if found is not None:
        return _READ[found](reading)
    problem = f"no header says who has given this record up: evkit reads those of {', '.join(DIALECTS)}"
    return ForeignLetter(None, record, record.key, record.headers, failed_at=record.timestamp, problems=(problem,))


def to_dialect(letter: Letter, dialect: str) -> Outgoing:
    """The record that Spring's recoverer ("spring") or Connect's reporter ("connect") would have sent to its topic.

    `letter` is one with its record, for example from `evkit.dead_letters.show`. Where it was imported from this dialect,
    what its framework had said is said again.

    Raises:
        UsageError: no letter can be written in this dialect.
    """
    require_dialect(dialect, tuple(OUTGOING))
    return OUTGOING[dialect](letter)


def require_dialect(dialect: str | None, known: tuple[str, ...]) -> None:
    """Raise UsageError unless it is one of these, or None."""
    if dialect is not None and dialect not in known:
        raise UsageError(f"'{dialect}' is no dialect of dead letters: {', '.join(known)}")
