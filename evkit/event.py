"""Event: the one value that travels, from `outbox.write` to a handler, and the headers it travels with.

On Kafka an event is a CloudEvents record in binary mode (Kafka protocol binding 1.0.2): the value is the payload's
JSON, the key is the natural key, and the attributes are headers. `ce_time` is the time of the database
write, so that relay lag and end-to-end latency can be read from the topic alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

# CloudEvents attributes, as the Kafka binding spells them.
CE_ID = "ce_id"
CE_TYPE = "ce_type"
CE_SOURCE = "ce_source"
CE_SPECVERSION = "ce_specversion"
CE_TIME = "ce_time"
CONTENT_TYPE = "content-type"
# Extension attributes of ours and of the CloudEvents extension list.
CE_SCHEMA_VERSION = "ce_schemaversion"
CE_CORRELATION_ID = "ce_correlationid"
CE_CAUSATION_ID = "ce_causationid"
TRACEPARENT = "traceparent"
# Set on what a handler is given by a replay or a redrive, and on the events it writes meanwhile.
REPLAY_ID = "evkit-replay-id"

# What evkit writes itself; a caller's header of this name would say two things at once.
RESERVED_HEADERS = frozenset({
    CE_ID, CE_TYPE, CE_SOURCE, CE_SPECVERSION, CE_TIME, CE_SCHEMA_VERSION, CONTENT_TYPE, CE_CORRELATION_ID, CE_CAUSATION_ID,
})  # fmt: skip


def new_id() -> str:
    """A new event id: UUIDv7 (RFC 9562), whose text sorts by the time it was made."""
    from uuid_utils import uuid7

    return str(uuid7())


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, with its key and payload; immutable.

    Attributes:
        type            what happened, in the past tense and dotted: "flight.departed"
        key             natural key: events of one key keep their order, and share a partition
        payload         JSON object, or a pydantic model; a handler that declared a model is given that model
        topic           where to publish; default: the type up to its first dot ("flight")
        id              text, unique for ever; default: a new UUIDv7
        headers         text to text, beside the CloudEvents ones that evkit writes
        ordered         lock the key until the transaction ends, for writers that hold no lock of their own
        schema_version  version of the type's payload model, from 1; taken from the model where the payload is one
        created_at      time of the database write, UTC; None until the event was read back
        correlation_id  what all events of one business process share; text
        causation_id    id of the event that led to this one; a handler's `tx.write` fills both in
        due_at          publish it then, not now (with a time zone); until then it can be cancelled
    """

    type: str
    key: str
    payload: Mapping[str, Any] | BaseModel
    topic: str | None = None
    id: str = field(default_factory=new_id)
    headers: Mapping[str, str] = field(default_factory=dict)
    ordered: bool = False
    schema_version: int = 1
    created_at: datetime | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    due_at: datetime | None = None

    @property
    def destination(self) -> str:
        """The topic this event goes to: `topic`, or the type up to its first dot."""
        return self.topic or self.type.partition(".")[0]
