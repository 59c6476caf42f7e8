"""brokers → poll loop: notice that none answers, without waiting for the answer.

The client itself waits for its brokers and says nothing: a consumer of an idle topic looks the same whether they are there
or gone, and one that is cut off without an error would learn of it after a minute. So they are asked who they are every few
seconds; that needs no partition.

A thread asks and waits: describe_cluster, which needs none, ends the process by a failed assertion of librdkafka when its
answer comes too late (rd_kafka_admin_response_parse; measured with 2.16.1 on a broker that was stopped for seven seconds).
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from evkit import kafka
from evkit.settings import Settings

# How often they are asked, and how long an answer may take before that counts as silence.
PULSE_SECONDS, ANSWER_SECONDS = 5.0, 1.0


class Pulse:
    """Whether a broker answers; for one thread to `look`, and any to read.

    Attributes:
        silent_since  monotonic time of the first question that has no answer; None while there are answers
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        # About one topic: what they say of all would be read each time. By a consumer: it makes no topic by asking for it.
        self._client = kafka.consumer(settings, "evkit-pulse")
        self._topic = topic
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="evkit-pulse")
        self._asked: Future[Any] | None = None
        self._asked_at = float("-inf")
        self.silent_since: float | None = None

    def look(self) -> None:
        """One turn: ask when it is time, and see what was answered."""
        now = time.monotonic()
        if self._asked is not None and self._asked.done():
            asked, self._asked = self._asked, None
            if kafka.was_answered(asked):
                self.silent_since = None
            else:
                self._silent()
        if self._asked is not None:
            if now - self._asked_at > ANSWER_SECONDS:
                self._silent()
        elif self.silent_since is not None or now - self._asked_at >= PULSE_SECONDS:
            self._asked = self._asker.submit(self._client.list_topics, self._topic, PULSE_SECONDS)
            self._asked_at = now

    def close(self) -> None:
        """Ask no more; what is asked now is waited for by nobody."""
        self._asker.submit(self._client.close)
        self._asker.shutdown(wait=False)

    def _silent(self) -> None:
        if self.silent_since is None:
            self.silent_since = self._asked_at
