"""What failed, and what died of it."""

from __future__ import annotations

from evkit.views.columns.column import (
    BUCKET_AT,
    BUCKET_SECONDS,
    CODE_VERSION,
    ERROR_CLASS,
    ERROR_MESSAGE,
    EVENT_ID,
    EVENT_TYPE,
    FINGERPRINT,
    GROUP,
    HANDLER,
    KEY,
    OFFSET,
    PARTITION,
    REPLAY,
    REPLAY_ID,
    TOPIC,
    Column,
    count,
    flag,
    seconds,
    text,
    time,
)

ERROR_RATE = (
    BUCKET_AT,
    BUCKET_SECONDS,
    GROUP,
    EVENT_TYPE,
    text("handler", "function that failed; null when nothing failed; by handler: its own, null where none is known"),
    count("attempts", "failures and successes; null when those of the handler or version are not known", "attempts"),
    count("failures", "failed attempts", "attempts"),
    count("failures_dealt_with", "of them, those whose dead letter was since resolved, archived or purged", "attempts"),
    count("events", "distinct events attempted; null when attempts is"),
    count("dead", "events that became dead letters"),
    count("held", "failed attempts that were nobody's fault: a dependency or the network was away", "attempts"),
    Column("attempt_error_ratio", "float64", "0..1", "failures / attempts; null without attempts"),
    Column("event_failure_ratio", "float64", "0..1", "dead / events; null without events"),
    REPLAY,
    text("code_version", "by code_version alone: what the consumer said of itself; null where it said none"),
    text("error_class", "by error_class or fingerprint alone: class of the failures; null where nothing failed"),
    text("fingerprint", "by fingerprint alone: hash that equal failures share; null where nothing failed"),
)

ERRORS = (
    time("failed_at", "end of the attempt"),
    GROUP,
    EVENT_TYPE,
    EVENT_ID,
    KEY,
    TOPIC,
    PARTITION,
    OFFSET,
    Column("attempt", "int32", "", "1 for the first delivery"),
    HANDLER,
    ERROR_CLASS,
    ERROR_MESSAGE,
    FINGERPRINT,
    text("disposition", "retry, dead, or held: it was nobody's fault and does not count"),
    seconds("duration_seconds", "of the attempt"),
    CODE_VERSION,
    REPLAY,
    REPLAY_ID,
)

DEAD_LETTERS = (
    count("letter_id", "number of the letter, what `evkit dlq` takes", ""),
    GROUP,
    text("state", "open, retrying (a running redrive is still to try it), resolved, archived or purged"),
    EVENT_TYPE,
    EVENT_ID,
    KEY,
    TOPIC,
    PARTITION,
    OFFSET,
    HANDLER,
    ERROR_CLASS,
    ERROR_MESSAGE,
    FINGERPRINT,
    Column("retry_count", "int32", "attempts", "attempts after the first one, redrives included"),
    time("created_at", "when the event was written; null when its record does not say"),
    time("first_failed_at", "first failed attempt"),
    time("failed_at", "last failed attempt"),
    seconds("age_seconds", "since the first failure"),
    time("state_changed_at", "when it came into its state"),
    text("note", "what somebody wrote about it"),
    CODE_VERSION,
    Column("schema_version", "int32", "", "of the event's type; null when its record does not say"),
    count("value_bytes", "size of the record's value; null when it has none", "bytes"),
    flag("replay", "true when the event died in a replay or redrive"),
    text("replay_id", "the replay or redrive that last touched it; null when none did"),
)

# Only with payload=True: raw payloads do not travel into notebooks by accident.
DEAD_LETTERS_PAYLOAD = (
    text("value", "the record's value as text; bytes that are not UTF-8 as \\xNN"),
    text("headers", "the record's headers as a JSON list of [name, value]"),
    text("stack_trace", "of the last failure; null when the value is withheld"),
    text("masking", "masked or withheld (the value is no JSON); null: under no policy"),
)

DEAD_LETTER_GROUPS = (
    GROUP,
    FINGERPRINT,
    text("title", "error class and handler"),
    ERROR_CLASS,
    text("error_message", "message of the newest letter"),
    text("handler", "handler of the newest letter; null when none was reached"),
    count("n_open", "letters that wait for a decision, retrying ones included", "letters"),
    count("n_new", "letters first failed inside the window", "letters"),
    count("n_resolved", "letters handled after all", "letters"),
    count("n_archived", "letters archived or purged", "letters"),
    count("n_keys", "distinct keys among the open letters, or among all when none is open", "keys"),
    count("n_event_types", "distinct event types among the same letters", "types"),
    time("first_seen_at", "first failure of any of its letters"),
    time("last_seen_at", "last failure of any of its letters"),
    Column(
        "letters_per_minute", "float64", "1/min", "letters whose last failure lies in the last 5 minutes, per minute"
    ),
    seconds("oldest_open_seconds", "age of the oldest open letter; null when none is open"),
    text("first_code_version", "code version of the oldest letter, open ones first; null when none was given"),
    text("last_code_version", "code version of the newest one"),
    flag("regressed", "true when an open letter first failed after another of this failure was resolved"),
    count("sample_letter_id", "the newest letter, open ones first", ""),
    text("spread", "poison (few keys: the data) or systemic (many keys: the code or a dependency)"),
    flag("replay", "true when any of its letters died in a replay that handled events again"),
)

DEAD_LETTER_COUNT = (
    GROUP,
    count("open", "letters that wait for a decision, now", "letters"),
    count("new", "letters first failed inside the window, whatever became of them", "letters"),
    count("resolved", "letters handled after all inside the window", "letters"),
    count("archived", "letters archived or purged inside the window", "letters"),
    count("fingerprints", "distinct failures among the open letters", ""),
    count("keys", "distinct keys among the open letters", "keys"),
    seconds("oldest_open_seconds", "age of the oldest open letter, since its first failure; null when none is open"),
    count("from_replays", "of the open letters, those that a replay or redrive left open", "letters"),
)

CODE_VERSIONS = (
    GROUP,
    CODE_VERSION,
    time("first_at", "first event that it handled or failed in the window"),
    time("last_at", "last one"),
    count("handled", "events that it handled"),
    count("failures", "attempts that failed in it", "attempts"),
    count("fingerprints", "distinct failures among them", ""),
)

BREAKERS = (
    GROUP,
    HANDLER,
    text("state", "open: its events wait in Kafka; closed"),
    ERROR_CLASS,
    ERROR_MESSAGE,
    FINGERPRINT,
    count("keys", "keys that had failed alike when it opened", "keys"),
    time("opened_at", "when it opened last"),
    seconds("open_seconds", "for how long it has been open; null when it is closed"),
    count("probes", "events that were tried since, and failed"),
    time("closed_at", "when it closed; null while it is open"),
    text("closed_by", "probe, or who closed it; null while it is open"),
)
