"""Stack: the two servers of one folder, brought up and taken down together; what a kill left half done is healed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from evkit.errors import StackError
from evkit.local.kafka_server import KafkaServer
from evkit.local.postgres_server import PostgresServer
from evkit.local.server import Progress
from evkit.settings import local_home

# A broker without room corrupts nothing but stops in the middle of things; say it before.
FREE_MEGABYTES_MIN = 300


@dataclass(frozen=True, slots=True)
class StackInfo:
    """Where a running stack is. This is what `stack.json` says and what `evkit.settings` reads.

    Attributes:
        postgres_dsn             of the database `evkit`
        kafka_bootstrap_servers  host:port
        home                     folder of the stack
        postgres_pid, kafka_pid  of the servers
        started_at               ISO time, UTC
        already_up               nothing had to be started
        kafka_secured_servers    host:port where users sign in and need ACLs; None without
    """

    postgres_dsn: str
    kafka_bootstrap_servers: str
    home: str
    postgres_pid: int
    kafka_pid: int
    started_at: str
    already_up: bool = False
    kafka_secured_servers: str | None = None


@dataclass(frozen=True, slots=True)
class StackStatus:
    """What of a stack is running: `up` when both servers are; `info` when they were brought up together."""

    home: str
    postgres_pid: int | None
    kafka_pid: int | None
    info: StackInfo | None

    @property
    def up(self) -> bool:
        return self.info is not None

    @property
    def sentence(self) -> str:
        if self.info is not None:
            return (
                f"up since {self.info.started_at}: PostgreSQL {self.info.postgres_dsn}, "
                f"Kafka {self.info.kafka_bootstrap_servers}, data in {self.home}"
            )
        running = [n for n, pid in (("PostgreSQL", self.postgres_pid), ("Kafka", self.kafka_pid)) if pid]
        if running:
            return f"only {running[0]} is running in {self.home}: `evkit up` starts the rest"
        return f"not up (data in {self.home}): `evkit up` starts it"


class Stack:
    """Apache Kafka and PostgreSQL of one folder.

    As a context manager it is up inside the block, and taken down at its end if the block has started it.

    Args:
        home     folder for data and logs; default: EVKIT_LOCAL_HOME or the user's data folder
        owned    the servers end with this process, even when it is killed; for tests
        secured  Kafka listens on a port more, where users sign in and need ACLs (see kafka_server.py); for tests
    """

    def __init__(self, home: Path | str | None = None, *, owned: bool = False, secured: bool = False) -> None:
        self.home = Path(home).expanduser().absolute() if home else local_home()
        self._owned = owned
        self._kafka = KafkaServer(self.home / "kafka", secured=secured)
        self._postgres = PostgresServer(self.home / "postgres")
        self._state = self.home / "stack.json"
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._started_here = False

    def __enter__(self) -> StackInfo:
        info = self.up()
        self._started_here = not info.already_up
        return info

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started_here:
            self.down()

    def up(self, progress: Progress | None = None) -> StackInfo:
        """Bring both servers up, side by side; returns when both answer. What is up already stays as it is.

        Side effects: data in `home` (made at the first time), `stack.json` there, two detached processes. `progress` is
        called with sentences while something takes time.

        Raises:
            StackError: no room, no permission, or a server that does not start: with its last words and its log's path.
            MissingExtra: the packages of the embedded stack are not installed.
        """
        progress = progress or (lambda _: None)
        with self._locked():
            if (status := self.status()).info is not None:
                return StackInfo(**{**asdict(status.info), "already_up": True})
            self._require_room()
            if self._owned:
                self._supervise()
            with ThreadPoolExecutor(2) as pool:
                postgres = pool.submit(self._postgres_port, progress)
                kafka = pool.submit(self._kafka_port, progress)
                postgres_port, kafka_port = postgres.result(), kafka.result()
            info = self._info(postgres_port, kafka_port)
            self._write(info)
            return info

    def down(self) -> bool:
        """Stop both servers; the data stays. False when nothing was running."""
        if not self.home.exists():
            return False
        with self._locked():
            self._state.unlink(missing_ok=True)
            with ThreadPoolExecutor(2) as pool:
                stopped = list(pool.map(lambda s: s.stop(), (self._kafka, self._postgres)))
        if self._supervisor is not None:
            self._supervisor.communicate()  # closes the pipe: it finds nothing left to do
            self._supervisor = None
        return any(stopped)

    def delete(self) -> None:
        """Stop both servers and delete the folder with everything in it."""
        self.down()
        shutil.rmtree(self.home, ignore_errors=True)

    def status(self) -> StackStatus:
        """What is running now, found by the processes themselves and not by what a file says. Changes nothing."""
        postgres, kafka = self._postgres.process(), self._kafka.process()
        info = None
        if postgres is not None and kafka is not None:
            info = self._read()
            if info is not None and (info.postgres_pid, info.kafka_pid) != (postgres.pid, kafka.pid):
                info = None
        return StackStatus(str(self.home), postgres.pid if postgres else None, kafka.pid if kafka else None, info)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _postgres_port(self, progress: Progress) -> int:
        port = self._postgres.port()
        return port if self._postgres.process() is not None and port else self._postgres.start(progress)

    def _kafka_port(self, progress: Progress) -> int:
        port = self._kafka.port()
        return port if self._kafka.process() is not None and port else self._kafka.start(progress)

    def _info(self, postgres_port: int, kafka_port: int) -> StackInfo:
        postgres, kafka = self._postgres.process(), self._kafka.process()
        if postgres is None or kafka is None:
            gone = self._postgres if postgres is None else self._kafka
            raise StackError(f"{gone.name} ended right after its start (log: {gone.log}): try `evkit up` again")
        secured_port = self._kafka.secured_port()
        return StackInfo(
            postgres_dsn=self._postgres.dsn(postgres_port),
            kafka_bootstrap_servers=f"127.0.0.1:{kafka_port}",
            home=str(self.home),
            postgres_pid=postgres.pid,
            kafka_pid=kafka.pid,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            kafka_secured_servers=f"127.0.0.1:{secured_port}" if secured_port else None,
        )

    def _write(self, info: StackInfo) -> None:
        making = self._state.with_suffix(".new")
        making.write_text(json.dumps(asdict(info), indent=2))
        making.replace(self._state)

    def _read(self) -> StackInfo | None:
        try:
            return StackInfo(**json.loads(self._state.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _require_room(self) -> None:
        free = shutil.disk_usage(self.home).free // 2**20
        if free < FREE_MEGABYTES_MIN:
            raise StackError(
                f"there are {free} MB free at {self.home}, the embedded stack needs {FREE_MEGABYTES_MIN}: make room, or "
                "give it another folder (EVKIT_LOCAL_HOME)"
            )

    def _supervise(self) -> None:
        """Start who takes the servers down when the pipe from this process closes, however that comes."""
        self._supervisor = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "evkit.local.supervise", str(self.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time for one folder: a second `evkit up` waits for the first, and then finds it up."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            if os.geteuid() == 0:
                self.home.chmod(0o755)  # PostgreSQL runs as another account and must get in
            lock = (self.home / "lock").open("w")
        except OSError as error:
            raise StackError(
                f"the embedded stack cannot use {self.home}: {error.strerror}; set EVKIT_LOCAL_HOME"
            ) from None
        with lock:
            deadline = time.monotonic() + 120
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StackError(
                            f"another `evkit up` or `down` has been at work on {self.home} for two minutes: wait for it"
                        ) from None
                    time.sleep(0.1)
            yield
