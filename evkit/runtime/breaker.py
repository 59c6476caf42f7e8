"""failure → breaker: hold a handler whose events fail alike on many keys, instead of making dead letters of a topic.

One bad event fails on its own key and becomes a dead letter: that is what dead letters are for. When most events of a
handler fail alike, on many keys, a dependency is away, and no event is to blame: the breaker opens, the events stay in
Kafka (their keys wait, and their partitions pause when the buffers are full), no attempt is counted, and one event after
the other is tried until one succeeds. All other handlers go on.

On a quiet topic there are never many. There it opens when everything fails: for a while no event of the handler has
succeeded, and some have failed alike, on a few keys. One key alone is a poison event however often it comes.

The state is a row in PostgreSQL: a restart does not forget it, and all members of the group see it. What part of the
events failed lately each process counts by itself, in memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from evkit import postgres
from evkit.error_texts import message_of
from evkit.errors import SchemaMismatch, UnknownGroup, UsageError
from evkit.runtime import audit
from evkit.runtime.failure import Failure, chain
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_SQL = named("breaker")

# Errors of the code or of the data and not of a dependency: they hold a handler only when most events of the whole group
# fail. A bug in one event type is a matter for dead letters, and everything else is to go on.
_ITS_OWN = (
    TypeError, AttributeError, NameError, LookupError, ArithmeticError, AssertionError, ValueError, NotImplementedError,
    SchemaMismatch, psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError,
)  # fmt: skip

# So often in a row is one key tried while no other one comes: from then on its event is judged like any other.
_LONELY_PROBES = 3


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a handler is held.

    Attributes:
        keys_min           so many keys have failed in the same way (one fingerprint) within the window, and as many events
        share_min          and at least so much of the handler's events in it (of the group's, where the error is the code's
                           or the data's own: TypeError, ValueError, IntegrityError and the like)
        window_seconds     how far back
        streak_keys_min    or: so many keys have failed in the same way, and nothing else became of the handler's events,
                           for as long as the window and until now. For topics too quiet for `keys_min`, and not for errors
                           that are the code's or the data's own. None: not at all
        probe_seconds      how long it waits until an event is tried; doubles with each that fails
        probe_seconds_max  where the doubling ends
    """

    keys_min: int = 10
    share_min: float = 0.5
    window_seconds: float = 60.0
    streak_keys_min: int | None = 3
    probe_seconds: float = 1.0
    probe_seconds_max: float = 30.0

    def __post_init__(self) -> None:
        if self.keys_min < 2 or not 0 < self.share_min <= 1 or self.window_seconds <= 0:
            raise ValueError(
                f"a breaker needs keys_min >= 2, 0 < share_min <= 1 and window_seconds > 0, not {self.keys_min}, "
                f"{self.share_min} and {self.window_seconds}"
            )
        if self.streak_keys_min is not None and self.streak_keys_min < 2:
            raise ValueError(f"a breaker needs streak_keys_min >= 2 or None, not {self.streak_keys_min}")
        if not 0 < self.probe_seconds <= self.probe_seconds_max:
            raise ValueError(
                f"a breaker needs 0 < probe_seconds <= probe_seconds_max, not {self.probe_seconds} and "
                f"{self.probe_seconds_max}"
            )


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What would open a breaker, as far as one process has seen: the database knows how many keys there are.

    Attributes:
        keys_min  so many must have failed alike
        seconds   in this time
        streak    and no member of the group may have had a success in the policy's window
    """

    keys_min: int
    seconds: float
    streak: bool = False


class HandlerHeld(Exception):
    """The database says that a handler of this batch is held; the transaction is to be rolled back."""


class Breakers:
    """The breakers of one group, as the lanes of one process share them."""

    def __init__(self, group: str, policy: Breaker) -> None:
        self._group = group
        self.policy = policy
        self._lock = threading.Lock()
        self._look_at: dict[str, float] = {}  # handler that is held → when to ask the database again
        self._lately: dict[str, deque[list[float]]] = {}  # handler → [second, events done, events failed]
        self._streaks: dict[
            str, tuple[str, float]
        ] = {}  # handler → fingerprint of all since its last success, since when
        self._opened_by_streak: dict[str, str] = {}  # handler that is held → fingerprint; "": by many keys

    # --- what this process has seen -----------------------------------------------------------------------------------

    def count(self, handler: str, *, done: int = 0, failed: int = 0) -> None:
        """So many events of a handler came to their end, or failed."""
        second = float(int(time.monotonic()))
        with self._lock:
            lately = self._lately.setdefault(handler, deque())
            if not lately or lately[-1][0] != second:
                lately.append([second, 0, 0])
                while lately[0][0] < second - self.policy.window_seconds:
                    lately.popleft()
            lately[-1][1] += done
            lately[-1][2] += failed
            if done:
                self._streaks.pop(handler, None)

    def failed_alike(self, handler: str, fingerprint: str) -> None:
        """An attempt failed in this way, also one that is not the first of its event."""
        with self._lock:
            if self._streaks.get(handler, ("", 0.0))[0] != fingerprint:
                self._streaks[handler] = fingerprint, time.monotonic()

    def suspicion(self, handler: str, error: BaseException) -> Suspicion | None:
        """Whether so much of what this process did lately has failed that the database is worth a question."""
        policy, now = self.policy, time.monotonic()
        own = any(isinstance(e, _ITS_OWN) for e in chain(error))
        since = now - policy.window_seconds
        with self._lock:
            counted = [b for h, lately in self._lately.items() if own or h == handler for b in lately if b[0] >= since]
            streak = self._streaks.get(handler)
        done, failed = sum(b[1] for b in counted), sum(b[2] for b in counted)
        if failed >= policy.keys_min and failed >= policy.share_min * (done + failed):
            return Suspicion(policy.keys_min, policy.window_seconds)
        if own or policy.streak_keys_min is None or streak is None or streak[1] > since:
            return None
        # A second more: attempts have been written down a moment after they were seen here.
        return Suspicion(policy.streak_keys_min, now - streak[1] + 1.0, streak=True)

    # --- who is held --------------------------------------------------------------------------------------------------

    @property
    def open(self) -> list[str]:
        """Handlers that are held, as far as this process knows; sorted."""
        return sorted(self._look_at)

    def require_free(self, held: Iterable[str], wanted: Iterable[str]) -> None:
        """Remember which handlers the database says are held.

        Raises:
            HandlerHeld: one of the wanted ones is.
        """
        held = set(held)
        with self._lock:
            for handler in held - self._look_at.keys():
                self._look_at[handler] = time.monotonic()
            for handler in self._look_at.keys() - held:
                del self._look_at[handler]
        if found := held.intersection(wanted):
            raise HandlerHeld(", ".join(sorted(found)))

    def wait_seconds(self, handler: str) -> float | None:
        """None: it is not held. Above 0: it is, for so long at least. 0: ask the database (`may_try`)."""
        at = self._look_at.get(handler)
        return None if at is None else max(0.0, at - time.monotonic())

    def may_try(self, connection: postgres.Connection, handler: str, key: str | None) -> int | None:
        """Whether an event of a held handler may be tried now: 0 when it is held no more, else how often in a row this
        event's key was the one that is tried. None: not now."""
        row = connection.execute(_SQL["is_open"], {"group": self._group, "handler": handler}).fetchone()
        if row is None:
            self._forget(handler)
            return 0
        seconds = float(row[0])
        if seconds <= 0:
            tried = connection.execute(_SQL["probe"], self._values(handler) | {"key": key}).fetchone()
            if tried is not None:
                times, fingerprint, keys = tried
                self._opened_by_streak[handler] = fingerprint if keys < self.policy.keys_min else ""
                return int(times)
            seconds = self.policy.probe_seconds  # another member tries one at this moment
        with self._lock:
            self._look_at[handler] = time.monotonic() + seconds
        return None

    def opens(self, connection: postgres.Connection, handler: str, failure: Failure, suspicion: Suspicion) -> bool:
        """Whether this failure is one of many, or of all; the handler is held from now on."""
        values = self._values(handler) | {
            "fingerprint": failure.fingerprint,
            "window_seconds": suspicion.seconds,
            "keys_max": suspicion.keys_min,
        }
        row = connection.execute(_SQL["failing_keys"], values).fetchone()
        if row is None or row[0] < suspicion.keys_min:
            return False
        if suspicion.streak:
            values["window_seconds"] = self.policy.window_seconds
            if connection.execute(_SQL["has_succeeded"], values).fetchone() is not None:
                return False
        values |= {"keys": row[0], "error_class": failure.error_class, "error_message": failure.error_message}
        if connection.execute(_SQL["open"], values).fetchone() is not None:
            log.error(
                "group %s holds handler %s: at least %s keys failed with %s: %s. Its events wait in Kafka, one is tried "
                "from time to time; `evkit breaker list`",
                self._group, handler, row[0], failure.error_class, failure.error_message,
            )  # fmt: skip
        with self._lock:
            self._look_at[handler] = time.monotonic() + self.policy.probe_seconds
        return True

    def succeeded(self, connection: postgres.Connection, handler: str) -> None:
        """The event that was tried is through: the handler is held no more."""
        closed = connection.execute(_SQL["close"], self._values(handler) | {"by": "probe"}).fetchone()
        self._forget(handler)
        if closed is not None:
            log.warning("group %s lets handler %s go on: an event that was tried is through", self._group, handler)

    def is_lonely(self, handler: str, tried: int, failure: Failure) -> bool:
        """Whether this key alone was tried so often that its own event may be what fails.

        On a quiet topic there is often only one: it goes on failing as all did, and is judged when it fails in another way.
        """
        return tried > _LONELY_PROBES and self._opened_by_streak.get(handler) != failure.fingerprint

    def _forget(self, handler: str) -> None:
        with self._lock:
            self._look_at.pop(handler, None)
            self._lately.pop(handler, None)  # what failed until now tells nothing about what comes
            self._streaks.pop(handler, None)
            self._opened_by_streak.pop(handler, None)

    def _values(self, handler: str) -> dict[str, Any]:
        return {
            "group": self._group,
            "handler": handler,
            "probe_seconds": self.policy.probe_seconds,
            "probe_seconds_max": self.policy.probe_seconds_max,
        }


# --- for people -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BreakerState:
    """A handler that is held, or was. Times are UTC; `keys` is a lower bound: counting ends at the policy's `keys_min`."""

    consumer_group: str
    handler: str
    state: str
    fingerprint: str
    error_class: str
    error_message: str
    keys: int
    opened_at: datetime
    probes: int
    probe_at: datetime
    closed_at: datetime | None
    closed_by: str | None


def breakers(system: System, group: str | None = None, *, only_open: bool = False) -> list[BreakerState]:
    """Handlers that are held or were, the open ones first. Changes nothing."""
    with system.reading() as connection:
        found = (
            connection.cursor(row_factory=class_row(BreakerState))
            .execute(_SQL["breakers"], {"group": group, "state": "open" if only_open else None})
            .fetchall()
        )
    if not (policies := system.settings.masking):
        return found
    # Nobody wrote down which event it was: it is under every policy.
    return [replace(b, error_message=message_of(b.error_message, policies, None, None) or "") for b in found]


def to_close(system: System, group: str, handler: str | None = None) -> list[str]:
    """Held handlers of a group that `close` would let go on; sorted. Changes nothing.

    Raises:
        UnknownGroup: no handler of this group was ever held.
        UsageError: the group has no handler of this name that is held.
    """
    found = breakers(system)
    if group not in {b.consumer_group for b in found}:
        raise UnknownGroup(group, {b.consumer_group for b in found}, where="among the groups with breakers")
    names = sorted(b.handler for b in found if b.consumer_group == group and b.state == "open")
    if handler is None:
        return names
    if handler not in names:
        raise UsageError(f"group '{group}' does not hold '{handler}'; it holds {', '.join(names) or 'none'}")
    return [handler]


def close(system: System, group: str, handler: str | None = None, *, reason: str | None = None) -> list[str]:
    """Let held handlers of a group go on (or one of them); returns those that were held.

    When their events go on failing alike, the breaker opens again.

    Side effects: state open → closed, one audit row.

    Raises: see `to_close`.
    """
    names = to_close(system, group, handler)
    closed = []
    with system.writing("evkit breaker", autocommit=True) as connection:
        act = audit.begin(connection, "breaker.close", group, {"handlers": names}, reason)
        for name in names:
            values = {"group": group, "handler": name, "by": audit.actor()}
            if connection.execute(_SQL["close"], values).fetchone() is not None:
                closed.append(name)
        audit.end(connection, act, {"closed": closed})
    return closed
