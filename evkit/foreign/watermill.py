"""Watermill (Go): what its PoisonQueue middleware adds to a message's metadata, which are headers in Kafka.

    reason_poisoned       the error's text; Go's errors have neither class nor stack
    topic_poisoned        where the message was; its partition and offset are not kept
    handler_poisoned      name of the handler
    subscriber_poisoned   type of the subscriber ("kafka.Subscriber")

The metadata is a map: headers are in no order, and of a name that came twice one is left. The publisher of watermill-kafka
drops the record's key, unless its marshaler makes one (NewWithPartitioningMarshaler), and writes `_watermill_message_uuid`
(empty when the message came from somebody else). Read from records that watermill 1.5.1 and watermill-kafka 3.0.6 have
written; names from message/router/middleware/poison.go.
"""

from __future__ import annotations

from typing import Any

from evkit.foreign.letter import ForeignLetter, Reading, keep

NAME = "watermill"
_REASON, _TOPIC, _HANDLER, _SUBSCRIBER = "reason_poisoned", "topic_poisoned", "handler_poisoned", "subscriber_poisoned"
_UUID = "_watermill_message_uuid"
_OWN = frozenset({_REASON, _TOPIC, _HANDLER, _SUBSCRIBER})


def marks(name: str) -> bool:
    """Whether a header of this name says that Watermill has given the record up."""
    return name in _OWN


def read(reading: Reading) -> ForeignLetter:
    """The letter in a record; never raises for what is in it."""
    facts: dict[str, Any] = {}
    keep(facts, "subscriber", reading.word(_SUBSCRIBER))
    reading.problems.append("where the record was is not said: Watermill keeps no partition and no offset")
    if reading.record.key is None:
        reading.problems.append("the record has no key: Watermill's publisher drops it unless its marshaler makes one")
    # Not a header of the original record when that came from another publisher.
    own = _OWN | {_UUID} if not reading.raw(_UUID) else _OWN
    return ForeignLetter(
        dialect=NAME,
        found=reading.record,
        key=reading.record.key,
        headers=reading.without(own),
        topic=reading.topic(_TOPIC),
        error_message=reading.prose(_REASON),
        handler=reading.word(_HANDLER),
        failed_at=reading.record.timestamp,
        facts=facts,
        problems=tuple(reading.problems),
    )
