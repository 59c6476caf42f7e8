"""What the Kafka client logs about itself, told once and not in each of its attempts.

While a broker is away every client connects again several times a second and says so each time; the line that matters would
be one of thousands.
"""

from __future__ import annotations

import logging
import re
import threading
import time

# The same line of the same logger is told again after so long, with how many of it were left out.
QUIET_SECONDS = 30.0
_LINES_MAX = 1000

# What differs between two lines that say the same: client and thread names, how long a state took.
_VARIABLE = re.compile(r"\[[^\]]*\]|\(after [^)]*\)|\d+ms")


class Repeats(logging.Filter):
    """Lets a line through when it has not been told lately; for any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._told: dict[
            str, tuple[float, int]
        ] = {}  # what it says → when it was told, and how many were left out since

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        what, now = _VARIABLE.sub("", text), time.monotonic()
        with self._lock:
            at, left_out = self._told.get(what, (float("-inf"), 0))
            if now - at < QUIET_SECONDS:
                self._told[what] = (at, left_out + 1)
                return False
            if len(self._told) >= _LINES_MAX:
                self._told.clear()
            self._told[what] = (now, 0)
        if left_out:
            record.msg, record.args = f"%s (and {left_out:,} more of these since)", (text,)
        return True
