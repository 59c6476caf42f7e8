"""Difference: something that is not as evkit needs it, and the statements that mend it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Difference:
    """Where, in words, and the statements that mend it, in order; without any when SQL alone does not."""

    object: str
    sentence: str
    sql: list[str]


@dataclass(slots=True)
class Drift:
    """What a database differs in from what evkit expects; equal when `differences` is empty."""

    database: str
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return not self.differences
