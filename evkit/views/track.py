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

    def add_to(self, columns: dict[str, list[Any]], group: str, place: Place, instants: list[datetime]) -> None:
        """Add a row of the view for each moment."""
        count = len(instants)
        offsets = [end.offset for end in self.ends]
        lags = [
            None if committed is None or end is None else end - committed
            for committed, end in zip(self.committed, offsets, strict=True)
        ]
        columns["at"] += instants
        columns["group"] += [group] * count
        columns["topic"] += [place[0]] * count
        columns["partition"] += [place[1]] * count
        columns["committed_offset"] += self.committed
        columns["end_offset"] += offsets
        columns["lag_events"] += lags
        columns["lag_seconds"] += self._seconds(lags, instants)
        columns["covered"] += self.covered
        columns["truncated"] += [end.is_truncated for end in self.ends]
        columns["exact"] += [end.is_exact for end in self.ends]
        columns["source"] += [self.source] * count

    def _seconds(self, lags: list[int | None], instants: list[datetime]) -> list[float | None]:
        """Since the end passed the committed offset; None when that was before the window."""
        # Ends never fall while a source knows them; where a topic was made anew, a search would be led astray.
        known = [end.offset for end in self.ends if end.offset is not None]
        is_rising = all(a <= b for a, b in pairwise(known))
        offsets = [-1 if end.offset is None else end.offset for end in self.ends]
        found: list[float | None] = []
        known_from = 0
        for n, (committed, lag) in enumerate(zip(self.committed, lags, strict=True)):
            seconds = None
            if offsets[n] < 0:
                known_from = n + 1
            elif lag == 0:
                seconds = 0.0
            elif lag is not None and lag > 0 and committed is not None and is_rising:
                passed = bisect_right(offsets, committed, known_from, n + 1)
                seconds = (instants[n] - instants[passed]).total_seconds() if passed > known_from else None
            found.append(seconds)
        return found
