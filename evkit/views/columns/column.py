"""Column: name, dtype, unit and meaning of one column; and those that many views share."""

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


def time(name: str, meaning: str) -> Column:
    return Column(name, "time", "UTC", meaning)


def text(name: str, meaning: str) -> Column:
    return Column(name, "string", "", meaning)


def seconds(name: str, meaning: str) -> Column:
    return Column(name, "float64", "s", meaning)


def count(name: str, meaning: str, unit: str = "events") -> Column:
    return Column(name, "int64", unit, meaning)


def flag(name: str, meaning: str) -> Column:
    return Column(name, "bool", "", meaning)


GROUP = text("group", "consumer group")
TOPIC = text("topic", "topic")
PARTITION = Column("partition", "int32", "", "partition of the topic")
OFFSET = Column("offset", "int64", "", "offset of the record in its partition")
EVENT_ID = text("event_id", "id of the event")
EVENT_TYPE = text("event_type", "type of the event")
KEY = text("key", "key of the record; null when it has none")
HANDLER = text("handler", "function that failed; null when none was reached")
ERROR_CLASS = text("error_class", "class of the error")
ERROR_MESSAGE = text("error_message", "message of the error, or that a masking policy hides it")
FINGERPRINT = text("fingerprint", "equal for equal failures")
CODE_VERSION = text("code_version", "version of the consumer's code, when it said one")
REPLAY = flag("replay", "true when a replay or a redrive did it, false for live handling")
REPLAY_ID = text("replay_id", "which replay or redrive; null for live handling")
MEASURED_AT = time("measured_at", "when it was measured; one value for the whole call")
BUCKET_AT = time("bucket_at", "start of the bucket")
BUCKET_SECONDS = seconds("bucket_seconds", "length of the bucket inside the window")
PARTIAL = flag("partial", "true when the window cuts the bucket, or it is still running")


def percentiles(of: str) -> tuple[Column, ...]:
    return (
        seconds("p50_seconds", f"median {of}; null when nothing was measured"),
        seconds("p95_seconds", f"95th percentile {of}"),
        seconds("p99_seconds", f"99th percentile {of}; the maximum when fewer than 100 were measured"),
        seconds("max_seconds", f"longest {of}"),
        flag("p99_is_lower_bound", "true when events still waiting are among the slowest: the real p99 is higher"),
    )
