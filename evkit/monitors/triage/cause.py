"""Cause: what triage says of one thing that is wrong; and how causes are ranked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from evkit.monitors.finding import Severity


class Harm(StrEnum):
    """What a cause does to events, the worst first: a lost one is worse than a wrong one, a wrong one than a late one."""

    lost = "lost"  # nobody will handle it unless somebody acts
    wrong = "wrong"  # it failed, was handled in the wrong order, or is handled again
    late = "late"  # it waits, and will be handled when the cause is gone
    noisy = "noisy"  # numbers or logs are not to be trusted, events are well

    @property
    def rank(self) -> int:
        return list(Harm).index(self)

    @property
    def severity(self) -> Severity:
        """As a finding: lost and wrong events are critical, late and noisy ones a warning."""
        return Severity.critical if self in (Harm.lost, Harm.wrong) else Severity.warning


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong.

    Attributes:
        name       retention_loss, poison, hot_key, …: see `evkit.monitors.triage.RULES`
        harm       lost, wrong, late or noisy
        subject    what it is about: a group, a topic, the outbox
        events     how many events it concerns, as far as is known; the greater ones come first among equal harm
        sentence   what is so, with its numbers
        likely     the most likely cause, and what speaks for it
        next_step  a command to type next
        evidence   the numbers behind the sentence, for JSON
    """

    name: str
    harm: Harm
    subject: str
    events: int
    sentence: str
    likely: str
    next_step: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What triage found.

    Attributes:
        causes      the most harmful first; at most `limit` were asked for
        more        how many others there are
        unmeasured  what could not be looked at, by name, with the reason: what is wrong there is not among the causes
    """

    causes: list[Cause]
    more: int
    unmeasured: Mapping[str, str]

    @property
    def sentence(self) -> str:
        """The diagnosis in words."""
        n = len(self.causes) + self.more
        if not n:
            found = "nothing is wrong" + (" in what could be measured" if self.unmeasured else "")
        else:
            found = f"{n} thing{'' if n == 1 else 's'} {'is' if n == 1 else 'are'} wrong; {self.causes[0].sentence}"
        return found + (f"; not measured: {', '.join(self.unmeasured)}" if self.unmeasured else "")
