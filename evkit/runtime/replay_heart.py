"""running replay → its row, each second: a sign of life, and back what others want of it.

It holds the lock that says who runs the replay, on a connection of its own, so that a handler that takes long does not make
the replay look dead, and a process that dies lets go of it at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import psycopg

from evkit import postgres
from evkit.errors import EvkitError
from evkit.runtime import group_pause
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_SQL = named("replay")

BEAT_SECONDS = 1.0


class Heart(threading.Thread):
    """Beats for one replay until it is closed.

    Args:
        connection  in autocommit mode, with the replay's lock

    Attributes:
        pauses  the replay has asked its group to pause, and keeps it so
    """

    def __init__(self, system: System, connection: postgres.Connection, group: str, replay_id: str, epoch: int) -> None:
        super().__init__(name=f"evkit-{replay_id}-heart", daemon=True)
        self._system = system
        self._connection = connection
        self._group = group
        self._replay_id = replay_id
        self._epoch = epoch
        self._closing = threading.Event()
        self._why: str | None = None
        self._end: Callable[[str], None] | None = None
        self.pauses = False

    @property
    def why(self) -> str | None:
        """Why the replay must not go on; None while it may."""
        return self._why

    def tell(self, end: Callable[[str], None]) -> None:
        """Whom to tell that the replay must not go on."""
        self._end = end
        if self._why is not None:
            end(self._why)

    def run(self) -> None:
        while not self._closing.wait(BEAT_SECONDS):
            try:
                why = self._beat()
            except (EvkitError, psycopg.Error) as error:
                log.info("replay %s gives no sign of life: %s", self._replay_id, error)
                continue
            if why is not None and self._why is None:
                self._why = why
                if self._end is not None:
                    self._end(why)

    def _beat(self) -> str | None:
        """One beat; returns why the replay must not go on."""
        if self._connection.closed or self._connection.broken:
            self._connection.close()
            self._connection = self._system.writing("evkit replay", autocommit=True)
            locked = self._connection.execute(_SQL["lock"], (self._replay_id,)).fetchone()
            if locked is None or not locked[0]:
                # The lock of the lost session may still be there for a moment; whether somebody else has it the epoch says.
                self._connection.close()
        row = None
        if not self._connection.closed:
            values = {"replay_id": self._replay_id, "epoch": self._epoch}
            row = self._connection.execute(_SQL["beat"], values).fetchone()
            if row is None:
                return "another process has taken it over"
            if self.pauses and not group_pause.beat(self._connection, self._group, self._replay_id):
                return "its hold on the paused group has lapsed"
        return None if row is None or row[0] is None else f"{row[0]} has stopped it"

    def close(self) -> None:
        """End, and let go of the lock."""
        self._closing.set()
        if self.ident is not None:
            self.join()
        self._connection.close()
