"""A server process of the stack: found by its command line, started detached, waited for until it answers.

No pid is written down and trusted later: a process is ours when its command line names our folder. A stale pid file, a pid
that somebody else has by now, a kill -9 between start and note cannot mislead that.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from evkit.errors import StackError

Progress = Callable[[str], None]

# Servers outlive us on purpose; a collected Popen would complain that its process is still there.
_DETACHED: list[subprocess.Popen[bytes]] = []

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0


def find(*arguments: str) -> psutil.Process | None:
    """The oldest process whose command line has all these arguments, each as a whole; None when there is none."""
    found = []
    for process in psutil.process_iter(["cmdline", "create_time", "status"]):
        line = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and all(a in line for a in arguments):
            found.append(process)
    return min(found, key=lambda p: p.info["create_time"], default=None)


def free_port(preferred: int | None = None) -> int:
    """A port of 127.0.0.1 that nobody has; the preferred one when it is free, else one that the system gives."""
    for port in (preferred, 0) if preferred else (0,):
        with socket.socket() as probe:
            # The broker reopens its port right after a restart; without this it would count as taken for a minute.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StackError("the system gives no free port on 127.0.0.1: too many connections are open")


def start(
    arguments: Sequence[str],
    log: Path,
    *,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path,
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, so that it outlives this process and the terminal."""
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(  # noqa: S603 - programs from our own dependencies
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                user=user,
                group=user,
                extra_groups=[] if user else None,
            )
        except OSError as error:
            raise StackError(f"{arguments[0]} cannot be started: {error}") from None
    _DETACHED.append(process)
    return process


def wait_until_answers(name: str, process: subprocess.Popen[bytes], answers: Callable[[], bool], log: Path) -> None:
    """Wait until a server answers a real request.

    Raises:
        StackError: it ended, or did not answer in time; with the last line of its log that says something.
    """
    deadline = time.monotonic() + START_SECONDS_MAX
    while not answers():
        if process.poll() is not None:
            raise StackError(f"{name} ended while starting: {last_words(log)} (log: {log})")
        if time.monotonic() > deadline:
            process.terminate()
            raise StackError(f"{name} did not answer within {START_SECONDS_MAX:.0f} s: {last_words(log)} (log: {log})")
        time.sleep(0.05)


def stop(process: psutil.Process, ask: Callable[[psutil.Process], None]) -> None:
    """Ask a server to end, and make it end when it does not."""
    try:
        ask(process)
        process.wait(STOP_SECONDS_MAX)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(5)
    except psutil.NoSuchProcess:
        pass
    for child in _DETACHED:
        child.poll()  # if it was ours, its end is noted


def last_words(log: Path) -> str:
    """The last line of a log that tells why: an error if there is one, else the last line."""
    try:
        lines = [x.strip() for x in log.read_text(errors="replace").splitlines()[-200:] if x.strip()]
    except OSError:
        lines = []
    telling = [
        x for x in lines if any(w in x for w in ("FATAL", "ERROR", "Exception", "No space", "PANIC", "could not"))
    ]
    return (telling or lines or ["its log is empty"])[-1][:300]
