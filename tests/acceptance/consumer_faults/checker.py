"""What a topic holds against what its groups made of it: the judge of the consumer's fault test. Imports nothing of evkit.

    python checker.py --dsn postgresql://… --bootstrap-servers … --topic orders --run FILE

Prints one JSON document, {"counts": {…}, "problems": ["…", …]}, and exits 1 when there is a problem. Expects the traffic of
publisher.py and the handlers of service.py. FILE says what the run knows: {"groups": [{"name", "parks", "put_away":
[letter ids]}], "published": {…}, "zombies": [[from, until], …], "broker_outages": [[from, until], …], "deliveries": folder
or null}.

Reads the topic and the log of committed offsets by a plain consumer, everything else by plain SQL, and judges:

- the topic is what the publisher says: every event there, the first copies of a key in the order n = 1, 2, 3 …
- every event has one effect, or one letter that somebody has put away; never both, never neither, nothing twice, no ghost
- effects of a key are in the order of n, and none comes past a dead event before somebody has decided about that
- letters are of events that were meant to fail, and of records that are no events, as those were, byte for byte
- every attempt at an event that was meant to fail is written down, once, and none at any other: no outage burns one
- records = copies + handled + dead + parked + skipped; the inbox, the effects and the letters say the same
- an offset is committed only when everything before it is done, never goes back, and at the end is the topic's end
- where the run was nothing but clean handovers (`deliveries`), no record was handed in twice
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, KafkaError, TopicPartition
from psycopg.rows import namedtuple_row

READ_SECONDS_MAX = 60.0
EXAMPLES = 3
IGNORED = "order.ignored"
ATTEMPTS = 3  # of the service's retry policy
# What the handlers of service.py raise for events that are to fail; any other error is somebody else's fault.
MEANT = {
    "broken": {"service.Broken", "psycopg.errors.DivisionByZero"},
    "unlucky": {"service.Unlucky", "psycopg.errors.DivisionByZero"},
}
# Kafka's times are whole milliseconds, cut off.
CLOCK_SECONDS = 0.002


@dataclass(slots=True)
class Record:
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass(slots=True)
class Expected:
    """An event, or a record that is none: where its first copy is, and what is to become of it."""

    id: str
    first: Record
    key: str
    n: int  # 0: has no place in the order of its key
    kind: str  # good, unlucky, broken, ignored, garbage
    fails: int
    copies: list[Record] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind} {self.id} (key {self.key!r} n {self.n}, at {self.first.partition}/{self.first.offset})"


@dataclass(slots=True)
class Commit:
    partition: int
    offset: int
    at: float


class Found:
    """Counts, and problems: sentences with how many and the first few."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.problems: list[str] = []

    def problem(self, what: str, found: list) -> None:
        if found:
            self.problems.append(f"{len(found)} {what}, first: {'; '.join(str(x) for x in found[:EXAMPLES])}")


# --- Kafka ------------------------------------------------------------------------------------------------------------


def read(bootstrap_servers: str, topic: str) -> list:
    """Every message of a topic, each partition's in order."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "checker",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 5,
        }
    )
    partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    messages, ended = [], set()
    until = time.monotonic() + READ_SECONDS_MAX
    while len(ended) < len(partitions):
        for message in consumer.consume(1000, 0.2):
            if message.error() is None:
                messages.append(message)
                until = time.monotonic() + READ_SECONDS_MAX
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
        if time.monotonic() > until:
            raise RuntimeError(f"topic {topic} cannot be read to its end: {sorted(ended)} of {sorted(partitions)}")
    consumer.close()
    messages.sort(key=lambda m: (m.partition(), m.offset()))
    return messages


def read_events(bootstrap_servers: str, topic: str) -> tuple[dict[str, Expected], dict[int, int]]:
    """What the topic expects of a group, by event id in the order of the topic; the end of each partition."""
    events: dict[str, Expected] = {}
    ends: dict[int, int] = {}
    for message in read(bootstrap_servers, topic):
        record = Record(message.partition(), message.offset(), message.key(), message.value(), message.headers() or [])
        ends[record.partition] = record.offset + 1
        headers = dict(record.headers)
        if "ce_id" not in headers:
            place = f"{topic}/{record.partition}/{record.offset}"
            events[place] = Expected(place, record, record.key.decode(), 0, "garbage", ATTEMPTS)
            continue
        event_id, told = headers["ce_id"].decode(), json.loads(record.value)
        if event_id in events:
            events[event_id].copies.append(record)
            continue
        kind = "good" if told["fails"] == 0 else "unlucky" if told["fails"] < ATTEMPTS else "broken"
        kind = "ignored" if headers["ce_type"].decode() == IGNORED else kind
        events[event_id] = Expected(event_id, record, told["key"], told["n"], kind, told["fails"])
    return events, ends


def read_commits(bootstrap_servers: str, topic: str) -> dict[str, list[Commit]]:
    """Every commit of an offset of this topic, by group, in the order of the coordinator's log."""
    commits: dict[str, list[Commit]] = defaultdict(list)
    for message in read(bootstrap_servers, "__consumer_offsets"):
        key, value = message.key(), message.value()
        if value is None or struct.unpack_from(">h", key)[0] not in (0, 1):
            continue  # a forgotten offset, or the state of a group
        at = 2
        names = []
        for _ in range(2):
            length = struct.unpack_from(">h", key, at)[0]
            names.append(key[at + 2 : at + 2 + length].decode())
            at += 2 + length
        if names[1] == topic:
            partition, offset = struct.unpack_from(">i", key, at)[0], struct.unpack_from(">q", value, 2)[0]
            commits[names[0]].append(Commit(partition, offset, message.timestamp()[1] / 1000))
    return commits


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tables:
    """What the database holds of one group."""

    effects: list
    inbox: dict[str, tuple]
    letters: dict[str, tuple]
    attempts: dict[str, list]
    parked: int
    parked_keys: int
    conflicts: int


def read_tables(dsn: str, group: str) -> Tables:
    """All of it in one snapshot; effects by position, which is the order in which they came."""
    with psycopg.connect(dsn, row_factory=namedtuple_row, options="-c timezone=UTC") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

        def rows(query: str) -> list:
            return connection.execute(query, (group,)).fetchall()

        attempts: dict[str, list] = defaultdict(list)
        for row in rows(
            "SELECT event_id, attempt, failed_at, error_class, error_message, disposition, replay_id FROM evkit.attempt"
            " WHERE consumer_group = %s ORDER BY attempt_id"
        ):
            attempts[row.event_id].append(row)
        inbox = rows(
            "SELECT event_id, outcome, attempts, replay_id, generation FROM evkit.inbox WHERE consumer_group = %s"
        )
        return Tables(
            effects=rows("SELECT * FROM effect WHERE consumer_group = %s ORDER BY position"),
            inbox={row.event_id: row for row in inbox},
            letters={
                row.event_id: row
                for row in rows(
                    "SELECT letter_id, event_id, state, state_changed_at, topic, partition, \"offset\", raw_key, raw_value,"
                    " header_names, header_values, error_class, error_message, replay_id, failed_at"
                    " FROM evkit.dead_letter WHERE consumer_group = %s"
                )
            },
            attempts=attempts,
            parked=rows("SELECT count(*) AS n FROM evkit.parked WHERE consumer_group = %s")[0].n,
            parked_keys=rows("SELECT count(*) AS n FROM evkit.parked_key WHERE consumer_group = %s")[0].n,
            conflicts=rows("SELECT count(*) AS n FROM evkit.id_conflict WHERE consumer_group = %s")[0].n,
        )  # fmt: skip


# --- judging ----------------------------------------------------------------------------------------------------------


def judge_topic(events: dict[str, Expected], published: dict[str, int], found: Found) -> None:
    """The publisher kept its word, else nothing below says anything."""
    n: Counter[str] = Counter()
    wrong = []
    for event in events.values():
        if event.n:
            n[event.key] += 1
            if event.n != n[event.key]:
                wrong.append(event)
    found.problem("events are in the topic out of the order of their key", wrong)
    kinds = Counter(event.kind for event in events.values())
    there = {
        "events": kinds["good"] + kinds["unlucky"] + kinds["broken"],
        "ignored": kinds["ignored"],
        "garbage": kinds["garbage"],
        "copies": sum(len(event.copies) for event in events.values()),
    }
    for name, count in there.items():
        if count != published.get(name, 0):
            found.problems.append(f"{count} {name} are in the topic, and {published.get(name, 0)} were confirmed")
    found.counts |= there | {f"{kind}_events": kinds[kind] for kind in ("unlucky", "broken")} | {"keys": len(n)}


def judge_effects(events: dict[str, Expected], tables: Tables, put_away: set[int], found: Found) -> None:
    """One effect, or one letter that somebody has put away."""
    times = Counter(effect.event_id for effect in tables.effects)
    expected = {e.id: e for e in events.values() if e.kind in ("good", "unlucky", "broken")}
    found.problem("effects are of no event in the topic", [i for i in times if i not in expected])
    found.problem("events have more than one effect", [events[i] for i, n in times.items() if n > 1 and i in events])
    neither, both, decided = [], [], []
    for event in [e for e in events.values() if e.kind != "ignored"]:
        letter = tables.letters.get(event.id)
        if letter is None or letter.state == "resolved":
            if not times[event.id]:
                neither.append(event)
        elif letter.letter_id not in put_away or letter.state != "archived":
            decided.append(f"{event}: {letter.state}")
        elif times[event.id]:
            both.append(event)
    found.problem("events have neither an effect nor a letter that somebody has put away", neither)
    found.problem("events have an effect and a letter that was put away", both)
    found.problem("letters are not as the last one who acted on them left them", decided)
    if tables.parked or tables.parked_keys:
        found.problems.append(f"{tables.parked} events of {tables.parked_keys} keys are parked after the last redrive")


def judge_order(events: dict[str, Expected], tables: Tables, *, parks: bool, found: Found) -> None:
    """n ascends; what is left out was put away before anything behind it came."""
    of_key: dict[str, list] = defaultdict(list)
    for effect in tables.effects:
        # Without parking an event that died comes when it is redriven, whatever came meanwhile.
        if effect.event_id in events and (parks or effect.event_id not in tables.letters):
            of_key[effect.key].append(effect)
    inverted = []
    for key, effects in of_key.items():
        highest = 0
        for effect in effects:
            if effect.n < highest:
                inverted.append(f"{key!r} n {effect.n} after {highest} (pid {effect.pid}, {effect.form}, {effect.at})")
            highest = max(highest, effect.n)
    found.problem("effects come after a later event of their key", inverted)
    if not parks:
        return
    overtaken = []
    by_place = {(event.key, event.n): event for event in events.values() if event.n}
    for key, effects in of_key.items():
        there = {effect.n for effect in effects}
        for n in range(1, max(there)):
            if n in there or (key, n) not in by_place:
                continue
            letter = tables.letters.get(by_place[key, n].id)
            early = [e for e in effects if e.n > n and (letter is None or e.at < letter.state_changed_at)]
            overtaken += [f"{key!r} n {e.n} before anybody had decided about n {n}" for e in early[:1]]
    found.problem("keys went on past an event that was not handled", overtaken)


def in_zombie(zombies: list[tuple[float, float]], at: datetime) -> bool:
    """Whether a member was stopped then, or had just woken up."""
    return any(start <= at.timestamp() <= end for start, end in zombies)


def judge_letters(
    events: dict[str, Expected], tables: Tables, topic: str, zombies: list[tuple[float, float]], found: Found
) -> None:
    """Who died was to die, and is kept as it was.

    An event that two members had in hand at once (`judge_attempts`) may have failed once more than it was told to, and so
    have used up its attempts.
    """
    innocent, alive, differ = [], [], []
    for letter in tables.letters.values():
        event = events.get(letter.event_id)
        if event is None:
            differ.append(f"letter {letter.letter_id} is of no record: {letter.event_id}")
            continue
        why = f"{event}: {letter.error_class}: {letter.error_message[:200]}"
        if event.kind in ("good", "ignored"):
            innocent.append(why)
        elif event.kind == "unlucky" and tables.attempts[event.id][0].replay_id is None:
            live = [r for r in tables.attempts[event.id] if r.replay_id is None and r.disposition != "held"]
            if len(live) < ATTEMPTS or not any(in_zombie(zombies, row.failed_at) for row in live):
                innocent.append(why)  # it gets over it; only a redrive of what is parked gives it no second attempt
        elif event.kind in MEANT and letter.error_class not in MEANT[event.kind]:
            innocent.append(why)
        for record in (event.first, *event.copies):
            if (letter.topic, letter.partition, letter.offset) == (topic, record.partition, record.offset):
                headers = list(zip(letter.header_names, letter.header_values, strict=True))
                if (letter.raw_key, letter.raw_value, headers) != (record.key, record.value, record.headers):
                    differ.append(f"letter {letter.letter_id} of {event}")
                break
        else:
            differ.append(f"letter {letter.letter_id} says {letter.partition}/{letter.offset}, of {event}")
    for effect in tables.effects:
        event = events.get(effect.event_id)
        if event is not None and event.kind == "broken" and effect.replay_id is None:
            alive.append(event)
    found.problem("letters are of events that were not meant to fail", innocent)
    found.problem("letters differ from their record", differ)
    found.problem("events that always fail were handled before anybody had redriven them", alive)


def judge_attempts(
    events: dict[str, Expected], tables: Tables, zombies: list[tuple[float, float]], found: Found
) -> None:
    """Every failure of a live consumer is written down once, and none is anybody else's fault.

    A failure that is nobody's fault is 'held', and no attempt. Two members that have an event in hand at once, because one
    hung and woke up, may both fail at it.
    """

    innocent, wrong, other = [], [], []
    held = [(event_id, row) for event_id, rows in tables.attempts.items() for row in rows if row.disposition == "held"]
    meant = set().union(*MEANT.values())
    found.problem(
        "events were held for a failure of their own",
        [f"{events.get(event_id)}: {row.error_class}" for event_id, row in held if row.error_class in meant],
    )
    handled_live = {effect.event_id: effect for effect in tables.effects if effect.replay_id is None}
    for event in events.values():
        rows = [r for r in tables.attempts.get(event.id, ()) if r.replay_id is None and r.disposition != "held"]
        if event.kind in ("good", "ignored"):
            innocent += [f"{event}: {row.error_class}: {row.error_message[:200]}" for row in rows]
            continue
        other += [
            f"{event}: {r.error_class}" for r in rows if r.error_class not in MEANT.get(event.kind, (r.error_class,))
        ]
        numbers = [(row.attempt, row.disposition) for row in rows]
        effect = handled_live.get(event.id)
        if event.kind == "garbage":
            due = [(1, "dead")]
        elif event.kind == "unlucky" and effect is not None:
            due = [(attempt, "retry") for attempt in range(1, event.fails + 1)]
        elif event.kind == "broken" and rows:
            due = [(1, "retry"), (2, "retry"), (3, "dead")]
        else:
            due = []  # it was parked before it came to a handler
        # 1 where another member went on after the failures: its batch does not ask how many there were.
        said = tables.inbox[event.id].attempts if event.id in tables.inbox and effect is not None else None
        if numbers == due and said in (None, 1, event.fails + 1):
            continue
        if not any(in_zombie(zombies, at) for at in [row.failed_at for row in rows] + ([effect.at] if effect else [])):
            wrong.append(f"{event}: {numbers} for {due}, inbox says {said}")
    found.problem("attempts are of events that were not meant to fail", innocent)
    found.problem("attempts failed in another way than was meant", other)
    found.problem("events have other attempts than were meant to fail", wrong)
    found.counts["held"] = len(held)


def judge_inbox(events: dict[str, Expected], ends: dict[int, int], tables: Tables, name: str, found: Found) -> None:
    """P8: each record is a copy, or was handled, is dead, parked or skipped."""
    outcomes = Counter(row.outcome for row in tables.inbox.values())
    copies = sum(len(event.copies) for event in events.values())
    records = sum(ends.values())
    found.problem("inbox rows are of no event in the topic", [i for i in tables.inbox if i not in events])
    found.problem("inbox rows are of a generation above 0", [r.event_id for r in tables.inbox.values() if r.generation])
    settled = copies + sum(outcomes.values())
    if records != settled:
        found.problems.append(f"{records} records, and {settled} are settled: {copies} copies and {dict(outcomes)}")
    effects = {effect.event_id for effect in tables.effects}
    dead = {letter.event_id for letter in tables.letters.values() if letter.state != "resolved"}
    for outcome, true in (
        ("handled", effects),
        ("dead", dead),
        ("skipped", {event.id for event in events.values() if event.kind == "ignored"}),
        ("parked", set()),
    ):
        said = {row.event_id for row in tables.inbox.values() if row.outcome == outcome}
        found.problem(f"events are '{outcome}' in the inbox and are not, or the reverse", sorted(said ^ true))
    if tables.conflicts:
        found.problems.append(f"{tables.conflicts} ids are flagged as given twice, and all copies were true ones")
    found.counts |= {f"{name}_{outcome}": outcomes[outcome] for outcome in ("handled", "dead", "parked", "skipped")}
    found.counts[f"{name}_letters"] = len(tables.letters)


def judge_commits(
    events: dict[str, Expected],
    ends: dict[int, int],
    tables: Tables,
    commits: list[Commit],
    outages: list[tuple[float, float]],
    found: Found,
) -> None:
    """A committed offset says that everything below it is done, at the moment when it is committed.

    It never goes back, but for one thing: librdkafka sends a commit again that a broker did not answer before it went away,
    also after a later one; then it commits the later one once more.
    """
    of_partition: dict[int, list[Commit]] = defaultdict(list)
    back = []
    for commit in commits:
        before = of_partition[commit.partition]
        if before and commit.offset < before[-1].offset:
            if not any(start <= commit.at <= end for start, end in outages):
                at = datetime.fromtimestamp(commit.at, UTC).time()
                back.append(f"partition {commit.partition} from {before[-1].offset} to {commit.offset} at {at}")
            continue
        before.append(commit)
    found.problem("committed offsets went back", back)
    last = {commit.partition: commit.offset for commit in commits}
    found.problem(
        "partitions are not committed to their end",
        [f"partition {p}: {last.get(p)} of {end}" for p, end in ends.items() if last.get(p) != end],
    )
    done: dict[str, datetime] = {}
    for event_id, rows in tables.attempts.items():
        for row in rows:
            if row.disposition == "dead" and row.replay_id is None:
                done.setdefault(event_id, row.failed_at)
    for effect in tables.effects:
        if effect.replay_id is None:
            done.setdefault(effect.event_id, effect.at)
    early = []
    for event in events.values():
        if event.id not in done or event.first.partition not in of_partition:
            continue  # it was parked; or is lost, which is another problem
        of = of_partition[event.first.partition]
        nth = bisect_right(of, event.first.offset, key=lambda commit: commit.offset)
        if nth < len(of) and done[event.id].timestamp() > of[nth].at + CLOCK_SECONDS:
            seconds = done[event.id].timestamp() - of[nth].at
            early.append(f"{event}: {seconds:.3f} s before, when {of[nth].offset} was")
    found.problem("events are below an offset that was committed before they were done", early)


def judge_deliveries(folder: str | None, found: Found) -> None:
    """After a clean handover nobody is handed what the other one has finished."""
    if folder is None:
        return
    handed: dict[str, list[str]] = defaultdict(list)
    for file in sorted(Path(folder).iterdir()):
        for line in file.read_text().splitlines():
            handed[line].append(file.name)
    again = [f"{place} to processes {', '.join(pids)}" for place, pids in handed.items() if len(pids) > 1]
    found.problem("records were handed in again after a clean handover", again)
    found.counts["handed_in_again"] = len(again)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dsn", required=True)
    options.add_argument("--bootstrap-servers", required=True)
    options.add_argument("--topic", required=True)
    options.add_argument("--run", required=True, help="file with what the run knows")
    given = options.parse_args()
    run = json.loads(Path(given.run).read_text())
    found = Found()
    events, ends = read_events(given.bootstrap_servers, given.topic)
    commits = read_commits(given.bootstrap_servers, given.topic)
    found.counts |= {"records": sum(ends.values())}
    judge_topic(events, run["published"], found)
    for group in run["groups"]:
        tables = read_tables(given.dsn, group["name"])
        of_group = Found()
        short = "parking" if group["parks"] else "loose"
        judge_effects(events, tables, set(group["put_away"]), of_group)
        judge_order(events, tables, parks=group["parks"], found=of_group)
        judge_letters(events, tables, given.topic, run["zombies"], of_group)
        judge_attempts(events, tables, run["zombies"], of_group)
        judge_inbox(events, ends, tables, short, of_group)
        judge_commits(events, ends, tables, commits[group["name"]], run["broker_outages"], of_group)
        of_group.counts[f"{short}_held"] = of_group.counts.pop("held")
        found.counts |= of_group.counts | {f"{short}_commits": len(commits[group["name"]])}
        found.problems += [f"group {group['name']}: {problem}" for problem in of_group.problems]
    judge_deliveries(run["deliveries"], found)
    json.dump({"counts": found.counts, "problems": found.problems}, sys.stdout)
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
