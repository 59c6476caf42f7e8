"""Track: what one source knows of one partition at every moment of a window; the sources of `lag_history` give these."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from evkit.views.end_offsets import End
from evkit.views.offsets import Place


@dataclass(slots=True)
class Track:
    """One partition as one source tells it; all lists are as long as the window has moments.

    Attributes:
        source     as in the view's column
        committed  next offset the group would have read (or handled); None when it had none, or it is not covered
        ends       where the partition ended
        covered    whether the source knows what the group had committed
    """

    source: str
    committed: list[int | None]
    ends: list[End]
    covered: list[bool]

    def answered(self) -> int:
        """Moments that it has an answer for."""
        return sum(known and end.offset is not None for known, end in zip(self.covered, self.ends, strict=True))

    def rows(self, group: str, place: Place, instants: list[datetime]) -> list[list[Any]]:
        """Rows of the view."""
        rows: list[list[Any]] = []
        # They never fall while a source knows them; where a topic was made anew, a search would be led astray.
        known = [end.offset for end in self.ends if end.offset is not None]
        is_rising = all(a <= b for a, b in pairwise(known))
        offsets = [-1 if end.offset is None else end.offset for end in self.ends]
        known_from = 0
        for n, (at, committed, end, covered) in enumerate(
            zip(instants, self.committed, self.ends, self.covered, strict=True)
        ):
            lag, seconds = None, None
            if end.offset is None:
                known_from = n + 1
            elif committed is not None:
                lag = end.offset - committed
                if lag == 0:
                    seconds = 0.0
                elif lag > 0 and is_rising:
                    passed = bisect_right(offsets, committed, known_from, n + 1)
                    seconds = (at - instants[passed]).total_seconds() if passed > known_from else None
            flags = [covered, end.is_truncated, end.is_exact]
            rows.append([at, group, *place, committed, end.offset, lag, seconds, *flags, self.source])
        return rows
