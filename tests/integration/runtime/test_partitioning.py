"""A key lies in the same partition whoever publishes it: evkit, or a service in Java beside it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from evkit import kafka
from evkit.testing.events import read_topic

PARTITIONS = (1, 2, 3, 7, 12, 50)


def some_keys():
    """Keys as services use them, and keys of every length up to 40 bytes and of any bytes at all."""
    drawn = random.Random(6085)
    keys = [f"order-{n}".encode() for n in range(1000)]
    keys += [str(drawn.getrandbits(64)).encode() for _ in range(500)]
    keys += ["größe-ж-日本-%d" % n for n in range(500)]  # noqa: UP031
    keys += ["\U0001f6eb" * n for n in range(1, 50)]
    keys += [drawn.randbytes(length) for length in range(1, 41) for _ in range(20)]
    keys += [drawn.randbytes(length) for length in (100, 1000, 1023, 1024, 1025, 10_000)]
    return sorted({key.encode() if isinstance(key, str) else key for key in keys})


def test_keys_lie_in_the_partitions_where_java_puts_them(evkit_system, evkit_topic):
    """Read back from topics that Kafka's own Java producer has filled, and from topics that ours has."""
    keys = some_keys()
    theirs = {n: evkit_topic(f"java-{n}", partitions=n) for n in PARTITIONS}
    ours = {n: evkit_topic(f"evkit-{n}", partitions=n) for n in PARTITIONS}

    subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("java_producer.py")),
            evkit_system.settings.bootstrap_servers,
            *theirs.values(),
        ],
        input="".join(f"{key.hex()}\n" for key in keys),
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        text=True,
        check=True,
        timeout=120,
    )
    producer = kafka.producer(evkit_system.settings)
    for topic in ours.values():
        for key in keys:
            producer.produce(topic, b"{}", key)
    assert producer.flush(60) == 0

    for n in PARTITIONS:
        by_java = {record.key: record.partition for record in read_topic(evkit_system, theirs[n])}
        by_evkit = {record.key: record.partition for record in read_topic(evkit_system, ours[n])}
        assert len(by_java) == len(keys)
        assert by_evkit == by_java
        assert set(by_java.values()) == set(range(n))
