"""Finding and verdict: what monitors say, and what it adds up to. What they measure against: `thresholds.py`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from evkit.monitors.thresholds import Thresholds

__all__ = ["Finding", "Severity", "Thresholds", "Verdict", "command", "count", "level", "reached", "seconds"]


class Severity(StrEnum):
    """How bad it is. `unknown` is its own word: what could not be measured is not ok, and not 0."""

    ok = "ok"
    warning = "warning"
    unknown = "unknown"
    critical = "critical"

    @property
    def rank(self) -> int:
        """From 0 to 3. Critical is above unknown: what was seen must not be hidden by what was not."""
        return list(Severity).index(self)

    @property
    def exit_code(self) -> int:
        """As monitoring plugins have it: 0 ok, 1 warning, 2 critical, 3 unknown."""
        return {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}[self.value]


@dataclass(frozen=True, slots=True)
class Finding:
    """One judgement of one monitor.

    Attributes:
        monitor    publish_rate, relay_lag, consumer_lag, latency, error_rate or dead_letters; consumer_status or slo
        severity   ok, warning, unknown or critical
        subject    what it is about: a group, a topic, "outbox", "all groups"
        value      the number that was judged; None when it could not be measured
        unit       of value and threshold: s, events, ratio, letters, 1/s
        threshold  the bound that was reached, or for ok the nearest one; None where there is none
        sentence   what is so, with its numbers
        evidence   facts behind the sentence, for JSON and for the next question
        next_step  a command to type next; empty for ok
    """

    monitor: str
    severity: Severity
    subject: str
    value: float | None
    unit: str
    threshold: float | None
    sentence: str
    evidence: dict[str, Any] = field(default_factory=dict)
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all findings add up to.

    Attributes:
        severity  the worst one; critical is worse than unknown, unknown worse than warning
        findings  the worst first, then in the order of travel
    """

    severity: Severity
    findings: list[Finding]

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Verdict:
        ordered = sorted(findings, key=lambda f: -f.severity.rank)  # stable: the order of travel stays
        worst = max((f.severity for f in ordered), key=lambda s: s.rank, default=Severity.unknown)
        return cls(worst, ordered)

    @property
    def exit_code(self) -> int:
        """0 ok, 1 warning, 2 critical, 3 unknown."""
        return self.severity.exit_code

    @property
    def sentence(self) -> str:
        """The verdict in words: how many of what, and the worst finding's sentence."""
        if not self.findings:
            return "unknown: nothing was measured"
        bad = [f for f in self.findings if f.severity is not Severity.ok]
        if not bad:
            return f"ok: nothing needs attention ({len(self.findings)} findings)"
        counts = [(s, sum(f.severity is s for f in bad)) for s in reversed(Severity)]
        listed = ", ".join(f"{n} {s.value}" for s, n in counts if n)
        return f"{self.severity.value} ({listed}): {bad[0].sentence}"

    def rows(self) -> list[dict[str, Any]]:
        """The findings as plain rows: monitor, severity, subject, value, unit, threshold, sentence, next_step."""
        names = ("monitor", "severity", "subject", "value", "unit", "threshold", "sentence", "next_step")
        return [{n: str(getattr(f, n)) if n == "severity" else getattr(f, n) for n in names} for f in self.findings]


def level(value: float, warning: float, critical: float) -> Severity:
    """The severity of a value for which more is worse."""
    if value >= critical:
        return Severity.critical
    return Severity.warning if value >= warning else Severity.ok


def reached(severity: Severity, warning: float, critical: float) -> float:
    """The bound a finding names: the one that was reached, or the next one."""
    return critical if severity is Severity.critical else warning


def seconds(value: float) -> str:
    """A duration for a sentence: 0.42 s, 17 s, 3 min 20 s, 2 h 5 min."""
    if value < 10:
        return f"{value:.2g} s"
    whole = round(value)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{value / 86_400:.1f} days"


def command(*words: str) -> str:
    """A command line to copy: names that come from outside are quoted, whatever is in them."""
    return shlex.join(["evkit", *words])


def count(n: float, one: str, many: str | None = None) -> str:
    """A number with its noun: 1 event, 1,204 events."""
    return f"{n:,.0f} {one if n == 1 else many or one + 's'}"


def places(rows: Iterable[Mapping[str, Any]]) -> str:
    """Where rows with a topic and a partition are, for a sentence: order/0, order/2 and 3 more."""
    names = [f"{r['topic']}/{r['partition']}" for r in rows]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
