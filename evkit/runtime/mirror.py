"""dead letter → topic `dlq.<group>.<topic>`: an event for each letter, written to the outbox in the letter's transaction.

For those who watch dead letters in Kafka. The letter itself stays in PostgreSQL: nothing here is needed to redrive it, and
nothing here may keep it from being written (P5). An event that is too large loses the record's value first, then its
headers, then the stack, and says so; one that cannot be written at all is left out, with a warning.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Iterable
from typing import Any

import psycopg

from evkit import event_types, kafka, postgres
from evkit.errors import InvalidEvent
from evkit.event import Event
from evkit.runtime import outbox
from evkit.runtime.payload import text_of
from evkit.system import System

log = logging.getLogger(__name__)

EVENT_TYPE = "evkit.dead_letter"
# Kafka's limits of a topic's name.
_NAME_MAX = 249
_ILLEGAL = re.compile(r"[^a-zA-Z0-9._-]")

_FACTS = (
    "event_id", "generation", "event_type", "topic", "partition", "offset", "leader_epoch", "timestamp_type", "key",
    "schema_version", "handler", "error_class", "error_message", "fingerprint", "code_version", "retry_count", "replay_id",
    "stack_trace",
)  # fmt: skip


def topic_of(group: str, topic: str) -> str:
    """The name of the mirror topic.

    A group may be called what a topic may not: then illegal characters are `_`, the name is cut to what Kafka takes, and
    ends with eight digits of the hash of the true name, so that no two groups share it.
    """
    name = f"dlq.{group}.{topic}"
    legal = _ILLEGAL.sub("_", name)
    if legal == name and len(name) <= _NAME_MAX:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{legal[: _NAME_MAX - 9]}-{digest}"


def make_topics(system: System, group: str, topics: Iterable[str]) -> list[str]:
    """Make the mirror topics that are missing, with as many partitions as the topics have; returns their names.

    Raises:
        BrokerUnreachable, KafkaException: see `kafka.create_topics`.
    """
    partitions = kafka.topics(system.settings, system.admin)
    return kafka.create_topics(system.settings, {topic_of(group, topic): partitions.get(topic, 1) for topic in topics})


class Mirror:
    """Writes the mirror events of one group."""

    def __init__(self, group: str, event_bytes_max: int) -> None:
        self._group = group
        self._bytes_max = event_bytes_max

    def write(self, connection: postgres.Connection, letter_id: int, values: dict[str, Any]) -> None:
        """Write the event of a letter with these column values, in the transaction that writes the letter.

        In a savepoint of its own: whatever is wrong with it, the letter is written.
        """
        try:
            event = self.event(letter_id, values)
            with connection.transaction():
                outbox.write(connection, event, event_bytes_max=self._bytes_max)
        except (InvalidEvent, psycopg.Error, ValueError) as error:
            if postgres.is_lost(connection, error):
                raise
            log.warning("dead letter %s of group %s is not mirrored: %s", letter_id, self._group, error)

    def event(self, letter_id: int, values: dict[str, Any]) -> Event:
        """The letter's facts and its record, as much of it as an event may be large."""
        payload: dict[str, Any] = {"letter_id": letter_id, "consumer_group": self._group}
        payload |= {name: values[name] for name in _FACTS}
        payload["record"] = {
            "appended_at": None if values["appended_at"] is None else values["appended_at"].isoformat(),
            "headers": [
                {"name": name, **_content(value)}
                for name, value in zip(values["header_names"], values["header_values"], strict=True)
            ],
            "raw_key": _content(values["raw_key"]),
            "value": _content(values["raw_value"]),
        }
        payload["left_out"] = []
        event = Event(EVENT_TYPE, values["key"] or "", payload, topic=topic_of(self._group, values["topic"]))
        for name, holder in (
            ("value", payload["record"]), ("headers", payload["record"]), ("raw_key", payload["record"]),
            ("stack_trace", payload), ("error_message", payload),
        ):  # fmt: skip
            if len(event_types.encode(event)[0]) <= self._bytes_max:
                break
            holder[name] = None
            payload["left_out"].append(name)
        return event


def _content(raw: bytes | None) -> dict[str, str | None]:
    """Bytes as JSON has them: text, or base64."""
    if raw is None:
        return {"text": None}
    text = text_of(raw)
    return {"base64": base64.b64encode(raw).decode()} if text is None else {"text": text}
