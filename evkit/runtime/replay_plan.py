"""a group and a time → plan of a replay: what it would read, what it would meet, and what cannot be had any more.

The end of every partition is frozen here: what comes later is not in the replay. Where a group has committed offsets, a
replay that writes (`honour`, `again`) also ends there: what comes after them the group itself has still to handle, in its
order, and a replay that ran ahead of it would overtake it. Nothing is changed by planning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import psycopg

from evkit import kafka, kafka_admin, postgres
from evkit.errors import ReplayRefused, UnknownGroup, UsageError
from evkit.kafka import TopicPartition
from evkit.kafka_admin import TopicFacts
from evkit.runtime import replay_notes
from evkit.runtime.consumer import Consumer
from evkit.runtime.replay_survey import Contents, Naming, Wanted, survey
from evkit.sql import named
from evkit.system import System

_SQL = named("replay_plan")
_REPLAY = named("replay")
_INBOX = named("inbox")

Dedupe = Literal["honour", "again", "dry"]
DEDUPES: tuple[Dedupe, ...] = ("honour", "again", "dry")

# A plan reads so many records to count them; some 10 to 20 s. A longer stretch is planned by its offsets.
SCAN_RECORDS_MAX = 1_000_000
# A process that runs a replay gives a sign of life each second; after so many without one it is taken for dead.
DEAD_SECONDS = 15.0
# How long the question for the group's speed may take: it is worth no more.
_RATE_SECONDS_MAX = 3.0


@dataclass(frozen=True, slots=True)
class Range:
    """A stretch of one partition, offsets start..end-1.

    Attributes:
        topic_id  Kafka's id of the topic; None: the broker does not say
        first     oldest offset that the partition still has
        cut       retention has taken what was before `first`, and some of that may have been of this time
        gone      of that, events that evkit's outbox knows; None when nothing is cut
        ahead     offsets from the group's committed one on, which are left to the group
        contents  what is in it; None when it was not read
    """

    topic: str
    partition: int
    start: int
    end: int
    topic_id: str | None = None
    first: int = 0
    cut: bool = False
    gone: int | None = None
    ahead: int = 0
    contents: Contents | None = None

    @property
    def offsets(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a replay would read, and what the group's inbox already knows of it.

    Attributes:
        offsets           upper bound of the records to read: offsets are not events (transaction markers, compaction)
        records           those that would be handed over, counted; None: too many to count
        known_handled     events in the stretch that this group has handled
        known_dead        events in the stretch that are open dead letters of this group
        missing           events that its inbox does not know; None: not counted
        retention_cut     the topic no longer has all of the stretch: its oldest record is already later than `from_time`
        expected_seconds  how long it takes at most, at the group's own speed lately; None: nothing to tell it from
        expected_by       what that was told from
        notes             what somebody should know before it runs, a sentence each
    """

    group: str
    topics: tuple[str, ...]
    from_time: datetime
    until_time: datetime | None
    dedupe: Dedupe
    ranges: tuple[Range, ...]
    contents: Contents
    counted: bool
    keys: tuple[str, ...] | None = None
    types: tuple[str, ...] | None = None
    allow_missing: bool = False
    expected_seconds: float | None = None
    expected_by: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def offsets(self) -> int:
        return sum(r.offsets for r in self.ranges)

    @property
    def records(self) -> int | None:
        return self.contents.records if self.counted else None

    @property
    def known_handled(self) -> int:
        return self.contents.handled

    @property
    def known_dead(self) -> int:
        return self.contents.letters

    @property
    def missing(self) -> int | None:
        return self.contents.missing if self.counted else None

    @property
    def retention_cut(self) -> bool:
        return any(r.cut for r in self.ranges)

    def summary(self) -> dict[str, Any]:
        """The plan for people and for the audit row; equal as long as nothing has come or gone."""
        return {
            "group": self.group,
            "topics": list(self.topics),
            "from_time": self.from_time.isoformat(),
            "until_time": self.until_time.isoformat() if self.until_time else None,
            "dedupe": self.dedupe,
            "keys": None if self.keys is None else list(self.keys),
            "types": None if self.types is None else list(self.types),
            "offsets": self.offsets,
            "records": self.records,
            "known_handled": self.known_handled,
            "known_dead": self.known_dead,
            "known_parked": self.contents.parked,
            "missing": self.missing,
            "retention_cut": self.retention_cut,
            "partitions": sum(1 for r in self.ranges if r.offsets),
        }

    def by_partition(self) -> list[dict[str, Any]]:
        """A row for each partition that has something: topic, partition, start, end, offsets; counted, or None when it was
        not: records, keys, handled, missing, letters, parked, parked_keys; gone (events that retention has taken, as far as
        the outbox knows; None: nothing is cut), ahead (offsets left to the group itself)."""
        rows = []
        for r in self.ranges:
            if not (r.offsets or r.cut or r.ahead):
                continue
            contents = r.contents or Contents()
            counted = r.contents is not None and self.counted
            rows.append({
                "topic": r.topic, "partition": r.partition, "start": r.start, "end": r.end, "offsets": r.offsets,
                "records": contents.records if counted else None, "keys": contents.keys if counted else None,
                "handled": contents.handled, "missing": contents.missing if counted else None,
                "letters": contents.letters, "parked": contents.parked,
                "parked_keys": contents.parked_keys if counted else None, "gone": r.gone, "ahead": r.ahead,
            })  # fmt: skip
        return rows


# --- planning ---------------------------------------------------------------------------------------------------------


def plan(
    system: System,
    group: str,
    from_time: datetime,
    until_time: datetime | None = None,
    *,
    topics: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    dedupe: Dedupe = "honour",
    allow_missing: bool = False,
    consumer: Consumer | None = None,
    scan_records_max: int = SCAN_RECORDS_MAX,
) -> ReplayPlan:
    """What a replay of this group from this time would read and meet; changes nothing.

    Args:
        topics            default: those of which the group has handled events, or has committed offsets
        keys, types       only records with these keys, only events of these types; None: all
        dedupe            see replay.py
        allow_missing     plan what is left where retention has taken a part of the stretch
        consumer          of the group: its decode function and its handlers are asked, nothing is run
        scan_records_max  a stretch of more offsets is not read, and some counts are None then

    Raises:
        UnknownGroup, UnknownTopic: with near matches.
        ReplayRefused: the times are in the wrong order; there is nothing in the stretch; retention has taken a part of it;
            the topic was deleted and made anew; the consumer has no handler for what is asked.
        UsageError: an argument that cannot be.
        BrokerUnreachable, DatabaseUnreachable, NotMigrated.
    """
    _require_sense(from_time, until_time, dedupe, keys, types, scan_records_max)
    if consumer is not None:
        require_fitting(group, dedupe, types, consumer)
    wanted = Wanted.of(from_time, until_time, keys, types)
    with system.reading() as connection:
        committed = kafka_admin.committed(system.settings, group, system.admin)
        names = _topics(system, connection, group, topics, committed)
        partitions = kafka.partitions_of(system.settings, names, system.admin)
        facts = kafka_admin.topic_facts(system.settings, names, system.admin)
        ranges = _ranges(system, partitions, wanted, facts, {} if dedupe == "dry" else committed)
        _require_same_topics(system, connection, group, ranges, wanted.from_time)
        ranges = [_with_gone(connection, r, wanted.from_time) for r in ranges]
        if not allow_missing:
            _refuse_cut(ranges, from_time)
        if not any(r.offsets for r in ranges):
            raise ReplayRefused(_nothing(group, names, wanted, ranges))
        counted = sum(r.offsets for r in ranges) <= scan_records_max
        ranges, total = _counted(system, connection, group, ranges, wanted, consumer, facts, scan=counted)
        if counted and not total.records:
            raise ReplayRefused(_nothing_chosen(names, sum(r.offsets for r in ranges), keys, types))
        if counted and consumer is not None:
            _require_any_handler(consumer, total)
        rate, by = _rate(connection, group, dedupe)
        found = ReplayPlan(
            group=group,
            topics=tuple(names),
            from_time=from_time,
            until_time=until_time,
            dedupe=dedupe,
            ranges=tuple(ranges),
            contents=total,
            counted=counted,
            keys=None if keys is None else tuple(keys),
            types=None if types is None else tuple(types),
            allow_missing=allow_missing,
            expected_seconds=None
            if not rate
            else (total.records if counted else sum(r.offsets for r in ranges)) / rate,
            expected_by=by,
        )
        return replace(found, notes=replay_notes.of(connection, found, facts, DEAD_SECONDS))


# --- what is refused --------------------------------------------------------------------------------------------------


def _require_sense(
    from_time: datetime,
    until_time: datetime | None,
    dedupe: str,
    keys: Sequence[str] | None,
    types: Sequence[str] | None,
    scan_records_max: int,
) -> None:
    if dedupe not in DEDUPES:
        raise UsageError(f"dedupe is {', '.join(DEDUPES[:-1])} or {DEDUPES[-1]}, not '{dedupe}'")
    for what, given in (("keys", keys), ("types", types)):
        if given is not None and (isinstance(given, str) or not given):
            raise UsageError(f"{what} is a list of at least one, or None for all, not {given!r}")
    if scan_records_max < 0:
        raise UsageError(f"scan_records_max is a number of records from 0 on, not {scan_records_max}")
    for at in (from_time, until_time):
        if at is not None and at.tzinfo is None:
            raise UsageError(f"the time {at.isoformat()} has no zone: say which")
    if until_time is not None and until_time <= from_time:
        raise ReplayRefused(
            f"the replay would end at {until_time.isoformat()}, before it begins at {from_time.isoformat()}"
        )


def require_fitting(group: str, dedupe: Dedupe, types: Sequence[str] | None, consumer: Consumer) -> None:
    """Raise unless this consumer's handlers can do this replay.

    Raises:
        ReplayRefused: it is of another group, has no handler for one of the types, or keeps no inbox to honour.
        UsageError: it has no handler at all.
    """
    if consumer.group != group:
        raise ReplayRefused(
            f"the replay is for group '{group}', the given consumer is of '{consumer.group}': a replay runs the handlers "
            "of the group that asked"
        )
    if not consumer.handlers:
        raise UsageError(f"consumer '{group}' has no handler: register one with @consumer.handler('type')")
    without = [t for t in types or () if not consumer.handlers.knows(t)]
    if without:
        have = ", ".join(consumer.handlers.types) or "none"
        raise ReplayRefused(
            f"group '{group}' has no handler for '{without[0]}' (there are: {have}): a replay would only skip these events"
        )
    if dedupe == "honour" and not consumer.dedupe:
        raise ReplayRefused(
            f"group '{group}' keeps no inbox, so nothing tells what it has handled: --dedupe again handles all of it again"
        )


def _require_any_handler(consumer: Consumer, total: Contents) -> None:
    if consumer.handlers.unknown == "skip" and not any(consumer.handlers.knows(t) for t in total.types):
        have = ", ".join(consumer.handlers.types) or "none"
        raise ReplayRefused(
            f"group '{consumer.group}' has no handler for any event of the stretch ({', '.join(sorted(total.types)[:5])}; "
            f"there are handlers for: {have}): a replay would only skip them"
        )


def _require_same_topics(
    system: System, connection: postgres.Connection, group: str, ranges: list[Range], since: datetime
) -> None:
    """Places beyond a partition's end are those of another topic that had this name."""
    names = sorted({r.topic for r in ranges})
    rows = connection.execute(_SQL["beyond"], {"group": group, "topics": names, "since": since}).fetchall()
    partitions = [TopicPartition(topic, partition) for topic, partition, _ in rows]
    present = {(r.topic, r.partition) for r in ranges}
    ends = kafka.offsets(
        system.settings, [tp for tp in partitions if (tp.topic, tp.partition) in present], client=system.admin
    )
    for topic, partition, highest in rows:
        end = ends.get((topic, partition), 0)
        if highest >= end:
            raise ReplayRefused(
                f"group '{group}' has handled offset {highest:,} of {topic}/{partition} since {since.isoformat()}, and "
                f"the partition ends at {end:,}: the topic was deleted and made anew (or this is another cluster), and "
                "what the group has handled is not in it"
            )


def _refuse_cut(ranges: list[Range], from_time: datetime) -> None:
    cut = [r for r in ranges if r.cut]
    if not cut:
        return
    r = cut[0]
    known = sum(r.gone or 0 for r in cut)
    more = f" ({known:,} events by evkit's outbox)" if known else ""
    raise ReplayRefused(
        f"retention has taken a part of it: {r.topic}/{r.partition} begins at offset {r.first:,}, later than "
        f"{from_time.isoformat()}, and so do {len(cut)} of {len(ranges)} partitions{more}; take a later time, or replay "
        "what is left with --allow-missing"
    )


def _nothing(group: str, names: list[str], wanted: Wanted, ranges: list[Range]) -> str:
    stretch = f"{', '.join(names)} from {wanted.from_time.isoformat()}"
    if wanted.until_time:
        stretch += f" until {wanted.until_time.isoformat()}"
    ahead = sum(r.ahead for r in ranges)
    if ahead:
        return (
            f"group '{group}' has not come to {stretch} yet ({ahead:,} offsets are before it): nothing to replay, its "
            "consumers will handle it"
        )
    return f"there is nothing in {stretch}: nothing to replay"


def _nothing_chosen(names: list[str], offsets: int, keys: Sequence[str] | None, types: Sequence[str] | None) -> str:
    chosen = [f"key '{key[:80]}'" for key in (keys or ())[:3]] + [f"type '{t[:80]}'" for t in (types or ())[:3]]
    return (
        f"none of the records of {', '.join(names)} in these {offsets:,} offsets is of this time"
        + (f" and of {' or '.join(chosen)}" if chosen else "")
        + ": nothing to replay"
    )


# --- what is there ----------------------------------------------------------------------------------------------------


def _topics(
    system: System,
    connection: postgres.Connection,
    group: str,
    topics: Sequence[str] | None,
    committed: dict[tuple[str, int], int],
) -> list[str]:
    """The topics to read, sorted."""
    known = [row[0] for row in connection.execute(_INBOX["known_groups"]).fetchall()]
    if group not in known and not committed:
        raise UnknownGroup(
            group, {*known, *kafka.groups(system.settings, system.admin)}, where="to evkit's tables or to the cluster"
        )
    if topics is not None:
        if isinstance(topics, str) or not topics:
            raise UsageError(f"topics is a list of at least one, or None for all of the group, not {topics!r}")
        return sorted(set(topics))
    handled = {row[0] for row in connection.execute(_REPLAY["group_topics"], (group,)).fetchall()}
    return sorted(handled or {topic for topic, _ in committed})


def _ranges(
    system: System,
    partitions: list[TopicPartition],
    wanted: Wanted,
    facts: dict[str, TopicFacts],
    committed: dict[tuple[str, int], int],
) -> list[Range]:
    """The stretch of each partition, its end frozen."""
    settings, client = system.settings, system.admin
    starts = kafka.offsets_at(settings, partitions, wanted.from_time, client)
    firsts = kafka.start_offsets(settings, partitions, client)
    ends = kafka_admin.stable_ends(settings, partitions, client)
    untils = {} if wanted.until_time is None else kafka.offsets_at(settings, partitions, wanted.until_time, client)
    ranges = []
    for (topic, partition), end in sorted(ends.items()):
        place = (topic, partition)
        start = min(starts[place], end) if starts[place] >= 0 else end
        last = end
        # Where producers give the time, records of before `until` may come after the first one of later.
        if facts[topic].timestamp_type == "append" and 0 <= untils.get(place, -1) < last:
            last = untils[place]
        group_at = max(committed.get(place, end), start)
        ahead = max(0, last - group_at)
        ranges.append(
            Range(
                topic,
                partition,
                start=min(start, last),
                end=max(min(last, group_at), min(start, last)),
                topic_id=facts[topic].topic_id,
                first=firsts[place],
                cut=0 < firsts[place] == start,
                ahead=ahead,
            )
        )
    return ranges


def _with_gone(connection: postgres.Connection, r: Range, since: datetime) -> Range:
    """With what retention has taken of it. Of a partition that is empty now only the outbox can tell whether it has."""
    if not r.cut:
        return r
    row = connection.execute(
        _SQL["gone"], {"since": since, "topic": r.topic, "partition": r.partition, "first": r.first}
    ).fetchone()
    gone = 0 if row is None else int(row[0])
    is_empty = r.start == r.end and not r.ahead
    return replace(r, gone=gone, cut=bool(gone) or not is_empty)


def _counted(
    system: System,
    connection: postgres.Connection,
    group: str,
    ranges: list[Range],
    wanted: Wanted,
    consumer: Consumer | None,
    facts: dict[str, TopicFacts],
    *,
    scan: bool,
) -> tuple[list[Range], Contents]:
    """The ranges with what is in them: read, or by what the inbox knows of these places."""
    if scan:
        naming = Naming(None if consumer is None else consumer.handlers.decode)
        stretches = {(r.topic, r.partition): (r.start, r.end) for r in ranges}
        found = survey(system, connection, group, stretches, wanted, naming)
    else:
        found = {}
        for r in ranges:
            contents = found[r.topic, r.partition] = Contents()
            # An hour less, as the clocks of broker and database are two; no bound where producers give the time.
            by_broker = facts[r.topic].timestamp_type == "append"
            values = {
                "group": group, "topic": r.topic, "partition": r.partition, "start": r.start, "end": r.end,
                "since": wanted.from_time - timedelta(hours=1) if by_broker else None,
            }  # fmt: skip
            for outcome, state, n in connection.execute(_SQL["seen_in_range"], values).fetchall():
                contents.count(outcome, state, n)
    whole = [replace(r, contents=found[r.topic, r.partition]) for r in ranges]
    return whole, Contents.sum([found[r.topic, r.partition] for r in ranges])


def _rate(connection: postgres.Connection, group: str, dedupe: Dedupe) -> tuple[float | None, str | None]:
    """Records a second that the group can be expected to do at least, and where that is from."""
    sources = (
        ("rate_of_replays", {"group": group, "dedupe": dedupe}, "its last replay"),
        ("rate_of_group", {"group": group}, "its busiest second of the last day"),
    )
    for query, values, by in sources:
        try:
            with connection.transaction():
                connection.execute(_SQL["rate_timeout"], (f"{round(_RATE_SECONDS_MAX * 1000)}ms",))
                row = connection.execute(_SQL[query], values).fetchone()
        except psycopg.errors.QueryCanceled:
            continue
        if row is not None and row[0]:
            return float(row[0]), by
    return None, None
