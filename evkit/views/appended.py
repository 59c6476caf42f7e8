"""ends of partitions over time → how many events came into each topic: for any cluster, whoever wrote them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise

from evkit.errors import NotInFreeze, UnknownTopic
from evkit.system import System
from evkit.views.broker import broker
from evkit.views.end_offsets import UNKNOWN, End
from evkit.views.frame import Frame, Frames, WindowLike, bucket_of, frame, view
from evkit.views.lag_history import past_window
from evkit.views.offsets import Place

log = logging.getLogger(__name__)

_MS = timedelta(milliseconds=1)


@view("appended")
def appended(
    system: System,
    window: WindowLike = None,
    topic: str | None = None,
    *,
    bucket: str | timedelta | None = None,
    frames: Frames = "polars",
) -> Frame:
    """How many events were appended to each topic, per bucket of time; from Kafka alone, and nothing had to be sampled.

    Args:
        window  a `Window`, "2h", "FROM/TO"; default: the last hour. Its end is not after now
        topic   one topic; default: all of the cluster
        bucket  length of a bucket ("30s"), counted from the window's start; default: a round one that makes at most 120

    Columns: see columns/

    Sorted by topic, then bucket; a bucket in which nothing came is a row with 0. Counted is by the records' timestamps: the
    broker's clock where it stamps them, else the producers'. One partition that cannot be told makes the bucket null.

    Raises:
        UnknownTopic: the cluster has no such topic; the closest names are in `suggestions`.
        InvalidParameter: window or bucket cannot be read, or the window begins in the future.
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    seen = past_window(window, system)
    length = bucket_of(bucket, seen)
    topics = broker(system).topics()
    if topic is not None:
        if topic not in topics:
            raise UnknownTopic(topic, topics, where=f"to the cluster at {system.settings.bootstrap_servers}")
        topics = {topic: topics[topic]}
    count = -((seen.start - seen.end) // length)
    edges = [seen.start + n * length for n in range(count)] + [seen.end]
    # The end at t counts a record of that very millisecond, and a bucket does not have its end.
    ends = _ends(system, topics, [at - _MS for at in edges], is_asked=topic is not None)
    rows = []
    for name, partitions in sorted(topics.items()):
        of_topic = [ends.get((name, p), [UNKNOWN] * len(edges)) for p in range(partitions)]
        for i, (start, end) in enumerate(pairwise(edges)):
            here = [(of[i], of[i + 1]) for of in of_topic]
            known = [b.offset - a.offset for a, b in here if a.offset is not None and b.offset is not None]
            total = sum(known) if len(known) == partitions else None
            seconds = (end - start).total_seconds()
            rows.append(
                [
                    start,
                    seconds,
                    name,
                    partitions,
                    total,
                    None if total is None else total / seconds,
                    any(a.is_truncated or b.is_truncated for a, b in here),
                    all(a.is_exact and b.is_exact for a, b in here),
                    end - start < length,
                ]
            )
    return frame("appended", rows, frames)


def _ends(
    system: System, topics: Mapping[str, int], instants: list[datetime], *, is_asked: bool
) -> Mapping[Place, list[End]]:
    """Where the partitions ended; of all topics, those that a freeze does not have are unknown, with a warning."""
    ask = broker(system)
    try:
        return ask.ends([(t, p) for t, n in topics.items() for p in range(n)], instants)
    except NotInFreeze as error:
        if is_asked:
            raise
        log.warning("appended: %s", error)
    found: dict[Place, list[End]] = {}
    for topic, n in topics.items():
        with suppress(NotInFreeze):
            found |= ask.ends([(topic, p) for p in range(n)], instants)
    return found
