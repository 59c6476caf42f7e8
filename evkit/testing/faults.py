"""Faults to inject: connections that break, processes that die or hang."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class TcpProxy:
    """Passes connections on to a server on 127.0.0.1, until it is told not to.

        with TcpProxy.to_dsn(dsn) as proxy:
            ...  # connect to proxy.dsn
            proxy.cut()      # all connections break, new ones are refused
            proxy.restore()  # new ones pass again

    Attributes:
        port  where it listens on 127.0.0.1
        dsn   connection string through it, when made by `to_dsn`
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: list[socket.socket] = []
        self._passing = True
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.dsn = ""
        threading.Thread(target=self._accept, daemon=True).start()

    @classmethod
    def to_dsn(cls, dsn: str) -> TcpProxy:
        """A proxy to the PostgreSQL of a connection string."""
        parts = conninfo_to_dict(dsn)
        proxy = cls(str(parts.get("host", "127.0.0.1")), int(parts.get("port") or 5432))
        proxy.dsn = make_conninfo(dsn, host="127.0.0.1", port=proxy.port)
        return proxy

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._listener.close()

    def cut(self) -> None:
        """Break every connection now and refuse new ones."""
        with self._lock:
            self._passing = False
            broken, self._open = self._open, []
        for end in broken:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        """Let new connections pass again."""
        with self._lock:
            self._passing = True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                passing = self._passing
            if not passing:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def kill9(pid: int) -> None:
    """End a process as the kernel's memory killer does: no handler of it runs."""
    os.kill(pid, signal.SIGKILL)


def pause(pid: int) -> None:
    """Let a process hang: it is there and does nothing. Returns when none of its threads runs any more.

    The signal alone is not waited for by anybody: a server may answer another question before it stops.
    """
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    while tasks.exists() and any(_runs(stat) for stat in tasks.glob("*/stat")):  # Linux; elsewhere nobody tells
        time.sleep(0.001)


def _runs(stat: Path) -> bool:
    """Whether a thread does anything: it has neither stopped nor ended."""
    try:
        state = stat.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("T", "t", "Z", "X")


def resume(pid: int) -> None:
    """Let a hanging process go on."""
    os.kill(pid, signal.SIGCONT)
