"""brokers → poll loop: notice that none answers, without waiting for the answer.

The client itself waits for its brokers and says nothing: a consumer of an idle topic looks the same whether they are there
or gone, and one that is cut off without an error would learn of it after a minute. So they are asked who they are every few
seconds; that needs no right and no partition.

A thread asks and waits: describe_cluster, which needs none, ends the process by a failed assertion of librdkafka when its
answer comes too late (rd_kafka_admin_response_parse; measured with 2.16.1 on a broker that was stopped for seven seconds).
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from evkit import kafka

# How often they are asked, and how long an answer may take before that counts as silence.
PULSE_SECONDS, ANSWER_SECONDS = 5.0, 1.0


class Pulse:
    """Whether a broker answers; for one thread to `look`, and any to read.

    Attributes:
        silent_since  monotonic time of the first question that has no answer; None while there are answers
    """

    def __init__(self, admin: kafka.AdminClient) -> None:
        self._admin = admin
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
            self._asked, self._asked_at = self._asker.submit(self._admin.list_topics, timeout=PULSE_SECONDS), now

    def _silent(self) -> None:
        if self.silent_since is None:
            self.silent_since = self._asked_at
