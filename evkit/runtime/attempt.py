"""failed attempt → the values of its rows: what is kept of the event, of the failure, and of who tried."""

from __future__ import annotations

from typing import Any, Protocol

from evkit.runtime.delivery import Delivery
from evkit.runtime.failure import Failure, storable


class Who(Protocol):
    """Who tried: an inbox."""

    group: str
    generation: int
    replay_id: str | None
    code_version: str | None


def attempt_values(
    who: Who, delivery: Delivery, failure: Failure, *, attempt: int, seconds: float, disposition: str
) -> dict[str, Any]:
    """Column values of evkit.attempt; a dead letter has them all too."""
    return {
        "group": who.group,
        "event_id": delivery.event_id,
        "generation": who.generation,
        "event_type": delivery.event_type,
        "topic": delivery.record.topic,
        "partition": delivery.record.partition,
        "offset": delivery.record.offset,
        "key": delivery.key,
        "attempt": attempt,
        "duration_seconds": seconds,
        "handler": delivery.handler.name if delivery.handler else None,
        "error_class": failure.error_class,
        "error_message": failure.error_message,
        "stack_trace": failure.stack_trace,
        "fingerprint": failure.fingerprint,
        "disposition": disposition,
        "code_version": who.code_version,
        "replay_id": who.replay_id,
    }


def letter_values(who: Who, delivery: Delivery, failure: Failure, *, attempt: int) -> dict[str, Any]:
    """Column values of evkit.dead_letter, with the record as it was."""
    record = delivery.record
    return attempt_values(who, delivery, failure, attempt=attempt, seconds=0.0, disposition="dead") | {
        "leader_epoch": record.leader_epoch,
        "appended_at": record.timestamp,
        "timestamp_type": record.timestamp_type,
        "raw_key": record.key,
        "raw_value": record.value,
        "header_names": [storable(name) for name, _ in record.headers],
        "header_values": [value for _, value in record.headers],
        "schema_version": delivery.event.schema_version if delivery.event else None,
        "created_at": delivery.event.created_at if delivery.event else None,
        "retry_count": attempt - 1,
    }
