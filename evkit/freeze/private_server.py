"""The PostgreSQL of an opened freeze: one for each freeze, shared by the processes that look at it, gone after them.

Who looks holds a lock on `users` (a shared one: any number of them), which the system takes back when the process ends,
however it ends. A keeper waits until it can have that lock alone, when nobody looks any more, and stops the server.

    users    held shared by everybody who looks; alone by the keeper while it stops the server
    keeper   held by the keeper: there is one
    opening  held by who loads or starts: one at a time
    loaded   is there when all tables are loaded; without it what lies here is the rest of a load that was killed
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from evkit.errors import StackError
from evkit.local.postgres_server import PostgresServer
from evkit.settings import freezes_home

# Loaded freezes that nobody has opened for so long are deleted; they are loaded again when they are.
_UNUSED_DAYS_MAX = 14


class PrivateServer:
    """A running server with a freeze loaded; at the latest it ends with this process.

    Attributes: server, port.
    """

    def __init__(self, name: str, load: Callable[[PostgresServer, int], None]) -> None:
        """Start it, or join those who look at the same freeze; `load(server, port)` fills an empty one.

        Raises:
            StackError: it cannot be started. MissingExtra: PostgreSQL's programs are not installed.
        """
        home = freezes_home()
        self._folder = home / name
        self.server = PostgresServer(self._folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if os.geteuid() == 0:
                for folder in (home, self._folder):
                    folder.chmod(0o755)  # PostgreSQL runs as another account and must get in
        except OSError as error:
            raise StackError(
                f"a freeze cannot be opened in {home}: {error.strerror}; set EVKIT_FREEZES_HOME to a folder that can be "
                "written"
            ) from None
        with _locked(self._folder / "opening", fcntl.LOCK_EX):
            self._users: IO[bytes] | None = _lock(self._folder / "users", fcntl.LOCK_SH)
            try:
                self.port = self._started(load)
            except BaseException:
                self.close()
                raise
        _sweep(home, self._folder)

    def _started(self, load: Callable[[PostgresServer, int], None]) -> int:
        server = self.server
        loaded = self._folder / "loaded"
        if not loaded.exists():
            server.stop()
            shutil.rmtree(self._folder / "data", ignore_errors=True)
        self._keep()
        port = server.port()
        if server.process() is None or port is None:
            port = server.start(lambda _: None)
        if not loaded.exists():
            load(server, port)
        loaded.touch()  # and says when it was last opened
        return port

    def _keep(self) -> None:
        """Make sure that somebody stops the server in the end, also when this process is killed in the next moment."""
        subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", "evkit.freeze.keeper", str(self._folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            check=True,
        )

    def close(self) -> None:
        """Look no more; the server ends when nobody else does."""
        if self._users is not None:
            self._users.close()
            self._users = None


def keep(folder: Path) -> None:
    """Wait until nobody looks, and stop the server: the keeper's whole life."""
    with (
        contextlib.suppress(BlockingIOError),
        _locked(folder / "keeper", fcntl.LOCK_EX | fcntl.LOCK_NB) as keeper,
        _locked(folder / "users", fcntl.LOCK_EX),
    ):
        PostgresServer(folder).stop()
        keeper.close()  # who opens from now on starts another one


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[IO[bytes]]:
    with _lock(path, how) as lock:
        yield lock


def _lock(path: Path, how: int) -> IO[bytes]:
    lock = path.open("ab")
    try:
        fcntl.flock(lock, how)
    except BaseException:
        lock.close()
        raise
    return lock


def _sweep(home: Path, ours: Path) -> None:
    """Delete what nobody has opened for long."""
    before = time.time() - _UNUSED_DAYS_MAX * 86_400
    for folder in home.iterdir():
        loaded = folder / "loaded"
        with contextlib.suppress(OSError):
            if folder == ours or not loaded.exists() or loaded.stat().st_mtime > before:
                continue
            alone = fcntl.LOCK_EX | fcntl.LOCK_NB
            with _locked(folder / "opening", alone), _locked(folder / "users", alone):
                loaded.unlink()
                shutil.rmtree(folder / "data", ignore_errors=True)
