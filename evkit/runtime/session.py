"""inbox → PostgreSQL: keep a connection, wait while the server is away, and do again what was lost with it.

That PostgreSQL is away, full, or has become a standby is nobody's fault: no event's attempt is counted for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from evkit import postgres
from evkit.errors import DatabaseUnreachable
from evkit.system import System

log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_RECONNECT_SECONDS = 0.5


class Stopped(Exception):
    """Raised inside when `stop` is set in the middle of a batch: nothing was lost, the rest comes again."""


class Session:
    """One connection, made when it is needed and made anew when it is lost; for one thread.

    Args:
        name   of the connection, in pg_stat_activity
        who    in log lines
        stop   when set, waiting ends and raises Stopped

    Attributes:
        waits_for    what it waits for now, in the words of the error; None: for nothing
        waits_since  since when, on the monotonic clock
    """

    def __init__(self, system: System, name: str, who: str, stop: threading.Event) -> None:
        self._system = system
        self._name = name
        self._who = who
        self._stop = stop
        self._connection: postgres.Connection | None = None
        self.waits_for: str | None = None
        self.waits_since = 0.0

    def connected(self) -> postgres.Connection:
        """The connection; waits as long as PostgreSQL is away."""
        while self._connection is None or self._connection.closed:
            try:
                self._connection = self._system.writing(self._name, autocommit=True)
            except DatabaseUnreachable as error:
                self._say(error)
                self.wait(_RECONNECT_SECONDS)
        return self._connection

    def repeated(
        self,
        work: Callable[Concatenate[postgres.Connection, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """The result of work(connection, …), done again on a new connection for as long as PostgreSQL fails under it."""
        while True:
            try:
                result = work(self.connected(), *args, **kwargs)
            except Exception as error:
                if not self.lost(error):
                    raise
                self.renew(error)
            else:
                self.works()
                return result

    def renew(self, error: Exception) -> None:
        """After a loss: the next work is done on a new connection, in a moment."""
        self._say(error)
        self.close()
        self.wait(_RECONNECT_SECONDS)

    def works(self) -> None:
        """Some work went through: whatever was waited for is back."""
        if self.waits_for is not None:
            log.warning("%s goes on: PostgreSQL is back", self._who)
            self.waits_for = None

    def lost(self, error: BaseException) -> bool:
        """Whether an error is the server's and not the work's; the same work may be done again on a new connection."""
        return self._connection is not None and postgres.is_lost(self._connection, error)

    def wait(self, seconds: float) -> None:
        """Raises Stopped when `stop` is set meanwhile."""
        if self._stop.wait(seconds):
            raise Stopped

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back by the server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _say(self, error: Exception) -> None:
        if self.waits_for is None:
            log.warning("%s waits: %s", self._who, error)
            self.waits_since = time.monotonic()
        self.waits_for = str(error)
