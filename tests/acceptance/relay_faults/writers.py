"""Traffic of the fault test: writers that do to an outbox what services do to it, the unpleasant things included.

    python writers.py --dsn postgresql://… --seed 7 --events 20000 --rate 400 --topics orders,refunds --journal FILE

A writer locks the row of a key in `aggregate`, counts its `n` up, and writes events that carry key and n: within a key the
committed events are n = 1, 2, 3 … in the order in which their transactions wrote them. By chance a transaction takes its
id early (writes elsewhere first), writes one event, some, or hundreds, rolls back a savepoint, waits before its end, or is
rolled back as a whole. Beside the writers one transaction is always open for seconds after it took its positions, and one
in another database of the same server, which holds back the horizon of all snapshots.

Goes on until so many events are committed *and* the line "enough" came on stdin, which also ends the pacing; ends at once
when stdin is closed. Then the journal says what became of every event, as the writers know it: ids committed, ids rolled
back, and counts. Nothing of evkit is imported here, and the rows are plain INSERTs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
import uuid
from contextlib import suppress

import psycopg
from psycopg.conninfo import make_conninfo

WRITERS = 8
COLD_KEYS = 200
HOT_KEY = "hot"
POISON_KEY = "poison"
POISON_BYTES = 150_000  # of random text: more than the poison topic takes, also when it is compressed

TEXTS = [
    "'; DROP TABLE evkit.outbox; --",
    "%s %(key)s {} $1 :name \\'",
    "żółć ünïcödé Ω → ☃ 🦆",
    "E'\\x00' || chr(0) \" \t\n line",
    "plain",
]


def key_name(number: int) -> str:
    """Keys are text too, and nobody promises that it is harmless."""
    return f"key-{number}" + ("", "'; --", " ключ ☃", ' "quoted" \\')[number % 4]


class Traffic:
    """What the writers share: how many events are committed, what became of each, and when it is enough."""

    def __init__(self, dsn: str, topics: list[str], poison_topic: str | None, events: int, rate: float) -> None:
        self.dsn, self.topics, self.poison_topic = dsn, topics, poison_topic
        self.events, self.rate = events, rate
        self.committed: list[str] = []
        self.rolled_back: list[str] = []
        self.transactions = 0
        self.enough = threading.Event()
        self.failed: list[str] = []

    @property
    def over(self) -> bool:
        return bool(self.failed) or (self.enough.is_set() and len(self.committed) >= self.events)

    def topic_of(self, key: str) -> str:
        return self.topics[sum(key.encode()) % len(self.topics)]


class Writer(threading.Thread):
    """One of the eight."""

    def __init__(self, traffic: Traffic, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.traffic, self.number, self.chance = traffic, number, random.Random(f"{seed} writer {number}")

    def run(self) -> None:
        due = time.monotonic()
        try:
            with psycopg.connect(self.traffic.dsn, application_name=f"writer {self.number}") as connection:
                while not self.traffic.over:
                    written = self.transaction(connection)
                    due = max(due + written * WRITERS / self.traffic.rate, time.monotonic() - 1)
                    while not self.traffic.enough.is_set() and time.monotonic() < due and not self.traffic.over:
                        self.traffic.enough.wait(min(0.2, max(0.0, due - time.monotonic())))
        except Exception as error:  # a writer that failed makes the whole run worthless: say so
            self.traffic.failed.append(f"writer {self.number}: {error!r}")
            raise

    def transaction(self, connection: psycopg.Connection) -> int:
        """One transaction of chance; returns how many events it committed."""
        chance = self.chance
        kept: list[str] = []
        dropped: list[str] = []
        if chance.random() < 0.5:  # takes the transaction id long before the position
            connection.execute("INSERT INTO unrelated (n) VALUES (1)")
        slow = chance.random() < 0.003
        rolls_back = chance.random() < 0.1
        size = chance.choices((1, 4, 60), (80, 15, 0.5))[0]
        if rolls_back and chance.random() < 0.02:
            size = chance.randint(200, 800)  # a bulk load that fails at its end
        # In one order, so that writers wait for each other and never in a circle. A slow one keeps off the hot key.
        keys = sorted({self.key(hot=not slow) for _ in range(1 if size != 4 else 3)})
        for key in keys:
            if chance.random() < 0.12:
                connection.execute("SAVEPOINT attempt")
                dropped += self.write(connection, key, chance.choices((1, 2, 40), (20, 10, 1))[0])
                connection.execute("ROLLBACK TO SAVEPOINT attempt")
            kept += self.write(connection, key, max(1, size // len(keys)))
            if chance.random() < 0.05:
                connection.execute("SAVEPOINT second")
                kept += self.write(connection, key, 1)
                connection.execute("RELEASE SAVEPOINT second")
        if slow:
            time.sleep(chance.uniform(1, 3))
        elif chance.random() < 0.1:
            time.sleep(chance.random() * 0.02)  # a commit that comes late
        if rolls_back:
            connection.rollback()
            self.traffic.rolled_back += dropped + kept
        else:
            connection.commit()
            self.traffic.committed += kept
            self.traffic.rolled_back += dropped
        self.traffic.transactions += 1
        return 0 if rolls_back else len(kept)

    def key(self, *, hot: bool) -> str:
        if hot and self.chance.random() < 0.2:
            return HOT_KEY
        return key_name(self.chance.randrange(COLD_KEYS))

    def write(self, connection: psycopg.Connection, key: str, events: int) -> list[str]:
        return write(connection, self.traffic.topic_of(key), key, events, self.chance)


def write(
    connection: psycopg.Connection, topic: str, key: str, events: int, chance: random.Random, text: str | None = None
) -> list[str]:
    """Lock the key's row, count up, write so many events in one plain INSERT; returns their ids."""
    row = connection.execute("UPDATE aggregate SET n = n + %s WHERE key = %s RETURNING n", (events, key)).fetchone()
    ids = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(events)]
    payloads = [
        json.dumps(
            {
                "key": key,
                "n": row[0] - events + 1 + i,
                "text": text or chance.choice(TEXTS),
                "poison": text is not None,
            },
            ensure_ascii=False,
        )
        for i in range(events)
    ]
    headers = [json.dumps({"note": chance.choice(TEXTS), "päth": "ü"}, ensure_ascii=False) for _ in range(events)]
    connection.execute(
        "INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, topic, headers)"
        " SELECT id, 'order', %s, 'order.changed', payload::json, %s, headers::json"
        "   FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS e (id, payload, headers, nth)"
        "  ORDER BY nth",
        (key, topic, ids, payloads, headers),
    )
    return ids


def hold_positions(traffic: Traffic, seed: int) -> None:
    """A transaction that takes positions and then stays open for long; every second one is rolled back."""
    chance = random.Random(f"{seed} holder")
    with psycopg.connect(traffic.dsn, application_name="holder") as connection:
        rolls_back = False
        while not traffic.over:
            ids = write(connection, traffic.topics[0], "held", chance.randint(1, 30), chance)
            until = time.monotonic() + chance.uniform(4, 10)
            while time.monotonic() < until and not traffic.over:
                time.sleep(0.1)
            if rolls_back:
                connection.rollback()
                traffic.rolled_back += ids
            else:
                connection.commit()
                traffic.committed += ids
            rolls_back = not rolls_back


def hold_horizon(traffic: Traffic, seed: int) -> None:
    """Writing transactions in another database: none of the outbox's business, but xmin is the whole server's."""
    chance = random.Random(f"{seed} horizon")
    dsn = make_conninfo(traffic.dsn, dbname="postgres")
    with psycopg.connect(dsn, application_name="another database") as connection:
        while not traffic.over:
            connection.execute("SELECT pg_current_xact_id()")
            until = time.monotonic() + chance.uniform(1, 5)
            while time.monotonic() < until and not traffic.over:
                time.sleep(0.1)
            connection.rollback()
            time.sleep(0.3)


def poison(traffic: Traffic, seed: int) -> None:
    """Of three keys the second event is larger than its topic takes, and more come behind it. Events of another key are
    written right before and after, so that they travel in the same request: they are not to blame."""
    chance = random.Random(f"{seed} poison")
    noise = "".join(chance.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(POISON_BYTES))
    topic = traffic.poison_topic
    with psycopg.connect(traffic.dsn, application_name="poison") as connection:
        turn = 0
        while not traffic.over:
            ids = write(connection, topic, "beside", 2, chance)
            ids += write(connection, topic, f"{POISON_KEY}-{turn % 3}", 1, chance, noise if 3 <= turn < 6 else None)
            ids += write(connection, topic, "beside", 1, chance)
            connection.commit()
            traffic.committed += ids
            turn += 1
            time.sleep(0.1 if turn < 20 else 1)


def prepare(dsn: str) -> None:
    """The writers' own tables."""
    keys = (
        [key_name(i) for i in range(COLD_KEYS)] + [HOT_KEY, "held", "beside"] + [f"{POISON_KEY}-{i}" for i in range(3)]
    )
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE unrelated (n int)")
        connection.execute("CREATE TABLE aggregate (key text PRIMARY KEY, n int NOT NULL) WITH (fillfactor = 20)")
        connection.execute("INSERT INTO aggregate SELECT unnest(%s::text[]), 0", (keys,))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dsn", required=True)
    options.add_argument("--seed", type=int, required=True)
    options.add_argument("--events", type=int, required=True, help="committed events, at least")
    options.add_argument("--rate", type=float, required=True, help="committed events a second until `enough`")
    options.add_argument("--topics", required=True)
    options.add_argument("--poison-topic", help="takes no event of 150 kB; without it there is no poison")
    options.add_argument("--journal", required=True)
    given = options.parse_args()
    prepare(given.dsn)
    traffic = Traffic(given.dsn, given.topics.split(","), given.poison_topic, given.events, given.rate)
    threads: list[threading.Thread] = [Writer(traffic, number, given.seed) for number in range(WRITERS)]
    others = [hold_positions, hold_horizon] + ([poison] if given.poison_topic else [])
    threads += [threading.Thread(target=other, args=(traffic, given.seed), daemon=True) for other in others]
    for thread in threads:
        thread.start()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "enough":
                traffic.enough.set()
        os._exit(3)  # whoever started us is gone

    threading.Thread(target=listen, daemon=True).start()
    for thread in threads:
        thread.join()
    with open(given.journal, "w") as journal:  # noqa: PTH123
        json.dump(
            {
                "committed": traffic.committed,
                "rolled_back": traffic.rolled_back,
                "transactions": traffic.transactions,
                "failed": traffic.failed,
            },
            journal,
        )
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(1 if traffic.failed else 0)


if __name__ == "__main__":
    main()
