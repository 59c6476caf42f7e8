"""Arroyo (Sentry's Python library): what its KafkaDlqProducer writes, both as text.

    original_partition, original_offset

Neither topic nor group nor error is in the record. Read from the records that sentry-arroyo 2.48.0 writes; names from its
arroyo/dlq.py.
"""

from __future__ import annotations

from evkit.foreign.letter import ForeignLetter, Reading

NAME = "arroyo"
_PARTITION, _OFFSET = "original_partition", "original_offset"
_OWN = frozenset({_PARTITION, _OFFSET})


def marks(name: str) -> bool:
    """Whether a header of this name says that Arroyo has given the record up."""
    return name in _OWN


def is_somebody_elses(names: list[str]) -> bool:
    """Whether other headers tell that these two are not Arroyo's: many a home-made queue has such names."""
    return any(name.startswith("original_") and name not in _OWN for name in names)


def read(reading: Reading, topic: str | None) -> ForeignLetter:
    """The letter in a record; never raises for what is in it. `topic` is where the records were, if somebody knows."""
    reading.require_place(_PARTITION, _OFFSET)
    if topic is None:
        reading.problems.append("where the record was is not said: Arroyo keeps no topic (give original_topic)")
    return ForeignLetter(
        dialect=NAME,
        found=reading.record,
        key=reading.record.key,
        headers=reading.without(_OWN),
        topic=topic,
        partition=reading.partition(_PARTITION),
        offset=reading.number(_OFFSET),
        failed_at=reading.record.timestamp,
        problems=tuple(reading.problems),
    )
