"""Records of a topic, read where they are."""

from __future__ import annotations

from evkit.views.columns.column import (
    GROUP,
    KEY,
    MEASURED_AT,
    OFFSET,
    PARTITION,
    TOPIC,
    Column,
    count,
    flag,
    seconds,
    text,
    time,
)

_FROM = Column("from_offset", "int64", "", "first offset of the range")
_UNTIL = Column("until_offset", "int64", "", "first offset behind the range; frozen before the first record is read")

SCAN = (
    TOPIC,
    PARTITION,
    OFFSET,
    time("timestamp", "of the record; null when it has none"),
    text("timestamp_type", "append (the broker's clock), create (the producer's) or none"),
    KEY,
    text("event_id", "id of the event, by CloudEvents or Debezium; null when the record says none"),
    text("event_type", "type of the event; null when the record says none"),
    count("value_bytes", "length of the value; null for a tombstone", "bytes"),
    text(
        "masking", "masked or withheld (no JSON); null: under no policy, or neither its value nor its headers are shown"
    ),
)

# Only with payload=True: raw payloads do not travel into notebooks by accident.
SCAN_PAYLOAD = (
    text("value", "the record's value as text; bytes that are no UTF-8 are escaped; null for a tombstone"),
    text("headers", "the record's headers as a JSON list of [name, value]"),
)

SCAN_PLAN = (
    TOPIC,
    PARTITION,
    _FROM,
    _UNTIL,
    count("records", "offsets in the range: an upper bound, for markers and compaction leave gaps", "records"),
    count(
        "record_bytes", "mean size of a record, by a sample from the middle; null when nothing was found there", "bytes"
    ),
    count("bytes", "records * record_bytes: what is read, before the network's compression", "bytes"),
    seconds("seconds", "an estimate, at the speeds that evkit's benchmark has"),
    MEASURED_AT,
)

SCAN_COVERAGE = (
    TOPIC,
    PARTITION,
    _FROM,
    _UNTIL,
    Column("scanned_until_offset", "int64", "", "first offset that was not scanned; until_offset when all were"),
    count("scanned", "records read", "records"),
    count("matched", "records that `where` and the window let through, which are rows of the scan", "records"),
    count("unparsed", "records whose fields are null because the value could not be parsed", "records"),
    flag("complete", "true when the whole range was scanned"),
    text("reason", "why not: row_limit, time_limit, open_transaction or deleted; null when complete"),
    MEASURED_AT,
)

UNREAD_KEYS = (
    GROUP,
    TOPIC,
    text("key", "key of the records; null for those without one"),
    Column("partition", "int32", "", "partition that most of them are in"),
    count("unread", "unread records of this key among those scanned", "records"),
    Column("unread_ratio", "float64", "0..1", "unread / scanned_events"),
    time("oldest_at", "timestamp of the first one that is unread"),
    count("scanned_events", "unread records of the topic that were scanned, of all keys", "records"),
    count("lag_events", "end offsets minus committed offsets of the topic: how many there may be"),
    flag("complete", "true when all unread records of the topic were scanned"),
    MEASURED_AT,
)
