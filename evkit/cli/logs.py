"""How commands log: sentences on stderr for people, or one JSON object a line for machines. No secret in either.

    {"time": "2026-11-23T22:14:03.512Z", "level": "INFO", "logger": "evkit.runtime.relay", "message": "relay leads",
     "position": 1204, "epoch": 3}

What a call gave as `extra` stands beside the message under its own name; an exception's traceback under "exception".
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evkit.cli import output
from evkit.cli.output import json_safe, plain, safe
from evkit.errors import EvkitError, UsageError

if TYPE_CHECKING:
    from evkit.reporting.redaction import Redactor


class LogFormat(StrEnum):
    text = "text"
    json = "json"


# Number of this process among those of `evkit consume --processes`, which all write to one stderr; None: it is alone.
process: int | None = None
_asked: list[str] = []
# Names and values that every line has beside its own: which replay this process runs, for one.
also: dict[str, str] = {}

# What every record has; the rest is what a call gave as `extra`.
_ALWAYS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FIRST = ("time", "level", "logger", "message")


def setup(format: LogFormat | None = None, *, verbose: bool = False) -> None:
    """Send the logs of this process to stderr: warnings and worse, with `verbose` also what happens.

    Without a format the environment's EVKIT_LOG_FORMAT counts, without that it is text.

    Raises:
        UsageError: EVKIT_LOG_FORMAT names no format.
    """
    if format is None:
        named = os.environ.get("EVKIT_LOG_FORMAT") or LogFormat.text
        if named not in list(LogFormat):
            raise UsageError(f"EVKIT_LOG_FORMAT is '{named}': it is text or json")
        format = LogFormat(named)
    _asked[:] = ["--log-format", format.value, *(["--verbose"] if verbose else [])]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if format is LogFormat.json else Lines())
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    if format is LogFormat.json:
        output.remarks = logging.getLogger("evkit.cli")
        output.remarks.setLevel(logging.INFO)
    # jupyter_client tells of sockets that it could not close while a kernel ends; nobody can do anything about it.
    logging.getLogger("traitlets").setLevel(logging.ERROR)


def arguments() -> list[str]:
    """Options of `evkit` with which another process logs as this one does."""
    return list(_asked)


class _Redacting(logging.Formatter):
    """Formatters of this module leave out what the settings call secret, wherever it comes from."""

    @cached_property
    def redactor(self) -> Redactor:
        from evkit.reporting.redaction import Redactor
        from evkit.settings import load

        try:
            return Redactor.of(load())
        except EvkitError:
            # No settings, no secrets of theirs; addresses with a password in them are still known by their form.
            return Redactor([])


class Lines(_Redacting):
    """For people: time, level, logger, message; the number of the process first, where there are several."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = safe(self.redactor.text(super().format(record)), lines=True)
        return line if process is None else f"[{process}] {line}"


class JsonLines(_Redacting):
    """For machines: one JSON object a line, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        } | also
        if process is not None:
            document["process"] = process
        for name, value in vars(record).items():
            if name not in _ALWAYS:
                # An extra that is called like one of ours must not hide it.
                document[f"extra_{name}" if name in (*_FIRST, "exception") else name] = plain(value)
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            document["stack"] = self.formatStack(record.stack_info)
        hidden = self.redactor.document(document)
        return json_safe(json.dumps(hidden, ensure_ascii=False, default=lambda value: self.redactor.text(str(value))))
