"""How fast a replay is beside the live consumer: the same handler, the same topic, the same process, in turn."""

from __future__ import annotations

import statistics
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from evkit import Consumer, kafka, replay
from evkit.event import new_id
from evkit.runtime.outcome import Counts

ROUNDS, EVENTS, KEYS, PARTITIONS = 3, 20_000, 1000, 6
UPSERT = (
    "INSERT INTO effect VALUES (%s, 1, %s)"
    " ON CONFLICT (key) DO UPDATE SET n = effect.n + 1, total = effect.total + excluded.total"
)
UPSERT_ALL = (
    "INSERT INTO effect SELECT key, count(*), sum(i) FROM unnest(%s::text[], %s::bigint[]) AS e (key, i) GROUP BY key"
    " ON CONFLICT (key) DO UPDATE SET n = effect.n + excluded.n, total = effect.total + excluded.total"
)

KNOWN = (
    'INSERT INTO evkit.inbox (consumer_group, event_id, event_type, topic, partition, "offset", received_at)'
    " VALUES (%s, 'x', 'x', %s, 0, 0, now())"
)


def one(event, tx):
    tx.execute(UPSERT, (event.key, event.payload["i"]))


def many(events, tx):
    tx.execute(UPSERT_ALL, ([e.key for e in events], [e.payload["i"] for e in events]))


FORMS = {"plain": (one, {}), "pipeline": (one, {"pipeline": True}), "batch": (many, {"batch": True})}


@pytest.fixture
def topic(evkit_system, evkit_topic):
    """So many CloudEvents of 256 bytes."""
    name = evkit_topic(partitions=PARTITIONS)
    producer = kafka.producer(evkit_system.settings, **{"linger.ms": 5})
    now = datetime.now(UTC).isoformat().encode()
    for i in range(EVENTS):
        headers = {
            "ce_specversion": b"1.0", "ce_id": new_id().encode(), "ce_type": b"order.placed", "ce_source": b"/bench",
            "ce_time": now, "content-type": b"application/json",
        }  # fmt: skip
        producer.produce(name, b'{"i": %d, "pad": "%s"}' % (i, b"x" * 220), b"k%d" % (i % KEYS), headers=headers)
        if i % 1000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0
    return name


@pytest.mark.timeout(1800)
def test_replay_beside_the_live_consumer(evkit_system, evkit_group, topic, report):
    """Rates from the first event that a handler gets to the commit of the last; the effects are counted after each."""
    with evkit_system.writing(autocommit=True) as connection:
        connection.execute("CREATE TABLE effect (key text PRIMARY KEY, n bigint, total bigint) WITH (fillfactor = 50)")
    measured = {(form, way): [] for form in FORMS for way in ("live", "again", "honour")}
    for _ in range(ROUNDS):
        for form, (function, options) in FORMS.items():
            for way, seconds in one_round(evkit_system, topic, evkit_group(), function, options):
                measured[form, way].append(EVENTS / seconds)
    rows = []
    for form in FORMS:
        live = statistics.median(measured[form, "live"])
        for way in ("live", "again", "honour"):
            rate = statistics.median(measured[form, way])
            rows.append({
                "handler": form, "way": way, "events": EVENTS, "rounds": ROUNDS, "events_per_second": rate,
                "ratio_to_live": rate / live,
            })  # fmt: skip
    report("replay_throughput", rows)


def one_round(system, topic, group, function, options):
    """Seconds of the live consumer, of a replay of everything, and of one after everything was lost."""
    began = []

    def consumer():
        made = Consumer(group, [topic], system=system, batch_events_max=500)

        @made.handler("order.placed", **options)
        def handle(events, tx):
            began or began.append(time.perf_counter())
            function(events, tx)

        return made

    def clean(query="TRUNCATE effect"):
        with system.writing(autocommit=True) as connection:
            connection.execute(query)
            connection.execute("TRUNCATE effect")
            connection.execute("VACUUM ANALYZE evkit.inbox")
            connection.execute("CHECKPOINT")
        began.clear()

    clean("TRUNCATE evkit.inbox")
    live = consumer()
    thread = threading.Thread(target=live.run)
    thread.start()
    while live.counts.total < EVENTS:
        time.sleep(0.002)
    yield "live", time.perf_counter() - began[0]
    live.stop()
    thread.join()
    proven(system)
    for dedupe in ("again", "honour"):
        clean("TRUNCATE effect" if dedupe == "again" else "TRUNCATE evkit.inbox")
        if dedupe == "honour":  # the group is known by one event, and has lost all others
            with system.writing() as connection:
                connection.execute(KNOWN, (group, topic))
        plan = replay.plan(system, group, datetime.now(UTC) - timedelta(hours=6), dedupe=dedupe)
        began.clear()
        result = replay.run(system, plan, consumer())
        yield dedupe, time.perf_counter() - began[0]
        assert (result.state, result.counts) == ("done", Counts(handled=EVENTS))
        proven(system)


def proven(system):
    """Raise unless every event has had its effect, once."""
    with system.reading() as connection:
        found = dict(connection.execute("SELECT key, ARRAY[n, total] FROM effect").fetchall())
    numbers = {f"k{k}": range(k, EVENTS, KEYS) for k in range(KEYS)}
    assert found == {key: [len(of), sum(of)] for key, of in numbers.items()}
