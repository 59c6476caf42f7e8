"""A letter of evkit on its way out: what it must have, and the record that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from evkit.foreign.letter import Headers


class Letter(Protocol):
    """A dead letter with its record as it was; evkit.dead_letters' FullLetter is one."""

    @property
    def consumer_group(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def appended_at(self) -> datetime | None: ...
    @property
    def timestamp_type(self) -> str: ...
    @property
    def raw_key(self) -> bytes | None: ...
    @property
    def raw_value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...
    @property
    def error_class(self) -> str: ...
    @property
    def error_message(self) -> str: ...
    @property
    def stack_trace(self) -> str: ...
    @property
    def handler(self) -> str | None: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def source_dialect(self) -> str | None: ...
    @property
    def source_facts(self) -> Mapping[str, Any] | None: ...


class Outgoing(NamedTuple):
    """A record to be sent to a dead-letter topic. `timestamp` None: that of the sending."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: datetime | None


def facts_of(letter: Letter, dialect: str) -> Mapping[str, Any]:
    """What the headers of an imported letter had said, when they were in this dialect; nothing once it has failed again."""
    if letter.source_dialect != dialect:
        return {}
    facts = letter.source_facts or {}
    return facts if facts.get("fingerprint") == letter.fingerprint else {}


def without(headers: Sequence[tuple[str, bytes | None]], names: set[str]) -> Headers:
    """Headers but those of these names."""
    return [(name, value) for name, value in headers if name not in names]


def text(value: str) -> bytes:
    """As Java writes it; what no UTF-8 can hold becomes a question mark there, too."""
    return value.encode("utf-8", "replace")


def millis(time: datetime | None) -> int:
    """Milliseconds since 1970; -1, which is Kafka's "no timestamp", for None."""
    return -1 if time is None else round(time.timestamp() * 1000)
