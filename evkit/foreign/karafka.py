"""Karafka Pro: what its Enhanced Dead Letter Queue writes, all of it text.

    source_topic, source_partition, source_offset, source_consumer_group, source_attempts
    source_trace_id          of the error in Karafka's Web UI; the record itself has neither class nor message

Older versions write `original_topic`, `original_partition`, `original_offset`, `original_consumer_group` and
`original_attempts`; in those the record's key is the original partition, and the original key is header `original_key`.
The dead letter queue of Karafka without Pro sends the payload alone, so nothing says that it is a dead letter.

Names from Karafka's source (lib/karafka/pro/processing/strategies/dlq/default.rb, before and after they changed).
"""

from __future__ import annotations

from typing import Any

from evkit.foreign.letter import ForeignLetter, Reading, keep

NAME = "karafka"
_NAMES = ("topic", "partition", "offset", "consumer_group", "attempts")
_NEW, _OLD = "source_", "original_"
_TRACE = "source_trace_id"
_OLD_KEY = "original_key"
_NEW_OWN = frozenset([*(f"{_NEW}{name}" for name in _NAMES), _TRACE])
_OLD_OWN = frozenset([*(f"{_OLD}{name}" for name in _NAMES), _OLD_KEY])
# The others are names that anybody may use for anything.
_MARKS = frozenset({
    "source_consumer_group", "source_attempts", _TRACE, "original_consumer_group", "original_attempts", _OLD_KEY,
})  # fmt: skip


def marks(name: str) -> bool:
    """Whether a header of this name says that Karafka has given the record up."""
    return name in _MARKS


def read(reading: Reading) -> ForeignLetter:
    """The letter in a record; never raises for what is in it."""
    old = reading.has(f"{_OLD}topic") and not reading.has(f"{_NEW}topic")
    prefix = _OLD if old else _NEW
    facts: dict[str, Any] = {}
    keep(facts, "trace_id", None if old else reading.word(_TRACE))
    reading.require_place(f"{prefix}topic", f"{prefix}partition", f"{prefix}offset")
    key = reading.record.key
    if old and reading.has(_OLD_KEY):
        key = reading.raw(_OLD_KEY) or None  # a record without a key has had an empty one written here
    return ForeignLetter(
        dialect=NAME,
        found=reading.record,
        key=key,
        headers=reading.without(_OLD_OWN if old else _NEW_OWN),
        topic=reading.topic(f"{prefix}topic"),
        partition=reading.partition(f"{prefix}partition"),
        offset=reading.number(f"{prefix}offset"),
        group=reading.group(f"{prefix}consumer_group"),
        attempts=reading.number(f"{prefix}attempts", highest=2**31 - 1),
        failed_at=reading.record.timestamp,
        facts=facts,
        problems=tuple(reading.problems),
    )
