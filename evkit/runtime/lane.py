"""batch → inbox: handle it on a thread of its own, one of a consumer's lanes, and report a handler that hangs."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from typing import Protocol

from evkit.runtime.assignment import Work
from evkit.runtime.inbox import Inbox
from evkit.runtime.session import Stopped

log = logging.getLogger(__name__)

# A handler that takes longer is reported with its stack, once for each batch.
HUNG_SECONDS = 60.0


class Owner(Protocol):
    """What a lane needs of its consumer."""

    group: str

    def _next_batch(self) -> list[Work] | None:
        """What may be handled now; waits for it. None at the end."""

    def _handle(self, batch: list[Work], inbox: Inbox) -> None:
        """Handle a batch, and tell what became of it."""

    def _break(self, error: BaseException) -> None:
        """A lane has met what ends the consumer."""


class Lane(threading.Thread):
    """Handles one batch after the other, on a database connection of its own."""

    def __init__(self, consumer: Owner, number: int, inbox: Inbox) -> None:
        super().__init__(name=f"evkit-{consumer.group}-{number}", daemon=True)
        self._consumer = consumer
        self.inbox = inbox
        self._batch: list[Work] = []
        self._since: float | None = None
        self._reported = False

    def run(self) -> None:
        try:
            while (batch := self._consumer._next_batch()) is not None:
                self._batch, self._since, self._reported = batch, time.monotonic(), False
                self._consumer._handle(batch, self.inbox)
                self._since = None
        except Stopped:
            log.info("consumer of group %s stops inside a batch; the rest of it comes again", self._consumer.group)
        except BaseException as error:
            self._consumer._break(error)
        finally:
            self.inbox.close()

    def report_if_hung(self) -> None:
        """Say once where a handler is that does not come back."""
        since, batch = self._since, self._batch
        if since is None or self._reported or time.monotonic() - since < HUNG_SECONDS or self.ident is None:
            return
        self._reported = True
        frame = sys._current_frames().get(self.ident)
        first = batch[0].record
        log.warning(
            "group %s: a handler has been at a batch of %s for %.0f s, from %s/%s offset %s on; it is at\n%s",
            self._consumer.group, len(batch), time.monotonic() - since, first.topic, first.partition, first.offset,
            "".join(traceback.format_stack(frame)) if frame is not None else "(ended)",
        )  # fmt: skip
