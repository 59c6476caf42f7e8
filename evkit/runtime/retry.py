"""failure → another attempt, or the end of them: how often, how long to wait, and for which errors not at all."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from evkit.errors import NoHandler, SchemaMismatch, Undecodable

# Not the event's fault, ever: they end the consumer, and the event is handled by the next one.
NOBODYS_FAULT = (MemoryError,)


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
                             Their own `by_class` is not asked, `never` of this policy is

    The wait is drawn evenly between 0 and the bound ("full jitter"), so that a hundred events that failed together do not
    all come back together. Source: Brooker, "Exponential Backoff And Jitter", 2015.
    """

    attempts: int = 3
    backoff_seconds: float = 0.2
    backoff_seconds_max: float = 30.0
    never: tuple[type[BaseException], ...] = field(default=())
    seconds_max: float | None = None
    by_class: Mapping[type[BaseException], Retry] = field(default_factory=dict)

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

    def again(self, error: BaseException, attempt: int, *, failing_seconds: float = 0.0) -> bool:
        """Whether attempt number `attempt` (from 1), which ended in `error`, is followed by another.

        `failing_seconds` is the time since the event's first failure.
        """
        policy = self.of(error)
        if isinstance(error, (Undecodable, NoHandler, SchemaMismatch, *self.never, *policy.never)):
            return False
        in_time = policy.seconds_max is None or failing_seconds < policy.seconds_max
        return attempt < policy.attempts and in_time

    def wait_seconds(self, attempt: int, error: BaseException | None = None, *, uniform: float | None = None) -> float:
        """How long to wait after attempt number `attempt`; `uniform` (0..1) replaces chance in tests."""
        if error is not None and (policy := self.of(error)) is not self:
            return policy.wait_seconds(attempt, uniform=uniform)
        bound = min(self.backoff_seconds_max, self.backoff_seconds * 2.0 ** min(attempt - 1, 60))
        return bound * (random.random() if uniform is None else uniform)  # noqa: S311 - jitter, not a secret
