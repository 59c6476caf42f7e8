"""Lag of now for many groups, and 24 hours of it by each source.

    uv run pytest tests/benchmarks/views/test_lag.py -s

Now: 50 groups, 200 partitions, all behind. Past: one group of 100 partitions, 24 h at steps of a minute; samples of every
15 s (576,100), copied commits of every 30 s (288,000) and evkit's own tables of 1,000,000 events are made by SQL, the
commits that are rebuilt are real, in the live log. Ratios: to the client asking for the same offsets group by group, and to
a COPY of as many rows to nowhere.
"""

from __future__ import annotations

import io
import statistics
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import psycopg
import pytest

from evkit import kafka, kafka_admin, views
from evkit.kafka import TopicPartition
from evkit.offsets_log import partition_of
from evkit.window import Window
from tests.integration.views.groups import commit

GROUPS, PARTITIONS, PAST_PARTITIONS = 50, 200, 100
EVENTS, BEFORE_EVENTS = 1_000_000, 20_000
ROUNDS = 3


def timed(work):
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def fill(system, topic, partitions, each=3):
    producer = kafka.producer(system.settings)
    for p in range(partitions):
        for _ in range(each):
            producer.produce(topic, b"x", partition=p)
    assert producer.flush(60) == 0


@pytest.mark.timeout(900)
def test_lag_now_of_50_groups_and_200_partitions(evkit_system, evkit_topic, evkit_group, report):
    topic, groups = evkit_topic(partitions=PARTITIONS), [evkit_group(f"g{n}") for n in range(GROUPS)]
    fill(evkit_system, topic, PARTITIONS)
    share = PARTITIONS // GROUPS
    for n, group in enumerate(groups):
        consumer = kafka.consumer(evkit_system.settings, group)
        offsets = [TopicPartition(topic, p, 1) for p in range(n * share, (n + 1) * share)]
        consumer.commit(offsets=offsets, asynchronous=False)
        consumer.close()
    known = len(kafka.groups(evkit_system.settings, evkit_system.admin))

    def bare():
        """The same offsets with one question each."""
        settings, admin = evkit_system.settings, evkit_system.admin
        kafka_admin.assigned(settings, groups, admin)
        for group in groups:
            kafka_admin.committed_offsets(settings, group, admin)
        kafka.offsets(settings, [TopicPartition(topic, p) for p in range(PARTITIONS)], client=admin)

    views.lag(evkit_system)
    seconds, bares = [], []
    for _ in range(ROUNDS):
        bares.append(timed(bare)[0])
        took, frame = timed(lambda: views.lag(evkit_system))
        seconds.append(took)
    assert sum(frame["group"].is_in(groups)) == PARTITIONS
    report(
        "lag_now",
        [
            {
                "groups": known, "partitions": len(frame), "seconds": statistics.median(seconds),
                "offsets alone, seconds": statistics.median(bares),
                "ratio": statistics.median(seconds) / statistics.median(bares),
            }
        ],
    )  # fmt: skip


@pytest.mark.timeout(1800)
def test_24_hours_of_100_partitions(evkit_system, evkit_topic, evkit_group, report):
    topic, group = evkit_topic(partitions=PAST_PARTITIONS), evkit_group()
    fill(evkit_system, topic, PAST_PARTITIONS)
    commit(evkit_system, group, topic, 1)
    cluster = kafka.cluster_id(evkit_system.settings)
    now = datetime.now(UTC)
    window = Window(now - timedelta(hours=24), now)
    commits = kafka.consumer(evkit_system.settings, group)
    for n in range(100):  # 10,000 commits in the live log
        offsets = [TopicPartition(topic, p, n % 3) for p in range(PAST_PARTITIONS)]
        commits.commit(offsets=offsets, asynchronous=False)
    commits.close()
    log_partitions = 50
    with psycopg.connect(evkit_system.settings.postgres_dsn) as connection:
        connection.execute(
            "INSERT INTO evkit.lag_sample SELECT %s, %s, %s, p, %s::timestamptz - n * interval '15 s', 15, 10000 - n,"
            " 0, 10010 - n, 10010 - n, 'stable', 3 FROM generate_series(0, 5760) n, generate_series(0, %s) p",
            (cluster, group, topic, now, PAST_PARTITIONS - 1),
        )
        connection.execute(
            "INSERT INTO evkit.commit_log_tail (cluster_id, log_partition, next_offset, complete_at, groups)"
            " SELECT %s, p, 1000000, %s, '{}' FROM generate_series(0, %s) p",
            (cluster, now + timedelta(hours=1), log_partitions - 1),
        )
        connection.execute(
            "INSERT INTO evkit.commit_log SELECT %s, %s, n * 1000 + p, at, 'commit', %s, %s, p, n, at, NULL, NULL"
            " FROM generate_series(0, 2881) n, generate_series(0, %s) p,"
            " LATERAL (SELECT %s::timestamptz - interval '24 h 1 m' + n * interval '30 s' AS at) x",
            (cluster, partition_of(group, log_partitions), group, topic, PAST_PARTITIONS - 1, now),
        )
        connection.commit()
        connection.autocommit = True
        handle(connection, group, topic, window.start)
        connection.execute("VACUUM ANALYZE")
    rows = []
    for source in ("sample", "commit_log", "offsets_log", "inbox"):
        took, frame = timed(
            lambda source=source: views.lag_history(evkit_system, group, topic, window, "1m", source=source)
        )
        assert len(frame) == 1440 * PAST_PARTITIONS
        if source != "offsets_log":
            assert frame["covered"].all(), (source, frame.filter(~pl.col("covered")))
        rows.append(
            {"source": source, "rows": len(frame), "seconds": took, "copy, seconds": copied(evkit_system, frame)}
        )
        rows[-1]["ratio"] = took / rows[-1]["copy, seconds"]
    report("lag_history", rows)


def handle(connection, group, topic, start):
    """Events at even distances in the window and some before it, published and handled soon after."""
    given = {
        "group": group, "topic": topic, "partitions": PAST_PARTITIONS, "before": BEFORE_EVENTS, "start": start,
        "n": EVENTS + BEFORE_EVENTS, "each": timedelta(hours=24) / EVENTS,
    }  # fmt: skip
    connection.execute(
        "INSERT INTO evkit.outbox (position, id, aggregatetype, aggregateid, type, payload, topic, created_at)"
        " SELECT i + 1, '018f3c5e-7b2a-7c1d-9e1f-' || lpad(i::text, 12, '0'), 'order', 'k' || i %% 50000, 'order.placed',"
        " '{}', %(topic)s, %(start)s + (i - %(before)s) * %(each)s FROM generate_series(0, %(n)s - 1) AS i",
        given,
    )
    connection.execute(
        "INSERT INTO evkit.publication SELECT position, (position - 1) %% %(partitions)s, (position - 1) / %(partitions)s,"
        " created_at + interval '20 ms' FROM evkit.outbox",
        given,
    )
    connection.execute(
        'INSERT INTO evkit.inbox (consumer_group, event_id, event_type, topic, partition, "offset", received_at,'
        ' processed_at) SELECT %(group)s, o.id, o.type, o.topic, p.partition, p."offset", o.created_at,'
        " o.created_at + interval '50 ms' FROM evkit.outbox o JOIN evkit.publication p USING (position)",
        given,
    )
    connection.execute("INSERT INTO evkit.relay (settled_position, name) VALUES (%(n)s, 'default')", given)


def copied(system, frame):
    """Seconds that a COPY of as many rows from PostgreSQL to nowhere takes."""
    with psycopg.connect(system.settings.postgres_dsn) as connection:
        connection.execute("CREATE TEMP TABLE there (LIKE evkit.lag_sample)")
        connection.execute("INSERT INTO there SELECT * FROM evkit.lag_sample LIMIT %s", (len(frame),))
        started = time.perf_counter()
        with connection.cursor().copy("COPY there TO STDOUT (FORMAT binary)") as copy:
            sink = io.BytesIO()
            for block in copy:
                sink.write(block)
        return time.perf_counter() - started
