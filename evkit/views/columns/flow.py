"""How fast events are written, published, handled."""

from __future__ import annotations

from evkit.views.columns.column import (
    BUCKET_AT,
    BUCKET_SECONDS,
    GROUP,
    MEASURED_AT,
    PARTIAL,
    REPLAY,
    TOPIC,
    Column,
    count,
    flag,
    percentiles,
    seconds,
    text,
    time,
)

APPENDED = (
    BUCKET_AT,
    BUCKET_SECONDS,
    TOPIC,
    count("partitions", "partitions of the topic", "partitions"),
    count("appended", "offsets that were assigned: an upper bound, for markers count; null when it cannot be told"),
    Column("appended_per_second", "float64", "1/s", "appended / bucket_seconds"),
    flag("truncated", "true when records of that time were deleted: nobody can count them"),
    flag("exact", "false when the timestamps of that time are known to go back"),
    PARTIAL,
)

PUBLISH_RATE = (
    BUCKET_AT,
    BUCKET_SECONDS,
    TOPIC,
    count("written", "outbox rows by created_at; null before the topic's first event"),
    count("published", "confirmed by the broker, by published_at; null before the topic's first event"),
    Column("written_per_second", "float64", "1/s", "written / bucket_seconds"),
    Column("published_per_second", "float64", "1/s", "published / bucket_seconds"),
    PARTIAL,
)

THROUGHPUT = (
    BUCKET_AT,
    BUCKET_SECONDS,
    GROUP,
    TOPIC,
    count("published", "events of the topic that the broker confirmed in the bucket"),
    count("dealt_with", "of them or earlier ones, handled, skipped or parked by the group in the bucket; live only"),
    count("backlog", "published and not dealt with at the end of the bucket"),
    PARTIAL,
)

LATENCY = (
    GROUP,
    text("event_type", "type of the event; null when all types are taken together"),
    count("n", "events of the window that were handled and whose time of writing is known"),
    count("pending_n", "events written, on a topic the group reads, and not dealt with yet (censored)"),
    count("overdue_n", "of them, those already older than the p99 of the handled ones; they count with their age"),
    count("unmeasured_n", "events handled whose record does not say when it was written"),
    *percentiles("time from the database write to the commit of the handler"),
    seconds("oldest_pending_seconds", "age of the oldest pending event; null when none is pending"),
    REPLAY,
)

LATENCY_OVER_TIME = (
    time("bucket_at", "start of the bucket"),
    BUCKET_SECONDS,
    text("by", "the time of an event that says in which bucket it is: written, or processed"),
    GROUP,
    count("n", "events of the bucket that were handled, and whose time of writing is known"),
    count("pending_n", "events of the bucket not dealt with yet; by processed they are all in the last one"),
    *percentiles("time from the database write to the commit of the handler"),
    PARTIAL,
    REPLAY,
)

RELAY_LAG = (
    MEASURED_AT,
    text("relay", "the relay of this outbox; null when none ever ran"),
    Column("leader_pid", "int64", "", "PostgreSQL session of the relay that leads now; null when none does"),
    count("pending", "outbox rows not confirmed by the broker, and not unpublishable, now"),
    seconds("oldest_pending_seconds", "age of the oldest of them; 0 when there is none"),
    count("due", "scheduled events whose time has come and that are not in the outbox yet"),
    seconds("oldest_due_seconds", "for how long the oldest of them is due; 0 when there is none"),
    count("unpublishable", "events that the broker will not take as they are"),
    count("held", "later events of their keys, which wait behind them"),
    seconds("oldest_unpublishable_seconds", "for how long the oldest is parked; null when there is none"),
    count("hole_position", "oldest position that a running transaction may still fill; null when there is none", ""),
    seconds("hole_seconds", "since when the relay knows it"),
    Column(
        "hole_pid", "int64", "", "PostgreSQL backend that keeps it open; null when unknown, or a prepared transaction"
    ),
    seconds("hole_pid_seconds", "age of that backend's transaction; null when this role may not see it"),
    text("hole_database", "database it is in"),
    text("hole_state", "what it does: active, idle in transaction, …; null when this role may not see it"),
    text("hole_application", "what it calls itself"),
    time("moved_at", "when the relay last wrote its progress"),
    time("failing_since", "since when it cannot go on; null when it can"),
    text("failing_error", "why"),
    count("failing_position", "at which outbox position; null when it is not one event's fault", ""),
    count("published", "events confirmed inside the window"),
    *percentiles("time from the database write to the broker's confirmation, inside the window"),
)

RELAY_LAG_OVER_TIME = (
    time("bucket_at", "start of the bucket, by the time the events were written"),
    BUCKET_SECONDS,
    count("n", "events written in the bucket and confirmed since"),
    count("pending_n", "events written in the bucket and not confirmed yet"),
    *percentiles("time from the database write to the broker's confirmation"),
    PARTIAL,
)
