"""The columns of every view: name, dtype, unit and meaning, in the frame's order.

`help(views.lag)` shows them, an empty frame has them, and figures and monitors check what they are given against them.
Times are UTC with microseconds, durations are seconds, ratios go from 0 to 1. A null says "not measured" or "does not
apply", never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["string", "int32", "int64", "float64", "bool", "time", "binary"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a view.

    Attributes:
        name     as in SQL, frame, axis and report
        dtype    string, int32, int64, float64, bool, binary, or time (microseconds, UTC)
        unit     "s", "events", "1/s", "0..1", "UTC"; empty where there is none
        meaning  one line; says when it is null
    """

    name: str
    dtype: Dtype
    unit: str
    meaning: str


def _time(name: str, meaning: str) -> Column:
    return Column(name, "time", "UTC", meaning)


def _text(name: str, meaning: str) -> Column:
    return Column(name, "string", "", meaning)


def _seconds(name: str, meaning: str) -> Column:
    return Column(name, "float64", "s", meaning)


def _count(name: str, meaning: str, unit: str = "events") -> Column:
    return Column(name, "int64", unit, meaning)


def _flag(name: str, meaning: str) -> Column:
    return Column(name, "bool", "", meaning)


GROUP = _text("group", "consumer group")
TOPIC = _text("topic", "topic")
PARTITION = Column("partition", "int32", "", "partition of the topic")
OFFSET = Column("offset", "int64", "", "offset of the record in its partition")
EVENT_ID = _text("event_id", "id of the event")
EVENT_TYPE = _text("event_type", "type of the event")
KEY = _text("key", "key of the record; null when it has none")
HANDLER = _text("handler", "function that failed; null when none was reached")
ERROR_CLASS = _text("error_class", "class of the error")
ERROR_MESSAGE = _text("error_message", "message of the error")
FINGERPRINT = _text("fingerprint", "equal for equal failures")
CODE_VERSION = _text("code_version", "version of the consumer's code, when it said one")
REPLAY = _flag("replay", "true when a replay or a redrive did it, false for live handling")
REPLAY_ID = _text("replay_id", "which replay or redrive; null for live handling")
MEASURED_AT = _time("measured_at", "when it was measured; one value for the whole call")
BUCKET_AT = _time("bucket_at", "start of the bucket")
BUCKET_SECONDS = _seconds("bucket_seconds", "length of the bucket inside the window")
PARTIAL = _flag("partial", "true when the window cuts the bucket, or it is still running")


def _percentiles(of: str) -> tuple[Column, ...]:
    return (
        _seconds("p50_seconds", f"median {of}; null when nothing was measured"),
        _seconds("p95_seconds", f"95th percentile {of}"),
        _seconds("p99_seconds", f"99th percentile {of}; the maximum when fewer than 100 were measured"),
        _seconds("max_seconds", f"longest {of}"),
        _flag("p99_is_lower_bound", "true when events still waiting are among the slowest: the real p99 is higher"),
    )


# Of a partition in views.lag, the worst last.
LAG_STATUSES = ("ok", "no_commit", "unknown", "open_transaction", "behind", "ahead", "data_loss")

LAG = (
    GROUP,
    TOPIC,
    PARTITION,
    _count("committed_offset", "next offset the group will read; null when it never committed", ""),
    _count("start_offset", "first offset the partition still has", ""),
    _count("end_offset", "next offset the broker will assign", ""),
    _count("lag_events", "end_offset - committed_offset, never clipped; null when the group never committed"),
    _count("lag_readable_events", "what of the lag can still be read: end_offset - max(committed, start)"),
    _count("lost_events", "offsets deleted before the group read them: start_offset - committed_offset, at least 0"),
    _count("backlog_events", "end_offset - start_offset: the lag of a group that would start from the beginning"),
    _count("stable_offset", "end for who reads committed records; before end_offset while a transaction is open", ""),
    _count(
        "lag_stable_events", "stable_offset - committed_offset: what of the lag may be read already; null as lag_events"
    ),
    _count("open_events", "end_offset - stable_offset: offsets that wait for the end of a transaction"),
    Column(
        "retention_used_ratio",
        "float64",
        "0..1",
        "lag_readable_events / backlog_events; at 1 retention takes unread ones next",
    ),
    _seconds("lag_seconds", "age of the oldest unread record; 0 when nothing is unread, null when not measurable"),
    _text(
        "lag_seconds_method",
        "record (read at the committed offset), open_transaction (the same, not committed yet), "
        "empty (nothing to read) or none",
    ),
    _text("group_state", "state of the group at the broker: stable, empty, …; null when the broker does not know it"),
    _text("member_id", "member of the group that has the partition; null when none has, or the broker does not say"),
    _text("client_id", "as that member calls itself"),
    _text("client_host", "where that member is, as the broker sees it"),
    _flag(
        "compacted",
        "true when the topic keeps only the last record of each key, so that offsets are far more than events",
    ),
    _text("status", "ok, behind, open_transaction, no_commit, ahead, data_loss or unknown"),
    MEASURED_AT,
)

LAG_GROUPS = (
    GROUP,
    TOPIC,
    _count("partitions", "partitions that the group has committed to, has assigned, or has handled events of", ""),
    _count("partitions_behind", "of them, those with something to read", ""),
    _count("partitions_without_commit", "of them, those that the group never committed to", ""),
    _count("members", "members of the group that have one of these partitions", ""),
    _count("lag_events", "lag of all partitions, those beyond their end left out; null when nothing was committed"),
    _count("lag_events_max", "lag of the partition that is furthest behind; null as lag_events"),
    Column("lag_events_max_partition", "int32", "", "which partition that is; null when nothing is behind"),
    _seconds("lag_seconds_max", "age of the oldest unread record; null when it could not be measured anywhere"),
    _count("lost_events", "offsets deleted before the group read them; null as lag_events"),
    Column(
        "skew", "float64", "", "lag_events_max over the mean lag of a partition: 1 is even; null when nothing is behind"
    ),
    _text("group_state", "state of the group at the broker; null when the broker does not know it"),
    _text("status", f"that of the worst partition: {', '.join(LAG_STATUSES)}"),
    MEASURED_AT,
)

LAG_HISTORY = (
    _time("at", "the moment"),
    GROUP,
    TOPIC,
    PARTITION,
    _count("committed_offset", "next offset the group would have read; null when it had none, or not covered", ""),
    _count("end_offset", "next offset the broker would have assigned; null when truncated, not exact, or not told", ""),
    _count("lag_events", "end_offset - committed_offset, never clipped; null when one of them is"),
    _seconds("lag_seconds", "time since the end passed the committed offset; null when that was before the window"),
    _flag("covered", "true when Kafka still has every commit that counts at this moment"),
    _flag("truncated", "true when the topic's records of that time were deleted"),
    _flag("exact", "false when the timestamps of that time go back, and the end cannot be told from them"),
    _text("source", "where it is from: offsets_log"),
)

REBALANCES = (
    _time("at", "when it was written down, by the coordinator's clock"),
    GROUP,
    _text("protocol", "classic, or consumer (KIP-848)"),
    _count("epoch", "the classic group's generation, or the group's epoch; null when deleted", ""),
    _count("members_before", "members of the epoch before; null when its record is gone", "members"),
    _count("members_after", "members of this one; null when some of them may be gone from the log", "members"),
    _text("kind", "made, joined, left, replaced, changed, emptied, deleted or unknown"),
)

CONSUMER_STATUS = (
    GROUP,
    TOPIC,
    PARTITION,
    _text("status", "ok, warn, stall, stop, rewind, catching_up, data_loss, ahead, no_commit or unknown"),
    _text("reason", "why, in a sentence with its numbers"),
    _flag("alarm", "true when it is worth waking somebody for"),
    _count("lag_events", "end offset - committed offset, never clipped; null when the group never committed"),
    _count("unread_events", "what of it the group may read now; null as lag_events"),
    _count("lost_events", "offsets deleted before the group read them"),
    _count("rewind_from", "committed offset before it went back; null when it did not", ""),
    _count("rewind_to", "the offset it went back to", ""),
    _time("rewind_at", "when it went back"),
    Column("velocity_per_second", "float64", "1/s", "change of the lag; null when too little was seen"),
    Column("read_per_second", "float64", "1/s", "change of the committed offset; null as the velocity"),
    Column("written_per_second", "float64", "1/s", "change of what there was to read; null as the velocity"),
    _seconds("drain_seconds", "until the lag is gone, as things go; infinite for never, null when it cannot be said"),
    _seconds("drain_low_seconds", "the same at best"),
    _seconds("drain_high_seconds", "the same at worst"),
    _seconds("still_seconds", "since the offset moved, with something to read behind it; null when never"),
    _seconds("allowed_seconds", "how long that may last, by the group's own pace"),
    _flag("hot", "true when it holds far more of the topic's lag than the other partitions"),
    _text("group_state", "state of the group at the broker; null when the broker does not know it"),
    _flag("covered", "true when all commits of the window are known"),
    MEASURED_AT,
)

PUBLISH_RATE = (
    BUCKET_AT,
    BUCKET_SECONDS,
    TOPIC,
    _count("written", "outbox rows by created_at; null before the topic's first event"),
    _count("published", "confirmed by the broker, by published_at; null before the topic's first event"),
    Column("written_per_second", "float64", "1/s", "written / bucket_seconds"),
    Column("published_per_second", "float64", "1/s", "published / bucket_seconds"),
    PARTIAL,
)

THROUGHPUT = (
    BUCKET_AT,
    BUCKET_SECONDS,
    GROUP,
    TOPIC,
    _count("published", "events of the topic that the broker confirmed in the bucket"),
    _count("dealt_with", "of them or earlier ones, handled, skipped or parked by the group in the bucket; live only"),
    _count("backlog", "published and not dealt with at the end of the bucket"),
    PARTIAL,
)

ERROR_RATE = (
    BUCKET_AT,
    BUCKET_SECONDS,
    GROUP,
    EVENT_TYPE,
    _text("handler", "function that failed; null when nothing failed"),
    _count("attempts", "failures and successes", "attempts"),
    _count("failures", "failed attempts", "attempts"),
    _count(
        "failures_dealt_with", "of them, those whose dead letter was since resolved, archived or purged", "attempts"
    ),
    _count("events", "distinct events attempted"),
    _count("dead", "events that became dead letters"),
    _count("held", "failed attempts that were nobody's fault: a dependency or the network was away", "attempts"),
    Column("attempt_error_ratio", "float64", "0..1", "failures / attempts; null without attempts"),
    Column("event_failure_ratio", "float64", "0..1", "dead / events; null without events"),
    REPLAY,
)

ERRORS = (
    _time("failed_at", "end of the attempt"),
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
    _text("disposition", "retry, dead, or held: it was nobody's fault and does not count"),
    _seconds("duration_seconds", "of the attempt"),
    CODE_VERSION,
    REPLAY,
    REPLAY_ID,
)

DEAD_LETTERS = (
    _count("letter_id", "number of the letter, what `evkit dlq` takes", ""),
    GROUP,
    _text("state", "open, retrying, resolved, archived or purged"),
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
    _time("created_at", "when the event was written; null when its record does not say"),
    _time("first_failed_at", "first failed attempt"),
    _time("failed_at", "last failed attempt"),
    _seconds("age_seconds", "since the first failure"),
    _time("state_changed_at", "when it came into its state"),
    _text("note", "what somebody wrote about it"),
    CODE_VERSION,
    Column("schema_version", "int32", "", "of the event's type; null when its record does not say"),
    _count("value_bytes", "size of the record's value; null when it has none", "bytes"),
    _flag("replay", "true when the event died in a replay or redrive"),
    _text("replay_id", "the replay or redrive that last touched it; null when none did"),
)

# Only with payload=True: raw payloads do not travel into notebooks by accident.
DEAD_LETTERS_PAYLOAD = (
    _text("value", "the record's value as text; bytes that are not UTF-8 as \\xNN"),
    _text("headers", "the record's headers as a JSON list of [name, value]"),
    _text("stack_trace", "of the last failure"),
)

DEAD_LETTER_GROUPS = (
    GROUP,
    FINGERPRINT,
    _text("title", "error class and handler"),
    ERROR_CLASS,
    _text("error_message", "message of the newest letter"),
    _text("handler", "handler of the newest letter; null when none was reached"),
    _count("n_open", "letters that wait for a decision, retrying ones included", "letters"),
    _count("n_new", "letters first failed inside the window", "letters"),
    _count("n_resolved", "letters handled after all", "letters"),
    _count("n_archived", "letters archived or purged", "letters"),
    _count("n_keys", "distinct keys among the open letters, or among all when none is open", "keys"),
    _count("n_event_types", "distinct event types among the same letters", "types"),
    _time("first_seen_at", "first failure of any of its letters"),
    _time("last_seen_at", "last failure of any of its letters"),
    Column(
        "letters_per_minute", "float64", "1/min", "letters whose last failure lies in the last 5 minutes, per minute"
    ),
    _seconds("oldest_open_seconds", "age of the oldest open letter; null when none is open"),
    _text("first_code_version", "code version of the oldest letter, open ones first; null when none was given"),
    _text("last_code_version", "code version of the newest one"),
    _flag("regressed", "true when an open letter first failed after another of this failure was resolved"),
    _count("sample_letter_id", "the newest letter, open ones first", ""),
    _text("spread", "poison (few keys: the data) or systemic (many keys: the code or a dependency)"),
    _flag("replay", "true when any of its letters died in a replay that handled events again"),
)

DEAD_LETTER_COUNT = (
    GROUP,
    _count("open", "letters that wait for a decision, now", "letters"),
    _count("new", "letters first failed inside the window, whatever became of them", "letters"),
    _count("resolved", "letters handled after all inside the window", "letters"),
    _count("archived", "letters archived or purged inside the window", "letters"),
    _count("fingerprints", "distinct failures among the open letters", ""),
    _count("keys", "distinct keys among the open letters", "keys"),
    _seconds("oldest_open_seconds", "age of the oldest open letter, since its first failure; null when none is open"),
    _count("from_replays", "of the open letters, those that a replay or redrive left open", "letters"),
)

LATENCY = (
    GROUP,
    _text("event_type", "type of the event; null when all types are taken together"),
    _count("n", "events handled inside the window whose time of writing is known"),
    _count("pending_n", "events written, on a topic the group reads, and not dealt with yet (censored)"),
    _count("overdue_n", "of them, those already older than the p99 of the handled ones; they count with their age"),
    _count("unmeasured_n", "events handled whose record does not say when it was written"),
    *_percentiles("time from the database write to the commit of the handler"),
    _seconds("oldest_pending_seconds", "age of the oldest pending event; null when none is pending"),
    REPLAY,
)

LATENCY_OVER_TIME = (
    _time("bucket_at", "start of the bucket, by the time the events were written"),
    BUCKET_SECONDS,
    GROUP,
    _count("n", "events written in the bucket and handled since"),
    _count("pending_n", "events written in the bucket and not dealt with yet"),
    *_percentiles("time from the database write to the commit of the handler"),
    PARTIAL,
    REPLAY,
)

RELAY_LAG = (
    MEASURED_AT,
    _text("relay", "the relay of this outbox; null when none ever ran"),
    Column("leader_pid", "int64", "", "PostgreSQL session of the relay that leads now; null when none does"),
    _count("pending", "outbox rows not confirmed by the broker, and not unpublishable, now"),
    _seconds("oldest_pending_seconds", "age of the oldest of them; 0 when there is none"),
    _count("due", "scheduled events whose time has come and that are not in the outbox yet"),
    _seconds("oldest_due_seconds", "for how long the oldest of them is due; 0 when there is none"),
    _count("unpublishable", "events that the broker will not take as they are"),
    _count("held", "later events of their keys, which wait behind them"),
    _seconds("oldest_unpublishable_seconds", "for how long the oldest is parked; null when there is none"),
    _count("hole_position", "oldest position that a running transaction may still fill; null when there is none", ""),
    _seconds("hole_seconds", "since when the relay knows it"),
    Column(
        "hole_pid", "int64", "", "PostgreSQL backend that keeps it open; null when unknown, or a prepared transaction"
    ),
    _seconds("hole_pid_seconds", "age of that backend's transaction; null when this role may not see it"),
    _text("hole_database", "database it is in"),
    _text("hole_state", "what it does: active, idle in transaction, …; null when this role may not see it"),
    _text("hole_application", "what it calls itself"),
    _time("moved_at", "when the relay last wrote its progress"),
    _time("failing_since", "since when it cannot go on; null when it can"),
    _text("failing_error", "why"),
    _count("failing_position", "at which outbox position; null when it is not one event's fault", ""),
    _count("published", "events confirmed inside the window"),
    *_percentiles("time from the database write to the broker's confirmation, inside the window"),
)

RELAY_LAG_OVER_TIME = (
    _time("bucket_at", "start of the bucket, by the time the events were written"),
    BUCKET_SECONDS,
    _count("n", "events written in the bucket and confirmed since"),
    _count("pending_n", "events written in the bucket and not confirmed yet"),
    *_percentiles("time from the database write to the broker's confirmation"),
    PARTIAL,
)

JOURNEY = (
    Column("step", "int32", "", "1 for the first stop"),
    _time("at", "when, on the database's clock"),
    _text(
        "stage",
        "written, published, attempt_failed, processed, skipped, parked, redriven, replayed, or a letter's state",
    ),
    _text("group", "consumer group; null before the topic"),
    _text("topic", "topic"),
    PARTITION,
    OFFSET,
    _text("detail", "event type, handler and error, or note, in words"),
    Column("attempt", "int32", "", "which attempt; null where there is none"),
    _seconds("gap_seconds", "since the stop before"),
    _seconds("total_seconds", "since the first stop"),
    ERROR_CLASS,
    FINGERPRINT,
    CODE_VERSION,
    REPLAY,
    REPLAY_ID,
)

ACTS = (
    _time("acted_at", "when"),
    _text("actor", "who"),
    _text("act", "what: dead_letters.redrive, replay.run, …"),
    _text("target", "on what: group, letter ids, replay id"),
    _text("reason", "why, as the actor said"),
    _text("plan", "what it was going to do, as JSON"),
    _text("result", "what it did, as JSON; null while it runs or when it broke off"),
)

REPLAYS = (
    REPLAY_ID,
    GROUP,
    _text("topics", "topics, with commas between"),
    _time("from_time", "replayed from"),
    _time("until_time", "replayed until; null for the end at the time of the plan"),
    _text("dedupe", "honour (only what the inbox has not seen), again (all) or dry (all, rolled back)"),
    _text("mode", "beside the live group, or with it paused"),
    _text("emit", "what became of events that handlers wrote: none, marked or normal"),
    _text("state", "planned, running, interrupted (no sign of life for 15 s), done or stopped"),
    _count("handled", "events handled; in a dry one, that would have been"),
    _count("known", "events the inbox had seen"),
    _count("skipped", "events without a handler"),
    _count("failed", "events that became dead letters; in a dry one, that would have"),
    _count("parked", "events that wait behind a dead letter of their key"),
    _text("why", "why it stopped; null when it did not"),
    _text("actor", "who"),
    _text("reason", "why"),
    _time("created_at", "when it was planned"),
    _time("started_at", "when it was started"),
    _time("finished_at", "when it ended"),
)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "lag": LAG,
    "lag_groups": LAG_GROUPS,
    "consumer_status": CONSUMER_STATUS,
    "lag_history": LAG_HISTORY,
    "rebalances": REBALANCES,
    "publish_rate": PUBLISH_RATE,
    "throughput": THROUGHPUT,
    "error_rate": ERROR_RATE,
    "errors": ERRORS,
    "dead_letters": DEAD_LETTERS,
    "dead_letter_groups": DEAD_LETTER_GROUPS,
    "dead_letter_count": DEAD_LETTER_COUNT,
    "latency": LATENCY,
    "latency_over_time": LATENCY_OVER_TIME,
    "relay_lag": RELAY_LAG,
    "relay_lag_over_time": RELAY_LAG_OVER_TIME,
    "journey": JOURNEY,
    "acts": ACTS,
    "replays": REPLAYS,
}


def table(columns: tuple[Column, ...], indent: str = "    ") -> str:
    """The columns as aligned lines for a docstring or a terminal."""
    wide = max(len(c.name) for c in columns)
    kinds = [f"{c.dtype}{', ' + c.unit if c.unit else ''}" for c in columns]
    widest = max(len(k) for k in kinds)
    return "\n".join(
        f"{indent}{c.name:<{wide}}  {kind:<{widest}}  {c.meaning}" for c, kind in zip(columns, kinds, strict=True)
    )
