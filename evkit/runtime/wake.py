"""a writer's commit → the relay's reader: wake it.

Three ways, cheapest first: the time is over (the relay looks again by itself, 10 to 100 times a second), a call in the same
process (`Relay.wake`), and NOTIFY from a writer anywhere (`outbox.write(..., notify=True)`).
"""

from __future__ import annotations

import contextlib
import os
import select

from evkit import postgres


class Wake:
    """What a reader waits on: a byte through a pipe, which select() takes beside the database connection."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        os.set_blocking(self._out, False)
        os.set_blocking(self._in, False)

    def __del__(self) -> None:
        for end in (self._out, self._in):
            with contextlib.suppress(OSError):
                os.close(end)

    def call(self) -> None:
        """Wake whoever waits, or who waits next; from any thread or a signal handler."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._in, b"w")

    def wait(self, connection: postgres.Connection, seconds: float) -> None:
        """Until the time is over, somebody calls, or a notification arrives on the connection."""
        ready, _, _ = select.select([connection.fileno(), self._out], [], [], seconds)
        if self._out in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._out, 4096)
        if connection.fileno() in ready:
            # What is there may be the answer to another thread's question, which takes it itself under this lock.
            with connection.lock:
                connection.pgconn.consume_input()
                while connection.pgconn.notifies() is not None:
                    pass
