"""Kafka → the offsets of many partitions at once; one without a leader hides no other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from evkit import kafka_admin
from evkit.kafka import OffsetSpec
from evkit.system import System

Place = tuple[str, int]  # topic, partition


def offsets_of(system: System, places: Iterable[Place], spec: OffsetSpec | None) -> dict[Place, Any]:
    """See `kafka_admin.told_offsets`."""
    return kafka_admin.told_offsets(system.settings, places, spec, system.admin)
