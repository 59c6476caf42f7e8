"""Window: a stretch of time to look at; how times are written: ISO, `now`, `now-2h`; and when now is.

Now is this machine's clock, except where a freeze is looked at: there it is the moment of the freeze, so that "2h" means
the two hours before it, whenever somebody looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from evkit.errors import InvalidParameter, NotInFreeze

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
    now = now or present()
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
        now = now or present()
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
        now = now or present()
        return cls(now - (duration(length, name="window") if isinstance(length, str) else length), now)


@dataclass(frozen=True, slots=True)
class Standing:
    """A moment to look from, and what can be seen from there.

    Attributes:
        at       what counts as now
        covered  windows inside it can be looked at
    """

    at: datetime
    covered: Window

    def require(self, window: Window) -> None:
        """Raise NotInFreeze unless the window was copied."""
        if window.start < self.covered.start or (window.end > self.covered.end and self.covered.end < self.at):
            raise NotInFreeze(
                f"it has {_readable(self.covered.start)} to {_readable(self.covered.end)}, and asked is "
                f"{_readable(window.start)} to {_readable(window.end)}; look at a window inside it"
            )


_STANDING: ContextVar[Standing | None] = ContextVar("evkit_standing", default=None)


def present() -> datetime:
    """Now, in UTC: this machine's clock, or the moment of the freeze that is looked at."""
    standing = _STANDING.get()
    return datetime.now(UTC) if standing is None else standing.at


def require_covered(window: Window) -> None:
    """Raise NotInFreeze when a freeze is looked at that does not have this window."""
    if (standing := _STANDING.get()) is not None:
        standing.require(window)


@contextmanager
def standing_at(standing: Standing) -> Iterator[None]:
    """Look from another moment than now, inside the block."""
    token = _STANDING.set(standing)
    try:
        yield
    finally:
        _STANDING.reset(token)


def stand_at(standing: Standing) -> None:
    """The same for what is left of this process's context: a command that looks at a freeze."""
    _STANDING.set(standing)


def _readable(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
