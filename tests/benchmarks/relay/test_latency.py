"""How long an event takes from its commit to a consumer's hands, at 500 single-row transactions a second, and what an idle
relay costs. Writer and relay are processes of their own; the ways take turns, three rounds, medians.

    uv run pytest tests/benchmarks/relay/test_latency.py -s
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from evkit import kafka

RATE, SECONDS, ROUNDS, IDLE_SECONDS = 500, 8, 3, 5


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p))]


@pytest.fixture
def way(evkit_system, evkit_topic, evkit_group, servers_cpu):
    """`way("poll")` → latencies in ms, the writer's own commit, and CPU of relay and PostgreSQL in % of a core."""

    def run(name):
        topic = evkit_topic(partitions=6)
        settings = evkit_system.settings
        environment = os.environ | {
            "EVKIT_POSTGRES_DSN": settings.postgres_dsn,
            "EVKIT_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
        relay = None
        if name != "wake":
            relay = subprocess.Popen([sys.executable, "-m", "evkit", "relay", "run"], env=environment)
        received, end = {}, threading.Event()
        consumer = kafka.consumer(settings, evkit_group())
        consumer.assign([kafka.TopicPartition(topic, p, 0) for p in range(6)])

        def consume():
            while not end.is_set():
                message = consumer.poll(0.5)
                if message is not None and message.error() is None:
                    received[json.loads(message.value())["i"]] = time.monotonic()

        reader = threading.Thread(target=consume)
        reader.start()
        script = [sys.executable, Path(__file__).with_name("write.py"), name, str(RATE), str(SECONDS), topic]
        try:
            with subprocess.Popen(script, **pipes) as writer:
                assert writer.stdout.readline() == "ready\n"
                time.sleep(1)
                process = psutil.Process(relay.pid if relay is not None else writer.pid)
                relay_cpu, pg_cpu = sum(process.cpu_times()[:2]), servers_cpu()["postgres"]
                print(file=writer.stdin, flush=True)
                sent = json.loads(writer.stdout.readline())
                relay_cpu = sum(process.cpu_times()[:2]) - relay_cpu
                pg_cpu = servers_cpu()["postgres"] - pg_cpu
                idle_relay, idle_pg = sum(process.cpu_times()[:2]), servers_cpu()["postgres"]
                time.sleep(IDLE_SECONDS)
                idle_relay = sum(process.cpu_times()[:2]) - idle_relay
                idle_pg = servers_cpu()["postgres"] - idle_pg
                print(file=writer.stdin, flush=True)
        finally:
            if relay is not None:
                relay.terminate()
                relay.wait(30)
            end.set()
            reader.join()
            consumer.close()
        assert len(received) == len(sent["committed"])
        # The first second is left out: a producer's first event waits for its id and the topic's partitions.
        latency = [(received[i] - at) * 1000 for i, at in enumerate(sent["committed"])][RATE:]
        return {
            "way": name,
            "transactions_per_second": len(sent["committed"]) / sent["seconds"],
            "first_event_ms": (received[0] - sent["committed"][0]) * 1000,
            "p50_ms": percentile(latency, 0.5),
            "p99_ms": percentile(latency, 0.99),
            "max_ms": max(latency),
            "own_commit_p50_ms": percentile([s * 1000 for s in sent["own"]], 0.5),
            "p50_to_own_commit": percentile(latency, 0.5) / percentile([s * 1000 for s in sent["own"]], 0.5),
            # In the writer's process the writer's own work is in it too.
            "relay_cpu_percent": relay_cpu / sent["seconds"] * 100,
            "postgres_cpu_percent": pg_cpu / sent["seconds"] * 100,
            "idle_relay_cpu_percent": idle_relay / IDLE_SECONDS * 100,
            "idle_postgres_cpu_percent": idle_pg / IDLE_SECONDS * 100,
        }

    return run


@pytest.mark.timeout(600)
def test_latency_at_500_transactions_a_second(way, report):
    rounds = [[way(name) for name in ("poll", "notify", "wake")] for _ in range(ROUNDS)]

    rows = []
    for name in ("poll", "notify", "wake"):
        runs = [next(r for r in results if r["way"] == name) for results in rounds]
        row = {"way": name, "rounds": ROUNDS}
        row |= {k: statistics.median(r[k] for r in runs) for k in runs[0] if k != "way"}
        row["p99_ms_range"] = [min(r["p99_ms"] for r in runs), max(r["p99_ms"] for r in runs)]
        rows.append(row)
    report("relay_latency", rows)
