"""One way of publishing an outbox, in a process of its own, so that its CPU and memory are its own.

    python publish.py WAY EVENTS TOPIC        (EVKIT_POSTGRES_DSN, EVKIT_KAFKA_BOOTSTRAP_SERVERS)

WAY: relay (at least once), exactly-once, bare (producer alone, from memory, same headers and callbacks), naive (poll every
100 ms, LIMIT 100, publish one, wait, UPDATE one). Prints "ready", waits for a line, prints one line of JSON: seconds,
first_event_seconds, cpu_seconds, rss_mb (peak).
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from pathlib import Path

import psycopg

from evkit import Relay, connect, kafka

PAYLOAD = b'{"pad": "' + b"x" * 220 + b'"}'
HEADERS = {
    "ce_specversion": b"1.0",
    "ce_id": b"018f3c5e-7b2a-7c1d-9e4f-0123456789ab",
    "ce_type": b"order.placed",
    "ce_source": b"/evkit/outbox",
    "ce_time": b"2013-02-08T12:00:00.123456Z",
    "content-type": b"application/json",
}


def relay(system, events, delivery):
    published, done = 0, threading.Event()

    def on_batch(n):
        nonlocal published
        published += n
        if published >= events:
            done.set()

    it = Relay(system, delivery=delivery, on_batch=on_batch)

    def work():
        it.start()
        done.wait()
        # From the first event that was visible, as relays are compared; its start is told beside.
        ended = time.time()
        with psycopg.connect(system.settings.postgres_dsn) as connection:
            (first,) = connection.execute("SELECT min(published_at) FROM evkit.publication").fetchone()
        return ended - first.timestamp()

    def end():
        it.stop()
        it._thread.join(30)

    return work, end


def bare(system, events, topic):
    producer = kafka.producer(system.settings)
    producer.list_topics(topic)
    keys = [f"k{i}".encode() for i in range(1000)]
    confirmed = []

    def answered(i, error, message):
        confirmed.append((i, message.partition(), message.offset()))

    def work():
        for i in range(events):
            while True:
                try:
                    callback = functools.partial(answered, i)
                    producer.produce(topic, PAYLOAD, keys[i % 1000], -1, callback, None, 0, dict(HEADERS))
                    break
                except BufferError:
                    producer.poll(0.01)
            if i % 500 == 0:
                producer.poll(0)
        producer.flush()
        assert len(confirmed) == events

    return work, lambda: None


def naive(system, events, topic):
    producer = kafka.producer(system.settings)
    producer.list_topics(topic)

    def work():
        done = 0
        with psycopg.connect(system.settings.postgres_dsn, autocommit=True) as connection:
            while done < events:
                started = time.perf_counter()
                rows = connection.execute(
                    "SELECT position, aggregateid, payload::text FROM naive_outbox WHERE published_at IS NULL"
                    " ORDER BY position LIMIT 100"
                ).fetchall()
                for position, key, payload in rows:
                    producer.produce(topic, payload.encode(), key.encode())
                    producer.flush()
                    connection.execute("UPDATE naive_outbox SET published_at = now() WHERE position = %s", (position,))
                done += len(rows)
                time.sleep(max(0.0, 0.1 - (time.perf_counter() - started)))

    return work, lambda: None


def main():
    way, events, topic = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    system = connect()
    if way in ("relay", "exactly-once"):
        work, end = relay(system, events, "at-least-once" if way == "relay" else way)
    else:
        work, end = {"bare": bare, "naive": naive}[way](system, events, topic)
    print("ready", flush=True)
    sys.stdin.readline()
    started, cpu = time.perf_counter(), time.process_time()
    seconds = work()
    whole, cpu = time.perf_counter() - started, time.process_time() - cpu
    # Not ru_maxrss, which begins with what the parent had at the fork.
    status = Path("/proc/self/status").read_text()
    rss = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    end()
    print(
        json.dumps(
            {
                "seconds": seconds or whole,
                "first_event_seconds": whole - (seconds or whole),
                "cpu_seconds": cpu,
                "rss_mb": rss,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
