"""transaction → the next one: begin it on another connection while handlers run in the first.

Who works through a list in transactions, each of which begins with statements of ours and ends with somebody's handlers,
lets PostgreSQL do the first part of the next one meanwhile. Only one is ahead, it is committed after the one before it, and
it is rolled back when that one fails. Handlers always run in the caller's thread.

What is begun ahead keeps its locks until then. So it must lock nothing that the handlers before it, or somebody whom the
caller waits for, may want: PostgreSQL sees no deadlock that goes through a thread. Where that was overlooked, or a handler
takes longer than anybody thought, the server rolls back what was begun ahead after a while, and everybody goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import psycopg

from evkit import postgres

Result = TypeVar("Result")

# What is begun ahead and not taken up for so long is rolled back by the server, and begun anew when its turn comes.
KEPT_SECONDS_MAX = 10.0
_KEEP = "SELECT set_config('idle_in_transaction_session_timeout', %s, true)"


@dataclass(frozen=True, slots=True)
class _Begun(Generic[Result]):
    connection: postgres.Connection
    transaction: ExitStack
    result: Result


class Ahead(Generic[Result]):
    """For one thread.

    Attributes:
        current  the connection of the last transaction

    Args:
        connection  where a transaction begins that was not begun ahead; in autocommit mode
        another     makes another such one when it is wanted, two at most; None: nothing is begun ahead
    """

    def __init__(self, connection: postgres.Connection, another: Callable[[], postgres.Connection] | None) -> None:
        self._connection = connection
        self._others: list[postgres.Connection] = []
        self._another = another
        self.current = connection
        self._pool: ThreadPoolExecutor | None = None
        self._next: tuple[list[int], Future[_Begun[Result]]] | None = None

    @contextmanager
    def transaction(
        self, what: list[int], begin: Callable[[postgres.Connection], Result]
    ) -> Iterator[tuple[postgres.Connection, Result]]:
        """A transaction about these, with what `begin` has given in it; it may have been begun ahead."""
        begun = self._taken(what)
        if begun is None:
            begun = _begin(self._connection, begin)
        self.current = begun.connection
        with begun.transaction:
            yield begun.connection, begun.result

    def begin(self, what: list[int], begin: Callable[[postgres.Connection], Result]) -> None:
        """Begin a transaction about these, while the current one goes on. What fails in there is tried again later."""
        if self._another is None or self._next is not None:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "evkit-ahead")
        self._next = what, self._pool.submit(self._begun, self.current, begin)

    def discard(self) -> None:
        """Roll back what was begun ahead."""
        if self._next is None:
            return
        (_, future), self._next = self._next, None
        if future.exception() is None:
            with suppress(psycopg.Error):  # of a session that is gone
                future.result().transaction.__exit__(psycopg.Rollback, psycopg.Rollback(), None)

    def close(self) -> None:
        """Roll back what was begun ahead, and close the other connections."""
        self.discard()
        if self._pool is not None:
            self._pool.shutdown()
        for connection in self._others:
            connection.close()

    def _taken(self, what: list[int]) -> _Begun[Result] | None:
        """What was begun ahead for these; None: nothing was, or it has failed, or it was for others."""
        if self._next is None:
            return None
        of, future = self._next
        if of != what or future.exception() is not None or not _is_there(future.result().connection):
            self.discard()
            return None
        self._next = None
        return future.result()

    def _begun(self, busy: postgres.Connection, begin: Callable[[postgres.Connection], Result]) -> _Begun[Result]:
        self._others = [c for c in self._others if not c.closed]
        free = next((c for c in self._others if c is not busy), None)
        if free is None:
            assert self._another is not None
            free = self._another()
            self._others.append(free)

        def kept(connection: postgres.Connection) -> Result:
            result = begin(connection)
            connection.execute(_KEEP, (f"{round(1000 * KEPT_SECONDS_MAX)}ms",))
            return result

        return _begin(free, kept)


def _is_there(connection: postgres.Connection) -> bool:
    """Whether the transaction that was begun ahead is still open; from now on it may be idle as the server allows."""
    try:
        connection.execute("SET LOCAL idle_in_transaction_session_timeout TO DEFAULT")
    except psycopg.Error:
        connection.close()
        return False
    return True


def _begin(connection: postgres.Connection, begin: Callable[[postgres.Connection], Result]) -> _Begun[Result]:
    with ExitStack() as stack:
        stack.enter_context(connection.transaction())
        result = begin(connection)
        return _Begun(connection, stack.pop_all(), result)
