"""Where consumer groups are, were, and whether that is well."""

from __future__ import annotations

from evkit.views.columns.column import GROUP, MEASURED_AT, PARTITION, TOPIC, Column, count, flag, seconds, text, time

# Of a partition in views.lag, the worst last.
LAG_STATUSES = ("ok", "no_commit", "unknown", "open_transaction", "behind", "ahead", "data_loss")

LAG = (
    GROUP,
    TOPIC,
    PARTITION,
    count("committed_offset", "next offset the group will read; null when it never committed", ""),
    count("start_offset", "first offset the partition still has", ""),
    count("end_offset", "next offset the broker will assign", ""),
    count("lag_events", "end_offset - committed_offset, never clipped; null when the group never committed"),
    count("lag_readable_events", "what of the lag can still be read: end_offset - max(committed, start)"),
    count("lost_events", "offsets deleted before the group read them: start_offset - committed_offset, at least 0"),
    count("backlog_events", "end_offset - start_offset: the lag of a group that would start from the beginning"),
    count("stable_offset", "end for who reads committed records; before end_offset while a transaction is open", ""),
    count(
        "lag_stable_events", "stable_offset - committed_offset: what of the lag may be read already; null as lag_events"
    ),
    count("open_events", "end_offset - stable_offset: offsets that wait for the end of a transaction"),
    Column(
        "retention_used_ratio",
        "float64",
        "0..1",
        "lag_readable_events / backlog_events; at 1 retention takes unread ones next",
    ),
    seconds("lag_seconds", "age of the oldest unread record; 0 when nothing is unread, null when not measurable"),
    text(
        "lag_seconds_method",
        "record (read at the committed offset), open_transaction (the same, not committed yet), "
        "empty (nothing to read), grid (of a moment that has passed, by where the partition ended before it) or none",
    ),
    text(
        "group_state",
        "state of the group at the broker: stable, empty, …; dead when it does not know the group any more",
    ),
    text("member_id", "member of the group that has the partition; null when none has, or the broker does not say"),
    text("client_id", "as that member calls itself"),
    text("client_host", "where that member is, as the broker sees it"),
    flag(
        "compacted",
        "true when the topic keeps only the last record of each key, so that offsets are far more than events",
    ),
    text("status", "ok, behind, open_transaction, no_commit, ahead, data_loss or unknown"),
    MEASURED_AT,
)

LAG_GROUPS = (
    GROUP,
    TOPIC,
    count("partitions", "partitions that the group has committed to, has assigned, or has handled events of", ""),
    count("partitions_behind", "of them, those with something to read", ""),
    count("partitions_without_commit", "of them, those that the group never committed to", ""),
    count("members", "members of the group that have one of these partitions", ""),
    count("lag_events", "lag of all partitions, those beyond their end left out; null when nothing was committed"),
    count("lag_events_max", "lag of the partition that is furthest behind; null as lag_events"),
    Column("lag_events_max_partition", "int32", "", "which partition that is; null when nothing is behind"),
    seconds("lag_seconds_max", "age of the oldest unread record; null when it could not be measured anywhere"),
    count("lost_events", "offsets deleted before the group read them; null as lag_events"),
    Column(
        "skew", "float64", "", "lag_events_max over the mean lag of a partition: 1 is even; null when nothing is behind"
    ),
    text("group_state", "state of the group at the broker; dead when it does not know the group any more"),
    text("status", f"that of the worst partition: {', '.join(LAG_STATUSES)}"),
    MEASURED_AT,
)

LAG_HISTORY = (
    time("at", "the moment"),
    GROUP,
    TOPIC,
    PARTITION,
    count(
        "committed_offset",
        "next offset the group would have read, of inbox: have handled; null when it had none, or not covered",
        "",
    ),
    count("end_offset", "next offset the broker would have assigned; null when truncated, not exact, or not told", ""),
    count("lag_events", "end_offset - committed_offset, never clipped; null when one of them is"),
    seconds("lag_seconds", "time since the end passed the committed offset; null when that was before the window"),
    flag("covered", "true when the source knows what the group had committed at this moment"),
    flag("truncated", "true when the topic's records of that time were deleted"),
    flag("exact", "false when the end cannot be told: timestamps go back, or (inbox) others write to the topic, too"),
    text("source", "where it is from: offsets_log, commit_log, sample or inbox; of a partition always one"),
)

_FROM_LOG = text("source", "where it is from: offsets_log, or commit_log, what `evkit sample` has copied of it")

REBALANCES = (
    time("at", "when it was written down, by the coordinator's clock"),
    GROUP,
    text("protocol", "classic, or consumer (KIP-848)"),
    count("epoch", "the classic group's generation, or the group's epoch; null when deleted", ""),
    count("members_before", "members of the epoch before; null when its record is gone", "members"),
    count("members_after", "members of this one; null when some of them may be gone from the log", "members"),
    text("kind", "made, joined, left, replaced, changed, emptied, deleted or unknown"),
    _FROM_LOG,
)

OFFSET_RESETS = (
    time("at", "when, by the coordinator's clock"),
    GROUP,
    TOPIC,
    PARTITION,
    count("from_offset", "committed offset before", ""),
    count("to_offset", "committed offset after", ""),
    count("moved_events", "to_offset - from_offset: below 0 are read again, above are skipped"),
    text("direction", "back or forward"),
    text("moved_by", "member, outside (the group had no members: an operator or a tool), or unknown"),
    time("regained_at", "when a group that was set back had committed its old offset again; null when it has not"),
    _FROM_LOG,
)

CONSUMER_STATUS = (
    GROUP,
    TOPIC,
    PARTITION,
    text("status", "ok, warn, stall, stop, rewind, catching_up, data_loss, ahead, no_commit or unknown"),
    text("reason", "why, in a sentence with its numbers"),
    flag("alarm", "true when it is worth waking somebody for"),
    count("lag_events", "end offset - committed offset, never clipped; null when the group never committed"),
    count("unread_events", "what of it the group may read now; null as lag_events"),
    count("lost_events", "offsets deleted before the group read them"),
    count("rewind_from", "committed offset before it went back; null when it did not", ""),
    count("rewind_to", "the offset it went back to", ""),
    time("rewind_at", "when it went back"),
    Column("velocity_per_second", "float64", "1/s", "change of the lag; null when too little was seen"),
    Column("read_per_second", "float64", "1/s", "change of the committed offset; null as the velocity"),
    Column("written_per_second", "float64", "1/s", "change of what there was to read; null as the velocity"),
    seconds("drain_seconds", "until the lag is gone, as things go; infinite for never, null when it cannot be said"),
    seconds("drain_low_seconds", "the same at best"),
    seconds("drain_high_seconds", "the same at worst"),
    seconds(
        "retention_seconds", "until unread records are deleted, as things go; infinite for never, null as the drain"
    ),
    seconds("still_seconds", "since the offset moved, with something to read behind it; null when never"),
    seconds("allowed_seconds", "how long that may last, by the group's own pace"),
    flag("hot", "true when it holds far more of the topic's lag than the other partitions"),
    text("group_state", "state of the group at the broker; null when the broker does not know it"),
    flag("covered", "true when all commits of the window are known"),
    MEASURED_AT,
)
