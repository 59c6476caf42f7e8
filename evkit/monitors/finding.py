"""Finding, thresholds and verdict: what monitors say, what they measure against, and what it adds up to."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evkit.errors import SettingsError, closest


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
        monitor    publish_rate, relay_lag, consumer_lag, latency, error_rate or dead_letters
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


class Thresholds(BaseModel):
    """From where on a number is a warning, from where on it is critical. Bounds are reached by `>=`.

    A TOML file with some of these names at its top changes them: `Thresholds.read("thresholds.toml")`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Age of the oldest unread record. A minute is what people call "live"; after five, somebody asks.
    lag_seconds_warning: float = Field(default=60, gt=0)
    lag_seconds_critical: float = Field(default=300, gt=0)
    # Age of the oldest unpublished row. A healthy relay takes 0.1 s, a restart of it or of the broker some seconds.
    relay_seconds_warning: float = Field(default=60, gt=0)
    relay_seconds_critical: float = Field(default=120, gt=0)
    # Events that the broker will not take, and those that wait behind them. Each waits for a decision, as a dead letter.
    unpublishable_events_warning: int = Field(default=1, ge=1)
    unpublishable_events_critical: int = Field(default=20, ge=1)
    # Age of the oldest position that a transaction may still fill. Batch jobs take minutes; an hour is one that was
    # forgotten: its own events wait, and nothing is settled or dropped behind it.
    hole_seconds_warning: float = Field(default=300, gt=0)
    hole_seconds_critical: float = Field(default=3600, gt=0)
    # p99 from the write to the end of the handler, pending events with their age.
    latency_p99_seconds_warning: float = Field(default=60, gt=0)
    latency_p99_seconds_critical: float = Field(default=300, gt=0)
    # Failed attempts / attempts. Retries make single failures harmless; one in four is a dependency that is down.
    attempt_error_ratio_warning: float = Field(default=0.05, ge=0, le=1)
    attempt_error_ratio_critical: float = Field(default=0.25, ge=0, le=1)
    # Dead letters / events. Each is an event somebody waits for, so the bounds are lower.
    event_failure_ratio_warning: float = Field(default=0.005, ge=0, le=1)
    event_failure_ratio_critical: float = Field(default=0.05, ge=0, le=1)
    # Below this many attempts a ratio is noise: 1 of 3 is 33 %.
    attempts_min: int = Field(default=20, ge=1)
    # Open letters of one group and fingerprint.
    open_letters_warning: int = Field(default=1, ge=1)
    open_letters_critical: int = Field(default=20, ge=1)
    # Keys among them: more than the spread of a poison event means that the code fails, not the data.
    open_letter_keys_critical: int = Field(default=4, ge=1)
    # An open letter nobody has looked at for a day.
    open_letter_age_seconds_critical: float = Field(default=86_400, gt=0)
    # Events are written and none is published for this long.
    publish_stopped_seconds_critical: float = Field(default=60, gt=0)
    # Nothing was written for this long, after writing was steady for the longer time before: is the service down?
    publish_silent_seconds_warning: float = Field(default=120, gt=0)
    publish_steady_seconds: float = Field(default=600, gt=0)
    # Changes of a group's members in the window. A restart of three members one by one makes six.
    rebalances_warning: int = Field(default=8, ge=2)

    @model_validator(mode="after")
    def _in_order(self) -> Thresholds:
        for name in type(self).model_fields:
            if name.endswith("_warning"):
                critical = getattr(self, name.removesuffix("_warning") + "_critical", None)
                if critical is not None and critical < getattr(self, name):
                    raise ValueError(f"{name} must not be above {name.removesuffix('_warning')}_critical")
        return self

    @classmethod
    def of(cls, values: Mapping[str, Any], *, source: str = "thresholds") -> Thresholds:
        """Thresholds with some of them changed.

        Raises:
            SettingsError: an unknown name (near matches are named), a value of the wrong type, bounds in wrong order.
        """
        for name in values:
            if name not in cls.model_fields:
                near = closest(name, cls.model_fields)
                hint = f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(cls.model_fields)}"
                raise SettingsError(f"{source} has an unknown threshold '{name}'{hint}")
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{source}: {name + ': ' if name else ''}{message}") from None

    @classmethod
    def read(cls, path: str | Path) -> Thresholds:
        """Thresholds from a TOML file.

        Raises:
            SettingsError: the file cannot be read, or see `of`.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"thresholds cannot be read from {path}: {error}") from None
        return cls.of(values, source=str(path))


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
