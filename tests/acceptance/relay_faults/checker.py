"""What an outbox holds against what its topics hold: the judge of the fault test. Imports nothing of evkit.

    python checker.py --dsn postgresql://… --bootstrap-servers … --isolation read_committed --journal FILE [--exactly-once]

Prints one JSON document, {"counts": {…}, "problems": ["…", …]}, and exits 1 when there is a problem. Expects the traffic of
writers.py: payloads with `key` and `n`, which counts 1, 2, 3 … in each key. Judges, by plain SQL and a plain consumer:

- an event is in the outbox if and only if the writers know its transaction as committed
- every event of the outbox is in its topic, byte for byte, unless it is unpublishable; nothing else is
- first deliveries of a key ascend, skip none, and end before the key's first unpublishable event
- unpublishable are the poison events and those behind them of their key, no other
- with --exactly-once, no event is there twice
- a publication row points at a record with the id of its event
- written = published + waiting + unpublishable, and nothing waits
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import psycopg
from confluent_kafka import Consumer, KafkaError, TopicPartition

EOF_SECONDS_MAX = 60.0
EXAMPLES = 3


@dataclass(slots=True)
class Record:
    topic: str
    partition: int
    offset: int
    id: str
    key: bytes
    value: bytes
    headers: dict[str, bytes | None]


@dataclass(slots=True)
class Row:
    position: int
    id: str
    topic: str
    key: str
    payload: bytes
    headers: dict[str, str]
    n: int
    poison: bool


def read_topics(bootstrap_servers: str, topics: list[str], isolation: str, problems: list[str]) -> list[Record]:
    """Every record that a consumer of this isolation level gets, by topic, partition and offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "checker",
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 5,
            "auto.offset.reset": "earliest",
        }
    )
    ends: dict[tuple[str, int], int] = {}
    known = consumer.list_topics(timeout=20).topics
    for topic in topics:
        if topic not in known:
            problems.append(f"topic {topic} does not exist")
            continue
        for partition in known[topic].partitions:
            ends[topic, partition] = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)[1]
    consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in ends])
    records: list[Record] = []
    at_end: dict[tuple[str, int], int] = {}
    deadline = time.monotonic() + EOF_SECONDS_MAX
    while any(at_end.get(p, -1) < end for p, end in ends.items()):
        for message in consumer.consume(1000, 0.2):
            where = message.topic(), message.partition()
            if message.error() is not None:
                # A reader of committed records stands before an open transaction, and says "end" there too.
                if message.error().code() == KafkaError._PARTITION_EOF:
                    at_end[where] = message.offset()
                else:
                    problems.append(f"the broker answered {message.error().str()}")
                continue
            deadline = time.monotonic() + EOF_SECONDS_MAX
            headers = dict(message.headers() or [])
            event_id = (headers.get("ce_id") or b"").decode()
            records.append(
                Record(*where, message.offset(), event_id, message.key() or b"", message.value() or b"", headers)
            )
        if time.monotonic() > deadline:
            stuck = {f"{t}/{p}": (at_end.get((t, p)), end) for (t, p), end in ends.items() if at_end.get((t, p)) != end}
            problems.append(f"partitions cannot be read to their end (an open transaction?), as (read, end): {stuck}")
            break
    consumer.close()
    records.sort(key=lambda r: (r.topic, r.partition, r.offset))
    return records


def read_database(dsn: str) -> tuple[list[Row], dict[int, tuple[int, int]], set[int], int]:
    """The outbox, its publications, the open unpublishable positions, and the settled position, in one snapshot."""
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        rows = [
            Row(position, event_id, topic, key, payload.encode(), headers or {}, told["n"], told["poison"])
            for position, event_id, topic, key, payload, headers in connection.execute(
                "SELECT position, id, coalesce(topic, aggregatetype), aggregateid, payload::text, headers"
                " FROM evkit.outbox ORDER BY position"
            )
            for told in [json.loads(payload)]
        ]
        publications = {
            position: (partition, offset)
            for position, partition, offset in connection.execute(
                'SELECT position, partition, "offset" FROM evkit.publication'
            )
        }
        unpublishable = {
            position
            for (position,) in connection.execute(
                "SELECT position FROM evkit.unpublishable WHERE state IN ('parked', 'held', 'retry')"
            )
        }
        settled = connection.execute("SELECT coalesce(max(settled_position), 0) FROM evkit.relay").fetchone()[0]
    return rows, publications, unpublishable, settled


def judge(
    rows: list[Row],
    publications: dict[int, tuple[int, int]],
    unpublishable: set[int],
    records: list[Record],
    journal: dict,
    *,
    exactly_once: bool,
) -> tuple[dict[str, int], list[str]]:
    """Counts and problems; a problem is a sentence with how many and the first few."""
    problems: list[str] = []

    def problem(what: str, found: list) -> None:
        if found:
            problems.append(f"{len(found)} {what}, first: {'; '.join(str(x) for x in found[:EXAMPLES])}")

    by_id = {row.id: row for row in rows}
    committed, rolled_back = set(journal["committed"]), set(journal["rolled_back"])
    problem("events of committed transactions are not in the outbox", sorted(committed - by_id.keys()))
    problem("events in the outbox are not of committed transactions", sorted(by_id.keys() - committed))

    deliveries = Counter(record.id for record in records)
    in_topic = {(record.topic, record.id) for record in records}
    ghosts = [r for r in records if r.id not in by_id]
    problem("records are of rolled-back transactions", [r for r in ghosts if r.id in rolled_back])
    problem("records are of no event", [r for r in ghosts if r.id not in rolled_back])
    lost = [row for row in rows if row.position not in unpublishable and (row.topic, row.id) not in in_topic]
    marked_lost = [row for row in lost if row.position in publications]
    problem("events are lost: marked as published, and not in their topic", [about(x) for x in marked_lost])
    problem("events are not in their topic", [about(x) for x in lost if x.position not in publications])
    problem(
        "unpublishable events are in their topic",
        [about(row) for row in rows if row.position in unpublishable and (row.topic, row.id) in in_topic],
    )
    misjudged = unpublishable ^ expected_unpublishable(rows)
    problem(
        "events are unpublishable that should not be, or the reverse",
        [about(row) for row in rows if row.position in misjudged],
    )
    duplicates = {event_id: times for event_id, times in deliveries.items() if times > 1}
    if exactly_once:
        problem("events are in their topic more than once", [f"{i} {n} times" for i, n in duplicates.items()])

    problem("records differ from their outbox rows", [f"{r.topic}/{r.partition}/{r.offset}: {differs(r, by_id[r.id])}"
            for r in records if r.id in by_id and differs(r, by_id[r.id])])  # fmt: skip
    problems += judge_order(records, by_id)
    problems += judge_publications(publications, rows, records)

    positions = {row.position for row in rows}
    published, parked = len(positions & publications.keys()), len(positions & unpublishable)
    waiting = len(positions - publications.keys() - unpublishable)
    if waiting:
        problems.append(f"{waiting} events wait for publication")
    if both := positions & unpublishable & publications.keys():
        problem("events are published and unpublishable at once", sorted(both))
    counts = {
        "written": len(rows),
        "published": published,
        "waiting": waiting,
        "unpublishable": parked,
        "rolled_back": len(rolled_back),
        "transactions": journal["transactions"],
        "records": len(records),
        "duplicates": sum(times - 1 for times in duplicates.values()),
        "keys": len({row.key for row in rows}),
        "unlocated": sum(partition == -1 for partition, _ in publications.values()),
    }
    return counts, problems


def expected_unpublishable(rows: list[Row]) -> set[int]:
    """The poison events, and all behind them of the same topic and key."""
    held: set[tuple[str, str]] = set()
    expected = set()
    for row in rows:
        if row.poison:
            held.add((row.topic, row.key))
        if (row.topic, row.key) in held:
            expected.add(row.position)
    return expected


def about(row: Row) -> str:
    return f"position {row.position} (key {row.key!r} n {row.n}, id {row.id})"


def differs(record: Record, row: Row) -> str | None:
    """What of a record is not as it was written."""
    if record.key != row.key.encode():
        return f"key {record.key!r} for {row.key!r}"
    if record.value != row.payload:
        return f"value {record.value[:200]!r} for {row.payload[:200]!r}"
    for name, text in row.headers.items():
        if record.headers.get(name) != text.encode():
            return f"header {name} is {record.headers.get(name)!r} for {text!r}"
    return None


def judge_order(records: list[Record], by_id: dict[str, Row]) -> list[str]:
    """Order of the first deliveries of each key: n is 1, 2, 3 …: none later before an earlier one, none left out."""
    problems: list[str] = []
    of_key: dict[tuple[str, str], list[Record]] = defaultdict(list)
    first: set[str] = set()
    for record in records:  # by topic, partition, offset: the order in which a partition is read
        if record.id in by_id and record.id not in first:
            first.add(record.id)
            of_key[record.topic, by_id[record.id].key].append(record)
    inverted, overtaken, scattered = [], [], []
    for (topic, key), of in of_key.items():
        if key == "":
            continue
        if len({record.partition for record in of}) > 1:
            scattered.append(f"{topic} {key!r}")
            continue
        highest = 0
        seen: set[int] = set()
        for record in of:
            n = by_id[record.id].n
            if n < highest:
                inverted.append(f"{topic}/{record.partition}/{record.offset} {key!r} n {n} after {highest}")
            highest = max(highest, n)
            seen.add(n)
        if missing := [n for n in range(1, highest) if n not in seen]:
            overtaken.append(f"{topic} {key!r} n {missing[:5]} missing below {highest}")
    for what, found in [
        ("first deliveries come after a later event of their key", inverted),
        ("keys went on past an event that is not there", overtaken),
        ("keys are in more than one partition", scattered),
    ]:
        if found:
            problems.append(f"{len(found)} {what}, first: {'; '.join(found[:EXAMPLES])}")
    return problems


def judge_publications(publications: dict[int, tuple[int, int]], rows: list[Row], records: list[Record]) -> list[str]:
    """A publication row says where the event is: at that place is a record with its id."""
    at = {(r.topic, r.partition, r.offset): r.id for r in records}
    by_position = {row.position: row for row in rows}
    wrong, nobody = [], []
    for position, (partition, offset) in publications.items():
        row = by_position.get(position)
        if row is None:
            nobody.append(position)
        elif partition != -1 and at.get((row.topic, partition, offset)) != row.id:
            there = at.get((row.topic, partition, offset))
            wrong.append(f"position {position} says {row.topic}/{partition}/{offset}, where {there or 'nothing'} is")
    problems = []
    if wrong:
        problems.append(f"{len(wrong)} publication rows point at the wrong place, first: {'; '.join(wrong[:EXAMPLES])}")
    if nobody:
        problems.append(f"{len(nobody)} publication rows are of no event, first: {nobody[:EXAMPLES]}")
    return problems


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dsn", required=True)
    options.add_argument("--bootstrap-servers", required=True)
    options.add_argument("--isolation", choices=("read_committed", "read_uncommitted"), required=True)
    options.add_argument("--journal", required=True)
    options.add_argument("--exactly-once", action="store_true")
    given = options.parse_args()
    with open(given.journal) as file:  # noqa: PTH123
        journal = json.load(file)
    rows, publications, unpublishable, settled = read_database(given.dsn)
    problems: list[str] = list(journal["failed"])
    topics = sorted({row.topic for row in rows})
    records = read_topics(given.bootstrap_servers, topics, given.isolation, problems)
    counts, found = judge(rows, publications, unpublishable, records, journal, exactly_once=given.exactly_once)
    last = rows[-1].position if rows else 0
    if settled > last + len(journal["rolled_back"]):
        problems.append(f"the settled position {settled} lies beyond every position that was taken")
    json.dump({"counts": counts | {"settled": settled, "last": last}, "problems": problems + found}, sys.stdout)
    return 1 if problems or found else 0


if __name__ == "__main__":
    sys.exit(main())
