"""How long the audit of 1,000,000 events takes, and how much memory, against a COPY of the same rows to nowhere; three
rounds in turn, medians. The process that audits is one of its own, so that its memory is its own.

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
counts = views.audit_counts(system, "1d")
print(json.dumps({"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu,
                  "mb_over_base": high() - base, "rows": counts.select("written", "handled", "unaccounted",
                  "unaccounted_group").rows()}))
"""

ROWS = (
    'SELECT o.position, o.id, o.type, o.aggregateid, o.topic, o.created_at, p.partition, p."offset", p.published_at,'
    " i.outcome, i.processed_at FROM evkit.outbox o JOIN evkit.publication p USING (position)"
    " JOIN evkit.inbox i ON i.consumer_group = 'billing' AND i.event_id = o.id"
)


@pytest.fixture
def million(evkit_system, evkit_topic):
    topic = evkit_topic(partitions=PARTITIONS)
    producer = kafka.producer(evkit_system.settings, **{"linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    now = datetime.now(UTC).isoformat().encode()
    for i in range(EVENTS):
        headers = {
            "ce_specversion": b"1.0", "ce_id": f"018f3c5e-7b2a-7c1d-9e4f-{i:012}".encode(), "ce_type": b"order.placed",
            "ce_source": b"/bench", "ce_time": now, "content-type": b"application/json",
        }  # fmt: skip
        producer.produce(topic, b'{"pad": "' + b"x" * 220 + b'"}', b"k", i % PARTITIONS, headers=headers)
        if i % 1000 == 0:
            producer.poll(0)
    assert producer.flush(600) == 0
    with psycopg.connect(evkit_system.settings.postgres_dsn, autocommit=True) as connection:
        given = {"n": EVENTS, "keys": KEYS, "topic": topic, "partitions": PARTITIONS}
        connection.execute(
            "INSERT INTO evkit.outbox (position, id, aggregatetype, aggregateid, type, payload, topic, created_at)"
            " SELECT i + 1, '018f3c5e-7b2a-7c1d-9e4f-' || lpad(i::text, 12, '0'), 'order', 'k' || i %% %(keys)s,"
            " 'order.placed', json_build_object('pad', repeat('x', 220)), %(topic)s, now() - interval '1 hour'"
            " + i * interval '1 ms' FROM generate_series(0, %(n)s - 1) AS i",
            given,
        )
        connection.execute(
            "INSERT INTO evkit.publication SELECT position, (position - 1) %% %(partitions)s,"
            " (position - 1) / %(partitions)s, created_at + interval '20 ms' FROM evkit.outbox",
            given,
        )
        connection.execute(
            'INSERT INTO evkit.inbox (consumer_group, event_id, event_type, topic, partition, "offset", received_at,'
            " processed_at) SELECT 'billing', o.id, o.type, o.topic, p.partition, p.\"offset\", o.created_at,"
            " o.created_at + interval '50 ms' FROM evkit.outbox o JOIN evkit.publication p USING (position)"
        )
        connection.execute("INSERT INTO evkit.relay (settled_position, name) VALUES (%s, 'default')", (EVENTS,))
        connection.execute("VACUUM ANALYZE")
    ends = kafka.offsets(evkit_system.settings, kafka.partitions_of(evkit_system.settings, [topic]))
    kafka_admin.move_offsets(evkit_system.settings, "billing", ends, evkit_system.admin)
    return topic


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("million")
def test_audit_of_1_000_000_events(evkit_system, report):
    settings = evkit_system.settings
    env = os.environ | {
        "EVKIT_POSTGRES_DSN": settings.postgres_dsn,
        "EVKIT_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
    }
    copied, audited = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        with (
            psycopg.connect(settings.postgres_dsn) as connection,
            connection.cursor().copy(f"COPY ({ROWS}) TO STDOUT (FORMAT binary)") as rows,
        ):
            bytes_n = sum(len(piece) for piece in rows)
        copied.append(time.perf_counter() - started)
        done = subprocess.run([sys.executable, "-c", AUDIT], env=env, capture_output=True, text=True, check=True)
        audited.append(json.loads(done.stdout))
        assert audited[-1]["rows"] == [[EVENTS, None, 0, None], [None, EVENTS, None, 0]]
    median = statistics.median(a["seconds"] for a in audited)
    copy = statistics.median(copied)
    report(
        "audit",
        [
            {"way": "COPY of the same rows to nowhere", "seconds": copy, "ratio": 1.0, "mb": bytes_n / 2**20},
            {
                "way": "audit, the topic read",
                "seconds": median,
                "ratio": median / copy,
                "cpu_seconds": statistics.median(a["cpu_seconds"] for a in audited),
                "mb_over_base": statistics.median(a["mb_over_base"] for a in audited),
                "seconds_of_rounds": [a["seconds"] for a in audited],
            },
        ],
    )
