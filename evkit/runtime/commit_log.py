"""Kafka's `__consumer_offsets` → evkit.commit_log: copy what groups leave there before Kafka compacts it.

How far the copy has come in each partition moves in the transaction of its rows (evkit.commit_log_tail): killed wherever,
it goes on with the next record, none is lost and none is there twice.

Offsets that are missing are either markers and aborted commits of transactions, or records that were compacted away, and a
client cannot tell. Three cases:

- On the first reading they count as compacted, as in offsets_log.py.
- After an interruption, when there is a hole in what has come since, everything that was there may lack something: that is
  a gap, in which a group's commits are unknown until its next one (evkit.commit_log_gap).
- While the log is followed, its end reached less than FOLLOWED_SECONDS ago, a hole is a marker: to lose a record before it
  is read, Kafka would have to begin a new segment, and clean the old one, in less than that. A topic whose segments are
  that short (`segment.ms`) is never taken to be followed.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from evkit import kafka, kafka_admin, postgres
from evkit.errors import BrokerRefused, OffsetsLogRefused, Undecodable
from evkit.kafka import KafkaError, Record, TopicPartition
from evkit.offsets_log import OFFSETS_TOPIC
from evkit.offsets_records import Commit, decode
from evkit.runtime.groups_wanted import wanted
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_SQL = named("commit_log")

FOLLOWED_SECONDS = 30.0
# Commits, and what rebalances are told from. What each member holds is a record of its own, and nobody asks for it.
KINDS = ("commit", "classic_group", "group_epoch", "member")
# Records of one transaction at most: 20,000 commits are 3 MB.
_RECORDS_MAX = 20_000
# After a refusal, when to ask again whether somebody has given the right meanwhile.
_REFUSED_SECONDS = 600.0

_COLUMNS = (
    "log_partition", "log_offset", "written_at", "kind", "consumer_group", "topic", "partition", "committed_offset",
    "committed_at", "raw_key", "raw_value",
)  # fmt: skip


@dataclass(slots=True)
class Tail:
    """One partition of the log, as evkit.commit_log_tail has it and as this process sees it.

    Attributes:
        eof           end that was reached last; markers before it are no records
        pause         (offset, time) where an interruption began; None while nothing was interrupted
        is_first      it is read from its beginning, and the end was not reached yet
        caught_up_at  monotonic time when its end was last known to be reached
        asked         (end, stable end, time, monotonic time) of the last question; None when it was reached
        is_moved      differs from its row
    """

    next_offset: int
    complete_at: datetime | None = None
    first_hole: int | None = None
    whole_from: int = 0
    whole_since: datetime | None = None
    eof: int = 0
    pause: tuple[int, datetime | None] | None = None
    is_first: bool = True
    caught_up_at: float = float("-inf")
    asked: tuple[int, int, datetime, float] | None = None
    is_moved: bool = False


@dataclass(slots=True)
class _Batch:
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    gaps: list[tuple[int, int, datetime | None]] = field(default_factory=list)


class CommitLog:
    """The copy of one cluster's log; for the thread and the connection of its sampler.

    Args:
        groups  names or patterns of the groups whose records are copied; none: all
    """

    def __init__(self, system: System, cluster_id: str, groups: Sequence[str]) -> None:
        self._system = system
        self._cluster_id = cluster_id
        self._groups = list(groups)
        self._tails: dict[int, Tail] = {}
        self._reader: Any = None
        self._ask_again_at = 0.0
        self._is_refused = False
        self._wanted: dict[str, bool] = {}
        self._passed_over: Counter[str] = Counter()
        self._may_follow = False

    @property
    def is_open(self) -> bool:
        """Whether there is something to follow."""
        return self._reader is not None

    def look(self, connection: postgres.Connection) -> None:
        """Ask where the log ends, so that `follow` knows what is complete; and begin, when there is a log by now.

        Raises:
            BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
        """
        if self._reader is None and time.monotonic() >= self._ask_again_at:
            self._open(connection)
        if self._reader is None:
            return
        settings, admin = self._system.settings, self._system.admin
        at, now = datetime.now(UTC), time.monotonic()
        places = [(OFFSETS_TOPIC, p) for p in self._tails]
        ends = kafka_admin.told_offsets(settings, places, kafka.LATEST, admin)
        stable = kafka_admin.told_offsets(settings, places, None, admin)
        for place in places:
            if place in ends and place in stable:
                self._tails[place[1]].asked = (ends[place].offset, stable[place].offset, at, now)
        self._reached()

    def follow(self, connection: postgres.Connection, seconds: float) -> int:
        """Copy what has come, waiting for it so long at most; returns how many records were read.

        Raises:
            psycopg's errors: nothing of it is written; begin again on a new connection.
        """
        batch, read = _Batch(), 0
        for message in self._reader.consume(_RECORDS_MAX, max(seconds, 0.0)):
            error = message.error()
            if error is None:
                read += 1
                self._take(kafka.record_of(message, datetime.now(UTC)), batch)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._tails[message.partition()].eof = message.offset()
            elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                self._refuse(error)
                return read
            else:  # the client goes on by itself, and the next round says what it cannot reach
                log.info("%s: %s", OFFSETS_TOPIC, error)
        self._reached()
        self._write(connection, batch)
        return read

    def catch_up(self, connection: postgres.Connection) -> None:
        """Copy all that the log has at this moment.

        Raises:
            BrokerUnreachable: nothing came for `settings.kafka_timeout_seconds`.
        """
        self.look(connection)
        until = time.monotonic() + self._system.settings.kafka_timeout_seconds
        while self._reader is not None and any(tail.asked is not None for tail in self._tails.values()):
            if self.follow(connection, 0.1):
                until = time.monotonic() + self._system.settings.kafka_timeout_seconds
            elif time.monotonic() > until:
                log.warning("%s was not read to its end: the rest is copied by the next sampler", OFFSETS_TOPIC)
                return

    def expire(self, connection: postgres.Connection, before: datetime, rows_max: int) -> int:
        """Delete what is older and was replaced; returns how many rows."""
        if not self._tails:
            return 0
        deleted = 0
        with connection.transaction():
            asked = {"cluster_id": self._cluster_id, "before": before, "rows_max": rows_max}
            for partition, offset, at, rows in connection.execute(_SQL["expire_commits"], asked).fetchall():
                deleted += rows
                if (tail := self._tails.get(partition)) is not None:
                    tail.first_hole = 0
                    if offset >= tail.whole_from:
                        tail.whole_from, tail.whole_since = offset + 1, at
                    tail.is_moved = True
            self._write(connection, _Batch())
        return deleted

    def close(self) -> None:
        """Close the reader; what it had read and not written is read again by the next one."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # --- beginning ----------------------------------------------------------------------------------------------------

    def _open(self, connection: postgres.Connection) -> None:
        settings, admin = self._system.settings, self._system.admin
        try:
            count = kafka_admin.partitions_count(settings, OFFSETS_TOPIC, admin)
        except BrokerRefused as error:
            if error.cause.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            self._refuse(error.cause)
            return
        if count is None:
            return
        segment_ms = kafka_admin.topic_setting(settings, OFFSETS_TOPIC, "segment.ms", admin)
        self._may_follow = segment_ms is not None and int(segment_ms) >= 20 * FOLLOWED_SECONDS * 1000
        asked = {"cluster_id": self._cluster_id, "groups": self._groups, "partitions": list(range(count))}
        with connection.transaction():
            known = {row[0] for row in connection.execute(_SQL["tails"], asked).fetchall()}
            connection.execute(_SQL["change_groups"], asked)
            connection.execute(_SQL["begin"], asked)
            rows = connection.execute(_SQL["tails"], asked).fetchall()
        self._tails = {
            partition: Tail(
                next_offset, complete_at, first_hole, whole_from, whole_since,
                pause=(next_offset, complete_at) if partition in known else None, is_first=partition not in known,
            )
            for partition, next_offset, complete_at, first_hole, whole_from, whole_since, _ in rows
        }  # fmt: skip
        properties: dict[str, Any] = {"enable.partition.eof": True, "queued.min.messages": 2_000}
        self._reader = kafka.consumer(settings, "evkit-sample", **properties)
        self._reader.assign([TopicPartition(OFFSETS_TOPIC, p, t.next_offset) for p, t in sorted(self._tails.items())])

    def _refuse(self, cause: KafkaError) -> None:
        self.close()
        self._ask_again_at = time.monotonic() + _REFUSED_SECONDS
        if not self._is_refused:
            self._is_refused = True
            refused = OffsetsLogRefused(self._system.settings.bootstrap_servers, cause)
            log.warning("samples are taken, and no copy of the offsets log: %s", refused)

    # --- records ------------------------------------------------------------------------------------------------------

    def _take(self, record: Record, batch: _Batch) -> None:
        tail = self._tails[record.partition]
        if record.offset < tail.next_offset:
            return
        if record.offset > tail.next_offset:
            self._hole(record.partition, tail, record, batch)
        tail.next_offset = record.offset + 1
        tail.is_moved = True
        try:
            found = decode(record.key, record.value)
        except Undecodable as error:
            self._pass_over(error.reason)
            return
        if found is None or record.timestamp is None:
            self._pass_over("a kind or version that this evkit does not know")
            return
        key, value = found
        if key.kind not in KINDS or not self._is_wanted(key.group):
            return
        place = (record.partition, record.offset, record.timestamp, key.kind, key.group)
        if key.kind != "commit":
            batch.rows.append((*place, None, None, None, None, record.key, record.value))
        elif isinstance(value, Commit):
            batch.rows.append((*place, key.topic, key.partition, value.offset, value.committed_at, None, None))
        else:
            batch.rows.append((*place, key.topic, key.partition, None, record.timestamp, None, None))

    def _is_wanted(self, group: str) -> bool:
        if group not in self._wanted:
            self._wanted[group] = "\x00" not in group and wanted(group, self._groups)
        return self._wanted[group]

    def _pass_over(self, reason: str) -> None:
        if not self._passed_over[reason]:
            log.info("%s: records are passed over: %s", OFFSETS_TOPIC, reason)
        self._passed_over[reason] += 1

    def _hole(self, partition: int, tail: Tail, record: Record, batch: _Batch) -> None:
        """Offsets before this record are missing; see the module."""
        is_followed = self._may_follow and time.monotonic() - tail.caught_up_at < FOLLOWED_SECONDS
        if is_followed and tail.pause is None:
            return
        if not tail.is_first:
            offset, since = tail.pause or (tail.next_offset, tail.complete_at)
            batch.gaps.append((partition, offset, since))
        if tail.first_hole is None:
            tail.first_hole = tail.next_offset
        tail.whole_from, tail.whole_since = record.offset, record.timestamp

    def _reached(self) -> None:
        """Note what is complete: all that the log had when its end was asked for."""
        for tail in self._tails.values():
            if tail.asked is None:
                continue
            end, stable, at, asked_at = tail.asked
            if max(tail.next_offset, tail.eof) < stable:
                continue
            tail.asked, tail.caught_up_at, tail.pause, tail.is_first = None, asked_at, None, False
            if stable >= end:  # else a transaction is open: what it has committed counts from its own time on
                tail.complete_at, tail.is_moved = at, True

    def _write(self, connection: postgres.Connection, batch: _Batch) -> None:
        moved = {p: t for p, t in self._tails.items() if t.is_moved}
        if not moved:
            return
        with connection.transaction():
            if batch.rows:
                columns: dict[str, Any] = dict(zip(_COLUMNS, map(list, zip(*batch.rows, strict=True)), strict=True))
                connection.execute(_SQL["keep"], columns | {"cluster_id": self._cluster_id})
            for partition, offset, since in dict.fromkeys(batch.gaps):
                gap = {"log_partition": partition, "log_offset": offset, "since": since}
                connection.execute(_SQL["keep_gap"], gap | {"cluster_id": self._cluster_id})
            tails = list(moved.values())
            connection.execute(
                _SQL["move_tails"],
                {
                    "cluster_id": self._cluster_id,
                    "log_partition": list(moved),
                    "next_offset": [t.next_offset for t in tails],
                    "complete_at": [t.complete_at for t in tails],
                    "first_hole": [t.first_hole for t in tails],
                    "whole_from": [t.whole_from for t in tails],
                    "whole_since": [t.whole_since for t in tails],
                },
            )
        for tail in moved.values():
            tail.is_moved = False
