"""What is in the outbox."""

from __future__ import annotations

from evkit.views.columns.column import EVENT_ID, EVENT_TYPE, TOPIC, Column, count, seconds, text, time

OUTBOX_STATES = ("waiting", "published", "unpublishable", "held", "retrying", "skipped")
_VERSION = Column("schema_version", "int32", "", "version of the event type's model")

OUTBOX = (
    count("position", "of the row", ""),
    EVENT_ID,
    EVENT_TYPE,
    text("key", "key of the event"),
    TOPIC,
    _VERSION,
    text("state", f"{', '.join(OUTBOX_STATES[:-1])} or skipped"),
    time("created_at", "when it was written"),
    time("published_at", "when the broker confirmed it; null when it did not"),
    Column(
        "partition", "int32", "", "partition of its record; -1: published, and not known where; null: not published"
    ),
    Column("offset", "int64", "", "offset of its record; as partition"),
    seconds("relay_seconds", "from the write to the broker's confirmation; null when not published"),
    seconds("age_seconds", "since it was written, of one that is not published; null otherwise"),
    Column("attempts", "int32", "attempts", "of one that could not be published; null otherwise"),
    text("error", "why it could not be published; null otherwise"),
)

OUTBOX_SUMMARY = (
    TOPIC,
    text("state", f"{', '.join(OUTBOX_STATES)}, or scheduled for later"),
    count("n", "events in this state"),
    time("oldest_at", "when the oldest was written; of scheduled ones, when the first is due"),
    time("newest_at", "when the newest was written; of scheduled ones, when the last is due"),
    seconds(
        "oldest_seconds", "age of the oldest; of scheduled ones, how long it is due; null when published or skipped"
    ),
    seconds("relay_p50_seconds", "median time from the write to the confirmation; null when not published"),
    seconds("relay_p99_seconds", "99th percentile of it; the maximum when fewer than 100 were published"),
)

SCHEMA_USAGE = (
    TOPIC,
    EVENT_TYPE,
    _VERSION,
    count("written", "events that were written with it"),
    time("first_at", "when the first of them was written"),
    time("last_at", "when the last one was"),
    text("group", "consumer group that has dealt with some; null when none has"),
    count("handled", "of them, handled by the group; null when group is"),
    count("skipped", "of them, those it has no handler for; null when group is"),
    count("dead", "of them, those that it gave up on, and that are not handled since; null when group is"),
)
