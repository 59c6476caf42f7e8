"""The processes of the flights system: a relay and three groups, each an operating-system process of its own.

They are started, stopped, killed and held as a supervisor would do it, by `python -m evkit …`, and they find PostgreSQL and
Kafka by the environment. Whoever leaves the `with` block takes them along.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evkit import kafka, kafka_admin, sql
from evkit.demo.processes import Processes
from evkit.demo.service import TOPIC
from evkit.demo.tables import forget_events, require_own
from evkit.errors import BrokerRefused, Refused
from evkit.system import System

_SQL = sql.named("flights", package="evkit.demo")

GROUPS = ("punctuality", "turnaround", "maintenance")
PARTITIONS = 6


class Scene(Processes):
    """The flights system on one PostgreSQL and one Kafka.

    Attributes:
        system     where
        log_folder one file for each process
    """

    def __init__(self, system: System, log_folder: Path) -> None:
        super().__init__(system, log_folder)
        self.system = system

    # --- tables and topic ---------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Tables and topic, empty. What an earlier demo left is dropped; what anybody else wrote is not.

        Raises:
            Refused: the outbox, inbox or letters have events that are not the demo's.
        """
        from evkit import postgres

        postgres.migrate(self.system.settings.postgres_dsn)
        with self.system.writing("evkit demo") as connection:
            foreign = [row[0] for row in connection.execute(_SQL["foreign_events"]).fetchall()]
            require_own(self.system, foreign, "demo", "EVKIT_LOCAL_HOME=some/folder evkit demo")
            connection.execute(_SQL["drop"])
            forget_events(connection)
            connection.execute(_SQL["create"])
        self._new_topic()

    def _new_topic(self) -> None:
        admin, settings = self.system.admin, self.system.settings
        for group in (g for g in kafka.groups(settings, admin) if g in GROUPS):
            try:
                kafka_admin.delete_group(settings, group, admin)
            except BrokerRefused as error:
                raise Refused(
                    f"consumer group '{group}' of an earlier demo cannot be deleted ({error.cause.str()}): a consumer of "
                    "it is still running; stop it first"
                ) from None
        if TOPIC in kafka.topics(settings, admin):
            admin.delete_topics([TOPIC])[TOPIC].result()
            deadline = time.monotonic() + 30
            while TOPIC in kafka.topics(settings, admin) and time.monotonic() < deadline:
                time.sleep(0.1)  # the broker answers before it has forgotten the topic
        kafka.create_topics(settings, {TOPIC: PARTITIONS})

    # --- processes ----------------------------------------------------------------------------------------------------

    def start(self, name: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start "relay" or one of the groups."""
        arguments = ["relay", "run", "--source", "/flights/operations"] if name == "relay" else self._consume(name)
        return self.start_process(name, arguments, environment)

    def _consume(self, group: str) -> list[str]:
        return ["consume", f"evkit.demo.groups:{group}"]

    # --- waiting ------------------------------------------------------------------------------------------------------

    def progress(self) -> dict[str, Any]:
        """Counts of this moment: written, published, and for each group and outcome the inbox rows."""
        with self.system.reading() as connection:
            row = connection.execute(_SQL["progress"]).fetchone()
        assert row is not None
        inbox: dict[str, int] = row[2] or {}
        done = {g: sum(n for name, n in inbox.items() if name.split(" ")[0] == g) for g in GROUPS}
        return {"written": row[0], "published": row[1], "done": done, "inbox": inbox}

    def wait_until(
        self, reached: Callable[[dict[str, Any]], bool], seconds: float, watch: Callable[[dict[str, Any]], None]
    ) -> None:
        """Wait until the counts satisfy a condition; `watch` sees them on the way.

        Raises:
            Refused: a process has died, or it took longer than `seconds`; with the tail of the log.
        """
        deadline = time.monotonic() + seconds
        while True:
            now = self.progress()
            watch(now)
            if reached(now):
                return
            if (died := self.died()) is not None:
                raise Refused(f"the demo's {died[0]} ended with {died[1]}: {self.last_line(died[0])}")
            if time.monotonic() > deadline:
                raise Refused(f"the demo did not get on within {seconds:.0f} s: {now}; logs are in {self.log_folder}")
            time.sleep(0.2)

    def wait_drained(self, seconds: float, watch: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """Wait until everything written is published, dealt with by all three groups, and their offsets are committed."""

        def drained(now: dict[str, Any]) -> bool:
            return now["published"] == now["written"] and all(n == now["written"] for n in now["done"].values())

        self.wait_until(drained, seconds, watch)
        self.wait_until(lambda _: self._committed(), seconds, watch)

    def _committed(self) -> bool:
        """Whether every group has committed the end of every partition; consumers do so once a second."""
        settings, admin = self.system.settings, self.system.admin
        ends = kafka.offsets(settings, kafka.partitions_of(settings, [TOPIC], admin), client=admin)
        written = {where: end for where, end in ends.items() if end}
        places = [kafka.TopicPartition(*place) for place in written]
        return all(kafka.committed(settings, group, places) == written for group in GROUPS)
