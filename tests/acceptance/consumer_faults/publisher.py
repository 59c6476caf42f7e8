"""Traffic of the consumer's fault test: events of many keys, some of them twice, some of them bad.

    python publisher.py --bootstrap-servers … --topic orders --seed 7 --events 10000 --rate 250 --journal FILE

Within a key the events are n = 1, 2, 3 … in the order of the topic. By chance an event fails once or twice or always,
takes long, or has no handler; a copy of an earlier one is published, right behind it or long after; a record is no event
at all. What becomes of an event is in its payload, so the topic is all that the checker has to know (see service.py).

When so many events are published it goes on slowly, until the line "enough" comes on stdin, which also ends the pacing; it
ends at once when stdin is closed. Then the journal says how many of each the broker has confirmed. Nothing of evkit is
imported here: the records are CloudEvents in binary mode, written by hand.
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
from collections import Counter
from datetime import UTC, datetime

from confluent_kafka import Producer

TYPES = ("order.placed", "order.paid", "order.sent")
FAILS = ((0, 980), (1, 8), (2, 4), (99, 8))  # 2 % of the events fail: most of these get over it


def key_name(number: int) -> str:
    """Keys are text too, and nobody promises that it is harmless."""
    return f"key-{number}" + ("", "'; --", " ключ ☃", ' "quoted" \\')[number % 4]


class Publisher:
    """Publishes one event after the other, and counts what is confirmed."""

    def __init__(
        self, bootstrap_servers: str, topic: str, seed: int, keys: int, *, bad: bool, busy: float = 0.0
    ) -> None:
        self.topic, self.keys, self.bad, self.busy = topic, keys, bad, busy
        self.chance = random.Random(f"{seed} publisher")
        self.producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "delivery.timeout.ms": 900_000,
                "partitioner": "murmur2_random",
            }
        )
        self.n: Counter[str] = Counter()
        self.past: list[tuple] = []
        self.sent: Counter[str] = Counter()
        self.confirmed: Counter[str] = Counter()
        self.failed: list[str] = []

    def step(self) -> None:
        """The next record: most are events."""
        chance = self.chance
        drawn = chance.random() if self.bad else 1.0
        if drawn < 0.001:
            self.send("garbage", key_name(chance.randrange(self.keys)), chance.randbytes(30), [])
        elif drawn < 0.006:
            self.event("order.ignored", "ignored")
        elif drawn < 0.036 and self.past:
            # Half of them soon after the original, and half any time later.
            nth = len(self.past) - 1 - chance.randrange(20) if chance.random() < 0.5 else chance.randrange(10**9)
            self.send("copies", *self.past[nth % len(self.past)])
        else:
            self.event(chance.choice(TYPES), "events")

    def event(self, event_type: str, kind: str) -> None:
        chance = self.chance
        key = key_name(0 if chance.random() < 0.1 else chance.randrange(self.keys))  # one is hot
        fails = 0
        if kind == "events":
            self.n[key] += 1
            if self.bad:
                fails = chance.choices(*zip(*FAILS, strict=True))[0]
        payload = {
            "key": key,
            "n": self.n[key] if kind == "events" else 0,
            "fails": fails,
            "error": chance.choice(("raise", "raise", "sql")),
            "seconds": self.busy or chance.choices((0, 0.004, 0.5), (9500, 500, 2))[0],
        }
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", str(uuid.UUID(int=chance.getrandbits(128), version=4)).encode()),
            ("ce_type", event_type.encode()),
            ("ce_source", b"/faults"),
            ("ce_time", datetime.now(UTC).isoformat().encode()),
            ("content-type", b"application/json"),
            ("note", "żółć ☃".encode()),
        ]
        what = key, json.dumps(payload, ensure_ascii=False).encode(), headers
        self.past.append(what)
        self.send(kind, *what)

    def send(self, kind: str, key: str, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        def answered(error, _message):
            if error is None:
                self.confirmed[kind] += 1
            else:
                self.failed.append(f"{kind}: {error.str()}")

        while True:
            try:
                self.producer.produce(self.topic, value, key.encode(), headers=headers, on_delivery=answered)
                break
            except BufferError:
                self.producer.poll(0.1)
        self.sent[kind] += 1
        self.producer.poll(0)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bootstrap-servers", required=True)
    options.add_argument("--topic", required=True)
    options.add_argument("--seed", type=int, required=True)
    options.add_argument("--events", type=int, required=True, help="published events, at least")
    options.add_argument("--rate", type=float, required=True, help="events a second until `enough`")
    options.add_argument("--keys", type=int, default=200)
    options.add_argument("--journal", required=True)
    options.add_argument("--steady", action="store_true", help="go on at the same rate until `enough`")
    options.add_argument("--busy", type=float, default=0.0, help="seconds that the handler of each event takes")
    options.add_argument("--good", action="store_true", help="no event fails, none is there twice, none is garbage")
    given = options.parse_args()
    enough = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "enough":
                enough.set()
        os._exit(3)  # whoever started us is gone

    threading.Thread(target=listen, daemon=True).start()
    publisher = Publisher(
        given.bootstrap_servers, given.topic, given.seed, given.keys, bad=not given.good, busy=given.busy
    )
    due = time.monotonic()
    while not (enough.is_set() and publisher.sent["events"] >= given.events):
        publisher.step()
        rate = given.rate if given.steady or publisher.sent["events"] < given.events else given.rate / 10
        due = max(due + 1 / rate, time.monotonic() - 1)
        if (ahead := due - time.monotonic()) > 0.02:
            enough.wait(ahead)
    while len(publisher.producer):
        publisher.producer.poll(0.2)
    with open(given.journal, "w") as journal:  # noqa: PTH123
        json.dump({"confirmed": publisher.confirmed, "failed": publisher.failed}, journal)
    os._exit(1 if publisher.failed else 0)


if __name__ == "__main__":
    main()
