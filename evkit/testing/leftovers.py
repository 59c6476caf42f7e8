"""Topics and groups of tests that are over are deleted: what looks at all of a broker must not take longer with each test.

Not at the end of their own test, whose consumers may still be leaving: those of several tests go together, before another
begins, and are waited for, so that nothing disappears under a test that looks at everything.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import wait

from evkit import kafka
from evkit.settings import Settings

log = logging.getLogger(__name__)

# So many topics go at once: a deletion takes as long for ten as for one.
TOPICS_MAX = 10
_SECONDS_MAX = 10.0


class Leftovers:
    """What tests have left on a broker."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._settings = Settings(postgres_dsn="", kafka={"bootstrap.servers": bootstrap_servers})
        self._admin = kafka.admin(self._settings)
        self._topics: list[str] = []
        self._groups: list[str] = []

    def topic(self, name: str) -> None:
        """A topic whose test is over."""
        self._topics.append(name)

    def group(self, name: str) -> None:
        """A group whose test is over; it may never have been made."""
        self._groups.append(name)

    def sweep(self, at_least: int = TOPICS_MAX) -> None:
        """Delete what is left, if it is so many topics; a broker that does not answer keeps them."""
        if len(self._topics) < at_least:
            return
        topics, groups = self._topics, self._groups
        self._topics, self._groups = [], []
        asked = list(self._admin.delete_topics(topics).values()) if topics else []
        if groups:
            asked += self._admin.delete_consumer_groups(groups).values()
        wait(asked, _SECONDS_MAX)
        deadline = time.monotonic() + _SECONDS_MAX
        # The broker answers before it has forgotten a topic.
        while (still := self._known(topics)) and time.monotonic() < deadline:
            time.sleep(0.02)
        if still:
            log.warning("topics of tests that are over are still there: %s", ", ".join(still))

    def _known(self, topics: list[str]) -> list[str]:
        try:
            known = self._admin.list_topics(timeout=1).topics
        except kafka.KafkaException:
            return []
        return [topic for topic in topics if topic in known]
