"""Window: a stretch of time to look at; and how times are written: ISO, `now`, `now-2h`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from evkit.errors import InvalidParameter

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d|w)\s*$")
_RELATIVE = re.compile(r"^\s*now\s*(?:([+-])\s*(.+))?$")


def duration(text: str, *, name: str = "duration") -> timedelta:
    """A duration as people write it: `90s`, `15m`, `2h`, `7d`.

    Raises:
        InvalidParameter: it is none.
    """
    found = _DURATION.match(text)
    if not found:
        raise InvalidParameter(f"{name} '{text}' is no duration: write 90s, 15m, 2h or 7d", name=name, value=text)
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])


def instant(text: str | datetime, *, now: datetime | None = None, name: str = "time") -> datetime:
    """A moment in UTC: an ISO time (without a zone it is UTC), `now`, `now-2h`, `now+5m`.

    Raises:
        InvalidParameter: it is none of these.
    """
    now = now or datetime.now(UTC)
    if isinstance(text, datetime):
        return text.astimezone(UTC) if text.tzinfo else text.replace(tzinfo=UTC)
    if found := _RELATIVE.match(text):
        if found[1] is None:
            return now
        step = duration(found[2], name=name)
        return now + step if found[1] == "+" else now - step
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidParameter(
            f"{name} '{text}' is no time: write 2013-02-08T14:00Z, now or now-2h", name=name, value=text
        ) from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, its end not included; both in UTC."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()

    @classmethod
    def of(cls, start: str | datetime, end: str | datetime = "now", *, now: datetime | None = None) -> Window:
        """The window between two times as people write them.

        Raises:
            InvalidParameter: a time cannot be read, or the end is not after the start.
        """
        now = now or datetime.now(UTC)
        first, last = instant(start, now=now, name="since"), instant(end, now=now, name="until")
        if last <= first:
            raise InvalidParameter(
                f"the window from {first.isoformat()} to {last.isoformat()} is empty: its end must be after its start",
                name="until",
                value=end,
            )
        return cls(first, last)

    @classmethod
    def last(cls, length: str | timedelta, *, now: datetime | None = None) -> Window:
        """The window of this length that ends now: `Window.last("2h")`."""
        now = now or datetime.now(UTC)
        return cls(now - (duration(length, name="window") if isinstance(length, str) else length), now)
