"""relays of an outbox → the one that leads: take the lead, keep it, and give it up.

The lead is a session lock on the connection that the outbox is read on: it ends with that connection, whatever happened.
The leader asks this connection something every second, so that one which hangs shows in pg_stat_activity: a standby then
ends its session and takes over. A leader publishes only while it was heard lately, and its marks are refused once another
has led (`epoch`). With exactly-once delivery, Kafka fences the older producer besides.

Whoever takes the lead finds out what the one before has left: claims that reached their topics and are not marked yet
(exactly once), positions of which nothing is recorded (outbox_cursor.py), and whether it was killed by an event.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg

from evkit import kafka, postgres
from evkit.errors import RelayStopped
from evkit.runtime.batch import Batch, Unpublished
from evkit.runtime.marker import Marker, ranges_of
from evkit.runtime.outbox_cursor import GapAwareCursor
from evkit.runtime.publisher import Publisher
from evkit.runtime.transactional_publisher import TransactionalPublisher
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_SQL = named("relay")

# How often the leader lets itself be heard when it has nothing else to ask.
HEARTBEAT_SECONDS = 1.0
# A broker's answer that takes longer is worth telling about.
SLOW_SECONDS = 5.0
# After so many deaths in a row with nothing marked in between, events are claimed one by one; the one that is alone in
# its claim then is parked after as many deaths more.
DEATHS_MAX = 3


class Candidate:
    """A relay's own connection, from which it takes the lead when nobody else has it."""

    def __init__(self, system: System) -> None:
        self.connection = system.writing("evkit relay", autocommit=True)
        try:
            postgres.require_migrated(self.connection)
        except BaseException:
            self.connection.close()
            raise

    def wins(self) -> bool:
        """Whether this relay leads now."""
        row = self.connection.execute(_SQL["lead"]).fetchone()
        return row is not None and bool(row[0])

    def depose(self, lease_seconds: float) -> None:
        """End the session of a leader that was not heard for so long."""
        row = self.connection.execute(_SQL["silent_leader"]).fetchone()
        if row is None or row[1] is None or row[1] <= lease_seconds:
            return
        log.warning("the leading relay was not heard for %.1f s: its session is ended", row[1], extra={"pid": row[0]})
        try:
            self.connection.execute(_SQL["depose"], (row[0],))
        except psycopg.errors.InsufficientPrivilege as error:
            log.error("the leading relay hangs, and this role may not end its session: %s", error)

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self.connection.close()


class Lead:
    """One term of one relay: what it reads, publishes and marks with.

    Args:
        connection      holds the lock
        make_publisher  makes the publisher, given the relay's id, what tells whether it may publish, and what raises
                        when it does not lead any more
        first           of this process: what is left over was left by a relay that died

    Attributes:
        connection, cursor, publisher, marker, epoch
        heard_at          when PostgreSQL last answered, on the monotonic clock
        one_by_one_until  position up to which events are claimed one by one, for one of them may kill the relay

    Raises:
        RelayStopped: the brokers are another cluster than before, or refuse this relay.
        BrokerUnreachable, PublishFailed: they do not answer.
    """

    def __init__(
        self,
        connection: postgres.Connection,
        system: System,
        make_publisher: Callable[[str, Callable[[], bool], Callable[[], None]], Publisher],
        *,
        delivery: str,
        lease_seconds: float,
        accept_cluster: bool,
        first: bool,
    ) -> None:
        self.connection = connection
        self.one_by_one_until = 0
        self._system = system
        self._lease_seconds = lease_seconds
        self.heard_at = time.monotonic()
        self._told_slow = False
        self._notified = False
        self._claims: list[tuple[int, list[list[int]]]] = []
        cluster = kafka.cluster_id(system.settings)
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            connection.execute(_SQL["end_stale_marks"])
        connection.execute(_SQL["register"])
        relay_id, self.epoch, settled, self._claim, claims, marked_claim, claimed_at, known, self._decisions = self.ask(
            _SQL["take"], {"delivery": delivery}
        )
        if known is not None and known != cluster and not accept_cluster:
            raise RelayStopped(
                f"this outbox was published to the Kafka cluster {known} so far, and {system.settings.bootstrap_servers} "
                f"is the cluster {cluster}: mend the address, or start the relay with --accept-cluster if it has moved"
            )
        if known != cluster:
            connection.execute(_SQL["remember_cluster"], {"cluster_id": cluster, "epoch": self.epoch})
        self.publisher = make_publisher(relay_id, self.is_certain, self.confirm)
        marks = system.writing("evkit relay marks", autocommit=True)
        self.marker = Marker(marks, self.epoch, settled, marked_claim)
        try:
            self.cursor = self._take_over(settled, [c for c in claims if c["n"] > marked_claim], claimed_at, first)
            connection.add_notify_handler(self._on_notify)
            connection.execute(_SQL["listen"])
            if delivery == "at-least-once":
                # A claim need not survive a crash of the server: what is lost with it is one count of an attempt.
                connection.execute(_SQL["claims_may_lag"])
        except BaseException:
            self.close()
            raise
        log.info(
            "relay leads",
            extra={
                "position": self.cursor.high, "open_holes": len(self.cursor.holes), "epoch": self.epoch,
                "delivery": delivery,
            },
        )  # fmt: skip

    def _take_over(self, settled: int, pending: list[dict[str, Any]], claimed_at: Any, first: bool) -> GapAwareCursor:
        if isinstance(self.publisher, TransactionalPublisher):
            committed = self.publisher.committed_claim({row[0] for row in self._claimed_rows(pending)})
            self._claim = max(self._claim, committed)  # the higher one wins
            if through := [c for c in pending if c["n"] <= committed]:
                rows = self._claimed_rows(through)
                found = self.publisher.find(rows, claimed_at)
                self.marker.recover(found, committed)
                log.info("%s events of claims up to %s had reached their topics", len(found), committed)
            pending = [c for c in pending if c["n"] > committed]
        if pending and first:
            self._burn(pending)
        cursor = GapAwareCursor(self.connection, settled)
        cursor.recover()
        self.publisher.prepare()
        self.publisher.held = self.held_keys()
        return cursor

    def _burn(self, pending: list[dict[str, Any]]) -> None:
        """Whoever led before has died with something claimed. Again and again: find the event that kills, and park it."""
        deaths = self.ask(_SQL["burn"], (self.epoch,))[0]
        ranges = [r for claim in pending for r in claim["ranges"]]
        alone = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
        if alone or deaths >= DEATHS_MAX:
            self.one_by_one_until = max(r[1] for r in ranges)
        if not alone or deaths < DEATHS_MAX:
            return
        for topic, _, position, key in self._claimed_rows(pending):
            error = f"the relay died {deaths} times in a row while it published this event, and nothing else"
            parked = Unpublished(position, topic, key, "parked", None, deaths, "RelayDied", error)
            self.marker.mark([Batch(0, [], 0, unpublished=[parked])])
            log.error("event is parked: %s", error, extra={"position": position, "topic": topic})

    def _claimed_rows(self, claims: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        """Rows of these claims that are not marked: (topic, id, position, key)."""
        return self.connection.execute(_SQL["claimed_rows"], (_ranges(claims),)).fetchall() if claims else []

    # --- being heard --------------------------------------------------------------------------------------------------

    def ask(self, query: bytes, params: Any = None) -> Any:
        """One row from the leader's own connection: whoever gets it still leads."""
        asked_at = time.monotonic()
        row = self.connection.execute(query, params).fetchone()
        self.heard_at = asked_at
        assert row is not None
        return row

    def confirm(self) -> None:
        """Raise psycopg's error when the lead is lost."""
        self.ask(_SQL["heartbeat"])

    def slow(self) -> tuple[str, float] | None:
        """What the brokers have not answered for long, and since when (monotonic clock); None when all is well."""
        since = self.publisher.waiting_since
        if since is None or time.monotonic() - since < SLOW_SECONDS:
            return None
        words = self.publisher.trouble or "no answer"
        return f"Kafka at {self._system.settings.bootstrap_servers} has not confirmed a batch yet: {words}", since

    def beat(self) -> None:
        """Be heard, and tell when the brokers have not answered for long."""
        if time.monotonic() - self.heard_at > HEARTBEAT_SECONDS:
            self.ask(_SQL["heartbeat"])
        slow = self.slow()
        if slow is None:
            self._told_slow = False
        elif not self._told_slow:
            self._told_slow = True
            self.tell(slow[0])

    def _on_notify(self, _notify: Any) -> None:
        self._notified = True

    def was_notified(self) -> bool:
        """Whether a writer's NOTIFY came together with the answer to something else since the last call."""
        notified, self._notified = self._notified, False
        return notified

    def is_certain(self) -> bool:
        """Whether PostgreSQL has heard from us so lately that no standby can have taken over."""
        return time.monotonic() - self.heard_at < 0.8 * self._lease_seconds

    def tell(self, error: str) -> None:
        """Write down why nothing moves, for `evkit outbox status`; does nothing when nobody can be told."""
        log.warning("relay waits: %s", error)
        with contextlib.suppress(psycopg.Error):
            self.connection.execute(_SQL["fail"], {"error": error[:2000]})

    # --- what is to be done -------------------------------------------------------------------------------------------

    def read(self, events_max: int, *, settled_all: bool) -> tuple[Batch | None, bool, bool]:
        """The next batch, claimed; whether there is more to read now; whether somebody decided about unpublishable rows.

        A batch without rows has news for the marker alone: made when everything before is marked (`settled_all`).
        """
        asked_at = time.monotonic()
        reading = self.cursor.read(1 if self.one_by_one_until else events_max)
        if reading.due:
            self.connection.execute(_SQL["move_due"], (events_max,))
            if not reading.rows:
                reading = self.cursor.read(1 if self.one_by_one_until else events_max)
        self.heard_at = asked_at
        more = reading.due or not reading.complete
        # The lowest position comes first: one above the bound, or none, says that everything below it was tried.
        if not reading.rows or reading.rows[0][0] > self.one_by_one_until:
            self.one_by_one_until = 0
        decided, self._decisions = reading.decisions != self._decisions, reading.decisions
        settled, holes = self.cursor.settled, self.cursor.holes
        hole = (holes[0].first, holes[0].since) if holes else None
        if reading.rows:
            return self.claimed(Batch(0, reading.rows, settled, hole)), more, decided
        if settled_all and settled > self.marker.settled:
            return Batch(0, [], settled, hole), more, decided
        return None, more, decided

    def read_again(self, events_max: int) -> Batch | None:
        """Unpublishable rows that may be tried again, claimed; None when there are none.

        To be called when everything that was read is marked: the table then knows every key that is held.
        """
        rows = postgres.bytes_cursor(self.connection).execute(_SQL["retry_rows"], (events_max,)).fetchall()
        self.publisher.held = self.held_keys()
        if not rows:
            return None
        for row in rows:  # the keys of this batch are let through
            self.publisher.held.pop((row[1].decode(), row[2].decode()), None)
        self.publisher.forget_topics()
        return self.claimed(Batch(0, rows, self.marker.settled, redo=True))

    def claimed(self, batch: Batch) -> Batch:
        """Write down what is about to be published: an attempt counts from here, so that a crash burns one."""
        self._claim += 1
        batch.claim = self._claim
        self._claims = [claim for claim in self._claims if claim[0] > self.marker.claim]
        self._claims.append((self._claim, ranges_of([row[0] for row in batch.rows])))
        claims = json.dumps([{"n": n, "ranges": ranges} for n, ranges in self._claims])
        self.connection.execute(_SQL["claim"], {"claim": self._claim, "claims": claims, "epoch": self.epoch})
        return batch

    def refresh_held(self) -> None:
        """To be called when everything that was read is marked."""
        self.publisher.held = self.held_keys()

    def held_keys(self) -> dict[tuple[str, str], int]:
        """(topic, key) → position of the first row that is not to be overtaken."""
        rows = self.connection.execute(_SQL["held_keys"]).fetchall()
        return {(topic, key): position for topic, key, position in rows}

    def close(self) -> None:
        """Give up the lead. What is unconfirmed stays unpublished and is sent again later."""
        self.publisher.close()
        with contextlib.suppress(psycopg.Error):
            self.connection.execute(_SQL["spare"], (self.epoch,))
        self.marker.close()


def _ranges(claims: list[dict[str, Any]]) -> str:
    return json.dumps([{"first": first, "last": last} for claim in claims for first, last in claim["ranges"]])
