"""SIGTERM and SIGINT → a clean stop: finish what is in hand, commit, leave. A second one ends at once."""

from __future__ import annotations

import _thread
import os
import signal
from collections.abc import Callable
from types import FrameType


def on_stop(stop: Callable[[], None], at_once: Callable[[], None] | None = None) -> None:
    """Call `stop` at the first SIGTERM or SIGINT; the second one has its default effect, after `at_once` if given."""

    def asked(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL if at_once is None else asked_again)
        # On a thread: here it could meet, in this very thread, a lock that it needs and that is held below. Not by
        # `threading`, which has such locks itself.
        _thread.start_new_thread(stop, ())

    def asked_again(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        assert at_once is not None
        at_once()
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGINT, asked)
