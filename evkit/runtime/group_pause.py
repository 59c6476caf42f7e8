"""replay → live consumers of its group, and back: pause, drain, and go on when the replay is over or dead.

They meet in the database, which both need anyway to handle anything. The replay writes a row that says which group is to
pause, and gives a sign of life each second. Every consumer looks once a second; when its group is to pause, it begins no
other batch, fetches nothing more, and says how much it still has in hand. It keeps its partitions and its place in the
group, so nothing is rebalanced. Who is in the group Kafka says: the replay begins when every member that Kafka knows has
said that it has nothing in hand, so a consumer that knows nothing of pauses keeps it from beginning.

A consumer goes on when the row is gone, or has had no sign of life for DEAD_SECONDS: a killed replay holds nobody for ever.
A replay that was only asleep finds its row stale, and commits nothing more (replay_ledger.PAUSE_RELIED_ON_SECONDS is less).

A consumer does not begin before its first look. If PostgreSQL is away then, it begins without, as it cannot handle anything
either; when PostgreSQL comes back just then, it may handle for up to a second in a paused group.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol
from uuid import uuid4

import psycopg

from evkit import kafka_admin, postgres
from evkit.errors import EvkitError, ReplayRefused
from evkit.runtime import audit
from evkit.runtime.assignment import Assignment
from evkit.runtime.lane import Lane
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_SQL = named("group_pause")

# How often a consumer looks whether its group is to pause; a paused one that still has something in hand, and a replay that
# waits for it, look more often.
LOOK_SECONDS = 1.0
_SHORT_LOOK_SECONDS = 0.1
# A pause counts for so long after its replay's last sign of life.
DEAD_SECONDS = 15.0
# A member's word counts for so long.
_FRESH_SECONDS = 5.0
# How long a consumer that ends waits for a look at a PostgreSQL that hangs.
_CLOSE_SECONDS_MAX = 5.0
# How long a replay waits for the consumers to finish what they have in hand.
DRAIN_SECONDS_MAX = 60.0


# --- the consumer's side ----------------------------------------------------------------------------------------------


class Pausable(Protocol):
    """What is looked at of a consumer: what its lanes have in hand, which they take under its condition `_changed` and not
    while `PauseWatch.held`."""

    group: str
    _changed: threading.Condition
    _assignment: Assignment
    _lanes: list[Lane]


class PauseWatch(threading.Thread):
    """Looks for a consumer whether its group is to pause.

    Attributes:
        held  nothing may be taken in hand now: the group is paused
    """

    def __init__(self, consumer: Pausable) -> None:
        super().__init__(name=f"evkit-{consumer.group}-pause", daemon=True)
        self._system: System | None = None
        self._consumer = consumer
        self._kafka_member: str | None = None
        self._member = uuid4()
        self._process = f"{socket.gethostname()} {os.getpid()}"
        self._connection: postgres.Connection | None = None
        self._ending = threading.Event()
        self._replay_id: str | None = None
        self._wait = 0.0
        self.held = False

    def begin(self, system: System) -> None:
        """Look for the first time, and from then on in a thread of its own."""
        self._system = system
        self._wait = self._looked()
        self.start()

    def holds(self, client: Any) -> bool:
        """Whether nothing may be fetched now. For the poll loop: nobody else may ask the client, which may be closed just
        then, what Kafka calls it."""
        if self.held:
            self._kafka_member = client.memberid() or None
        return self.held

    def run(self) -> None:
        while not self._ending.wait(self._wait):
            self._wait = self._looked()
        if self._connection is not None and self._replay_id is not None:
            try:
                self._connection.execute(_SQL["leave"], self._values())
            except psycopg.Error as error:
                log.info("group %s: %s", self._consumer.group, error)
        self._disconnect()

    @property
    def paused_for(self) -> str | None:
        """The replay for which the group pauses; None: it does not."""
        return self._replay_id if self.held else None

    def close(self) -> None:
        """End; may be called from any thread."""
        self._ending.set()
        if self.ident is not None:
            self.join(_CLOSE_SECONDS_MAX)

    def _looked(self) -> float:
        try:
            return self._look()
        except (EvkitError, psycopg.Error) as error:
            # Without a database nothing is handled either; whoever is held stays so.
            log.info("group %s cannot see whether it is to pause: %s", self._consumer.group, error)
            self._disconnect()
            return LOOK_SECONDS

    def _look(self) -> float:
        """One look; returns how long to wait until the next one."""
        assert self._system is not None
        if self._connection is None:
            self._connection = self._system.writing(f"evkit pause of {self._consumer.group}", autocommit=True)
        values = {"group": self._consumer.group, "dead_seconds": DEAD_SECONDS}
        row = self._connection.execute(_SQL["asked"], values).fetchone()
        if row is None:
            if self._replay_id is not None:
                log.warning("group %s goes on: %s has ended", self._consumer.group, self._replay_id)
                self._connection.execute(_SQL["leave"], self._values())
                self._replay_id = None
            self._let_go()
            return LOOK_SECONDS
        if self._replay_id != row[0]:
            self._replay_id = row[0]
            log.warning("group %s pauses, for %s", self._consumer.group, self._replay_id)
        # First held, then counted: from here on nothing is taken in hand.
        self.held = True
        in_hand = self._in_hand()
        more = {"kafka_member": self._kafka_member, "process": self._process, "in_hand": in_hand}
        self._connection.execute(_SQL["acknowledge"], self._values() | more)
        return _SHORT_LOOK_SECONDS if in_hand else LOOK_SECONDS

    def _let_go(self) -> None:
        if self.held:
            self.held = False
            with self._consumer._changed:
                self._consumer._changed.notify_all()

    def _in_hand(self) -> int:
        with self._consumer._changed:
            assignment = self._consumer._assignment
            # What a lane has of partitions that were given up meanwhile is in no assignment any more.
            busy = sum(lane.is_busy for lane in self._consumer._lanes)
            return max(assignment.in_hand(assignment.places), busy)

    def _values(self) -> dict[str, object]:
        return {"group": self._consumer.group, "member": self._member, "replay_id": self._replay_id}

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


# --- the replay's side ------------------------------------------------------------------------------------------------


def request(connection: postgres.Connection, group: str, replay_id: str) -> None:
    """Ask the consumers of a group to pause. On an autocommit connection.

    Raises:
        ReplayRefused: another replay has paused the group.
    """
    values = {"group": group, "replay_id": replay_id, "actor": audit.actor(), "dead_seconds": DEAD_SECONDS}
    connection.execute(_SQL["forget"], values)
    if connection.execute(_SQL["request"], values).fetchone() is None:
        row = connection.execute(_SQL["holder"], (group,)).fetchone()
        holder = "another replay" if row is None else f"{row[0]} (of {row[1]}, since {row[2]:%H:%M:%S} UTC)"
        raise ReplayRefused(f"group '{group}' is paused by {holder}: wait for its end, or stop it")


def beat(connection: postgres.Connection, group: str, replay_id: str) -> bool:
    """A sign of life; False when the pause has lapsed, and consumers may have gone on."""
    values = {"group": group, "replay_id": replay_id, "dead_seconds": DEAD_SECONDS}
    return connection.execute(_SQL["beat"], values).rowcount == 1


def release(connection: postgres.Connection, group: str, replay_id: str) -> None:
    """Let the consumers go on."""
    connection.execute(_SQL["release"], {"group": group, "replay_id": replay_id})


def wait_drained(
    system: System,
    connection: postgres.Connection,
    group: str,
    replay_id: str,
    *,
    seconds_max: float = DRAIN_SECONDS_MAX,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Wait until every member of the group has nothing in hand; False when `stop` said so before.

    Raises:
        ReplayRefused: a member has not, or does not know of pauses, after `seconds_max`; the sentence names it.
    """
    began = time.monotonic()
    while not stop():
        waits_for = _waits_for(system, connection, group, replay_id)
        # Not before every consumer has looked: one that is about to join is not known to Kafka yet.
        if waits_for is None and time.monotonic() - began > LOOK_SECONDS + _SHORT_LOOK_SECONDS:
            return True
        if waits_for is not None and time.monotonic() - began > seconds_max:
            raise ReplayRefused(f"group '{group}' was asked to pause {seconds_max:g} s ago, and {waits_for}")
        time.sleep(_SHORT_LOOK_SECONDS)
    return False


def _waits_for(system: System, connection: postgres.Connection, group: str, replay_id: str) -> str | None:
    """What the group still has to do before everything of it stands still; None when it does."""
    state, members = kafka_admin.members(system.settings, group, system.admin)
    values = {"group": group, "replay_id": replay_id, "fresh_seconds": _FRESH_SECONDS}
    said = connection.execute(_SQL["members"], values).fetchall()
    for _, process, in_hand in said:
        if in_hand:
            return f"its consumer {process} still has {in_hand:,} events in hand"
    heeding = {kafka_member for kafka_member, _, _ in said}
    for member in members:
        if member.member_id not in heeding:
            return (
                f"its member {member.member_id} ({member.client_id} at {member.host.lstrip('/')}) has not answered: is it "
                "a consumer of this evkit, on this database?"
            )
    if state not in ("stable", "empty", "dead"):
        return f"it is being rebalanced (Kafka says '{state}')"
    return None
