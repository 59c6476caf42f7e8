"""How long the audit of 1,000,000 events takes, and how much memory, against a COPY of the same rows to nowhere, and
against what the client needs to hand over the records and their headers; three rounds in turn, medians. What audits is a
process of its own, so that its memory is its own; 250,000 events beside it show how the memory grows.

    uv run pytest tests/benchmarks/views/test_audit.py -s
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime

import psycopg
import pytest

from evkit import kafka, kafka_admin

EVENTS, KEYS, PARTITIONS, ROUNDS = 1_000_000, 50_000, 6, 3
FEWER = 250_000

AUDIT = """
import json, sys, time
from pathlib import Path
from evkit import connect, views
from evkit.kafka import topics
system = connect()
views.audit(system, "1ms")  # imports
topics(system.settings, system.admin)
high = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
base, started, cpu = high(), time.perf_counter(), time.process_time()
counts = views.audit_counts(system, sys.argv[1], topic=sys.argv[2])
print(json.dumps({"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu,
                  "mb_over_base": high() - base, "rows": counts.select("written", "handled", "unaccounted",
                  "unaccounted_group").rows()}))
"""

READ = """
import json, sys, time
from collections import deque
from evkit import connect, kafka
system = connect()
places = kafka.partitions_of(system.settings, [sys.argv[1]])
left = sum(kafka.offsets(system.settings, places).values())
started = time.perf_counter()
reader = kafka.consumer(system.settings, "bench")
reader.assign([kafka.TopicPartition(p.topic, p.partition, 0) for p in places])
while left:
    messages = reader.consume(1, 1.0)
    messages += reader.consume(4_999, 0)
    deque(map(kafka.Message.headers, messages), 0)
    left -= len(messages)
print(json.dumps({"seconds": time.perf_counter() - started}))
"""

ROWS = (
    'SELECT o.position, o.id, o.type, o.aggregateid, o.topic, o.created_at, p.partition, p."offset", p.published_at,'
    " i.outcome, i.processed_at FROM evkit.outbox o JOIN evkit.publication p USING (position)"
    " JOIN evkit.inbox i ON i.consumer_group = 'billing' AND i.event_id = o.id WHERE o.topic = %s"
)


@pytest.fixture
def filled(evkit_system, evkit_topic):
    """Two topics, by the number of events in each, and the windows in which these were written."""
    found = {}
    for n, hours in ((FEWER, 3), (EVENTS, 1)):
        found[n] = (evkit_topic(partitions=PARTITIONS), f"now-{hours + 1}h/now-{hours - 1}h")
        fill(evkit_system, found[n][0], n, hours)
    with psycopg.connect(evkit_system.settings.postgres_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO evkit.relay (settled_position, name) VALUES (%s, 'default')", (FEWER + EVENTS,))
        connection.execute("VACUUM ANALYZE")
    return found


def fill(system, topic, n, hours):
    producer = kafka.producer(system.settings, **{"linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    now = datetime.now(UTC).isoformat().encode()
    for i in range(n):
        headers = {
            "ce_specversion": b"1.0", "ce_id": f"018f3c5e-7b2a-7c1d-9e{hours}f-{i:012}".encode(),
            "ce_type": b"order.placed", "ce_source": b"/bench", "ce_time": now, "content-type": b"application/json",
        }  # fmt: skip
        producer.produce(topic, b'{"pad": "' + b"x" * 220 + b'"}', b"k", i % PARTITIONS, headers=headers)
        if i % 1000 == 0:
            producer.poll(0)
    assert producer.flush(600) == 0
    with psycopg.connect(system.settings.postgres_dsn, autocommit=True) as connection:
        given = {"n": n, "keys": KEYS, "topic": topic, "partitions": PARTITIONS, "hours": hours}
        connection.execute(
            "INSERT INTO evkit.outbox (position, id, aggregatetype, aggregateid, type, payload, topic, created_at)"
            " SELECT before.n + i + 1, '018f3c5e-7b2a-7c1d-9e' || %(hours)s || 'f-' || lpad(i::text, 12, '0'), 'order',"
            " 'k' || i %% %(keys)s, 'order.placed', json_build_object('pad', repeat('x', 220)), %(topic)s,"
            " now() - %(hours)s * interval '1 hour' + i * interval '1 ms' FROM generate_series(0, %(n)s - 1) AS i,"
            " (SELECT count(*) AS n FROM evkit.outbox) AS before",
            given,
        )
        connection.execute(
            "INSERT INTO evkit.publication SELECT position, i %% %(partitions)s, i / %(partitions)s,"
            " created_at + interval '20 ms' FROM (SELECT *, row_number() OVER (ORDER BY position) - 1 AS i"
            " FROM evkit.outbox WHERE topic = %(topic)s) AS o",
            given,
        )
        connection.execute(
            'INSERT INTO evkit.inbox (consumer_group, event_id, event_type, topic, partition, "offset", received_at,'
            " processed_at) SELECT 'billing', o.id, o.type, o.topic, p.partition, p.\"offset\", o.created_at,"
            " o.created_at + interval '50 ms' FROM evkit.outbox o JOIN evkit.publication p USING (position)"
            " WHERE o.topic = %(topic)s",
            given,
        )
    ends = kafka.offsets(system.settings, kafka.partitions_of(system.settings, [topic]))
    kafka_admin.move_offsets(system.settings, "billing", ends, system.admin)


@pytest.mark.timeout(3600)
def test_audit_of_1_000_000_events(evkit_system, filled, report):
    settings = evkit_system.settings
    env = os.environ | {
        "EVKIT_POSTGRES_DSN": settings.postgres_dsn,
        "EVKIT_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
    }

    def run(script, *words):
        done = subprocess.run(
            [sys.executable, "-c", script, *words], env=env, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    topic, window = filled[EVENTS]
    copied, read, audited, fewer = [], [], [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        with (
            psycopg.connect(settings.postgres_dsn) as connection,
            connection.cursor().copy(f"COPY ({ROWS}) TO STDOUT (FORMAT binary)", (topic,)) as rows,
        ):
            bytes_n = sum(len(piece) for piece in rows)
        copied.append(time.perf_counter() - started)
        read.append(run(READ, topic)["seconds"])
        audited.append(run(AUDIT, window, topic))
        assert audited[-1]["rows"] == [[EVENTS, None, 0, None], [None, EVENTS, None, 0]]
        fewer.append(run(AUDIT, filled[FEWER][1], filled[FEWER][0]))
        assert fewer[-1]["rows"] == [[FEWER, None, 0, None], [None, FEWER, None, 0]]
    copy = statistics.median(copied)
    report(
        "audit",
        [
            {"way": "COPY of the same rows to nowhere", "seconds": copy, "ratio": 1.0, "mb": bytes_n / 2**20},
            {
                "way": "consume() of the same records, and their headers",
                "seconds": statistics.median(read),
                "ratio": statistics.median(read) / copy,
            },
            row("audit, the topic read", audited, copy),
            row("audit of 250,000 events", fewer, copy),
        ],
    )


def row(way, rounds, copy):
    median = statistics.median(a["seconds"] for a in rounds)
    return {
        "way": way,
        "seconds": median,
        "ratio": median / copy,
        "cpu_seconds": statistics.median(a["cpu_seconds"] for a in rounds),
        "mb_over_base": statistics.median(a["mb_over_base"] for a in rounds),
        "seconds_of_rounds": [a["seconds"] for a in rounds],
    }
