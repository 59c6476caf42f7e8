"""A topic scan beside a consumer that looks at nothing: `consume()` in batches, with the same client settings.

Each in turn, three times, and the median counts; CPU seconds are of this process, the client's threads included, and say
more than the clock on a machine that has other work.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from statistics import median

from evkit import kafka, views
from evkit.event import new_id
from evkit.kafka import OFFSET_BEGINNING, TopicPartition

EVENTS, PARTITIONS, ROUNDS = 1_000_000, 6, 3


def fill(system, topic):
    """CloudEvents of 256 bytes in six headers each, as a relay writes them."""
    producer = kafka.producer(system.settings, **{"linger.ms": 20})
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z").encode()
    for i in range(EVENTS):
        headers = {
            "ce_specversion": b"1.0", "ce_id": new_id().encode(), "ce_type": b"order.placed",
            "ce_source": b"/evkit/outbox", "ce_time": now, "content-type": b"application/json",
        }  # fmt: skip
        value = b'{"i": %d, "pad": "%s"}' % (i, b"x" * 220)
        while True:
            try:
                producer.produce(topic, value, b"k%d" % (i % 1000), headers=headers)
                break
            except BufferError:
                producer.poll(0.01)
        if i % 1000 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0


def bare(system, topic):
    reader = kafka.consumer(system.settings, "bare")
    reader.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
    got = 0
    while got < EVENTS:
        got += len(reader.consume(1, 1.0)) + len(reader.consume(4_999, 0))
    reader.close()


def rows(**asked):
    def scan(system, topic):
        found = views.scan(system, topic, offsets=(0, 2**62), rows_max=EVENTS, **asked)
        assert found.height == (EVENTS // 1000 if "where" in asked else EVENTS)

    return scan


WAYS = {
    "bare consume()": bare,
    "scan": rows(),
    "scan, one JSON field": rows(fields=["i"]),
    "scan, where key=k7": rows(where="key=k7"),
}


def test_scan_beside_bare_consume(evkit_system, evkit_topic, report):
    topic = evkit_topic(partitions=PARTITIONS)
    fill(evkit_system, topic)
    took = {name: [] for name in WAYS}

    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            clock, cpu = time.perf_counter(), time.process_time()
            way(evkit_system, topic)
            took[name].append((time.perf_counter() - clock, time.process_time() - cpu))

    base = [median(of) for of in zip(*took["bare consume()"], strict=True)]
    report(
        "views_scan",
        [
            {
                "way": name,
                "records": EVENTS,
                "records_per_second": EVENTS / median(clock for clock, _ in of),
                "cpu_seconds_per_million": median(cpu for _, cpu in of) * 1e6 / EVENTS,
                "speed_to_bare": base[0] / median(clock for clock, _ in of),
                "cpu_speed_to_bare": base[1] / median(cpu for _, cpu in of),
            }
            for name, of in took.items()
        ],
    )
