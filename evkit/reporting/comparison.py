"""Two summaries → what is different, monitor by monitor and finding by finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evkit.monitors.finding import Severity
from evkit.reporting.summary import FindingResult, Summary


@dataclass(frozen=True, slots=True)
class MonitorChange:
    """One monitor in both reports. Values are those of the worst findings, which may be of different subjects."""

    monitor: str
    severity_before: str | None
    severity_after: str | None
    subject_before: str | None
    subject_after: str | None
    value_before: float | None
    value_after: float | None
    unit: str

    @property
    def direction(self) -> str:
        """better, worse or same, by severity alone: whether a number is good is what the monitor has said."""
        ranks = [Severity(s).rank for s in (self.severity_before, self.severity_after) if s is not None]
        if len(ranks) < 2 or ranks[0] == ranks[1]:
            return "same" if len(ranks) == 2 else "new" if self.severity_before is None else "gone"
        return "better" if ranks[1] < ranks[0] else "worse"

    def row(self) -> dict[str, Any]:
        """As a plain row."""
        names = ("monitor", "severity_before", "severity_after", "value_before", "value_after", "unit",
                 "subject_before", "subject_after")  # fmt: skip
        return {name: getattr(self, name) for name in names} | {"change": self.direction}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is different in `after`.

    Attributes:
        monitors  each monitor of either report, in the order of travel
        gone      findings that needed attention before and do not any more
        new       findings that need attention now and did not before
        still     findings that need attention in both, as they are now
    """

    before: Summary
    after: Summary
    monitors: list[MonitorChange]
    gone: list[FindingResult]
    new: list[FindingResult]
    still: list[FindingResult]

    @property
    def sentence(self) -> str:
        """The difference in words."""
        counts = [(len(self.gone), "gone"), (len(self.new), "new"), (len(self.still), "still there")]
        said = ", ".join(f"{n} {word}" for n, word in counts if n) or "none in either"
        return f"{self.before.verdict} → {self.after.verdict}; findings that need attention: {said}"

    def document(self) -> dict[str, Any]:
        """As one JSON document."""
        return {
            "before": _about(self.before),
            "after": _about(self.after),
            "sentence": self.sentence,
            "monitors": [change.row() for change in self.monitors],
            "gone": [f.model_dump(mode="json") for f in self.gone],
            "new": [f.model_dump(mode="json") for f in self.new],
            "still": [f.model_dump(mode="json") for f in self.still],
        }


def _about(summary: Summary) -> dict[str, Any]:
    return {"report": summary.report, "generated_at": summary.generated_at.isoformat(), "verdict": summary.verdict}


def compare(before: Summary, after: Summary) -> Comparison:
    """What is different in `after`; both may be of different reports, then they share the monitors they share."""
    old, new = {m.monitor: m for m in before.monitors}, {m.monitor: m for m in after.monitors}
    changes = []
    for name in [*new, *(n for n in old if n not in new)]:
        was, now = old.get(name), new.get(name)
        changes.append(
            MonitorChange(
                name,
                was.severity if was else None,
                now.severity if now else None,
                was.subject if was else None,
                now.subject if now else None,
                was.value if was else None,
                now.value if now else None,
                now.unit if now else was.unit if was else "",
            )
        )
    alarming_before = {f.identity: f for f in before.findings if f.severity != "ok"}
    alarming_after = {f.identity: f for f in after.findings if f.severity != "ok"}
    return Comparison(
        before,
        after,
        changes,
        gone=[f for identity, f in alarming_before.items() if identity not in alarming_after],
        new=[f for identity, f in alarming_after.items() if identity not in alarming_before],
        still=[f for identity, f in alarming_after.items() if identity in alarming_before],
    )
