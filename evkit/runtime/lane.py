"""batch → inbox: handle it on a thread of its own, one of a consumer's lanes, and report a handler that hangs."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol

from evkit.runtime.assignment import Work
from evkit.runtime.inbox import Inbox
from evkit.runtime.session import Stopped

log = logging.getLogger(__name__)

# A handler that takes longer is reported with its stack, once for each batch, where its consumer does not say otherwise.
HUNG_SECONDS = 60.0


class Owner(Protocol):
    """What a lane needs of its consumer."""

    group: str

    def _next_batch(self) -> list[Work] | None:
        """What may be handled now; waits for it. None at the end."""

    def _upcoming(self) -> list[Work]:
        """What the next batch is likely to be made of; empty when nobody knows."""

    def _handle(self, batch: list[Work], inbox: Inbox) -> None:
        """Handle a batch, and tell what became of it."""

    def _break(self, error: BaseException) -> None:
        """A lane has met what ends the consumer."""


class Lane(threading.Thread):
    """Handles one batch after the other, on a database connection of its own.

    Args:
        hung_seconds  how long a handler may take until it is reported
        redrive       the thread of a redrive whose turn it is, when the batch has to wait for that
    """

    def __init__(
        self,
        consumer: Owner,
        number: int,
        inbox: Inbox,
        hung_seconds: float = HUNG_SECONDS,
        redrive: Callable[[], threading.Thread | None] = lambda: None,
    ) -> None:
        super().__init__(name=f"evkit-{consumer.group}-{number}", daemon=True)
        self._consumer = consumer
        self.inbox = inbox
        self._hung_seconds = hung_seconds
        self._redrive = redrive
        self._batch: list[Work] = []
        self._since: float | None = None
        self._mark = (0, 0)
        self._still_since = 0.0
        self._reported = False

    def run(self) -> None:
        self.inbox.look_ahead.upcoming = self._consumer._upcoming
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

    @property
    def is_busy(self) -> bool:
        """Whether it has a batch in hand."""
        return self._since is not None

    def hung(self) -> str | None:
        """Which handler does not come back, and what it holds; None while none hangs.

        A handler that takes its time for each event of a batch does not hang, and neither does one whose batch waits for
        PostgreSQL.
        """
        since, batch = self._since, self._batch
        if since is None:
            return None
        still = time.monotonic() - max(since, self._still_since)
        if still < self._hung_seconds:
            return None
        (topic, partition), places = batch[0].partition.place, sorted({work.partition.place for work in batch})
        if self._redrive() is not None:
            return (
                f"a handler of a redrive has not come back for {still:.0f} s: a batch of {len(batch)} from "
                f"{topic}/{partition} offset {batch[0].offset} on waits for its turn, and holds "
                f"{', '.join(f'{topic}/{partition}' for topic, partition in places)}; its stack is in the log"
            )
        return (
            f"a handler has not come back for {still:.0f} s: it is at a batch of {len(batch)} from "
            f"{topic}/{partition} offset {batch[0].offset} on, and holds "
            f"{', '.join(f'{topic}/{partition}' for topic, partition in places)}; its stack is in the log"
        )

    def report_if_hung(self) -> None:
        """Say once where a handler is that does not come back; for the poll loop, which comes by in every turn."""
        mark = (self.inbox.calls, self.inbox.at)
        if mark != self._mark or self.inbox.waits is not None:
            self._mark, self._still_since = mark, time.monotonic()
        if self._reported or self.ident is None or (sentence := self.hung()) is None:
            return
        self._reported = True
        frame = sys._current_frames().get((self._redrive() or self).ident or 0)
        where = "".join(traceback.format_stack(frame)) if frame is not None else "(ended)"
        log.warning("group %s: %s; it is at\n%s", self._consumer.group, sentence, where)
