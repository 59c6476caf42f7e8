"""The shop: a relay and two groups as processes of their own, a gateway, traffic; the system that incidents happen to."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from evkit import kafka, kafka_admin, postgres, sql
from evkit.demo.incidents.gateway import Gateway
from evkit.demo.incidents.groups import GROUPS, TOPIC
from evkit.demo.processes import Processes
from evkit.demo.tables import forget_events, require_own
from evkit.errors import BrokerRefused, Refused
from evkit.event import Event
from evkit.kafka import KafkaError
from evkit.runtime import outbox
from evkit.system import System

_SQL = sql.named("shop", package="evkit.demo.incidents")

PARTITIONS = 4
# What the topic takes.
RECORD_BYTES_MAX = 20_000
KEYS = 40
# How long an incident may take to show; some servers are slow, and it is waited for signals only.
_SECONDS_MAX = 120.0
# How long a member that said no goodbye may stay in its group: Kafka's session timeout, and a little.
_LEAVES_SECONDS = 60.0


class Shop(Processes):
    """The shop on one PostgreSQL and one Kafka.

    Attributes:
        system   where
        gateway  what billing depends on
    """

    def __init__(self, system: System, log_folder: Path) -> None:
        super().__init__(system, log_folder)
        self.system = system
        self.gateway = Gateway()
        self._numbers = itertools.count(1)
        self._left: list[Callable[[], object]] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for undo in reversed(self._left):
            undo()
        super().__exit__(kind, error, trace)
        self.gateway.close()

    def prepare(self) -> None:
        """Empty tables, a new topic, no groups. What an earlier incident left is dropped; what anybody else wrote is not.

        Raises:
            Refused: the outbox has events that are not the shop's, or a consumer of the shop is running.
        """
        postgres.migrate(self.system.settings.postgres_dsn)
        with self.system.writing("evkit incident") as connection:
            foreign = [row[0] for row in connection.execute(_SQL["foreign_events"]).fetchall()]
            require_own(self.system, foreign, "shop", "evkit incident NAME --home some/folder")
            forget_events(connection)
            connection.execute(_SQL["create"])
        self._new_topic()

    def _new_topic(self) -> None:
        admin, settings = self.system.admin, self.system.settings
        for group in (g for g in kafka.groups(settings, admin) if g in GROUPS):
            self.until(lambda group=group: self._is_deleted(group), _LEAVES_SECONDS)  # type: ignore[misc]
        if TOPIC in kafka.topics(settings, admin):
            admin.delete_topics([TOPIC])[TOPIC].result()
            self.until(lambda: TOPIC not in kafka.topics(settings, admin))
        config = {"max.message.bytes": str(RECORD_BYTES_MAX)}
        self.until(lambda: kafka.create_topics(settings, {TOPIC: PARTITIONS}, **config))

    def _is_deleted(self, group: str) -> bool:
        """Whether the group is gone now; it cannot be deleted until the broker has noticed that its last member left."""
        try:
            kafka_admin.delete_group(self.system.settings, group, self.system.admin)
        except BrokerRefused as error:
            if error.cause.code() != KafkaError.NON_EMPTY_GROUP:
                raise
            return False
        return True

    # --- what runs ----------------------------------------------------------------------------------------------------

    def relay(self) -> None:
        """Start the relay."""
        self.start_process("relay", ["relay", "run", "--source", "/shop"], {})

    def consume(self, group: str, name: str | None = None, **environment: str) -> None:
        """Start a consumer of a group; the environment switches what groups.py says."""
        environment.setdefault("EVKIT_SHOP_GATEWAY", str(self.gateway.port))
        self.start_process(name or group, ["consume", f"evkit.demo.incidents.groups:{group}"], environment)

    def open(self, **environment: str) -> None:
        """Start everything, and wait until both groups have handled an order of every partition."""
        self.relay()
        for group in GROUPS:
            self.consume(group, **environment)
        self.write(KEYS)
        for group in GROUPS:
            self.until(lambda group=group: self.ask("handled", group) >= KEYS)  # type: ignore[misc]

    def write(self, n: int, *, key: str | None = None, **payload: Any) -> None:
        """Orders, in one transaction: of one customer, or of all in turn."""
        with self.system.writing("shop") as connection:
            outbox.write_many(connection, [self.order(key, **payload) for _ in range(n)])

    def order(self, key: str | None = None, **payload: Any) -> Event:
        """The next order; the payload's fields replace the usual ones, and take them out where they are None."""
        n = next(self._numbers)
        about = {"order": f"order-{n}", "total": round(n * 7.35 % 100, 2)} | payload
        about = {name: value for name, value in about.items() if value is not None}
        return Event("order.placed", key or f"customer-{n % KEYS}", about, topic=TOPIC)

    @contextmanager
    def traffic(self, per_second: float, key_of: Callable[[int], str | None] = lambda _: None) -> Iterator[None]:
        """Orders come one by one, in transactions of their own, while the block runs."""
        ended = threading.Event()

        def come() -> None:
            with self.system.writing("shop") as connection:
                began, n = time.monotonic(), 0
                while not ended.wait(max(0.0, began + n / per_second - time.monotonic())):
                    with connection.transaction():
                        outbox.write(connection, self.order(key_of(n)))
                    n += 1

        thread = threading.Thread(target=come, name="traffic")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def at_the_end(self, undo: Callable[[], object]) -> None:
        """Do this when the shop is left, whatever happens."""
        self._left.append(undo)

    # --- signals ------------------------------------------------------------------------------------------------------

    def ask(self, query: str, *parameters: Any) -> float:
        """One number from shop.sql."""
        with self.system.reading() as connection:
            row = connection.execute(_SQL[query], parameters).fetchone()
        assert row is not None
        return float(row[0])

    def until_committed(self, group: str) -> None:
        """Wait until all that was written is published, and the group has handled and committed it."""
        settings, admin = self.system.settings, self.system.admin
        self.until(lambda: self.ask("oldest_unpublished") == 0 == self.ask("oldest_unhandled", group))
        self.until(lambda: kafka_admin.committed_offsets(settings, group, admin) == self.ends())

    def ends(self) -> dict[tuple[str, int], int]:
        """End offsets of the topic."""
        settings, admin = self.system.settings, self.system.admin
        return kafka.offsets(settings, kafka.partitions_of(settings, [TOPIC], admin), client=admin)

    def hole_seconds(self) -> float | None:
        """Since when the relay knows of a position that a transaction may still fill; None when there is none."""
        age: float | None = outbox.status(self.system)["oldest_hole_seconds"]
        return age

    def until(self, reached: Callable[[], object], seconds: float = _SECONDS_MAX) -> None:
        """Wait for a signal.

        Raises:
            Refused: a process has died, or it took too long; with where to look.
        """
        deadline = time.monotonic() + seconds
        while not reached():
            if (died := self.died()) is not None:
                raise Refused(f"the shop's {died[0]} ended with {died[1]}: {self.last_line(died[0])}")
            if time.monotonic() > deadline:
                raise Refused(
                    f"the incident did not show within {seconds:.0f} s: {self._progress()}; logs are in {self.log_folder}"
                )
            time.sleep(0.1)

    def _progress(self) -> str:
        handled = ", ".join(f"{group} handled {self.ask('handled', group):,.0f}" for group in GROUPS)
        counts = {
            name: self.ask(name) for name in ("written", "published", "letters", "open_breakers", "unpublishable")
        }
        return ", ".join(f"{n:,.0f} {name.replace('_', ' ')}" for name, n in counts.items()) + f", {handled}"

    def until_late(self, group: str, seconds: float) -> None:
        """Wait until the oldest event that the group has not handled has been published for so long."""
        self.until(lambda: self.ask("oldest_unhandled", group) >= seconds)

    def until_handled(self, group: str, events: int) -> None:
        """Wait until the group has handled so many more."""
        before = self.ask("handled", group)
        self.until(lambda: self.ask("handled", group) >= before + events)
