"""another framework's dead-letter topic → dead letters: look at them where they are, or take them over into the table.

Looking needs Kafka alone and changes nothing: it joins no group and commits no offset, and neither does the import. Both
read up to an end that is frozen before the first record.

An imported letter is like one of evkit's own: the record is the original one, without what the framework has added to its
headers, at its original place, so that a redrive hands the group's handler what it had been handed. What marks it are the
columns source_…: in whose words, and which record of which topic it was. A record is imported once, however often its topic
is; and an event that is a letter of its group already stays the letter that it is. No inbox row is written: evkit has not
handled the event.

It belongs to the group that its headers name, or else to the one that the caller names; and a group that has moved to evkit
under another name takes over the letters of the old one (`as_group`).

Each batch of the import is one transaction; killed in the middle, what is imported stays, and the next run adds the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from psycopg.types.json import Jsonb

from evkit import foreign as dialects
from evkit import kafka, postgres, records
from evkit.decoding import Decode
from evkit.errors import ImportRefused, UsageError
from evkit.foreign import ForeignLetter
from evkit.foreign.letter import GROUP_BYTES_MAX
from evkit.runtime import audit
from evkit.runtime.delivery import Delivery
from evkit.runtime.failure import storable, storable_json
from evkit.runtime.handler import Handlers
from evkit.runtime.letters import LETTERS_MAX
from evkit.runtime.masked_letters import foreign_as_seen
from evkit.sql import named
from evkit.system import System

_SQL = named("foreign")

# Error class of a letter whose dialect says none.
NOT_SAID = "(not said)"
_BATCH_LETTERS_MAX = 500
_EXAMPLES_MAX = 5


@dataclass(slots=True)
class ImportCounts:
    """What becomes of the records of a dead-letter topic. Every record is counted once in the first eight.

    Attributes:
        imported     become letters (of a plan: would become)
        known        are letters already
        deleted      were imported, and their letters are purged and deleted for good: that was decided, and stays so
        same_event   another record of an event that is a letter of its group, or was; a framework may send an event twice
        other_group  name another group than the one that was asked for
        no_group     name no group, and none was given
        no_dialect   have no headers of a dialect that evkit reads
        gone         were there when it was planned, and are not any more
        unreadable   of the imported ones: no event could be made of the record
        incomplete   of the imported ones: something that their dialect writes is missing or cannot be read
        groups       imported ones by their group
        dialects     imported ones by their dialect
        named        groups that records name which are no letters yet, and how many do
        examples     the first of the incomplete ones: "PARTITION/OFFSET: what is wrong"
    """

    imported: int = 0
    known: int = 0
    deleted: int = 0
    same_event: int = 0
    other_group: int = 0
    no_group: int = 0
    no_dialect: int = 0
    gone: int = 0
    unreadable: int = 0
    incomplete: int = 0
    groups: Counter[str] = field(default_factory=Counter)
    dialects: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def example(self, letter: ForeignLetter) -> None:
        """Keep what is wrong with a record, if it is one of the first."""
        if len(self.examples) < _EXAMPLES_MAX:
            self.examples.append(f"{letter.found.partition}/{letter.found.offset}: {'; '.join(letter.problems)}")

    @property
    def records(self) -> int:
        """All that were looked at."""
        return sum((
            self.imported, self.known, self.deleted, self.same_event, self.other_group, self.no_group, self.no_dialect,
        ))  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """For people, and for the audit row."""
        return {
            "records": self.records,
            "imported": self.imported,
            "known": self.known,
            "deleted": self.deleted,
            "same_event": self.same_event,
            "other_group": self.other_group,
            "no_group": self.no_group,
            "no_dialect": self.no_dialect,
            "gone": self.gone,
            "unreadable": self.unreadable,
            "incomplete": self.incomplete,
            "groups": dict(sorted(self.groups.items())),
            "dialects": dict(sorted(self.dialects.items())),
            "examples": list(self.examples),
        }


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """Which records of a dead-letter topic become letters of which groups; made by `plan_import`.

    Attributes:
        topic, topic_id  the dead-letter topic
        ends             partition → offset where the import ends: what comes later is not in it
        counts           what would become of the records, as things were when it was planned
    """

    topic: str
    topic_id: str
    ends: dict[tuple[str, int], int]
    dialect: str | None
    group: str | None
    as_group: str | None
    original_topic: str | None
    since: datetime | None
    decode: Decode | None
    counts: ImportCounts

    def summary(self) -> dict[str, Any]:
        """What the plan is about, for people and for the audit row."""
        asked = {
            "dialect": self.dialect,
            "group": self.group,
            "as_group": self.as_group,
            "original_topic": self.original_topic,
            "since": None if self.since is None else self.since.isoformat(),
        }
        return {
            "topic": self.topic,
            **{name: value for name, value in asked.items() if value is not None},
            **self.counts.summary(),
        }


# --- looking ----------------------------------------------------------------------------------------------------------


def foreign(
    system: System,
    topic: str,
    *,
    dialect: str | None = None,
    group: str | None = None,
    original_topic: str | None = None,
    since: datetime | None = None,
    letters_max: int | None = LETTERS_MAX,
) -> list[ForeignLetter]:
    """What is in a dead-letter topic of another framework, by partition and offset; see `evkit.foreign`. Changes nothing.
    What policies hide (`evkit.masking`) is hidden.

    Needs no PostgreSQL. Reads what the topic has at this moment, from `since` on.

    Args:
        dialect         read all records as this one's ("spring"); default: what their headers say
        group           only those that name this consumer group
        original_topic  where the records were, for a dialect that does not say it (arroyo)

    Raises:
        UnknownTopic, UsageError: no such dialect.
        BrokerUnreachable, BrokerRefused.
    """
    dialects.require_dialect(dialect, dialects.DIALECTS)
    scanned = records.scan(system.settings, topic, system.admin, since=since)
    read = (dialects.read(record, dialect, original_topic=original_topic) for record in scanned)
    wanted = (letter for letter in read if group is None or letter.group == group)
    some = wanted if letters_max is None else islice(wanted, letters_max)
    found = [foreign_as_seen(letter, system.settings.masking) for letter in some]
    return sorted(found, key=lambda letter: (letter.found.partition, letter.found.offset))


# --- importing --------------------------------------------------------------------------------------------------------


def plan_import(
    system: System,
    topic: str,
    *,
    dialect: str | None = None,
    group: str | None = None,
    as_group: str | None = None,
    original_topic: str | None = None,
    since: datetime | None = None,
    decode: Decode | None = None,
) -> ImportPlan:
    """Freeze the end of a dead-letter topic, read it, and say what would become of its records; changes nothing.

    Args:
        dialect         read all records as this one's; default: what their headers say, and those of none are left out
        group           only records that name this group, or none
        as_group        whose letters they become, instead of the group that they name
        original_topic  where the records were, for a dialect that does not say it (arroyo)
        since           only what has come into the topic since then
        decode          that of the consumer that is to handle them, if it has one: it says which event a record is

    Raises:
        UnknownTopic, UsageError: no such dialect, or no group can have this name.
        BrokerUnreachable, BrokerRefused, DatabaseUnreachable, NotMigrated.
    """
    dialects.require_dialect(dialect, dialects.DIALECTS)
    for name, value in (("group", group), ("as_group", as_group)):
        if value is not None and (not value or not value.isprintable() or len(value.encode()) > GROUP_BYTES_MAX):
            raise UsageError(
                f"{name} {value!r:.60} is no consumer group: 1 to {GROUP_BYTES_MAX} bytes of printable text"
            )
    ends = kafka.offsets(
        system.settings, kafka.partitions_of(system.settings, [topic], system.admin), client=system.admin
    )
    topic_id = kafka.topic_id(system.settings, topic, system.admin)
    plan = ImportPlan(
        topic, topic_id, ends, dialect, group, as_group, original_topic, since, decode, ImportCounts()
    )  # fmt: skip
    events: set[int] = set()  # hashes: of a million letters, not their texts
    for batch in _batches(_records(system, plan)):
        with system.reading() as connection:
            rows = _new(connection, plan, batch, plan.counts)
        for row in rows:
            event = hash((row["group"], row["event_id"]))
            if event in events:
                plan.counts.same_event += 1
            else:
                events.add(event)
                _count(plan.counts, row)
    return plan


def import_foreign(
    system: System,
    plan: ImportPlan,
    *,
    reason: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportCounts:
    """Make letters of the records that a plan names; returns what became of them. The topic stays as it is.

    Side effects: rows in evkit.dead_letter, one row in the audit table. Importing again adds nothing.
    `progress` is called with (records so far, records planned) after each batch.

    Raises:
        ImportRefused: the topic was deleted and made anew since the plan.
        BrokerUnreachable, BrokerRefused, DatabaseUnreachable, NotMigrated.
    """
    if kafka.topic_id(system.settings, plan.topic, system.admin) != plan.topic_id:
        raise ImportRefused(
            f"topic '{plan.topic}' was deleted and made anew since the import was planned: plan it again"
        )
    counts = ImportCounts()
    with (
        postgres.translated_errors(system.settings.postgres_dsn),
        system.writing("evkit import", autocommit=True) as connection,
    ):
        postgres.require_migrated(connection)
        act = audit.begin(connection, "dead_letters.import", plan.topic, plan.summary(), reason)
        try:
            for batch in _batches(_records(system, plan)):
                with connection.transaction():
                    rows = _new(connection, plan, batch, counts)
                    added = _insert(connection, rows)
                for row in rows:
                    if (row["source_partition"], row["source_offset"]) in added:
                        _count(counts, row)
                    else:
                        counts.known += 1  # somebody else imports the same topic at this moment
                if progress is not None:
                    progress(counts.records, plan.counts.records)
            counts.gone = max(0, plan.counts.records - counts.records)
        finally:
            if not connection.closed:
                audit.end(connection, act, counts.summary())
    return counts


def _records(system: System, plan: ImportPlan) -> Iterator[ForeignLetter]:
    for record in records.scan(system.settings, plan.topic, system.admin, since=plan.since, ends=plan.ends):
        yield dialects.read(record, plan.dialect, original_topic=plan.original_topic)


def _batches(letters: Iterator[ForeignLetter]) -> Iterator[list[ForeignLetter]]:
    while batch := list(islice(letters, _BATCH_LETTERS_MAX)):
        yield batch


def _new(
    connection: postgres.Connection,
    plan: ImportPlan,
    batch: list[ForeignLetter],
    counts: ImportCounts,
) -> list[dict[str, Any]]:
    """The rows of those records that are to become letters and are none; the others are counted."""
    places = {
        "topic": plan.topic,
        "topic_id": plan.topic_id,
        "partitions": [letter.found.partition for letter in batch],
        "offsets": [letter.found.offset for letter in batch],
    }
    found = connection.execute(_SQL["imported"], places).fetchall()
    imported = {(partition, offset): deleted for partition, offset, deleted in found}
    handlers = Handlers(plan.decode)
    rows = []
    for letter in batch:
        deleted = imported.get((letter.found.partition, letter.found.offset))
        if deleted is not None:
            counts.deleted += deleted
            counts.known += not deleted
        elif (group := _group(letter, plan, counts)) is not None:
            rows.append(_row(letter, group, Delivery.of(letter.record, handlers), plan))
            if letter.problems:
                counts.example(letter)
    events = {"groups": [row["group"] for row in rows], "event_ids": [row["event_id"] for row in rows]}
    letters = set(connection.execute(_SQL["same_event"], events).fetchall())
    new = []
    for row in rows:
        event = (row["group"], row["event_id"])
        if event in letters:
            counts.same_event += 1
        else:
            letters.add(event)
            new.append(row)
    return new


def _insert(connection: postgres.Connection, rows: list[dict[str, Any]]) -> set[tuple[int, int]]:
    """Write letters; returns partition and offset of those that were not there."""
    added: set[tuple[int, int]] = set()
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(_SQL["import"], rows, returning=True)
            for result in cursor.results():
                added.update(result.fetchall())
    return added


def _group(letter: ForeignLetter, plan: ImportPlan, counts: ImportCounts) -> str | None:
    """Whose letter it becomes; None: nobody's, and it is counted why."""
    if letter.dialect is None:
        counts.no_dialect += 1
        return None
    if letter.group is not None:
        counts.named[letter.group] += 1
        if plan.group is not None and letter.group != plan.group:
            counts.other_group += 1
            return None
    group = plan.as_group or letter.group or plan.group
    if group is None:
        counts.no_group += 1
    return group


def _count(counts: ImportCounts, row: dict[str, Any]) -> None:
    counts.imported += 1
    counts.unreadable += not row["readable"]
    counts.incomplete += bool(row["problems"])
    counts.groups[row["group"]] += 1
    counts.dialects[row["source_dialect"]] += 1


def _row(letter: ForeignLetter, group: str, delivery: Delivery, plan: ImportPlan) -> dict[str, Any]:
    """Column values of evkit.dead_letter, and for the counts: readable, problems."""
    record, event = letter.record, delivery.event
    facts = dict(letter.facts)
    more = {
        "group": letter.group if letter.group != group else None,
        "original_topic": letter.topic if not letter.is_placed else None,
        "root_cause": letter.root_cause,
        "fingerprint": letter.fingerprint,  # the letter's own one is another as soon as it has failed in our hands
        "problems": list(letter.problems) or None,
    }
    facts |= {name: value for name, value in more.items() if value is not None}
    # When it was given up; or else, since it was soon after, when it was written. Never the time of the import, which would
    # make the letters of last month young.
    failed_at = letter.failed_at or letter.timestamp or datetime.now(UTC)
    return {
        "group": storable(group),
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "appended_at": record.timestamp,
        "timestamp_type": record.timestamp_type,
        "key": delivery.key,
        "raw_key": record.key,
        "raw_value": record.value,
        "header_names": [storable(name) for name, _ in record.headers],
        "header_values": [value for _, value in record.headers],
        "schema_version": event.schema_version if event else None,
        "created_at": event.created_at if event else None,
        "handler": None if letter.handler is None else storable(letter.handler),
        "error_class": storable(letter.error_class or NOT_SAID),
        "error_message": storable(letter.error_message or ""),
        "stack_trace": storable(letter.stack_trace or ""),
        "fingerprint": letter.fingerprint,
        "failed_at": failed_at,
        "retry_count": max(0, (letter.attempts or 1) - 1),
        "source_dialect": letter.dialect,
        "source_topic": plan.topic,
        "source_topic_id": plan.topic_id,
        "source_partition": letter.found.partition,
        "source_offset": letter.found.offset,
        "source_facts": Jsonb(storable_json(facts)),
        "readable": event is not None,
        "problems": letter.problems,
    }
