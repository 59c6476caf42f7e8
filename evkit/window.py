"""Window: a stretch of time to look at; how times are written: ISO, `now`, `now-2h`, with a zone or without; and now.

Now is this machine's clock, except where a freeze is looked at: there it is the moment of the freeze, so that "2h" means
the two hours before it, whenever somebody looks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from evkit.errors import InvalidParameter, NotInFreeze, closest

_UNITS = {
    "ms": 0.001,
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
    **dict.fromkeys(("w", "week", "weeks"), 604_800),
}
_DURATION = re.compile(rf"^\s*(\d+(?:\.\d+)?)\s*({'|'.join(sorted(_UNITS, key=len, reverse=True))})\s*$", re.ASCII)
_RELATIVE = re.compile(r"^\s*now\s*(?:([+-])\s*(.+))?$")
_LAST = re.compile(r"^\s*(?:last\s+)?(\d.*)$")
# A zone has a name with a letter first: `Europe/Berlin` after a space, `[Europe/Berlin]` as RFC 9557 has it, or `UTC`.
_ZONED = re.compile(r"^(.*\S)(?:\s+([A-Za-z][A-Za-z0-9_+\-/]*)|\s*\[([A-Za-z][A-Za-z0-9_+\-/]*)\])\s*$")
_NAMED = re.compile(r"^\s*([a-z][a-z_-]*):(.*\S)\s*$")
_WANTED = "write 2h, 'last 2h', now-3h/now-2h, or 2013-02-08T14:00Z/2013-02-08T15:00Z"

# What stands for `incident:INC-12`: takes the kind and the name, and gives the window.
Resolve = Callable[[str, str], "Window"]


def duration(text: str, *, name: str = "duration") -> timedelta:
    """A duration as people write it: `90s`, `15m`, `2h`, `7d`, `2 hours`.

    Raises:
        InvalidParameter: it is none, or longer than the calendar.
    """
    found = _DURATION.match(text)
    if not found:
        raise InvalidParameter(f"{name} '{text}' is no duration: write 90s, 15m, 2h or 7d", name=name, value=text)
    try:
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
    except OverflowError:
        raise InvalidParameter(f"{name} '{text}' is longer than the calendar", name=name, value=text) from None


def instant(
    text: str | datetime, *, now: datetime | None = None, name: str = "time", zone: str | None = None
) -> datetime:
    """A moment in UTC: an ISO time, `now`, `now-2h`, `now+5m`.

    A time without offset is of `zone`, of the zone that is named behind it (`2026-03-29T01:30 Europe/Berlin`), or UTC.
    Where clocks are put forward some local times do not exist, where they are put back some come twice: both are refused,
    for any choice would be an hour wrong for somebody. A datetime says by its `fold` which one it means.

    Raises:
        InvalidParameter: it is none of these, the zone is unknown, or the local time is no moment, or two.
    """
    now = now or present()
    try:
        if isinstance(text, datetime):
            return text.astimezone(UTC) if text.tzinfo else text.replace(tzinfo=UTC)
        if found := _RELATIVE.match(text):
            if found[1] is None:
                return now
            step = duration(found[2], name=name)
            return now + step if found[1] == "+" else now - step
        if zoned := _ZONED.match(text):
            moment, zone = datetime.fromisoformat(zoned[1].strip()), zoned[2] or zoned[3]
        else:
            moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo or zone is None:
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        return _local(moment, zone, name)
    except OverflowError:
        raise InvalidParameter(
            f"{name} '{text}' is outside the calendar (years 1 to 9999)", name=name, value=text
        ) from None
    except InvalidParameter:
        raise
    except ValueError:
        raise InvalidParameter(
            f"{name} '{text}' is no time: write 2013-02-08T14:00Z, now or now-2h", name=name, value=text
        ) from None


def _zone(named: str, name: str) -> ZoneInfo:
    try:
        return ZoneInfo(named)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones, a path upwards
        near = closest(named, available_timezones())
        hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ": write Europe/Berlin or UTC"
        raise InvalidParameter(f"time zone '{named}' is not known{hint}", name=name, value=named) from None


def _local(local: datetime, named: str, name: str) -> datetime:
    """The one moment at which clocks of the zone show this time."""
    zone = _zone(named, name)
    both = [local.replace(tzinfo=zone, fold=fold) for fold in (0, 1)]
    moments = sorted({at.astimezone(UTC) for at in both})
    if len(moments) == 1:
        return moments[0]
    shown = local.isoformat(timespec="auto" if local.second or local.microsecond else "minutes")
    offsets = sorted({at.isoformat()[19:].lstrip(".0123456789") for at in both})
    if all(at.astimezone(zone).replace(tzinfo=None, fold=0) == local for at in moments):
        raise InvalidParameter(
            f"{name} {shown} comes twice in {named}, for clocks are put back then: "
            f"write {' or '.join(shown + offset for offset in offsets)}",
            name=name,
            value=shown,
        )
    raise InvalidParameter(
        f"{name} {shown} does not exist in {named}, for clocks are put forward over it: "
        f"write the time before or after, or one with its offset ({' or '.join(shown + o for o in offsets)})",
        name=name,
        value=shown,
    )


_JUST_NOW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, its end not included; both in UTC.

    Raises:
        InvalidParameter: the end is not after the start.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        first, last = instant(self.start), instant(self.end)
        object.__setattr__(self, "start", first)
        object.__setattr__(self, "end", last)
        if last == first:
            raise InvalidParameter(
                f"the window from {first.isoformat()} to {last.isoformat()} is empty: its end must be after its start",
                name="window",
                value=last,
            )
        if last < first:
            raise InvalidParameter(
                f"the window from {first.isoformat()} to {last.isoformat()} is reversed and so is empty: "
                "its end must be after its start",
                name="window",
                value=last,
            )

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()

    def is_past(self, now: datetime) -> bool:
        """Whether it ended more than a minute before now: how things stood is then asked of its end, and not of now."""
        return now - self.end > _JUST_NOW

    def __str__(self) -> str:
        """As `parse` reads it."""
        return "/".join(at.isoformat().replace("+00:00", "Z") for at in (self.start, self.end))

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        now: datetime | None = None,
        zone: str | None = None,
        resolve: Resolve | None = None,
    ) -> Window:
        """A window as people write it.

            2h, last 2h                                           the length that ends now
            2026-01-01T10:00Z/2026-01-01T11:00Z, now-3h/now-2h    from one time to another (`instant`)
            2026-01-01T10:00Z/30m, 30m/now-1d                     a length from a time on, or up to one
            2026-10-25T00:00/2026-10-26T00:00 Europe/Berlin       local times; this one has 25 hours

        A zone at the end is that of both times, one at the start of the start alone.

        Args:
            zone     of local times that name none; default: UTC
            resolve  knows what `incident:NAME` and the like mean; without it, they are refused

        Raises:
            InvalidParameter: it is none of these, reversed, or empty.
        """
        now = now or present()
        if found := _NAMED.match(text):
            if resolve is not None:
                return resolve(found[1], found[2])
            raise InvalidParameter(
                f"window '{text}' is a name, and here only times are understood: {_WANTED}", name="window", value=text
            )
        first, slash, last = _halves(text)
        if not slash:
            length = _LAST.match(text)
            if length is None or not _DURATION.match(length[1]):
                raise InvalidParameter(f"window '{text}' is no window: {_WANTED}", name="window", value=text)
            return cls.last(length[1], now=now)
        if not first or not last:
            which = "start" if not first else "end"
            raise InvalidParameter(f"window '{text}' has no {which}: {_WANTED}", name="window", value=text)
        zoned = _ZONED.match(last)
        start_zone = (zoned[2] or zoned[3]) if zoned else zone
        lengths = [bool(_DURATION.match(half)) for half in (first, last)]
        if all(lengths):
            raise InvalidParameter(f"window '{text}' has two lengths and no time: {_WANTED}", name="window", value=text)
        try:
            if lengths[0]:
                until = instant(last, now=now, name="end of the window", zone=zone)
                return cls(until - duration(first, name="window"), until)
            since = instant(first, now=now, name="start of the window", zone=start_zone)
            if lengths[1]:
                return cls(since, since + duration(last, name="window"))
        except OverflowError:
            raise InvalidParameter(f"window '{text}' leaves the calendar", name="window", value=text) from None
        return cls(since, instant(last, now=now, name="end of the window", zone=zone))

    @classmethod
    def of(
        cls,
        start: str | datetime,
        end: str | datetime = "now",
        *,
        now: datetime | None = None,
        zone: str | None = None,
    ) -> Window:
        """The window between two times as people write them; `zone` is of local times that name none.

        Raises:
            InvalidParameter: a time cannot be read, or the end is not after the start.
        """
        now = now or present()
        first = instant(start, now=now, name="since", zone=zone)
        if end == "now":  # nobody has said an end: what is wrong is the start
            _require_begun(first, now, start)
        return cls(first, instant(end, now=now, name="until", zone=zone))

    @classmethod
    def last(cls, length: str | timedelta, *, now: datetime | None = None) -> Window:
        """The window of this length that ends now: `Window.last("2h")`.

        Raises:
            InvalidParameter: no duration, zero, or longer than the calendar.
        """
        now = now or present()
        step = duration(length, name="window") if isinstance(length, str) else length
        if step <= timedelta(0):
            raise InvalidParameter(
                f"a window of {step.total_seconds():g} s is empty: take a length above zero",
                name="window",
                value=length,
            )
        try:
            return cls(now - step, now)
        except OverflowError:
            raise InvalidParameter(f"window '{length}' leaves the calendar", name="window", value=length) from None

    def require_begun(self, *, now: datetime | None = None) -> Window:
        """This window, if it has begun: an empty frame of the future would say that nothing failed.

        Raises:
            InvalidParameter: it begins now or later.
        """
        _require_begun(self.start, now or present(), str(self))
        return self


def _require_begun(start: datetime, now: datetime, given: object) -> None:
    if start >= now:
        raise InvalidParameter(
            f"the window begins at {start.isoformat()}, and now it is {now.isoformat()}: it is in the future, and there is "
            "no history yet",
            name="window",
            value=given,
        )


def _halves(text: str) -> tuple[str, str, str]:
    """The two sides of the slash between them; those of `Europe/Berlin` are none."""
    for found in re.finditer("/", text):
        before, after = text[: found.start()].strip(), text[found.end() :].strip()
        if re.match(r"\d|now\b|$", after):
            return before, "/", after
    before, slash, after = text.partition("/")
    return before.strip(), slash, after.strip()


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
