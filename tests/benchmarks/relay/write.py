"""A service that writes 500 events a second, one a transaction, in a process of its own; and, to compare, its own commit.

    python write.py WAY RATE SECONDS TOPIC     (EVKIT_POSTGRES_DSN, EVKIT_KAFKA_BOOTSTRAP_SERVERS)

WAY: poll (nothing wakes the relay), notify (NOTIFY at each commit), wake (the relay runs in this process and is called).
Writes the time of each commit's return, by number, as one line of JSON; the clock is CLOCK_MONOTONIC, the machine's own.
"""

from __future__ import annotations

import json
import sys
import time

import psycopg

from evkit import Event, Relay, connect, outbox


def main():
    way, rate, seconds, topic = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    system = connect()
    relay = Relay(system) if way == "wake" else None
    if relay is not None:
        relay.start()
        relay.leading.wait(30)
    committed, own = [], []
    with psycopg.connect(system.settings.postgres_dsn) as connection:
        print("ready", flush=True)
        sys.stdin.readline()
        cpu, started = time.process_time(), time.monotonic()
        for i in range(int(rate * seconds)):
            wait = started + i / rate - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            began = time.monotonic()
            outbox.write(connection, Event("a.b", f"k{i % 1000}", {"i": i}, topic=topic), notify=way == "notify")
            connection.commit()
            committed.append(time.monotonic())
            if relay is not None:
                relay.wake()
            own.append(committed[-1] - began)
        took, cpu = time.monotonic() - started, time.process_time() - cpu
    time.sleep(1)
    print(json.dumps({"committed": committed, "own": own, "seconds": took, "cpu_seconds": cpu}), flush=True)
    sys.stdin.readline()
    if relay is not None:
        relay.stop()
        relay._thread.join(30)


if __name__ == "__main__":
    main()
