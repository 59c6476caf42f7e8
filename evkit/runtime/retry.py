"""failure → another attempt, or the end of them: how often, how long to wait, and for which errors not at all.

Some failures are nobody's fault: a network that does not let through, a service that is away, a handler that says so by
`TryLater`. They are waited out for as long as it takes, with the same backoff, and no attempt is counted for them.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from evkit import postgres
from evkit.errors import NoHandler, SchemaMismatch, TryLater, Undecodable
from evkit.runtime.failure import chain

# Not the event's fault, ever: they end the consumer, and the event is handled by the next one.
NOBODYS_FAULT = (MemoryError,)
_NO_WAY = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again.

    Attributes:
        attempts             most attempts at one event, the first delivery included; then it becomes a dead letter
        backoff_seconds      longest wait before the second attempt; doubles with each further one
        backoff_seconds_max  where the doubling ends
        never                errors that no repetition cures: the first attempt is the last
        seconds_max          no attempt later than this after the first failure, also of another consumer; None: no end
        by_class             other policies for errors of some classes; of several that fit, the one of the nearest class.
                             Their own `by_class` is not asked; `never`, `nobodys_fault` and, where they have none,
                             `seconds_max` of this policy are
        nobodys_fault        errors that are waited out without an end and without counting, also as the cause of another;
                             `TryLater` and a PostgreSQL that cannot be reached are always among them, and with
                             ConnectionError an OSError of a network that has no way there ("No route to host"). A timeout
                             is not: a slow answer may be the event's own

    The wait is drawn evenly between 0 and the bound ("full jitter"), so that a hundred events that failed together do not
    all come back together. Source: Brooker, "Exponential Backoff And Jitter", 2015.
    """

    attempts: int = 3
    backoff_seconds: float = 0.2
    backoff_seconds_max: float = 30.0
    never: tuple[type[BaseException], ...] = field(default=())
    seconds_max: float | None = None
    by_class: Mapping[type[BaseException], Retry] = field(default_factory=dict, hash=False)
    nobodys_fault: tuple[type[BaseException], ...] = (ConnectionError, socket.gaierror)

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.backoff_seconds < 0 or self.backoff_seconds_max < self.backoff_seconds:
            raise ValueError(
                f"a retry policy needs attempts >= 1 and 0 <= backoff_seconds <= backoff_seconds_max, "
                f"not {self.attempts}, {self.backoff_seconds} and {self.backoff_seconds_max}"
            )
        if self.seconds_max is not None and self.seconds_max < 0:
            raise ValueError(f"a retry policy needs seconds_max >= 0 or None, not {self.seconds_max}")

    def of(self, error: BaseException) -> Retry:
        """The policy for this error: that of the nearest of its classes which has one, else this."""
        return next((self.by_class[kind] for kind in type(error).__mro__ if kind in self.by_class), self)

    def is_nobodys_fault(self, error: BaseException) -> bool:
        """Whether this failure says nothing about the event: the network, or a service behind it, is away."""
        waits: tuple[type[BaseException], ...] = (TryLater, *self.nobodys_fault)
        # A network without a way there has no class of its own: it goes with those that a connection fails with.
        no_way = _NO_WAY if issubclass(ConnectionError, waits) else frozenset()
        return any(
            isinstance(e, waits) or getattr(e, "errno", None) in no_way or postgres.is_unreachable(e)
            for e in chain(error)
        ) and not isinstance(error, self.never)

    def again(self, error: BaseException, attempt: int, *, failing_seconds: float = 0.0) -> bool:
        """Whether attempt number `attempt` (from 1), which ended in `error`, is followed by another.

        `failing_seconds` is the time since the event's first failure.
        """
        policy = self.of(error)
        if isinstance(error, (Undecodable, NoHandler, SchemaMismatch, *self.never, *policy.never)):
            return False
        end = self.end_seconds(error)
        return attempt < policy.attempts and (end is None or failing_seconds < end)

    def end_seconds(self, error: BaseException) -> float | None:
        """Time from the first failure after which there is no other attempt at an event that fails like this."""
        policy = self.of(error)
        return self.seconds_max if policy.seconds_max is None else policy.seconds_max

    def wait_seconds(
        self,
        attempt: int,
        error: BaseException | None = None,
        *,
        failing_seconds: float = 0.0,
        uniform: float | None = None,
    ) -> float:
        """How long to wait after attempt number `attempt`, and not beyond the total time; `uniform` (0..1) replaces chance
        in tests."""
        policy = self if error is None else self.of(error)
        bound = min(policy.backoff_seconds_max, policy.backoff_seconds * 2.0 ** min(attempt - 1, 60))
        seconds = bound * (random.random() if uniform is None else uniform)  # noqa: S311 - jitter, not a secret
        end = self.seconds_max if error is None else self.end_seconds(error)
        return seconds if end is None else min(seconds, max(0.0, end - failing_seconds))
