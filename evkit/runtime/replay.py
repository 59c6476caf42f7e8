"""a stretch of topic → one group's handler: plan, show, run, and go on after a kill.

A replay reads the topics from a point in time up to an end that is frozen when it is planned, and hands every event to the
handlers of one group, through that group's inbox. It joins no Kafka group and commits no offset, so the live consumers and
every other group do not know of it (P6). What handlers see is marked with the replay's id, and so are inbox rows, attempts
and letters.

What the group has handled before is decided by a declared policy:

    honour     (default) the inbox counts: only what is missing is handled. Finds lost events, repeats nothing.
    override   everything is handled again, under a generation of its own: a new version of a handler wants its past.
               Within that generation each event is handled once, also when the replay is killed and goes on.

A failing event does not stop a replay: it becomes a dead letter, marked with the replay's id.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from evkit import kafka, postgres
from evkit.errors import ReplayRefused, UnknownGroup, UnknownReplay
from evkit.event import new_id
from evkit.kafka import TopicPartition
from evkit.runtime import audit
from evkit.runtime.consumer import Consumer
from evkit.runtime.inbox import Inbox
from evkit.runtime.outcome import Counts
from evkit.runtime.session import Stopped
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_SQL = named("replay")
_INBOX = named("inbox")

Dedupe = Literal["honour", "override"]

# A line in the log each so many events, for replays without a terminal.
PROGRESS_EVENTS = 10_000
_BATCH_EVENTS_MAX = 500
# No record for this long, and the client says no end was reached: the broker is away. Said once, then waited out.
_QUIET_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Range:
    """A stretch of one partition: offsets start..end-1; `next` is where it goes on."""

    topic: str
    partition: int
    start: int
    end: int
    next: int

    @property
    def offsets(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a replay would read, and what the group's inbox already knows of it.

    Attributes:
        offsets        upper bound of the records to read: offsets are not events (transaction markers, compaction)
        known_handled  events in the stretch that this group has handled
        known_dead     events in the stretch that are dead letters of this group
        retention_cut  the topic no longer has all of the stretch: its oldest record is already later than `from_time`
    """

    group: str
    topics: tuple[str, ...]
    from_time: datetime
    until_time: datetime | None
    dedupe: Dedupe
    ranges: tuple[Range, ...]
    known_handled: int
    known_dead: int
    retention_cut: bool

    @property
    def offsets(self) -> int:
        return sum(r.offsets for r in self.ranges)

    def summary(self) -> dict[str, Any]:
        """The plan for people and for the audit row."""
        return {
            "group": self.group,
            "topics": list(self.topics),
            "from_time": self.from_time.isoformat(),
            "until_time": self.until_time.isoformat() if self.until_time else None,
            "dedupe": self.dedupe,
            "offsets": self.offsets,
            "known_handled": self.known_handled,
            "known_dead": self.known_dead,
            "retention_cut": self.retention_cut,
            "partitions": sum(1 for r in self.ranges if r.offsets),
        }


@dataclass(slots=True)
class ReplayResult:
    """How far a replay came. `handled`, `skipped` and `failed` count events over all its runs."""

    replay_id: str
    state: str
    counts: Counts = field(default_factory=Counts)

    def summary(self) -> dict[str, Any]:
        return {
            "replay_id": self.replay_id,
            "state": self.state,
            "handled": self.counts.handled,
            "skipped": self.counts.duplicate + self.counts.skipped,
            "failed": self.counts.dead,
        }


# --- planning ---------------------------------------------------------------------------------------------------------


def plan(
    system: System,
    group: str,
    from_time: datetime,
    until_time: datetime | None = None,
    *,
    topics: Sequence[str] | None = None,
    dedupe: Dedupe = "honour",
) -> ReplayPlan:
    """What a replay of this group from this time would read; changes nothing.

    `topics` defaults to those of which the group has handled events. The end is frozen here: the offset at `until_time`,
    at most the end of the topic now.

    Raises:
        UnknownGroup, UnknownTopic: with near matches.
        ReplayRefused: the times are in the wrong order, or there is nothing in the stretch.
        BrokerUnreachable, DatabaseUnreachable, NotMigrated.
    """
    if until_time is not None and until_time <= from_time:
        raise ReplayRefused(
            f"the replay would end at {until_time.isoformat()}, before it begins at {from_time.isoformat()}"
        )
    with system.reading() as connection:
        known = [row[0] for row in connection.execute(_INBOX["known_groups"]).fetchall()]
        if group not in known:
            raise UnknownGroup(group, known, where="to evkit's tables")
        wanted = list(topics or [row[0] for row in connection.execute(_SQL["group_topics"], (group,)).fetchall()])
        partitions = kafka.partitions_of(system.settings, wanted, system.admin)
        ranges, cut = _ranges(system, partitions, from_time, until_time)
        handled = dead = 0
        for stretch in ranges:
            counts = dict(
                connection.execute(
                    _SQL["known_in_range"],
                    {
                        "group": group,
                        "topic": stretch.topic,
                        "partition": stretch.partition,
                        "start": stretch.start,
                        "end": stretch.end,
                    },
                ).fetchall()
            )
            handled += counts.get("handled", 0)
            dead += counts.get("dead", 0)
    found = ReplayPlan(
        group, tuple(sorted(set(wanted))), from_time, until_time, dedupe, tuple(ranges), handled, dead, cut
    )
    if not found.offsets:
        raise ReplayRefused(
            f"there is nothing in {', '.join(found.topics)} from {from_time.isoformat()}"
            + (f" until {until_time.isoformat()}" if until_time else "")
            + ": nothing to replay"
        )
    return found


def _ranges(
    system: System, partitions: list[TopicPartition], from_time: datetime, until_time: datetime | None
) -> tuple[list[Range], bool]:
    """The stretch of each partition, and whether retention has taken a part of it."""
    settings, client = system.settings, system.admin
    starts = kafka.offsets_at(settings, partitions, from_time, client)
    firsts = kafka.start_offsets(settings, partitions, client)
    ends = kafka.offsets(settings, partitions, client=client)
    untils = {} if until_time is None else kafka.offsets_at(settings, partitions, until_time, client)
    ranges, cut = [], False
    for where, end in ends.items():
        start = starts[where] if starts[where] >= 0 else end
        # The first record that is left is already later than what was asked for, and something was deleted before it.
        cut = cut or (start == firsts[where] and firsts[where] > 0)
        until = untils.get(where, -1)
        last = min(end, until) if until >= 0 else end
        ranges.append(Range(*where, start=min(start, last), end=last, next=min(start, last)))
    return ranges, cut


# --- running ----------------------------------------------------------------------------------------------------------


def run(
    system: System,
    plan: ReplayPlan,
    consumer: Consumer,
    *,
    reason: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> ReplayResult:
    """Hand a plan's events to the handlers of `consumer`; returns when the frozen end is reached, or after `stop`.

    Side effects: the handlers' writes, inbox rows, dead letters for what fails, one row in evkit.replay_run (progress with
    every batch) and one in the audit table. `progress` is called with (offsets done, offsets planned).

    Raises:
        ReplayRefused: the consumer is of another group, or the retention of the topic has cut the stretch meanwhile.
        BrokerUnreachable, DatabaseUnreachable.
    """
    replay_id = f"replay-{new_id()}"
    _require_group(plan.group, consumer)
    with system.writing("evkit replay", autocommit=True) as connection:
        postgres.require_migrated(connection)
        generation = 0
        if plan.dedupe == "override":
            row = connection.execute(_SQL["next_generation"], {"group": plan.group}).fetchone()
            assert row is not None
            generation = row[0]
        connection.execute(
            _SQL["insert"],
            {
                "replay_id": replay_id,
                "group": plan.group,
                "topics": list(plan.topics),
                "from_time": plan.from_time,
                "until_time": plan.until_time,
                "dedupe": plan.dedupe,
                "generation": generation,
                "ranges": _json(plan.ranges),
                "actor": audit.actor(),
                "reason": reason,
            },
        )
    return resume(system, replay_id, consumer, reason=reason, progress=progress, stop=stop)


def resume(
    system: System,
    replay_id: str,
    consumer: Consumer,
    *,
    reason: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> ReplayResult:
    """Go on with a replay that was stopped or killed, from where its last batch ended. See `run`.

    Raises:
        UnknownReplay: there is none with this id.
        ReplayRefused: it is done, or another process is running it.
    """
    with system.writing("evkit replay", autocommit=True) as connection:
        postgres.require_migrated(connection)
        row = connection.cursor(row_factory=dict_row).execute(_SQL["run"], (replay_id,)).fetchone()
        if row is None:
            known = [r["replay_id"] for r in runs(system)]
            raise UnknownReplay(replay_id, known)
        _require_group(row["consumer_group"], consumer)
        if row["state"] == "done":
            raise ReplayRefused(f"replay {replay_id} is done: plan a new one")
        locked = connection.execute(_SQL["lock"], (replay_id,)).fetchone()
        if locked is None or not locked[0]:
            raise ReplayRefused(f"replay {replay_id} is being run by another process")
        ranges = [Range(**r) for r in row["ranges"]]
        act = audit.begin(
            connection,
            "replay.run",
            replay_id,
            {"group": row["consumer_group"], "dedupe": row["dedupe"], "offsets": sum(r.end - r.next for r in ranges)},
            reason,
        )
        connection.execute(_SQL["start"], (replay_id,))
        more = {} if stop is None else {"stop": stop}
        inbox = consumer.inbox(system, generation=row["generation"], replay_id=replay_id, **more)
        total = Counts(handled=row["handled"], duplicate=row["skipped"], dead=row["failed"])
        times = (row["from_time"], row["until_time"])
        runner = _Runner(system, connection, inbox, replay_id=replay_id, ranges=ranges, times=times, total=total)
        state = "stopped"
        try:
            state = "done" if runner.run(progress) else "stopped"
        finally:
            result = ReplayResult(replay_id, state, total)
            inbox.close()
            if not connection.closed:
                connection.execute(_SQL["finish"], {"replay_id": replay_id, "state": state})
                audit.end(connection, act, result.summary())
    return result


def runs(system: System) -> list[dict[str, Any]]:
    """All replays, the newest first: the columns of evkit.replay_run. Changes nothing."""
    with system.reading() as connection:
        return connection.cursor(row_factory=dict_row).execute(_SQL["runs"]).fetchall()


def _require_group(group: str, consumer: Consumer) -> None:
    if consumer.group != group:
        raise ReplayRefused(
            f"the replay is for group '{group}', the given consumer is of '{consumer.group}': a replay runs the handlers "
            "of the group that asked"
        )


def _json(ranges: Sequence[Range]) -> Jsonb:
    return Jsonb([{n: getattr(r, n) for n in ("topic", "partition", "start", "end", "next")} for r in ranges])


class _Runner:
    """Reads the ranges of a replay and hands them to the inbox, batch by batch."""

    def __init__(
        self,
        system: System,
        connection: postgres.Connection,
        inbox: Inbox,
        *,
        replay_id: str,
        ranges: list[Range],
        times: tuple[datetime, datetime | None],
        total: Counts,
    ) -> None:
        self._system = system
        self._connection = connection
        self._replay_id = replay_id
        self._inbox = inbox
        self._ranges = {(r.topic, r.partition): r for r in ranges}
        self._times = times
        self._total = total

    def run(self, progress: Callable[[int, int], None] | None) -> bool:
        """True when the end was reached, False after a stop."""
        planned = sum(r.offsets for r in self._ranges.values())
        said = self._total.total
        client = kafka.consumer(
            self._system.settings,
            f"{self._inbox.group}.replay.{self._replay_id}",  # never joined: assign() makes no group
            **{"enable.partition.eof": True, "auto.offset.reset": "error"},
        )
        try:
            client.assign([TopicPartition(*w, r.next) for w, r in self._ranges.items() if r.next < r.end])
            quiet_since = time.monotonic()
            while any(r.next < r.end for r in self._ranges.values()):
                if self._inbox.stop.is_set():
                    return False
                first = client.poll(0.5)
                if first is None:
                    if time.monotonic() - quiet_since > _QUIET_SECONDS:
                        log.warning(
                            "replay %s waits for the broker at %s",
                            self._replay_id,
                            self._system.settings.bootstrap_servers,
                        )
                        quiet_since = time.monotonic()
                    continue
                quiet_since = time.monotonic()
                try:
                    self._batch([first, *client.consume(_BATCH_EVENTS_MAX - 1, 0)])
                except Stopped:
                    return False
                if progress is not None:
                    progress(sum(r.next - r.start for r in self._ranges.values()), planned)
                if self._total.total // PROGRESS_EVENTS > said // PROGRESS_EVENTS:
                    said = self._total.total
                    log.warning(
                        "replay %s: %s events so far, %s handled, %s known, %s dead",
                        self._replay_id, said, self._total.handled, self._total.duplicate, self._total.dead,
                    )  # fmt: skip
        finally:
            client.close()
        return True

    def _batch(self, messages: list[Any]) -> None:
        now = datetime.now(UTC)
        records, reached = [], {w: r.next for w, r in self._ranges.items()}
        for message in messages:
            where = (message.topic(), message.partition())
            if (error := message.error()) is not None:
                if error.code() == kafka.KafkaError._PARTITION_EOF:
                    # What is left of the range are markers and deleted records.
                    reached[where] = max(reached[where], min(message.offset(), self._ranges[where].end))
                elif error.code() == kafka.KafkaError._AUTO_OFFSET_RESET:
                    raise ReplayRefused(
                        f"offset {self._ranges[where].next} of {where[0]}/{where[1]} is gone: the topic's retention has "
                        "taken a part of the replay's stretch; plan a new one"
                    )
                elif error.fatal():
                    raise kafka.KafkaException(error)
                continue
            if message.offset() >= self._ranges[where].end:
                reached[where] = self._ranges[where].end
                continue
            reached[where] = message.offset() + 1
            record = kafka.record_of(message, now)
            if self._wanted(record.timestamp):
                records.append(record)
        counts = self._inbox.handle(records) if records else Counts()
        self._total += counts
        for where, offset in reached.items():
            r = self._ranges[where]
            self._ranges[where] = Range(r.topic, r.partition, r.start, r.end, max(r.next, min(offset, r.end)))
        # After the inbox's commit: a crash in between repeats a batch that the inbox then knows.
        self._connection.execute(
            _SQL["progress"],
            {
                "replay_id": self._replay_id,
                "ranges": _json(list(self._ranges.values())),
                "handled": counts.handled,
                "skipped": counts.duplicate + counts.skipped,
                "failed": counts.dead,
            },
        )

    def _wanted(self, timestamp: datetime | None) -> bool:
        """Offsets are found by the first record of a time; later records of a CreateTime topic may be older."""
        start, end = self._times
        return timestamp is None or (
            timestamp >= start.replace(microsecond=start.microsecond // 1000 * 1000)
            and (end is None or timestamp < end)
        )
