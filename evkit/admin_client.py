"""Kafka's admin client, destroyed by a thread of ours: whoever lets go of it, and wherever the garbage collector finds it.

librdkafka ends the whole process when a thread of its own destroys the client that it works for ("Application bug:
rd_kafka_destroy() called from librdkafka owned thread", measured with 2.16.1). An admin client's answers come on such a
thread, which runs Python for them, and Python may collect garbage there: that of the whole process. A client that hung on
to the traceback of an error was then enough to abort a notebook's kernel, in the moment in which a broker did not answer.
"""

from __future__ import annotations

import atexit
import threading
from queue import SimpleQueue
from typing import Any

from confluent_kafka.admin import AdminClient

# At the end of the process, so long for clients whose brokers do not answer.
_END_SECONDS = 5.0


class _Undertaker:
    """Takes what nobody has a hold on any more, and lets go of it on its own thread."""

    def __init__(self) -> None:
        self._left: SimpleQueue[Any] = SimpleQueue()  # may be put into from inside the garbage collector
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ended = False

    def begin(self) -> None:
        """Before there is a first client: no thread may be started from inside the garbage collector."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="evkit-admin-clients", daemon=True)
                self._thread.start()
                atexit.register(self.end)

    def take(self, client: Any) -> None:
        """At the end of the process whoever lets go of a client destroys it, as there are no answers any more."""
        if not self._ended:
            self._left.put(client)

    def _work(self) -> None:
        while self._left.get() is not self:  # and nothing has a hold on it now
            pass

    def end(self) -> None:
        """Let go of all that was left, and go."""
        assert self._thread is not None
        self._left.put(self)
        self._thread.join(_END_SECONDS)
        self._ended = True


undertaker = _Undertaker()


class Admin(AdminClient):
    """See confluent_kafka."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        undertaker.begin()
        super().__init__(*args, **kwargs)

    def __del__(self, take: Any = undertaker.take) -> None:
        # Python calls this once and before it destroys anything, and does not destroy what somebody has a hold on again.
        take(self)
