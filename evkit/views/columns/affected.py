"""What happened to events and to whom: single latencies, harm, differences, hot keys."""

from __future__ import annotations

from evkit.views.columns.column import (
    CODE_VERSION,
    EVENT_ID,
    EVENT_TYPE,
    GROUP,
    KEY,
    OFFSET,
    PARTITION,
    REPLAY,
    REPLAY_ID,
    TOPIC,
    Column,
    count,
    flag,
    percentiles,
    seconds,
    text,
    time,
)


def ratio(name: str, meaning: str) -> Column:
    return Column(name, "float64", "0..1", meaning)


LATENCY_EVENTS = (
    EVENT_ID,
    EVENT_TYPE,
    GROUP,
    TOPIC,
    PARTITION,
    OFFSET,
    KEY,
    time("created_at", "written, by the database's clock; null when the record does not say it"),
    time(
        "published_at",
        "confirmed by the broker, by the database's clock; null when this outbox did not write it",
    ),
    time("appended_at", "the record's timestamp: the broker's clock or the producer's, as the topic has it"),
    time("received_at", "polled, by the clock of the consumer's machine"),
    time("processed_at", "the handler's commit, by the database's clock; null while it waits"),
    seconds("relay_seconds", "created to published; one clock"),
    seconds("append_seconds", "created to appended; two clocks, so it may be negative"),
    seconds("transit_seconds", "published to received; two clocks; negative too when the record outran its answer"),
    seconds("queue_seconds", "appended to received: unread in the topic; two clocks"),
    seconds("handle_seconds", "received to processed: waiting in the consumer, retries, handler; two clocks"),
    seconds("total_seconds", "created to processed; one clock; of a waiting event its age at the end of the window"),
    flag("censored", "true when the event still waits: the real total is longer"),
    Column("attempts", "int32", "", "attempts until it was handled; null while it waits"),
    text("handler", "function that handled it; null while it waits"),
    CODE_VERSION,
    REPLAY,
    REPLAY_ID,
)

LATENCY_SEGMENTS = (
    GROUP,
    text("event_type", "type of the event; null when all types are taken together"),
    text(
        "segment",
        "relay, append, queue, transit, handle or total; relay + transit + handle = total, append and queue are "
        "the same way by the record's timestamp",
    ),
    text("from_clock", "whose clock it begins on: database, record (broker or producer) or client"),
    text("to_clock", "whose clock it ends on"),
    count("n", "handled events of which both ends are known"),
    count("pending_n", "of total: events that still wait, with their age (censored)"),
    *percentiles("time in the segment"),
    seconds("min_seconds", "shortest; below zero it is at least how far the two clocks are apart; never clipped"),
    ratio("negative_ratio", "part of n that ends before it begins: the clocks disagree; null without n"),
    REPLAY,
)

IMPACT = (
    text("dimension", "what events are told apart by: key, event_type, topic, a path, or a function's name"),
    text("value", "its value; null for events that have none"),
    count("n_events", "events with this value"),
    count("n_harmed", "of them lost, late, failed, dead or pending in any group; an event counts once"),
    count("n_lost", "of them, those that the audit that was handed in says are lost; null without one"),
    count("n_late", "not handled within `late` of being written: the handled, the dead and the waiting"),
    count("n_failed", "with a failed attempt"),
    count("n_dead", "given up on, whatever became of the letter"),
    count("n_dead_open", "of them those whose letter is still open"),
    count("n_pending", "not dealt with yet and not lost, or waiting behind a dead letter of their key"),
    seconds("delay_p95_seconds", "95th percentile of the time until handled; of others their age; the worst group's"),
    seconds("delay_max_seconds", "longest of them"),
    seconds("oldest_pending_seconds", "age of the oldest pending event; null when none is pending"),
    time("first_at", "when the first harmed event was written"),
    time("last_at", "when the last one was"),
)

DIFFERS = (
    text("attribute", "event_type, topic, partition, key, key_bucket, handler, code_version, …"),
    text("value", "one of its values"),
    count("n_selection", "rows of the selection with this value"),
    count("n_background", "rows of the rest with this value"),
    ratio("selection_ratio", "of the selection's rows that have the attribute, the part with this value"),
    ratio("background_ratio", "the same part of the rest"),
    Column("difference", "float64", "-1..1", "selection_ratio - background_ratio"),
    Column("difference_low", "float64", "-1..1", "lower end of its interval"),
    Column("difference_high", "float64", "-1..1", "upper end of its interval"),
    Column("lift", "float64", "", "selection_ratio / background_ratio; null when the rest does not have the value"),
    flag("distinct", "true when the interval leaves out zero: more than chance makes of so many comparisons"),
)

HOT_KEYS = (
    GROUP,
    TOPIC,
    text("of", "unread (published, not dealt with) or failed"),
    KEY,
    PARTITION,
    count("n", "events of the key that are so"),
    ratio("share_ratio", "n / of_n"),
    count("of_n", "all events of group and topic that are so"),
    count("keys", "keys that they belong to", "keys"),
    time("oldest_at", "unread: when the oldest was written; failed: when the first one failed"),
    time("newest_at", "the same of the newest"),
)
