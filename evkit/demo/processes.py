"""Operating-system processes of a demo: started, stopped, killed and held as a supervisor would do it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from evkit.system import System


class Processes:
    """Processes of `python -m evkit …` on one system, by name. Whoever leaves the `with` block takes them along.

    Attributes:
        log_folder  one file for each name
    """

    def __init__(self, system: System, log_folder: Path) -> None:
        self.log_folder = log_folder
        self._where = {
            "EVKIT_POSTGRES_DSN": system.settings.postgres_dsn,
            "EVKIT_KAFKA_BOOTSTRAP_SERVERS": system.settings.bootstrap_servers,
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def start_process(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start `python -m evkit` with these arguments; what it logs goes to the name's file."""
        self.log_folder.mkdir(parents=True, exist_ok=True)
        with (self.log_folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "evkit", "--verbose", *arguments],
                env=os.environ | self._where | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._running[name] = process
        return process

    def stop(self, name: str) -> None:
        """SIGTERM, and wait until it has finished what it had in hand."""
        process = self._running.pop(name, None)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self, name: str) -> None:
        """SIGKILL: no goodbye to the group, no commit, no rollback."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def hold(self, name: str) -> None:
        """SIGSTOP: the process is there and does nothing."""
        self._running[name].send_signal(signal.SIGSTOP)

    def let_go(self, name: str) -> None:
        """SIGCONT after `hold`."""
        self._running[name].send_signal(signal.SIGCONT)

    def stop_all(self) -> None:
        """Stop every process, side by side."""
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for name in list(self._running):
            self.stop(name)

    def died(self) -> tuple[str, int] | None:
        """Name and exit code of a process that has ended by itself, and not well; None when none has."""
        for name, process in self._running.items():
            if (code := process.poll()) not in (None, 0):
                return name, code
        return None

    def last_line(self, name: str) -> str:
        """The end of a process's log."""
        lines = (self.log_folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"its log {self.log_folder / name}.log is empty"
