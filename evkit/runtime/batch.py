"""outbox rows → what became of them: the value that travels through the relay's stages.

The reader makes a batch (relay.py), the publisher fills in the broker's answers (publisher.py), the marker writes them
down (marker.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from evkit.runtime.outbox_cursor import Row
from evkit.runtime.tracing import BatchSpan


@dataclass(slots=True)
class Unpublished:
    """A row that was not published: why, and what becomes of it ('parked', 'held' or 'skipped')."""

    position: int
    topic: str
    key: str
    state: str
    blocked_by: int | None = None
    attempts: int = 0
    error_class: str | None = None
    error: str | None = None


@dataclass(slots=True)
class Batch:
    """Rows on their way, and what became of them.

    Attributes:
        claim        its number
        rows         ascending by position
        settled      what may be written down as settled once this batch is
        hole         oldest open hole after the read: (position, time of the monotonic clock), or None
        redo         these were unpublishable, and somebody asked for another try
        answers      (position, partition, offset, microseconds of the monotonic clock) of each confirmed row
        unpublished  the others
        whole        every row is dealt with; False: given up in the middle, and only what was confirmed counts
        started      when its first row was handed to the producer (monotonic clock)
        span         around that and the last answer
    """

    claim: int
    rows: list[Row]
    settled: int
    hole: tuple[int, float] | None = None
    redo: bool = False
    answers: list[tuple[int, int, int, int]] = field(default_factory=list)
    unpublished: list[Unpublished] = field(default_factory=list)
    whole: bool = True
    started: float = 0.0
    span: BatchSpan | None = None

    @property
    def is_answered(self) -> bool:
        return len(self.answers) + len(self.unpublished) >= len(self.rows)


def headers_of(more: bytes) -> dict[str, Any]:
    """The row's own headers; raises ValueError unless they are an object of text to text."""
    found = json.loads(more)
    if found is None:  # JSON's null, as some writers say "none"
        return {}
    if not isinstance(found, dict):
        raise ValueError(f"headers are a JSON {type(found).__name__}, not an object of text to text")
    for name, value in found.items():
        if not (value is None or isinstance(value, str)) or "\x00" in name:
            raise ValueError(f"header '{name[:80]}' is not text")
    return found
