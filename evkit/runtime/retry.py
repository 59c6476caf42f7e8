"""failure → another attempt, or the end of them: how often, how long to wait, and for which errors not at all."""

from __future__ import annotations

import random
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

    The wait is drawn evenly between 0 and the bound ("full jitter"), so that a hundred events that failed together do not
    all come back together. Source: Brooker, "Exponential Backoff And Jitter", 2015.
    """

    attempts: int = 3
    backoff_seconds: float = 0.2
    backoff_seconds_max: float = 30.0
    never: tuple[type[BaseException], ...] = field(default=())

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.backoff_seconds < 0 or self.backoff_seconds_max < self.backoff_seconds:
            raise ValueError(
                f"a retry policy needs attempts >= 1 and 0 <= backoff_seconds <= backoff_seconds_max, "
                f"not {self.attempts}, {self.backoff_seconds} and {self.backoff_seconds_max}"
            )

    def again(self, error: BaseException, attempt: int) -> bool:
        """Whether attempt number `attempt` (from 1), which ended in `error`, is followed by another."""
        return attempt < self.attempts and not isinstance(error, (Undecodable, NoHandler, SchemaMismatch, *self.never))

    def wait_seconds(self, attempt: int, *, uniform: float | None = None) -> float:
        """How long to wait after attempt number `attempt`; `uniform` (0..1) replaces chance in tests."""
        bound = min(self.backoff_seconds_max, self.backoff_seconds * 2.0 ** min(attempt - 1, 60))
        return bound * (random.random() if uniform is None else uniform)  # noqa: S311 - jitter, not a secret
