"""Kafka's admin client, without the two ways in which librdkafka's ends the whole process.

It is destroyed by a thread of ours: whoever lets go of it, and wherever the garbage collector finds it. librdkafka ends the
process when a thread of its own destroys the client that it works for ("Application bug: rd_kafka_destroy() called from
librdkafka owned thread", measured with 2.16.1). An admin client's answers come on such a thread, which runs Python for
them, and Python may collect garbage there: that of the whole process. A client that hung on to the traceback of an error
was then enough to abort a notebook's kernel, in the moment in which a broker did not answer.

And a question for a group's coordinator has an hour, whatever its caller waits. When one has timed out while librdkafka was
still looking for the coordinator, and the coordinator is found after all, the request is let go of twice, and an assertion
ends the process (`eonce->refcnt > 0` in rd_kafka_admin_coord_response_parse of 2.16.1; a broker that was stopped for half a
second was enough). With an hour it does not come to that: the caller stops waiting, and the answer finds nobody.
"""

from __future__ import annotations

import atexit
import functools
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from confluent_kafka.admin import AdminClient

Asks = TypeVar("Asks", bound=Callable[..., Any])

# What librdkafka is given, whatever we wait.
REQUEST_SECONDS = 3600.0

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


def _patient(ask: Asks) -> Asks:
    """A method that gives librdkafka its hour, whatever it is told."""

    @functools.wraps(ask)
    def asked(*arguments: Any, **options: Any) -> Any:
        return ask(*arguments, **options | {"request_timeout": REQUEST_SECONDS})

    return cast(Asks, asked)


class Admin(AdminClient):
    """See confluent_kafka; the futures of what is asked of a coordinator are for their caller to time out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        undertaker.begin()
        super().__init__(*args, **kwargs)

    def __del__(self, take: Any = undertaker.take) -> None:
        # Python calls this once and before it destroys anything, and does not destroy what somebody has a hold on again.
        take(self)

    describe_consumer_groups = _patient(AdminClient.describe_consumer_groups)
    list_consumer_group_offsets = _patient(AdminClient.list_consumer_group_offsets)
    alter_consumer_group_offsets = _patient(AdminClient.alter_consumer_group_offsets)
    delete_consumer_groups = _patient(AdminClient.delete_consumer_groups)
