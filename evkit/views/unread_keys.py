"""Kafka → the keys that a group has most unread records of: one hot key, or many?"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from datetime import datetime
from typing import Any

from evkit.errors import InvalidParameter, UnknownGroup, UnknownTopic
from evkit.kafka import Message, record_of
from evkit.system import System
from evkit.views.broker import broker
from evkit.views.frame import Frame, Frames, frame, view
from evkit.views.scan.reader import ROW_LIMIT, Batch, Reader
from evkit.views.scan.rows import readable
from evkit.window import present

log = logging.getLogger(__name__)

# Of each topic; the hundredth key of a backlog is no hot one.
KEYS_MAX = 20
RECORDS_MAX = 1_000_000
_SECONDS_MAX = 60.0


@view("unread_keys")
def unread_keys(
    system: System,
    group: str,
    topic: str | None = None,
    *,
    keys_max: int = KEYS_MAX,
    records_max: int = RECORDS_MAX,
    seconds_max: float = _SECONDS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """Which keys a group's unread records are of, the most first: any group's, counted from its committed offsets on.

    Args:
        group        the consumer group; it is not joined, and nothing is committed
        topic        one topic; default: all that the group has committed to
        keys_max     most keys of each topic
        records_max  most records that are read of each topic, shared among its partitions as they come
        seconds_max  most seconds that each topic is read for

    Columns: see columns/

    Sorted by topic, then unread records, the most first. Ratios are of what was scanned (`scanned_events`), which is less
    than the lag on a compacted or transactional topic, and when a limit was hit: then `complete` is false, and a warning
    says so. A partition that the group never committed to is not read.

    Raises:
        UnknownGroup: the cluster does not know the group; the closest names are in `suggestions`.
        UnknownTopic: the group has committed nothing to this topic.
        BrokerUnreachable: no answer for `settings.kafka_timeout_seconds`. BrokerRefused.
    """
    if keys_max < 1 or records_max < 1:
        raise InvalidParameter("keys_max and records_max must be 1 or more", name="keys_max", value=keys_max)
    ask = broker(system)
    known = ask.groups()
    if group not in known:
        raise UnknownGroup(group, known, where=f"to the cluster at {system.settings.bootstrap_servers}")
    # Only a coordinator that is ready may be asked for offsets: its answer about members says that it is.
    ask.assigned([group])
    there = ask.topics()
    committed: dict[str, dict[int, int]] = defaultdict(dict)
    for (name, p), offset in ask.committed([group])[group].items():
        if p < there.get(name, 0):
            committed[name][p] = offset
    if topic is not None:
        if topic not in committed:
            raise UnknownTopic(topic, committed, where=f"to the commits of group '{group}'")
        committed = defaultdict(dict, {topic: committed[topic]})
    rows: list[list[Any]] = []
    for name in sorted(committed):
        rows += _of_topic(system, group, name, committed[name], keys_max, records_max, seconds_max)
    return frame("unread_keys", rows, frames)


def _of_topic(
    system: System,
    group: str,
    topic: str,
    committed: dict[int, int],
    keys_max: int,
    records_max: int,
    seconds_max: float,
) -> list[list[Any]]:
    places = [(topic, p) for p in committed]
    starts, ends = broker(system).start_offsets(places), broker(system).end_offsets(places)
    ranges = {p: (min(max(committed[p], starts[topic, p]), ends[topic, p]), ends[topic, p]) for p in sorted(committed)}
    reader = Reader(system, topic, ranges, seconds_max=seconds_max)
    counts: Counter[tuple[bytes | None, int]] = Counter()
    oldest: dict[bytes | None, datetime | None] = {}
    scanned = 0
    for of in reader:
        batch = of
        if scanned + len(batch.messages) > records_max:
            room = records_max - scanned
            reader.cut(batch, room, ROW_LIMIT)
            batch = Batch(batch.messages[:room], batch.partitions[:room], batch.offsets[:room])
        scanned += len(batch.messages)
        keys: list[Any] = list(map(Message.key, batch.messages))
        counts.update(zip(keys, batch.partitions, strict=True))
        for key in set(keys) - oldest.keys():
            first = record_of(batch.messages[keys.index(key)], present())
            oldest[key] = first.timestamp
    if (unscanned := reader.unscanned()) is not None:
        log.warning("unread_keys of %s: %s", group, unscanned)
    now, lag = present(), sum(ends[topic, p] - committed[p] for p in committed)
    by_key: Counter[bytes | None] = Counter()
    most: dict[bytes | None, tuple[int, int]] = {}
    for (raw, p), n in counts.items():
        by_key[raw] += n
        most[raw] = max(most.get(raw, (0, 0)), (n, p))
    top = sorted(by_key.items(), key=lambda of: (-of[1], of[0] or b""))[:keys_max]
    return [
        [
            group, topic, readable(raw), most[raw][1], n, n / scanned, oldest[raw], scanned, lag, not reader.reasons, now,
        ]
        for raw, n in top
    ]  # fmt: skip
