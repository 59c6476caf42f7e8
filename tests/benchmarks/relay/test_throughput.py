"""How fast a backlog is published: the relay, at least and exactly once, against the bare producer and the naive loop.

Each way runs in a process of its own, the ways take turns, three rounds, medians. Each topic is read back.

    uv run pytest tests/benchmarks/relay -s
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from evkit.testing.events import read_topic

EVENTS, EVENTS_NAIVE, EVENTS_MANY = 200_000, 1_500, 1_000_000
ROUNDS = 3


def fill(dsn, table, topic, events):
    """`events` rows, as a writer of another language would make them: by SQL."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE naive_outbox, evkit.outbox, evkit.publication, evkit.relay RESTART IDENTITY")
        connection.execute(
            f"INSERT INTO {table} (aggregatetype, aggregateid, type, payload, topic)"
            " SELECT 'order', 'k' || i %% 1000, 'order.placed',"
            " json_build_object('pad', repeat('x', 220)), %s FROM generate_series(1, %s) AS i",
            (topic, events),
        )
        connection.execute(f"VACUUM ANALYZE {table}")
        connection.execute("CHECKPOINT")


@pytest.fixture
def way(evkit_system, evkit_topic, servers_cpu):
    """`way("relay", events)` → what publish.py measured, with events/s and the servers' CPU-s."""

    def run(name, events):
        topic = evkit_topic(partitions=6)
        settings = evkit_system.settings
        if name != "bare":
            fill(settings.postgres_dsn, "naive_outbox" if name == "naive" else "evkit.outbox", topic, events)
        environment = os.environ | {
            "EVKIT_POSTGRES_DSN": settings.postgres_dsn,
            "EVKIT_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        }
        script = Path(__file__).with_name("publish.py")
        with subprocess.Popen(
            [sys.executable, script, name, str(events), topic],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        ) as process:  # fmt: skip
            assert process.stdout.readline() == "ready\n"
            before = servers_cpu()
            print(file=process.stdin, flush=True)
            measured = json.loads(process.stdout.readline())
            after = servers_cpu()
        with_ids = (
            [dict(r.headers).get("ce_id") for r in read_topic(evkit_system, topic)] if events < EVENTS_MANY else None
        )
        if with_ids is not None:
            assert len(with_ids) == events
            assert name in ("bare", "naive") or len(set(with_ids)) == events
        return measured | {
            "way": name,
            "events": events,
            "events_per_second": events / measured["seconds"],
            "cpu_seconds_per_100k": measured["cpu_seconds"] / events * 1e5,
            "postgres_cpu_seconds_per_100k": (after["postgres"] - before["postgres"]) / events * 1e5,
            "kafka_cpu_seconds_per_100k": (after["kafka"] - before["kafka"]) / events * 1e5,
        }

    with psycopg.connect(evkit_system.settings.postgres_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE naive_outbox (LIKE evkit.outbox INCLUDING ALL, published_at timestamptz)")
        connection.execute("CREATE INDEX ON naive_outbox (position) WHERE published_at IS NULL")
    return run


@pytest.mark.timeout(900)
def test_throughput_on_a_backlog(way, report):
    rounds = [
        [way("bare", EVENTS), way("naive", EVENTS_NAIVE), way("relay", EVENTS), way("exactly-once", EVENTS)]
        for _ in range(ROUNDS)
    ]

    rows = []
    for name in ("naive", "bare", "relay", "exactly-once"):
        runs = [next(r for r in results if r["way"] == name) for results in rounds]
        row = {"way": name, "events": runs[0]["events"], "rounds": ROUNDS}
        for figure in ("events_per_second", "cpu_seconds_per_100k", "postgres_cpu_seconds_per_100k",
                       "kafka_cpu_seconds_per_100k", "rss_mb", "first_event_seconds"):  # fmt: skip
            row[figure] = statistics.median(r[figure] for r in runs)
        for other in ("naive", "bare", "relay"):
            ratios = [
                next(r for r in results if r["way"] == name)["events_per_second"]
                / next(r for r in results if r["way"] == other)["events_per_second"]
                for results in rounds
            ]
            row[f"ratio_to_{other}"] = statistics.median(ratios)
            row[f"ratio_to_{other}_range"] = [min(ratios), max(ratios)]
        rows.append(row)
    report("relay_throughput", rows)


@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_backlog(way, report):
    report("relay_memory", [{k: r[k] for k in ("way", "events", "events_per_second", "rss_mb", "cpu_seconds_per_100k")}
                            for r in (way("relay", 20_000), way("relay", EVENTS), way("relay", EVENTS_MANY))])  # fmt: skip
