"""Summary: what a report found, as data. `summary.json` beside the executed notebook; the next report reads it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from evkit.errors import UsageError

SCHEMA_VERSION = 1
FILE_NAME = "summary.json"


class MonitorResult(BaseModel):
    """One of the six: its worst finding, and how many findings it has."""

    model_config = ConfigDict(extra="ignore")

    monitor: str
    severity: str
    subject: str
    value: float | None
    unit: str
    threshold: float | None
    sentence: str
    findings: int


class FindingResult(BaseModel):
    """A finding as it was written; see `evkit.monitors.Finding`."""

    model_config = ConfigDict(extra="ignore")

    monitor: str
    severity: str
    subject: str
    value: float | None
    unit: str
    threshold: float | None
    sentence: str
    next_step: str = ""
    evidence: dict[str, Any] = {}

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes it the same finding in another report: monitor, subject, and the failure where it is of one."""
        return self.monitor, self.subject, str(self.evidence.get("fingerprint", ""))


class Unmeasured(BaseModel):
    """Something that a report wanted to show and could not measure."""

    what: str
    why: str


class Chart(BaseModel):
    """A chart of the report."""

    name: str
    title: str


class Seen(BaseModel):
    """The window of a report, UTC."""

    start: datetime
    end: datetime


class Summary(BaseModel):
    """What a report found.

    Attributes:
        schema_version  of this file; a reader refuses greater ones
        report          name under which it was run; notebook, its notebook; title, the question it answers
        verdict         ok, warning, unknown or critical; exit_code is 0, 1, 3 or 2
        sentence        the verdict in words
        window          what was looked at, UTC
        system          profile, and addresses without user or password
        monitors        the monitors that were asked, in the order of travel
        findings        all findings, the worst first
        unmeasured      what could not be measured, and why: the other side of coverage
        charts          the charts of the page, in its order
        error           why the notebook did not come to its end; None when it did
        compared_with   the summary before it, where it lies and what changed; None without one
    """

    model_config = ConfigDict(extra="ignore")

    schema_version: int = SCHEMA_VERSION
    report: str
    notebook: str
    title: str
    verdict: str
    exit_code: int
    sentence: str
    generated_at: datetime
    duration_seconds: float | None = None
    window: Seen | None = None
    system: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    monitors: list[MonitorResult] = []
    findings: list[FindingResult] = []
    unmeasured: list[Unmeasured] = []
    charts: list[Chart] = []
    thresholds: dict[str, float] = {}
    versions: dict[str, str] = {}
    error: str | None = None
    compared_with: dict[str, Any] | None = None

    def write(self, folder: Path) -> Path:
        """Write `summary.json` into the folder."""
        path = folder / FILE_NAME
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path | str) -> Summary:
        """The summary of a report: a folder, or its summary.json.

        Raises:
            UsageError: there is none, it is no summary, or it was written by a newer evkit.
        """
        path = Path(path)
        file = path / FILE_NAME if path.is_dir() else path
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            version = document["schema_version"]
            if version > SCHEMA_VERSION:
                raise UsageError(
                    f"{file} was written by a newer evkit (summary version {version}, this one reads up to "
                    f"{SCHEMA_VERSION}): upgrade evkit"
                )
            return cls.model_validate(document)
        except OSError as error:
            raise UsageError(
                f"there is no report at {path} ({error.strerror}): name its folder or summary.json"
            ) from None
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise UsageError(f"{file} is no summary of a report: {str(error).splitlines()[0]}") from None
