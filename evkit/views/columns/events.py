"""What became of single events, and who did something about them."""

from __future__ import annotations

from evkit.views.columns.column import (
    CODE_VERSION,
    ERROR_CLASS,
    EVENT_ID,
    FINGERPRINT,
    GROUP,
    OFFSET,
    PARTITION,
    REPLAY,
    REPLAY_ID,
    Column,
    count,
    seconds,
    text,
    time,
)

JOURNEY = (
    Column("step", "int32", "", "1 for the first stop"),
    time("at", "when, on the clock that `clock` names"),
    text(
        "stage",
        "scheduled, written, unpublishable, held, appended, published, received, attempt_failed, processed, skipped, "
        "waiting (behind a dead letter), parked (dead), redrive_planned, redriven, replay_planned, replayed, id_conflict, "
        "a letter's state, or caused: an event that this one led to",
    ),
    text("group", "consumer group; null before the topic"),
    text("topic", "topic"),
    PARTITION,
    OFFSET,
    text("detail", "event type, handler and error, or note, in words"),
    Column("attempt", "int32", "", "which attempt; null where there is none"),
    seconds("gap_seconds", "since the stop before, of whichever event"),
    seconds("total_seconds", "since the first stop"),
    ERROR_CLASS,
    FINGERPRINT,
    CODE_VERSION,
    REPLAY,
    REPLAY_ID,
    EVENT_ID,
    text("event_type", "type of the event; null when the tables do not say it"),
    text("caused_by", "id of the event that led to this one; null when none is known, and beside other stages"),
    text(
        "clock",
        "whose time it is: database, broker, client, or record (broker or producer, as the topic has it)",
    ),
    text("impossible", "what cannot be about its time, in words: a clock is wrong; null when nothing is"),
)

ACTS = (
    time("acted_at", "when"),
    text("actor", "who"),
    text("act", "what: dead_letters.redrive, replay.run, …"),
    text("target", "on what: group, letter ids, replay id"),
    text("reason", "why, as the actor said"),
    text("plan", "what it was going to do, as JSON"),
    text("result", "what it did, as JSON; null while it runs or when it broke off"),
)

REPLAYS = (
    REPLAY_ID,
    GROUP,
    text("topics", "topics, with commas between"),
    time("from_time", "replayed from"),
    time("until_time", "replayed until; null for the end at the time of the plan"),
    text("dedupe", "honour (only what the inbox has not seen), again (all) or dry (all, rolled back)"),
    text("mode", "beside the live group, or with it paused"),
    text("emit", "what became of events that handlers wrote: none, marked or normal"),
    text("state", "planned, running, interrupted (no sign of life for 15 s), done or stopped"),
    count("handled", "events handled; in a dry one, that would have been"),
    count("known", "events the inbox had seen"),
    count("skipped", "events without a handler"),
    count("failed", "events that became dead letters; in a dry one, that would have"),
    count("parked", "events that wait behind a dead letter of their key"),
    text("why", "why it stopped; null when it did not"),
    text("actor", "who"),
    text("reason", "why"),
    time("created_at", "when it was planned"),
    time("started_at", "when it was started"),
    time("finished_at", "when it ended"),
)
