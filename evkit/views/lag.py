"""Kafka's offsets and evkit's inbox → how far each consumer group is behind.

Four questions, in this order: what has each group committed, where do the partitions start, where do they end for readers
of committed records, and where do they end. Asked the other way round, a group that is at work would seem to be ahead of
its topic. Then one record is read at the committed offset of every partition that is behind: its timestamp is the age of
what waits, exactly, with no line drawn through samples. Reading uses `assign()` and commits nothing, so no group is joined
and none is made.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from evkit.errors import NoPostgres, NotInFreeze, NotMigrated, UnknownGroup, Unreachable
from evkit.postgres import text_array
from evkit.sql import named
from evkit.system import System
from evkit.views.broker import Broker, broker
from evkit.views.frame import Frame, Frames, frame, groups_of, view
from evkit.views.offsets import Place

log = logging.getLogger(__name__)


@view("lag")
def lag(system: System, group: str | None = None, *, frames: Frames = "polars") -> Frame:
    """How far every consumer group is behind, now: one row for each group, topic and partition.

    Groups are those the cluster knows, those of evkit's inbox in the last seven days, and those that `evkit sample` saw in
    the last hour; without PostgreSQL, the cluster's alone. Partitions are those the group has committed to, has assigned,
    or has handled events of, and of topics that are gone those that were sampled in the last hour.

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
    ask = broker(system)
    states, topics = ask.groups(), ask.topics()
    handled = _known_partitions(system, ask, states, topics)
    known = sorted(set(states) | set(handled))
    if group is not None:
        if group not in known:
            raise UnknownGroup(group, known, where=f"to the cluster at {system.settings.bootstrap_servers}")
        known = [group]
    # First what members hold: only a coordinator that is ready may be asked for offsets.
    assigned = ask.assigned([name for name in known if name in states])
    committed = _committed(ask, assigned)
    places: dict[str, set[Place]] = {}
    for name in known:
        of_group = {*committed.get(name, ()), *assigned.get(name, ()), *handled.get(name, ())}
        places[name] = {p for p in of_group if not p[0].startswith("__")}
    # To ask for the offset of a deleted topic would fail the whole request.
    every = sorted(p for p in set().union(*places.values()) if p[1] < topics.get(p[0], 0))
    starts, stable, ends = (ask.offsets(every, spec) for spec in ("earliest", "stable", "latest"))
    facts = ask.topic_facts({topic for topic, _ in every})
    unread = {
        (name, place): max(offset, starts[place])
        for name in known
        for place, offset in committed.get(name, {}).items()
        if place in starts and place in ends and offset < ends[place]
    }
    # Of these no reader of committed records would be given anything.
    held = {of: at for of, at in unread.items() if at >= stable.get(of[1], ends[of[1]])}
    oldest = ask.oldest_unread({of: at for of, at in unread.items() if of not in held}, ends, "read_committed")
    oldest |= ask.oldest_unread(held, ends, "read_uncommitted")
    measured_at = system.now()
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
                "group_state": states.get(name, "dead"),
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


def _known_partitions(
    system: System, ask: Broker, states: Mapping[str, str], topics: Mapping[str, int]
) -> dict[str, set[Place]]:
    """What evkit's tables know: of the inbox all, of samples groups and topics that the cluster does not have any more.

    Nothing when there is no PostgreSQL or no evkit in it: lag is a matter of Kafka.
    """
    found: dict[str, set[Place]] = defaultdict(set)
    sql = named("lag")
    try:
        cluster: dict[str, Any] = {"cluster_id": ask.cluster_id(), "now": system.now()}
        with system.reading() as connection:
            groups = groups_of(system, connection)
            rows = connection.execute(sql["inbox_partitions"], {"groups": groups}).fetchall()
            pairs = connection.execute(sql["sampled_topics"], cluster).fetchall()
            gone = [pair for pair in pairs if pair[0] not in states or pair[1] not in topics]
            if gone:
                asked = {"groups": text_array([g for g, _ in gone]), "topics": text_array([t for _, t in gone])}
                rows += connection.execute(sql["sampled_partitions"], cluster | asked).fetchall()
            for group, topic, partition in rows:
                found[group].add((topic, partition))
    except (NoPostgres, NotInFreeze) as error:
        log.info("lag without evkit's tables: %s", error)
    except (Unreachable, NotMigrated) as error:  # they should be there: a group that only they know is missing now
        log.warning("lag without evkit's tables: %s", error)
    return found


def _committed(ask: Broker, groups: Iterable[str]) -> dict[str, dict[Place, int]]:
    return {
        group: {place: offset for place, offset in offsets.items() if not place[0].startswith("__")}
        for group, offsets in ask.committed(groups).items()
    }
