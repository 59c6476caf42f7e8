"""Events to test with, and what is really in a topic."""

from __future__ import annotations

from typing import Any

from evkit import records
from evkit.event import Event
from evkit.kafka import Record
from evkit.system import System


def an_event(**more: Any) -> Event:
    """An event that is like any other but for what the test says: `an_event(key="o-1")`."""
    values: dict[str, Any] = {"type": "order.placed", "key": "order-1", "payload": {"total": 3}}
    return Event(**(values | more))


def read_topic(system: System, topic: str) -> list[Record]:
    """All records of a topic from its first to its last offset of this moment, partition by partition in order.

    Reads with assign(): joins no group, commits nothing.
    """
    found = records.scan(system.settings, topic, system.admin)
    return sorted(found, key=lambda r: (r.partition, r.offset))
