"""Kafka's offsets and evkit's inbox → how far each consumer group is behind.

Four questions, in this order: what has each group committed, where do the partitions start, where do they end for readers
of committed records, and where do they end. Asked the other way round, a group that is at work would seem to be ahead of
its topic. Then one record is read at the committed offset of every partition that is behind: its timestamp is the age of
what waits, exactly, with no line drawn through samples. Reading uses `assign()` and commits nothing, so no group is joined
and none is made.
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
from evkit.kafka import KafkaError, OffsetSpec, TopicPartition
from evkit.sql import named
from evkit.system import System
from evkit.views.frame import Frame, Frames, frame, groups_of, view
from evkit.views.offsets import Place, offsets_of

log = logging.getLogger(__name__)

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

    Columns: see columns/

    Status: `ok` (nothing to read), `behind`, `open_transaction` (all that is unread waits for the end of a transaction: no
    consumer of committed records can do anything), `no_commit` (nothing committed, and there is something to read), `ahead`
    (committed beyond the end: the topic was made anew, cut, or the offset was set by hand), `data_loss` (records were
    deleted before the group read them), `unknown` (the broker did not tell).

    Sorted by group, topic, partition. Empty, with these columns, when no group is known. Committed offsets are read
    before end offsets, so on a busy topic the lag may come out a little too high, never too low. Offsets are not events:
    transaction markers and compaction leave gaps, so lag_events is an upper bound, and on a compacted topic a high one.
    lag_seconds compares the record's timestamp with this machine's clock; a clock that runs behind the broker's gives 0,
    not less.

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
    committed = _committed(system, assigned)
    places: dict[str, set[Place]] = {}
    for name in known:
        of_group = {*committed.get(name, ()), *assigned.get(name, ()), *handled.get(name, ())}
        places[name] = {p for p in of_group if not p[0].startswith("__")}
    every = _existing(system, set().union(*places.values()) if places else set())
    starts = _offsets(system, every, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    stable = _offsets(system, every, None)
    ends = _offsets(system, every, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    facts = kafka_admin.topic_facts(system.settings, {topic for topic, _ in every}, system.admin)
    unread = {
        (name, place): max(offset, starts[place])
        for name in known
        for place, offset in committed.get(name, {}).items()
        if place in starts and place in ends and offset < ends[place]
    }
    # Of these no reader of committed records would be given anything.
    held = {of: at for of, at in unread.items() if at >= stable.get(of[1], ends[of[1]])}
    oldest = _oldest_unread(system, {of: at for of, at in unread.items() if of not in held}, ends)
    oldest |= _oldest_unread(system, held, ends, isolation="read_uncommitted")
    measured_at = datetime.now(UTC)
    rows = []
    for name in known:
        for place in sorted(places[name]):
            member = assigned.get(name, {}).get(place)
            of_topic = facts.get(place[0])
            row: dict[str, Any] = {
                "group": name,
                "topic": place[0],
                "partition": place[1],
                "committed_offset": committed.get(name, {}).get(place),
                "start_offset": starts.get(place),
                "stable_offset": stable.get(place),
                "end_offset": ends.get(place),
                "group_state": states.get(name),
                "member_id": member.member_id if member else None,
                "client_id": member.client_id if member else None,
                "client_host": member.host if member else None,
                "compacted": of_topic.compacted if of_topic else None,
                "measured_at": measured_at,
            }
            row |= _distances(row, oldest.get((name, place)), (name, place) in held)
            rows.append(row | {"status": _status(row)})
    return frame("lag", rows, frames)


def _distances(row: dict[str, Any], oldest: datetime | str | None, is_held: bool) -> dict[str, Any]:
    """What follows from a partition's offsets; pure arithmetic, nothing clipped except where it says."""
    committed, start, stable, end = (row[f"{of}_offset"] for of in ("committed", "start", "stable", "end"))
    found: dict[str, Any] = {"lag_seconds_method": "none"}
    if start is None or end is None:
        return found
    found["backlog_events"] = backlog = end - start
    if stable is not None:
        found["open_events"] = end - stable
    if committed is None:
        return found
    readable = end - max(committed, start)
    found |= {"lag_events": end - committed, "lag_readable_events": readable, "lost_events": max(start - committed, 0)}
    if stable is not None:
        found["lag_stable_events"] = stable - committed
    if backlog and readable >= 0:
        found["retention_used_ratio"] = readable / backlog
    if committed <= end and (readable == 0 or oldest == "empty"):
        # Behind the last record there can be markers of transactions: offsets, and nothing anybody could read.
        found |= {"lag_seconds": 0.0, "lag_seconds_method": "empty"}
    elif isinstance(oldest, datetime):
        method = "open_transaction" if is_held else "record"
        found |= {
            "lag_seconds": max((row["measured_at"] - oldest).total_seconds(), 0.0),
            "lag_seconds_method": method,
        }
    return found


def _status(row: dict[str, Any]) -> str:
    if row["start_offset"] is None or row["end_offset"] is None:
        return "unknown"
    if row["committed_offset"] is None:
        return "no_commit" if row["backlog_events"] else "ok"
    if row["lag_events"] < 0:
        return "ahead"
    if row["lost_events"]:
        return "data_loss"
    if row["lag_events"] == 0 or row["lag_seconds_method"] == "empty":
        return "ok"
    return "open_transaction" if row["lag_seconds_method"] == "open_transaction" else "behind"


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


def _committed(system: System, groups: Iterable[str]) -> dict[str, dict[Place, int]]:
    found, refused = kafka_admin.committed_of_groups(system.settings, groups, system.admin)
    for error in refused.values():
        raise error
    return {
        group: {place: offset for place, offset in offsets.items() if not place[0].startswith("__")}
        for group, offsets in found.items()
    }


def _existing(system: System, places: Iterable[Place]) -> list[Place]:
    """Those of the places that the cluster has; asking for the offset of a deleted topic would fail the whole request."""
    known = kafka.topics(system.settings, system.admin)
    return sorted(p for p in places if p[1] < known.get(p[0], 0))


def _offsets(system: System, places: list[Place], spec: OffsetSpec | None) -> dict[Place, int]:
    return {place: found.offset for place, found in offsets_of(system, places, spec).items()}


def _oldest_unread(
    system: System,
    unread: dict[tuple[str, Place], int],
    ends: dict[Place, int],
    *,
    isolation: str = "read_committed",
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
            "isolation.level": isolation,
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
