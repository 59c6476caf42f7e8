"""Kafka's offsets and evkit's inbox → how far each consumer group is behind.

Three questions, in this order: what has each group committed, where do the partitions start, where do they end. Asked the
other way round, a group that is at work would seem to be ahead of its topic. Then one record is read at the committed
offset of every partition that is behind: its timestamp is the age of what waits, exactly, with no line drawn through
samples. Reading uses `assign()` and commits nothing, so no group is joined and none is made.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from evkit import kafka, kafka_admin
from evkit.errors import NotMigrated, UnknownGroup, Unreachable
from evkit.kafka import KafkaError, KafkaException, OffsetSpec, TopicPartition
from evkit.sql import named
from evkit.system import System
from evkit.views.frame import Frame, Frames, frame, groups_of, view

log = logging.getLogger(__name__)

Place = tuple[str, int]  # topic, partition

# One record of each partition that is behind; brokers answer in milliseconds, and what takes longer is said to be unknown.
_READ_SECONDS = 5.0
# The client asks for no more than this at once: a record is wanted, not a backlog.
_FETCH_BYTES = 65_536


@view("lag")
def lag(system: System, group: str | None = None, *, frames: Frames = "polars") -> Frame:
    """How far every consumer group is behind, now: one row for each group, topic and partition.

    Groups are those the cluster knows and those of evkit's inbox in the last seven days; without PostgreSQL, the
    cluster's alone. Partitions are those the group has committed to, has assigned, or has handled events of.

    Args:
        group  one consumer group; default: all

    Columns: see columns.py

    Status: `ok` (nothing to read), `behind`, `no_commit` (nothing committed, and there is something to read), `ahead`
    (committed beyond the end: the topic was made anew, cut, or the offset was set by hand), `data_loss` (records were
    deleted before the group read them), `unknown` (the broker did not tell).

    Sorted by group, topic, partition. Empty, with these columns, when no group is known. Committed offsets are read
    before end offsets, so on a busy topic the lag may come out a little too high, never too low. Offsets are not events:
    transaction markers and compaction leave gaps, so lag_events is an upper bound. lag_seconds compares the record's
    timestamp with this machine's clock; a clock that runs behind the broker's gives 0, not less.

    Raises:
        UnknownGroup: neither the cluster nor the inbox knows the group; the closest names are in `suggestions`.
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.

    Source: the difference that Kafka's own consumer group tool prints as LAG.
    """
    states = kafka.groups(system.settings, system.admin)
    handled = _inbox_partitions(system)
    known = sorted(set(states) | set(handled))
    if group is not None:
        if group not in known:
            raise UnknownGroup(group, known, where=f"to the cluster at {system.settings.bootstrap_servers}")
        known = [group]
    # First what members hold: only a coordinator that is ready may be asked for offsets.
    assigned = kafka_admin.assigned(system.settings, [name for name in known if name in states], system.admin)
    committed = {name: _committed(system, name) for name in assigned}
    places: dict[str, set[Place]] = {}
    for name in known:
        of_group = set(committed.get(name, ())) | assigned.get(name, set()) | handled.get(name, set())
        places[name] = {p for p in of_group if not p[0].startswith("__")}
    every = _existing(system, set().union(*places.values()) if places else set())
    starts = _offsets(system, every, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    ends = _offsets(system, every, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    unread = {
        (name, place): max(offset, starts[place])
        for name in known
        for place, offset in committed.get(name, {}).items()
        if place in starts and place in ends and offset < ends[place]
    }
    oldest = _oldest_unread(system, unread, ends)
    measured_at = datetime.now(UTC)
    rows = []
    for name in known:
        for place in sorted(places[name]):
            offset = committed.get(name, {}).get(place)
            found = oldest.get((name, place))
            rows.append(
                [
                    name,
                    *place,
                    *_row(offset, starts.get(place), ends.get(place), found, measured_at),
                ]
            )
            rows[-1] += [states.get(name), _status(rows[-1]), measured_at]
    return frame("lag", rows, frames)


def _row(
    committed: int | None, start: int | None, end: int | None, oldest: datetime | str | None, measured_at: datetime
) -> list[Any]:
    """committed_offset … lag_seconds_method of one partition; pure arithmetic, nothing clipped except where it says."""
    if start is None or end is None:
        return [committed, start, end, None, None, None, None, None, "none"]
    backlog = end - start
    if committed is None:
        return [None, start, end, None, None, None, backlog, None, "none"]
    lag_events, readable, lost = end - committed, end - max(committed, start), max(start - committed, 0)
    seconds: float | None
    if lag_events <= 0 or readable == 0 or oldest == "empty":
        # Behind the last record there can be markers of transactions: offsets, and nothing anybody could read.
        seconds, method = (0.0, "empty") if lag_events >= 0 else (None, "none")
    elif isinstance(oldest, datetime):
        seconds, method = max((measured_at - oldest).total_seconds(), 0.0), "record"
    else:
        seconds, method = None, "none"
    return [committed, start, end, lag_events, readable, lost, backlog, seconds, method]


def _status(row: list[Any]) -> str:
    _, _, _, committed, start, end, lag_events, _, lost, backlog, _, method = row
    if start is None or end is None:
        return "unknown"
    if committed is None:
        return "no_commit" if backlog else "ok"
    if lag_events < 0:
        return "ahead"
    if lost:
        return "data_loss"
    return "ok" if lag_events == 0 or method == "empty" else "behind"


def _inbox_partitions(system: System) -> dict[str, set[Place]]:
    """What evkit's inbox knows; nothing when there is no PostgreSQL or no evkit in it: lag is a matter of Kafka."""
    found: dict[str, set[Place]] = defaultdict(set)
    try:
        with system.reading() as connection:
            groups = groups_of(system, connection)
            rows = connection.execute(named("lag")["inbox_partitions"], {"groups": groups}).fetchall()
            for group, topic, partition in rows:
                found[group].add((topic, partition))
    except (Unreachable, NotMigrated) as error:
        log.info("lag without evkit's tables: %s", error)
    return found


def _committed(system: System, group: str) -> dict[Place, int]:
    offsets = kafka.committed_offsets(system.settings, group, system.admin)
    return {place: offset for place, offset in offsets.items() if not place[0].startswith("__")}


def _existing(system: System, places: Iterable[Place]) -> list[Place]:
    """Those of the places that the cluster has; asking for the offset of a deleted topic would fail the whole request."""
    known = kafka.topics(system.settings, system.admin)
    return sorted(p for p in places if p[1] < known.get(p[0], 0))


def _offsets(system: System, places: list[Place], spec: OffsetSpec) -> dict[Place, int]:
    """Offsets of the places that answered; one without a leader must not hide the others."""
    if not places:
        return {}
    request = {TopicPartition(topic, partition): spec for topic, partition in places}
    futures = system.admin.list_offsets(request, request_timeout=system.settings.kafka_timeout_seconds)
    found: dict[Place, int] = {}
    failed: KafkaException | None = None
    for tp, future in futures.items():
        try:
            found[tp.topic, tp.partition] = future.result().offset
        except KafkaException as error:
            failed = error
            log.info("no offset of %s [%s]: %s", tp.topic, tp.partition, error)
    if failed is not None and not found:
        raise kafka.failed(system.settings, failed)
    return found


def _oldest_unread(
    system: System, unread: dict[tuple[str, Place], int], ends: dict[Place, int]
) -> dict[tuple[str, Place], datetime | str]:
    """Timestamp of the first record at or after each offset; "empty" where nothing readable is left before the end.

    One consumer can stand at one offset of a partition, so groups that stand at different ones are read in rounds.
    """
    wanted: dict[Place, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (group, place), offset in unread.items():
        wanted[place][offset].append(group)
    found: dict[tuple[str, Place], datetime | str] = {}
    if not wanted:
        return found
    consumer = kafka.consumer(
        system.settings,
        "evkit-views",
        **{
            "enable.partition.eof": True,
            "fetch.message.max.bytes": _FETCH_BYTES,
            "queued.min.messages": 1,
            "fetch.wait.max.ms": 100,
        },
    )
    try:
        while wanted:
            now = {place: next(iter(offsets)) for place, offsets in wanted.items()}
            answers = _first_records(consumer, now, ends)
            for place, offset in now.items():
                for group in wanted[place].pop(offset):
                    if place in answers:
                        found[group, place] = answers[place]
                if not wanted[place]:
                    del wanted[place]
    finally:
        consumer.close()
    return found


def _first_records(consumer: Any, at: dict[Place, int], ends: dict[Place, int]) -> dict[Place, datetime | str]:
    consumer.assign([TopicPartition(topic, partition, offset) for (topic, partition), offset in at.items()])
    deadline = time.monotonic() + _READ_SECONDS
    missing = set(at)
    found: dict[Place, datetime | str] = {}
    while missing and (left := deadline - time.monotonic()) > 0:
        message = consumer.poll(left)
        if message is None:
            break
        place = (message.topic(), message.partition())
        if place not in missing:
            continue
        error = message.error()
        if error is None:
            record = kafka.record_of(message, datetime.now(UTC))
            if record.timestamp is not None:
                found[place] = record.timestamp
        elif error.code() == KafkaError._PARTITION_EOF and message.offset() >= ends[place]:
            # Short of the end offset there would be an open transaction: something nobody may read yet.
            found[place] = "empty"
        missing.discard(place)
        consumer.incremental_unassign([TopicPartition(*place)])
    consumer.unassign()
    return found
