"""queued redrive → a running consumer's own handlers: take it up, run it, and give it back when the consumer stops.

A thread beside the lanes looks once a second for redrives of its group that were left to the running consumers, also for
one whose consumer was killed: whoever gets the run's lock goes on where it was. It has a database connection of its own.
Where a consumer has one lane, no handler runs in here while one runs there: no handler meets a second thread for the first
time in an incident.
"""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import psycopg

from evkit import postgres
from evkit.errors import DatabaseUnreachable, RedriveRefused
from evkit.runtime import redrive_run
from evkit.runtime.inbox import Inbox
from evkit.runtime.ramp import Execution
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_SQL = named("redrive")

# How often a consumer looks for redrives that wait for it: a query of 0.1 ms.
LOOK_SECONDS = 1.0


class Owner(Protocol):
    """What it needs of its consumer."""

    group: str

    def inbox(self, system: System, **more: Any) -> Inbox:
        """An inbox for the group and its handlers."""


class Turns(AbstractContextManager[None]):
    """A lock that two threads get in turns: whoever gives it back and wants it again waits for the other, if that waits.

    A plain lock goes to whoever asks first, and that is the one who has just given it back.

    Attributes:
        owner  the thread that has it; None: nobody
    """

    def __init__(self) -> None:
        self.owner: threading.Thread | None = None
        self._next = threading.Lock()
        self._now = threading.Lock()

    def __enter__(self) -> None:
        with self._next:
            self._now.acquire()
        self.owner = threading.current_thread()

    def __exit__(self, *_: object) -> None:
        self.owner = None
        self._now.release()


class Redriver:
    """Runs the redrives that are queued for a consumer's group, from `take_up` until `join`.

    Attributes:
        turn  entered around all that calls a handler, in here and by the consumer: with one lane they take turns
    """

    def __init__(self, consumer: Owner, lanes: int) -> None:
        self._consumer = consumer
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.turn: AbstractContextManager[Any] = Turns() if lanes == 1 else nullcontext()

    def take_up(self, system: System | None) -> None:
        """Begin to look for redrives, once."""
        if self._thread is None and system is not None:
            name = f"evkit-{self._consumer.group}-redriver"
            self._thread = threading.Thread(target=self._run_all, args=(system,), name=name, daemon=True)
            self._thread.start()

    def end(self) -> None:
        """End between two transactions; what is unfinished waits for another consumer."""
        self._ended.set()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def at_it(self) -> threading.Thread | None:
        """Its thread while a lane would have to wait for a handler in here; None: no lane has to."""
        return self._thread if isinstance(self.turn, Turns) and self.turn.owner is self._thread else None

    def join(self) -> None:
        """End, and wait for it. May be taken up again."""
        self.end()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._ended.clear()

    def _run_all(self, system: System) -> None:
        connection: postgres.Connection | None = None
        while not self._ended.is_set():
            try:
                if connection is None or connection.closed:
                    connection = system.writing(f"evkit redriver {self._consumer.group}", autocommit=True)
                self._look(system, connection)
            except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege) as error:
                log.warning("group %s takes up no redrives: %s", self._consumer.group, str(error).strip())
                break
            except (DatabaseUnreachable, psycopg.Error) as error:
                log.info("group %s looks for redrives again later: %s", self._consumer.group, error)
                if connection is not None:
                    connection.close()
            except Exception:
                # A run that cannot go on must not end the consumer; its lock goes with the session.
                log.exception("group %s: a redrive broke off and is taken up again", self._consumer.group)
                if connection is not None:
                    connection.close()
            self._ended.wait(LOOK_SECONDS)
        if connection is not None:
            connection.close()

    def _look(self, system: System, connection: postgres.Connection) -> None:
        for (redrive_id,) in connection.execute(_SQL["queued"], {"group": self._consumer.group}).fetchall():
            if not redrive_run.lock(connection, redrive_id):
                continue  # another consumer of the group has it
            try:
                self._run(system, connection, redrive_id)
            finally:
                if not connection.closed:
                    redrive_run.unlock(connection, redrive_id)

    def _run(self, system: System, connection: postgres.Connection, redrive_id: str) -> None:
        run = redrive_run.read_runs(connection, redrive_id=redrive_id)[0]
        if run.run_by != "consumers" or run.state in ("done", "stopped", "cancelled"):
            return  # it has ended between our look and our lock
        log.info("group %s takes up %s: %s letters are left", run.consumer_group, redrive_id, run.not_tried)
        inbox = self._consumer.inbox(system, replay_id=redrive_id, stop=self._ended)
        try:
            redrive_run.require_handlers(connection, redrive_id, inbox)
        except RedriveRefused as refused:
            connection.execute(_SQL["end"], {"redrive_id": redrive_id, "state": "stopped", "why": str(refused)})
        else:
            Execution(connection, run, inbox, stop=self._ended, when_stopped="queued", alone=self.turn).execute()
        outcome = redrive_run.end_act(connection, redrive_id)
        log.info("group %s: %s is %s", run.consumer_group, redrive_id, outcome.state)
