"""lag_history and appended → the series of a group that only Kafka knows: its lag, and what came into its topics."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from evkit.errors import BrokerRefused, BrokerUnreachable, NotInFreeze, UnknownTopic
from evkit.system import System
from evkit.views.appended import appended
from evkit.views.frame import rows_of
from evkit.views.lag_history import lag_history
from evkit.window import Window

log = logging.getLogger(__name__)

# What `append_rate` is from: the timestamps of a topic's records.
TOPIC = "topic"


class Told(NamedTuple):
    """One measure of one topic: values at moments, or in the buckets that begin there; and who told it."""

    measure: str
    topic: str
    times: list[datetime]
    values: list[float | None]
    source: str


def told_by_kafka(system: System, seen: Window, group: str, wanted: Sequence[str], length: timedelta) -> Iterator[Told]:
    """`lag` at each step and `append_rate` in each whole bucket, by topic of the group; a moment that the history does not
    cover in every partition has no value. Of a topic whose partitions are told by several sources, all are named.

    Raises:
        UnknownGroup: nobody knows the group. Others: see `lag_history`.
    """
    history = rows_of(lag_history(system, group, window=seen, step=length), "lag_history")
    by_topic: dict[str, dict[datetime, list[int | None]]] = defaultdict(lambda: defaultdict(list))
    sources: dict[str, set[str]] = defaultdict(set)
    for row in history:
        sources[row["topic"]].add(row["source"])
        by_topic[row["topic"]][row["at"]].append(row["lag_events"])
    for topic, of_topic in sorted(by_topic.items()):
        if "lag" in wanted:
            times = sorted(of_topic)
            yield Told("lag", topic, times, [_sum(of_topic[at]) for at in times], ", ".join(sorted(sources[topic])))
        if "append_rate" in wanted:
            try:
                buckets = rows_of(appended(system, seen, topic, bucket=length), "appended")
            except (BrokerUnreachable, BrokerRefused, NotInFreeze, UnknownTopic) as error:
                log.warning("change_points: the append rate of %s is missing: %s", topic, error)
                continue
            whole = [row for row in buckets if not row["partial"]]
            values = [row["appended"] if row["exact"] and not row["truncated"] else None for row in whole]
            yield Told("append_rate", topic, [row["bucket_at"] for row in whole], values, TOPIC)


def _sum(lags: Sequence[int | None]) -> float | None:
    known = [lag for lag in lags if lag is not None]
    return float(sum(known)) if len(known) == len(lags) else None
