"""What was when: what is known of a time, when numbers changed, and how two stretches of time differ."""

from __future__ import annotations

from evkit.views.columns.column import Column, count, flag, seconds, text, time

MEASURES = ("publish_rate", "error_ratio", "latency_p50", "latency_p99", "lag", "relay_lag", "dead_letters")
# Of a group that only Kafka knows; beside its lag.
MEASURES_OF_KAFKA = ("append_rate",)

ANNOTATIONS = (
    time("at", "when it was, or began"),
    time("until", "when it ended; null for a moment, and for what is not over"),
    text(
        "kind",
        "deploy, config, broker, note, incident, rebalance, offset_reset, replay, redrive, breaker, schema or act",
    ),
    text("text", "what it was, in words"),
    text("group", "consumer group that it is about; null for all"),
    text("topic", "topic that it is about; null for all"),
    text(
        "source",
        "table it is from, offsets_log, commit_log (its copy), or for what was written down what wrote it: cli, python, …",
    ),
    text("actor", "who; null when nobody did it"),
    text("version", "code version of a deploy, or version of a schema; null for all else"),
    count("annotation_id", "what `evkit annotate edit | remove` take; null when it was not written down", ""),
)

CHANGE_POINTS = (
    time("at", "start of the first bucket that is different"),
    time("until", "start of the bucket where a change that took a while was complete; null for a step"),
    text("measure", "publish_rate, append_rate, error_ratio, latency_p50, latency_p99, lag, relay_lag or dead_letters"),
    text("group", "consumer group; null where the measure has none"),
    text("topic", "topic; null where the measure has none"),
    text("direction", "rose or fell"),
    Column("before", "float64", "", "level before: the mean of a rate or ratio, the median of all else, in `unit`"),
    Column("after", "float64", "", "level after"),
    text("unit", "1/s, 0..1, s, events or letters per minute (1/min)"),
    Column("confidence", "float64", "0..1", "1 - the chance that noise does this anywhere in the window"),
    Column("evidence", "float64", "", "what the change explains over the penalty it had to exceed; 1 is barely"),
    count("buckets", "buckets that were measured", "buckets"),
    seconds("bucket_seconds", "length of a bucket: the change point is that exact"),
    text(
        "source",
        "publication, attempt or inbox: which of evkit's tables; of a group of Kafka's topic (its records' timestamps), or "
        "as in lag_history, several with commas between",
    ),
    text("text", "the change as a sentence"),
)

TIMELINE = (
    time("at", "when it was, or began"),
    time("until", "when it ended or was complete; null for a moment, and for what is not over"),
    text("kind", "change, or a kind of views.annotations"),
    text("text", "a sentence with its numbers"),
    text("near", "what was just before a change, in words; null when nothing was"),
    text("group", "consumer group; null for all"),
    text("topic", "topic; null for all"),
    text("measure", "of a change, what changed; null for annotations"),
    Column("before", "float64", "", "of a change, the level before"),
    Column("after", "float64", "", "of a change, the level after"),
    text("source", "of a change as in views.change_points, of all else as in views.annotations"),
    text("actor", "who; null when nobody did it"),
)

COMPARE = (
    text("measure", "what is compared: published, handled, failed, dead, attempt_error_ratio, latency_p50, …"),
    text("group", "consumer group; null where the measure has none"),
    text("topic", "topic; null where the measure has none"),
    text("unit", "1/s, 0..1 or s"),
    Column("a", "float64", "", "value in the first window or version; null when there was nothing to measure"),
    Column("b", "float64", "", "value in the second"),
    count("a_n", "events or attempts that the value is of", ""),
    count("b_n", "the same of the second", ""),
    Column("difference", "float64", "", "b - a; null when one of them is"),
    Column("ratio", "float64", "", "b / a; null when a is 0 or one of them was not measured"),
    Column("low", "float64", "", "lower end of the interval of the difference; null when too few were measured"),
    Column("high", "float64", "", "upper end"),
    flag("significant", "true when the interval excludes 0 and enough was measured; null when that is not so"),
    text("text", "the difference as a sentence"),
)
