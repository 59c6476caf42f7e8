"""Kafka → the offsets of many partitions at once; one without a leader hides no other."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from evkit import kafka
from evkit.kafka import KafkaException, OffsetSpec, TopicPartition
from evkit.system import System

log = logging.getLogger(__name__)

Place = tuple[str, int]  # topic, partition


def offsets_of(system: System, places: Iterable[Place], spec: OffsetSpec | None) -> dict[Place, Any]:
    """confluent-kafka's ListOffsetsResultInfo (`.offset`, `.timestamp`) of the places that answered; None asks for the
    stable ends.

    Raises:
        BrokerUnreachable: no place has answered within `settings.kafka_timeout_seconds`. BrokerRefused.
    """
    if spec is None:
        futures = kafka.ask_stable_ends(system.admin, places)
    elif request := {TopicPartition(*place): spec for place in places}:
        futures = system.admin.list_offsets(request, request_timeout=system.settings.kafka_timeout_seconds)
    else:
        return {}
    found: dict[Place, Any] = {}
    failed: KafkaException | None = None
    for tp, future in futures.items():
        try:
            found[tp.topic, tp.partition] = future.result()
        except KafkaException as error:
            failed = error
            log.info("no offset of %s [%s]: %s", tp.topic, tp.partition, error)
    if failed is not None and not found:
        raise kafka.failed(system.settings, failed, system.admin)
    return found
