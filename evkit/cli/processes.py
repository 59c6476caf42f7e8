"""`evkit consume --processes N`: start that many, start those again that die, stop them together, and answer for them.

Each is `python -m evkit consume` of its own: librdkafka's threads would not survive a fork. The first is started alone, so
that a consumer that cannot be found is said once and not N times; when it has found its own, the others follow.
"""

from __future__ import annotations

import contextlib
import logging
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from evkit.cli.lifeline import ParentsEnd, together
from evkit.cli.output import say
from evkit.errors import UsageError
from evkit.runtime.health import Health, Together
from evkit.runtime.metrics import OWN, Count, Level, Metric, Reading, family

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

log = logging.getLogger(__name__)

# A process that has consumed for so long has got going: its death counts as the first one again.
GOING_SECONDS = 30.0
# Deaths of one process in a row, none of which had got going, until all are stopped: then it is not chance, and whoever
# runs us (systemd, Kubernetes) is to see it.
DEATHS_MAX = 5
# Before a process is started again: random up to the shorter one, doubled with each death in a row up to the longer one.
RESTART_SECONDS_MIN, RESTART_SECONDS_MAX = 1.0, 30.0
# How long a process may take to answer: health is known at once, metrics may ask two servers.
HEALTH_SECONDS, METRICS_SECONDS = 2.0, 8.0
# How soon a death is noticed.
LOOK_SECONDS = 0.1

_CANNOT_USE = UsageError.exit_code
# How a process ends that is told to stop before it could learn to finish first.
_TOLD_EARLY = (-signal.SIGTERM, -signal.SIGINT)


@dataclass(frozen=True, slots=True)
class ProcessHealth(Health):
    """The health of one child process: what it says of itself, or why it says nothing.

    Attributes:
        process  its number, from 1
        pid      None while it is not there
        starts   how often it was started
        told     its own document, whose fields stand beside these: see ConsumerHealth
    """

    process: int = 0
    pid: int | None = None
    starts: int = 0
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def part(self) -> str:
        return f"process {self.process}"

    def document(self) -> dict[str, Any]:
        """As JSON: what it says of itself among the rest."""
        document = Health.document(self)
        del document["told"]
        return document | self.told


class Child:
    """One of the processes, while it is there."""

    def __init__(self, number: int, command: Sequence[str], processes: Processes) -> None:
        self.line = ParentsEnd(lambda about: processes.is_ready(self, about))
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command, "--lifeline", f"{number}:{self.line.childs_fd}"],
            stdin=subprocess.DEVNULL,
            pass_fds=(self.line.childs_fd,),
        )
        self.line.start()
        self.ready_at: float | None = None
        self.told_to_stop = False


class Slot:
    """The place of one process, which several may take one after the other."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.child: Child | None = None
        self.starts = 0
        self.deaths = 0  # in a row, without having got going
        self.is_dead = False
        self.start_at = 0.0
        self.last_end = ""


class Processes:
    """Runs the processes until `stop`; see the module.

    Args:
        command  what each is started by, without --lifeline
        count    how many
        name     what they consume, for sentences
    """

    def __init__(self, command: Sequence[str], count: int, name: str) -> None:
        self._command = command
        self._name = name
        self._slots = [Slot(n + 1) for n in range(count)]
        self._wake = threading.Event()
        self._stopping = False
        self._code = 0
        self._about: dict[str, Any] | None = None
        self.up, self.started = Level(), Count()
        for slot in self._slots:
            self.up.set(0, str(slot.number))
            self.started.add(0, str(slot.number))

    # --- running ------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until `stop()`, or until a process dies again and again; returns the exit code.

        0   every process has finished what it had in hand and ended well
        1   one has not, or died again and again
        2   there is no such consumer, or it cannot be used
        3   processes died again and again because a server cannot be reached
        """
        try:
            while not (self._stopping and all(slot.child is None for slot in self._slots)):
                for slot in self._slots:
                    self._look_after(slot)
                self._wake.wait(LOOK_SECONDS)
                self._wake.clear()
        finally:
            self.end()
        for slot in self._slots:
            if slot.is_dead and not self._code:
                say(f"process {slot.number} had died ({slot.last_end}) and was not started again", logging.ERROR)
                self._code = 1
        return self._code

    def stop(self) -> None:
        """Let every process finish what it has in hand; may be called from any thread or a signal handler."""
        self._stopping = True
        self._wake.set()

    def end(self) -> None:
        """End every process at once, as kill -9 does; what they had in hand is handled again."""
        for slot in self._slots:
            if (child := slot.child) is not None:
                with contextlib.suppress(OSError):
                    child.process.kill()

    def is_ready(self, child: Child, about: dict[str, Any]) -> None:
        """A process has found its consumer."""
        child.ready_at = time.monotonic()
        if self._about is None:
            self._about = about
            count = "1 process" if len(self._slots) == 1 else f"{len(self._slots)} processes"
            say(f"group {about['group']} consumes {', '.join(about['topics'])} in {count}")
        self._wake.set()

    def _look_after(self, slot: Slot) -> None:
        child = slot.child
        if child is None:
            first = slot.number == 1 or self._about is not None
            if not self._stopping and first and time.monotonic() >= slot.start_at:
                self._start(slot)
            return
        if self._stopping and not child.told_to_stop:
            child.told_to_stop = True
            child.line.tell_to_stop()
        code = child.process.poll()
        if code is not None:
            slot.last_end = _end(code)
            self.up.set(0, str(slot.number))
            if self._stopping:
                self._ended(slot, child, code)
            else:
                self._died(slot, child, code)
            slot.child = None

    def _start(self, slot: Slot) -> None:
        slot.starts += 1
        slot.is_dead = False
        slot.child = Child(slot.number, self._command, self)
        self.up.set(1, str(slot.number))
        self.started.add(1, str(slot.number))
        log.info("process %s is started, pid %s", slot.number, slot.child.process.pid)

    def _ended(self, slot: Slot, child: Child, code: int) -> None:
        log.info("process %s ended (%s)", slot.number, slot.last_end)
        if code != 0 and not (child.ready_at is None and code in _TOLD_EARLY):
            say(f"process {slot.number} did not finish what it had in hand ({slot.last_end})", logging.ERROR)
            self._code = self._code or 1

    def _died(self, slot: Slot, child: Child, code: int) -> None:
        now = time.monotonic()
        slot.is_dead = True
        got_going = child.ready_at is not None and now - child.ready_at >= GOING_SECONDS
        slot.deaths = 1 if got_going else slot.deaths + 1
        if code == _CANNOT_USE and child.ready_at is None:  # it has said why, and would only say so again
            self._give_up(code, f"no process could be started for {self._name}: the reason is in the line above")
        elif slot.deaths >= DEATHS_MAX:
            self._give_up(
                code if code == 3 else 1,
                f"process {slot.number} died {slot.deaths} times in a row before it had consumed for {GOING_SECONDS:g} s, "
                f"the last time by {slot.last_end}: all are stopped; its log is above",
            )
        else:
            longest = min(RESTART_SECONDS_MIN * 2.0 ** (slot.deaths - 1), RESTART_SECONDS_MAX)
            seconds = random.uniform(longest / 2, longest)  # noqa: S311 - jitter
            slot.start_at = now + seconds
            log.error("process %s died (%s) and is started again in %.1f s", slot.number, slot.last_end, seconds)

    def _give_up(self, code: int, sentence: str) -> None:
        say(sentence, logging.ERROR)
        self._code = code
        self.stop()

    # --- answering ----------------------------------------------------------------------------------------------------

    def health(self) -> Together:
        """Of all processes: red as soon as one is not there, does not answer, or says that it is red."""
        until = time.monotonic() + HEALTH_SECONDS
        asked = [(slot, slot.child, self._asked(slot.child, "health")) for slot in self._slots]
        return Together.of([self._health(slot, child, answer, until) for slot, child, answer in asked])

    @staticmethod
    def _asked(child: Child | None, what: str) -> Future[Any] | None:
        return None if child is None or child.ready_at is None else child.line.ask(what)

    @staticmethod
    def _health(slot: Slot, child: Child | None, answer: Future[Any] | None, until: float) -> ProcessHealth:
        pid = None if child is None else child.process.pid

        def red(reason: str) -> ProcessHealth:
            return ProcessHealth(False, [reason], slot.number, pid, slot.starts)

        if child is None:
            return red(f"died ({slot.last_end}) and is started again" if slot.is_dead else "is not started yet")
        told = _result(answer, until)
        if (code := child.process.poll()) is not None:  # a moment before it is started again
            return red(f"died ({_end(code)}) and is started again")
        if answer is None:
            return red("has not found its consumer yet")
        if told is None and answer.cancelled():
            return red("is gone")  # its line has ended
        if told is None:
            said = answer.done()
            return red(
                "cannot say how it is; its log says why" if said else f"does not answer within {HEALTH_SECONDS:g} s"
            )
        return ProcessHealth(told["ok"], told["reasons"], slot.number, pid, slot.starts, told)

    def reading(self) -> Reading:
        """Which processes are there."""
        return _Reading(self, {})

    def collect(self) -> Iterator[Family]:
        """The metrics of all processes, each with a label `process`, and which of them are there."""
        until = time.monotonic() + METRICS_SECONDS
        asked = [(str(slot.number), self._asked(slot.child, "metrics")) for slot in self._slots]
        reading = self.reading()
        for metric in reading.metrics:
            yield family(metric, [reading])
        yield from together({number: _result(answer, until) or [] for number, answer in asked})

    def describe(self) -> list[Family]:
        """Nothing: a registry that asks for the names must not make us ask the processes."""
        return []


class _Reading(Reading):
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("evkit.process.up", "gauge", "1",
               "1 while this process is there, 0 while it is dead and not started again.", OWN, "up", ("process",)),
        Metric("evkit.process.starts", "counter", "{start}",
               "How often this process was started: above 1 it has died.", OWN, "started", ("process",)),
    )  # fmt: skip


def _result(answer: Future[Any] | None, until: float) -> Any:
    """What was answered; None when nothing was in time."""
    if answer is None:
        return None
    try:
        return answer.result(max(until - time.monotonic(), 0))
    except (TimeoutError, CancelledError):
        return None


def _end(code: int) -> str:
    """How a process ended."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
