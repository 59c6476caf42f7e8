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
from dataclasses import dataclass
from pathlib import Path

import psutil

from evkit.errors import StackError

Progress = Callable[[str], None]

# Servers outlive us on purpose; a collected Popen would complain that its process is still there.
_DETACHED: list[subprocess.Popen[bytes]] = []

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0  # the first broker of a machine writes its archive of classes, ten seconds on two cores
# A port that was free may be somebody's before a server has it: a broker takes two seconds to its own.
_PORTS_TRIED_MAX = 5
_TAKEN = "Address already in use"


class PortTaken(StackError):
    """A server ended while starting, as somebody took the port that was free when it was chosen."""


@dataclass(frozen=True, slots=True)
class Started:
    """A server that was started, and where in its log this start begins (bytes)."""

    process: subprocess.Popen[bytes]
    log: Path
    begin: int


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


def free_ports(preferred: Sequence[int | None]) -> list[int]:
    """As many ports, each free and none twice: the system may give one again that nobody has taken yet.

    Raises: see `free_port`.
    """
    ports: list[int] = []
    for wanted in preferred:
        port = free_port(wanted)
        while port in ports:
            port = free_port()
        ports.append(port)
    return ports


def start(
    arguments: Sequence[str],
    log: Path,
    *,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path,
) -> Started:
    """Start a server in a session of its own, so that it outlives this process and the terminal."""
    with log.open("ab") as output:
        begin = output.tell()
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
    return Started(process, log, begin)


def on_free_ports(start: Callable[[bool], int], progress: Progress) -> int:
    """What `start` returns, which starts a server on ports that are free: the ones it had before when told True.

    Raises:
        StackError: it cannot start, or ports were taken from under it five times.
    """
    for again in range(1, _PORTS_TRIED_MAX):
        try:
            return start(again == 1)
        except PortTaken as error:
            progress(f"{error}; trying other ports")
    return start(False)


def wait_until_answers(name: str, started: Started, answers: Callable[[], bool]) -> None:
    """Wait until a server answers a real request.

    Raises:
        PortTaken: it ended, as somebody else has its port.
        StackError: it ended, or did not answer in time; with the last line of its log that says something.
    """
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        # Looked at before it is asked: a stranger may answer on a port that our server did not get.
        ended = started.process.poll()
        if ended is not None:
            words = _words(started)
            taken = [line for line in words if _TAKEN in line]
            kind, words = (PortTaken, taken) if taken else (StackError, words)
            how = f"by signal {-ended}" if ended < 0 else f"with {ended}"
            raise kind(f"{name} ended {how} while starting: {_telling(words)} (log: {started.log})")
        if answers():
            return
        if time.monotonic() > deadline:
            started.process.terminate()
            raise StackError(
                f"{name} did not answer within {START_SECONDS_MAX:.0f} s: {_telling(_words(started))} "
                f"(log: {started.log})"
            )
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


def _words(started: Started) -> list[str]:
    """The last lines that a server wrote since it was started."""
    try:
        with started.log.open("rb") as log:
            log.seek(started.begin)
            lines = log.read().decode(errors="replace").splitlines()[-200:]
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()]


def _telling(words: list[str]) -> str:
    """The last line that tells why: an error if there is one, else the last line."""
    signs = ("FATAL", "ERROR", "Exception", "No space", "PANIC", "could not", _TAKEN)
    telling = [line for line in words if any(sign in line for sign in signs)]
    return (telling or words or ["its log is empty"])[-1][:300]
