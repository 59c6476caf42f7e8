"""Thresholds: from where on monitors call a number bad, and what is promised, in one file for each service."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evkit.errors import SettingsError, closest
from evkit.views.slo import SLOS, Objective, Slo

_TABLES = ("group", "topic", "slo")
# In how much time, when only the objective is given: a minute is what people call live, a relay takes 0.1 s, and what is
# not dealt with after an hour has been forgotten.
_TARGET_SECONDS = {"freshness": 60.0, "correctness": 60.0, "relay": 10.0, "completeness": 3600.0}


class Promise(BaseModel):
    """One objective of `[slo]`: see `evkit.views.slo.Objective`, whose names these are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: float = Field(gt=0, lt=1)
    target_seconds: float | None = Field(default=None, gt=0)
    # Below this many events in a window a ratio is noise.
    events_min: int = Field(default=100, ge=1)

    def objective_of(self, slo: Slo, subject: str, excluded: tuple[str, ...]) -> Objective:
        target = _TARGET_SECONDS[slo] if self.target_seconds is None else self.target_seconds
        return Objective(slo, self.objective, target, subject, self.events_min, excluded)


class Thresholds(BaseModel):
    """From where on a number is a warning, from where on it is critical. Bounds are reached by `>=`.

    A TOML file with some of these names at its top changes them: `Thresholds.read("thresholds.toml")`. Tables of groups and
    topics change them for those, and `[slo]` has what is promised:

        lag_seconds_critical = 600

        [group."bill*"]                     # a name or a pattern; the name's own table has the last word
        attempt_error_ratio_warning = 0.01

        [topic.audit]                       # for publish_rate
        publish_silent_seconds_warning = 86400

        [slo.freshness]                     # also correctness, relay, completeness
        objective = 0.99
        target_seconds = 30

        [group."bill*".slo.freshness]       # another promise for these; the others keep the one above
        objective = 0.999
        target_seconds = 10
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # By name or pattern: the thresholds that are others for these groups and topics.
    group: dict[str, dict[str, Any]] = Field(default_factory=dict)
    topic: dict[str, dict[str, Any]] = Field(default_factory=dict)
    # What is promised; without a promise nothing is judged.
    slo: dict[str, Promise] = Field(default_factory=dict)

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
        _known(values, cls.model_fields, source)
        made = _validated(cls, values, source)
        promised = values.get("slo", {})
        _promises(promised, f"{source} [slo]", Promise)
        flat = {name: value for name, value in values.items() if name not in _TABLES}
        for table, may_promise in (("group", ("freshness", "correctness", "completeness")), ("topic", ("relay",))):
            for subject, changed in getattr(made, table).items():
                where = f"{source} [{table}.{subject}]"
                _known(changed, [n for n in cls.model_fields if n not in ("group", "topic")], where)
                _validated(cls, flat | {n: v for n, v in changed.items() if n != "slo"}, where)
                _promises(changed.get("slo", {}), f"{where[:-1]}.slo]", Promise, may_promise, promised)
        return made

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

    def of_group(self, name: str) -> Thresholds:
        """The thresholds of one group: those of the service, and over them the ones that its table changes."""
        return self._of("group", name)

    def of_topic(self, name: str) -> Thresholds:
        """The thresholds of one topic."""
        return self._of("topic", name)

    def _of(self, table: str, name: str) -> Thresholds:
        tables: dict[str, dict[str, Any]] = getattr(self, table)
        matching = sorted((s for s in tables if s == name or fnmatchcase(name, s)), key=strength)
        changed = {n: v for subject in matching for n, v in tables[subject].items() if n != "slo"}
        return self.model_copy(update=changed) if changed else self

    def numbers(self) -> dict[str, float]:
        """The service's own thresholds by name, without the tables."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in _TABLES}

    def objectives(self) -> list[Objective]:
        """What is promised, for `views.slo`; empty when nothing is."""
        made = []
        for slo in SLOS:
            tables = self.topic if slo == "relay" else self.group
            others = {s: t["slo"][slo] for s, t in tables.items() if slo in t.get("slo", {})}
            everyone = self.slo.get(slo)
            for subject, changed in others.items():
                promise = Promise.model_validate((everyone.model_dump(exclude_none=True) if everyone else {}) | changed)
                # A name wins over a pattern and a longer pattern over a shorter one, as for the thresholds.
                made.append(
                    promise.objective_of(slo, subject, tuple(s for s in others if strength(s) > strength(subject)))
                )
            if everyone is not None:
                made.append(everyone.objective_of(slo, "*", tuple(others)))
        return made


Model = TypeVar("Model", bound=BaseModel)


def _known(values: Mapping[str, Any], names: Iterable[str], source: str) -> None:
    for name in values:
        if name not in names:
            near = closest(name, names)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(names)}"
            raise SettingsError(f"{source} has an unknown threshold '{name}'{hint}")


def _validated(model: type[Model], values: Mapping[str, Any], source: str) -> Model:
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{source}: {name + ': ' if name else ''}{message}") from None


def _promises(
    given: Mapping[str, Any],
    source: str,
    model: type[Promise],
    names: Iterable[str] = SLOS,
    everyone: Mapping[str, Any] | None = None,
) -> None:
    _known(given, names, source)
    for slo, promise in given.items():
        _known(promise, model.model_fields, f"{source[:-1]}.{slo}]")
        _validated(model, {**(everyone or {}).get(slo, {}), **promise}, f"{source[:-1]}.{slo}]")


def strength(subject: str) -> tuple[bool, int, str]:
    """Which of two tables has the last word where both speak of a name: the name's own, else the longer pattern."""
    return not any(c in subject for c in "*?["), len(subject), subject
