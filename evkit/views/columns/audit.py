"""What became of every event: its verdict, and whether the numbers add up."""

from __future__ import annotations

from evkit.views.columns.column import EVENT_ID, EVENT_TYPE, TOPIC, Column, count, text, time

# In order of the harm they do, the worst first; the last three are no findings.
AUDIT_VERDICTS = (
    "not_published", "missing", "lost_to_retention", "skipped_by_reset", "not_consumed", "processed_twice", "out_of_order",
    "published_twice", "dead", "parked", "unpublishable", "skipped", "pending", "ok",
)  # fmt: skip

AUDIT = (
    EVENT_ID,
    EVENT_TYPE,
    text("key", "key of the event"),
    TOPIC,
    Column("partition", "int32", "", "partition of its record; null when it is in no topic, or not known where"),
    Column("offset", "int64", "", "offset of its record; null as partition"),
    text("group", "consumer group whose verdict it is; null for what happened before any group"),
    count("position", "of its outbox row", ""),
    time("created_at", "when the outbox row was written"),
    time("published_at", "when the broker confirmed it; null when it did not"),
    time("processed_at", "when the group dealt with it; null when it did not, or where group is null"),
    count("in_log_n", "records of the topic that have its id; null when the topic was not read there", "records"),
    count("processed_n", "how often the group's inbox says that it was handled; null where group is null", "times"),
    text("verdict", f"{', '.join(AUDIT_VERDICTS[:-1])} or ok"),
    text("evidence", "why, in a sentence with its numbers"),
)

AUDIT_COUNTS = (
    TOPIC,
    text("group", "consumer group; null in the topic's own row, which has what happened before any group"),
    count("written", "outbox rows of the window; null in a group's row, as the next five"),
    count("waiting", "of them, not published yet: in front of the relay, or on their way"),
    count("unpublishable", "of them, those the broker will not take as they are, or that are to be tried again"),
    count("held", "of them, those that wait behind an unpublishable one of their key"),
    count("withdrawn", "of them, those that somebody decided not to publish"),
    count("unaccounted", "written - published - waiting - unpublishable - held - withdrawn: the events not_published"),
    count("published", "of them, those that came to the topic; in a group's row, those it has to deal with"),
    count(
        "handled", "of the published, handled by the group; null in a topic's row, as the rest up to unaccounted_group"
    ),
    count("lagging", "of the published, still in front of the group"),
    count("dead", "of the published, given up on"),
    count("skipped", "of the published, for which the group has no handler"),
    count("parked", "of the published, that wait behind a dead letter of their key"),
    count(
        "unaccounted_group", "published - handled - lagging - dead - skipped - parked: the events that the group lost"
    ),
    *(count(f"{verdict}_n", f"verdicts {verdict}") for verdict in AUDIT_VERDICTS),
)
