"""dead letter → its record, as if it had just been polled: what a redrive, a trial and a redrive to a topic begin with."""

from __future__ import annotations

from typing import Any

from evkit.kafka import Record
from evkit.runtime.delivery import Delivery
from evkit.runtime.handler import Handlers


def delivery_of(event_id: str, row: list[Any], handlers: Handlers) -> Delivery:
    """A letter's record as if it had just been polled."""
    (
        topic,
        partition,
        offset,
        leader_epoch,
        appended_at,
        timestamp_type,
        key,
        value,
        names,
        values,
        failed_at,
        edited,
    ) = row
    record = Record(
        topic=topic, partition=partition, offset=offset, key=key, value=value,
        headers=list(zip(names, values, strict=True)), timestamp=appended_at, timestamp_type=timestamp_type,
        leader_epoch=leader_epoch, received_at=failed_at,
    )  # fmt: skip
    delivery = Delivery.of(record, handlers)
    if edited is not None:
        # A decode function of the consumer's own may find the id of the event before the edit in the record: under that one
        # the event would be taken for handled.
        delivery.event_id = event_id
    return delivery
