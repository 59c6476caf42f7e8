"""The line between `evkit consume --processes` and each of its child processes: questions and answers, and its end.

It is one socket. The parent asks for health and metrics, so that children need no ports of their own, and tells a child to
stop, which a signal could not do twice without ending it at once. When the parent is gone, whatever killed it, the line
ends, and the child drains: nobody is left behind who consumes for ever.

    parent → child   {"ask": "health"}, {"ask": "metrics"}, {"do": "stop"}
    child → parent   {"ready": {"group": ..., "topics": [...]}}, {"health": {...}}, {"metrics": [...]}; null: cannot say
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from evkit.errors import UsageError

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

log = logging.getLogger(__name__)


class ParentsEnd:
    """The parent's end: ask, and be told. Its thread ends with the child.

    Args:
        on_ready  called with what the child tells when it has found its consumer
    """

    def __init__(self, on_ready: Callable[[dict[str, Any]], None]) -> None:
        ours, theirs = socket.socketpair()
        # What is handed to the child, which closes nothing else of ours.
        self.childs_fd = theirs.detach()
        self._line = Connection(ours.detach())
        self._on_ready = on_ready
        self._sends, self._lock = threading.Lock(), threading.Lock()
        self._asked: dict[str, Future[Any]] = {}
        self._over = False

    def start(self) -> None:
        """Listen; the child has its end now."""
        os.close(self.childs_fd)
        threading.Thread(target=self._listen, name="evkit lifeline", daemon=True).start()

    def ask(self, what: str) -> Future[Any]:
        """The child's answer, when it comes; None when it could not say.

        What was asked and is not answered yet is not asked again: a child that hangs would find a thousand questions when
        it goes on.
        """
        with self._lock:
            asked = self._asked.get(what)
            if asked is not None and not asked.done():
                return asked
            asked = self._asked[what] = Future()
            if self._over or not self._send({"ask": what}):
                asked.cancel()
            return asked

    def tell_to_stop(self) -> None:
        """As SIGTERM would, but as often as you like."""
        self._send({"do": "stop"})

    def _send(self, message: dict[str, Any]) -> bool:
        try:
            with self._sends:
                self._line.send_bytes(json.dumps(message).encode())
        except OSError:  # it has ended; whoever waits for it is told so
            return False
        return True

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                for what, said in json.loads(self._line.recv_bytes()).items():
                    if what == "ready":
                        self._on_ready(said)
                    else:
                        with self._lock:
                            asked = self._asked.pop(what, None)
                        if asked is not None:
                            asked.set_result(said)
        with self._lock:
            self._over = True
            waiting, self._asked = list(self._asked.values()), {}
        for asked in waiting:
            asked.cancel()
        self._line.close()


class ChildsEnd:
    """The child's end: answer, and stop when the parent says so or is gone.

    Args:
        fd       of the socket that the parent has handed over
        on_stop  called at "stop" and at the end of the line
    """

    def __init__(self, fd: int, on_stop: Callable[[], None]) -> None:
        try:
            os.set_inheritable(fd, False)  # a process that a handler starts must not keep the line open
            self._line = Connection(fd)
        except OSError as error:
            raise UsageError(
                f"there is no line to a parent at file descriptor {fd} ({error.strerror}): --lifeline is for the processes "
                "that `evkit consume --processes` starts"
            ) from None
        self._on_stop = on_stop
        self._lock = threading.Lock()
        self._answers: dict[str, Callable[[], Any]] = {}
        threading.Thread(target=self._listen, name="evkit lifeline", daemon=True).start()

    def ready(self, about: dict[str, Any], **answers: Callable[[], Any]) -> None:
        """Tell the parent that the consumer is found, and from now on answer its questions by these functions."""
        self._answers = answers
        self._send({"ready": about})

    def _listen(self) -> None:
        try:
            while True:
                message = json.loads(self._line.recv_bytes())
                if message.get("do") == "stop":
                    self._on_stop()
                elif (answer := self._answers.get(message.get("ask"))) is not None:
                    # On a thread of its own: metrics may wait for a server, and health must not wait for them.
                    threading.Thread(target=self._answer, args=(message["ask"], answer), daemon=True).start()
        except (EOFError, OSError):
            log.warning("the parent process is gone: this one finishes what it has in hand and ends")
            self._on_stop()

    def _answer(self, what: str, answer: Callable[[], Any]) -> None:
        said = None
        try:
            said = answer()
        except Exception:
            log.exception("the parent's question for %s could not be answered", what)
        self._send({what: said})

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._line.send_bytes(json.dumps(message, default=str).encode())


# --- metrics on the line ----------------------------------------------------------------------------------------------


def apart(families: Iterable[Family]) -> list[Any]:
    """Families of metrics as JSON."""
    return [
        [family.name, family.documentation, family.type, [[s.name, s.labels, s.value] for s in family.samples]]
        for family in families
    ]


def together(told: Mapping[str, list[Any]]) -> Iterator[Family]:
    """What several processes have told by `apart`, as one family each; `told` is by the value of the label `process`."""
    from prometheus_client import Metric
    from prometheus_client.samples import Sample

    found: dict[str, Metric] = {}
    for process, families in told.items():
        for name, meaning, kind, samples in families:
            family = found.setdefault(name, Metric(name, meaning, kind))
            family.samples += [Sample(s, {"process": process} | labels, value) for s, labels, value in samples]
    yield from found.values()
