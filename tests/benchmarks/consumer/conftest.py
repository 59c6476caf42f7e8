"""Topics filled as a relay fills them, and one way of consuming one of them, measured and proven."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import pytest

from evkit import kafka
from evkit.event import new_id

HERE = Path(__file__).parent
PEERS = {
    "faststream": ("with_faststream.py", "ack_first"),
    "faststream-ack": ("with_faststream.py", "ack"),
    "quix": ("with_quix.py", "at_least_once"),
}


@pytest.fixture
def filled(evkit_system, evkit_topic):
    """`filled(events, keys=1000, partitions=6)` → (topic, events, keys): CloudEvents of 256 bytes, six headers each."""

    def fill(events, keys=1000, partitions=6):
        topic = evkit_topic(partitions=partitions)
        producer = kafka.producer(evkit_system.settings, **{"linger.ms": 5})
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z").encode()
        for i in range(events):
            headers = {
                "ce_specversion": b"1.0", "ce_id": new_id().encode(), "ce_type": b"order.placed",
                "ce_source": b"/evkit/outbox", "ce_time": now, "content-type": b"application/json",
            }  # fmt: skip
            value = b'{"i": %d, "pad": "%s"}' % (i, b"x" * 220)
            while True:
                try:
                    producer.produce(topic, value, b"k%d" % (i % keys), headers=headers)
                    break
                except BufferError:
                    producer.poll(0.01)
            if i % 1000 == 0:
                producer.poll(0)
        assert producer.flush(60) == 0
        return topic, events, keys

    return fill


@pytest.fixture
def way(evkit_system, evkit_group, servers_cpu):
    """`way("plain", filled(60_000))` → what consume.py or a peer measured, after its guarantee was looked up in SQL.

    The rate is that of the events whose work lay wholly within the clock; `others_percent` of a core is what the machine
    did besides. A peer that cannot be installed here is left out: None, and a line that says why.
    """
    settings = evkit_system.settings
    environment = os.environ | {
        "EVKIT_POSTGRES_DSN": settings.postgres_dsn,
        "EVKIT_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
    }
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE effect (key text PRIMARY KEY, n bigint, total bigint) WITH (fillfactor = 50)")

    def run(name, topic_filled, seconds=3600.0):
        topic, events, keys = topic_filled
        with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
            connection.execute("TRUNCATE effect, evkit.inbox")
            connection.execute("VACUUM ANALYZE effect, evkit.inbox")
            connection.execute("CHECKPOINT")
        group = evkit_group()
        if (command := _command(name)) is None:
            return None
        with subprocess.Popen(
            [*command, topic, group, str(events), str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        ) as process:  # fmt: skip
            assert process.stdout.readline() == "ready\n"
            servers, machine, began = servers_cpu(), _busy_seconds(), time.monotonic()
            print(file=process.stdin, flush=True)
            measured = json.loads(process.stdout.readline())
            machine, began = _busy_seconds() - machine, time.monotonic() - began
            assert process.wait() == 0
            time.sleep(0.2)  # a backend that is just ending is counted nowhere
            servers = {what: after - servers[what] for what, after in servers_cpu().items()}
        proof = _proof(settings.postgres_dsn, name, group, events, keys) if seconds >= 3600 else "stopped in the middle"
        per_100k = 1e5 / measured["events"]
        return {
            "way": name,
            "events": events,
            "events_per_second": measured["events"] / measured["seconds"],
            "cpu_seconds_per_100k": measured["cpu_seconds"] * per_100k,
            "postgres_cpu_seconds_per_100k": servers["postgres"] * per_100k,
            "kafka_cpu_seconds_per_100k": servers["kafka"] * per_100k,
            "rss_mb": measured["rss_mb"],
            "others_percent": 100 * max(0.0, machine - sum(servers.values()) - measured["cpu_seconds"]) / began,
            "proof": proof,
        }

    return run


def _busy_seconds():
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def _command(name):
    if name not in PEERS:
        return [sys.executable, HERE / "consume.py", name]
    script, policy = HERE / "peers" / PEERS[name][0], PEERS[name][1]
    if (uv := shutil.which("uv")) is None:
        return _left_out(name, "uv is not on the path")
    sync = [uv, "sync", "--quiet", "--locked", "--script", script]
    done = subprocess.run(sync, capture_output=True, text=True, check=False)
    if done.returncode:
        return _left_out(name, done.stderr.strip())
    return [uv, "run", "--quiet", "--locked", "--script", script, policy]


def _left_out(name, reason):
    print(f"\n{name} is left out, for it cannot be installed here: {reason}")


def _proof(dsn, name, group, events, keys):
    """Raise unless every event has had its effect, and none had it twice."""
    with psycopg.connect(dsn) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM evkit.inbox WHERE consumer_group = %s", (group,)).fetchone()
        effects = dict(connection.execute("SELECT key, ARRAY[n, total] FROM effect").fetchall())
    if name.startswith(("bare", "decoded", "noop")):
        assert rows == 0
        return "none: nothing is written"
    assert rows == (0 if name == "own" else events), rows
    if name.startswith("sleep"):
        return "an inbox row each, each key in order"
    numbers = {f"k{k}": range(k, events, keys) for k in range(min(keys, events))}
    assert effects == {key: [len(of), sum(of)] for key, of in numbers.items()}
    return "each effect once"
