"""Rows of evkit's tables where a test says only what it is about; times in seconds before the past's `now`."""

from __future__ import annotations

from typing import Any

from psycopg import sql
from psycopg.types.json import Json


def write(past: Any, event_id: str, ago: float, **columns: Any) -> int:
    """An outbox row; with `published`, `partition` and `offset`, also the broker's confirmation."""
    published, place = columns.pop("published", None), (columns.pop("partition", 0), columns.pop("offset", 0))
    values = {
        "id": event_id, "aggregatetype": columns.pop("topic", "order"), "aggregateid": columns.pop("key", "k"),
        "type": columns.pop("type", "order.placed"), "payload": Json(columns.pop("payload", {})),
        "created_at": past.at(ago),
    }  # fmt: skip
    position = _insert(past, "outbox", values | columns, "position")
    if published is not None:
        past.sql("INSERT INTO evkit.publication VALUES (%s, %s, %s, %s)", position, *place, past.at(published))
    return int(position)


def deal(past: Any, group: str, event_id: str, ago: float, **columns: Any) -> None:
    """An inbox row. `created`, `appended` and `received` are seconds before now."""
    created, appended = columns.pop("created", None), columns.pop("appended", None)
    received = columns.pop("received", ago)
    values = {
        "consumer_group": group, "event_id": event_id, "event_type": "order.placed", "topic": "order", "partition": 0,
        "offset": 0, "key": "k", "created_at": None if created is None else past.at(created),
        "appended_at": None if appended is None else past.at(appended), "received_at": past.at(received),
        "processed_at": past.at(ago),
    }  # fmt: skip
    _insert(past, "inbox", values | columns)


def fail(past: Any, group: str, event_id: str, ago: float, **columns: Any) -> None:
    values = {
        "consumer_group": group, "event_id": event_id, "event_type": "order.placed", "topic": "order", "partition": 0,
        "offset": 0, "key": "k", "attempt": 1, "failed_at": past.at(ago), "duration_seconds": 0.1, "handler": "shop.bill",
        "error_class": "KeyError", "error_message": "total", "stack_trace": "", "fingerprint": "f1", "disposition": "retry",
    }  # fmt: skip
    _insert(past, "attempt", values | columns)


def letter(past: Any, group: str, event_id: str, ago: float, **columns: Any) -> int:
    values = {
        "consumer_group": group, "event_id": event_id, "event_type": "order.placed", "topic": "order", "partition": 0,
        "offset": 0, "timestamp_type": "append", "key": "k", "raw_value": b"{}", "header_names": [], "header_values": [],
        "handler": "shop.bill", "error_class": "KeyError", "error_message": "total", "stack_trace": "",
        "fingerprint": "f1", "first_failed_at": past.at(ago), "failed_at": past.at(ago), "retry_count": 0,
    }  # fmt: skip
    return int(_insert(past, "dead_letter", values | columns, "letter_id"))


def _insert(past: Any, table: str, values: dict[str, Any], returning: str | None = None) -> Any:
    query = sql.SQL("INSERT INTO evkit.{} ({}) VALUES ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(sql.Placeholder() * len(values)),
    )
    if returning:
        query += sql.SQL(" RETURNING {}").format(sql.Identifier(returning))
    cursor = past.connection.execute(query, list(values.values()))
    return cursor.fetchone()[0] if returning else None
