"""ForeignLetter: what a dead-letter record of another framework tells; and how headers of anybody are read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from evkit.foreign import java
from evkit.kafka import Record

Headers = list[tuple[str, bytes | None]]

# Kafka's own limits of a topic name.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}\Z")
# Group, id and generation are one index entry, of which PostgreSQL takes 2,704 bytes; ids take up to 2,048 of them.
GROUP_BYTES_MAX = 255
# A header may be as large as the broker takes records: a megabyte of stack trace helps nobody.
MESSAGE_CHARACTERS_MAX = 4_000
STACK_CHARACTERS_MAX = 32_000
_STACK_END_CHARACTERS = 8_000
_WORD_CHARACTERS_MAX = 500

# Prefix of what a foreign fingerprint is made of: a change of the rule starts new groups and does not disturb old ones.
FINGERPRINT_VERSION = "foreign-1"
_VARYING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27,}|\d+|'[^']*'|\"[^\"]*\"", re.IGNORECASE)

_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ForeignLetter:
    """A record of a dead-letter topic, read. None is what its framework does not write, or wrote so that it cannot be read.

    Attributes:
        dialect        who wrote it ("spring"); None: none that evkit reads
        found          the record of the dead-letter topic, byte for byte
        key, headers   those of the original record: the dialect's own headers are gone; the value is that of `found`
        topic, partition, offset   where the original record was
        timestamp      of the original record, UTC
        timestamp_type "create", "append" or "none" (not known, too)
        group          consumer group that gave it up
        error_class    of what the group's code raised: wrappers that the framework puts around it are passed over
        error_message  of that exception
        stack_trace    as it was written, shortened in the middle when it is long
        root_cause     "class: message" of the innermost cause, where that is another exception
        handler        what gave up, where the dialect names more than the group
        attempts       deliveries, the first one included
        failed_at      UTC; when it was given up. Where the dialect keeps the original record's timestamp, and the topic
                       that of its producers, there is none
        facts          what else the dialect says, by name; text and numbers
        problems       what could not be read, a sentence each
        known_fingerprint  what it was before something was hidden of the letter; None: as below
    """

    dialect: str | None
    found: Record
    key: bytes | None
    headers: Headers
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    timestamp: datetime | None = None
    timestamp_type: str = "none"
    group: str | None = None
    error_class: str | None = None
    error_message: str | None = None
    stack_trace: str | None = None
    root_cause: str | None = None
    handler: str | None = None
    attempts: int | None = None
    failed_at: datetime | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    known_fingerprint: str | None = None

    @property
    def is_placed(self) -> bool:
        """Whether topic, partition and offset of the original record are all known."""
        return self.topic is not None and self.partition is not None and self.offset is not None

    @property
    def record(self) -> Record:
        """The record as the group that gave it up had polled it.

        Where its place is not known, it is that of the record in the dead-letter topic: a record that has no id of its own
        is told from others by its place.
        """
        place = (self.found.topic, self.found.partition, self.found.offset)
        if self.topic is not None and self.partition is not None and self.offset is not None:
            place = (self.topic, self.partition, self.offset)
        return Record(
            *place, self.key, self.found.value, self.headers, self.timestamp, self.timestamp_type, None,
            self.found.received_at,
        )  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that equal failures share, made as evkit makes those of its own letters: the classes of the
        chain and the frames of the service's own code, without line numbers; the message, without what varies in it, only
        where there are no such frames."""
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        causes = java.chain(self.stack_trace) if self.stack_trace else []
        frames = [frame for cause in causes for frame in cause.own_frames]
        classes = [cause.class_name for cause in causes] or [self.error_class or ""]
        parts = classes + (frames or [self.handler or "", _VARYING.sub("*", self.error_message or "")])
        text = "\n".join([FINGERPRINT_VERSION, *parts])
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


class Reading:
    """The headers of one record on the way to a letter; keeps what could not be read.

    Of a name that comes more than once, `at=0` takes the first and `at=-1` the last.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.problems: list[str] = []
        self._values: dict[str, list[bytes | None]] = {}
        for name, value in record.headers:
            self._values.setdefault(name, []).append(value)

    def raw(self, name: str, at: int = -1) -> bytes | None:
        """The bytes of a header; None: it is not there, or has no value."""
        values = self._values.get(name)
        return values[at] if values else None

    def has(self, name: str) -> bool:
        return name in self._values

    def count(self, name: str) -> int:
        return len(self._values.get(name, ()))

    def prose(self, name: str, at: int = -1, characters_max: int = MESSAGE_CHARACTERS_MAX) -> str | None:
        """Text for people: what is no UTF-8 in it becomes `\\xff`."""
        value = self.raw(name, at)
        if value is None:
            return None
        try:
            return _shortened(value.decode(), characters_max)
        except UnicodeDecodeError as error:
            self.problems.append(f"'{name}' is not UTF-8 text ({error.reason} at byte {error.start})")
            return _shortened(value.decode("utf-8", "backslashreplace"), characters_max)

    def word(self, name: str, at: int = -1) -> str | None:
        """A name, or another short text on one line."""
        text = self.prose(name, at)
        if text is None:
            return None
        if len(text) > _WORD_CHARACTERS_MAX or not text.isprintable():
            self.problems.append(f"'{name}' is no name: {_quoted(text)}")
            return None
        return text or None

    def topic(self, name: str, at: int = 0) -> str | None:
        value = self.raw(name, at)
        if value is None:
            return None
        text = value.decode("utf-8", "backslashreplace")
        if _TOPIC.match(text):
            return text
        self.problems.append(f"'{name}' is no topic's name: {_quoted(text)}")
        return None

    def group(self, name: str, at: int = -1) -> str | None:
        text = self.word(name, at)
        if text is not None and len(text.encode()) > GROUP_BYTES_MAX:
            self.problems.append(
                f"'{name}' has {len(text.encode())} bytes, evkit takes groups of up to {GROUP_BYTES_MAX}"
            )
            return None
        return text

    def number(self, name: str, at: int = 0, *, highest: int = _INT64_MAX) -> int | None:
        """A whole number from 0 in decimal digits."""
        value = self.raw(name, at)
        if value is None:
            return None
        if value.isdigit() and len(value) < 20 and int(value) <= highest:
            return int(value)
        self.problems.append(f"'{name}' is no number from 0 to {highest}: {_quoted(value)}")
        return None

    def binary(self, name: str, size: int, at: int = 0, *, signed: bool = False) -> int | None:
        """A number of `size` bytes, big-endian; of another size, in decimal digits, as some write it who are not Java."""
        value = self.raw(name, at)
        if value is None:
            return None
        if len(value) != size:
            if value.isdigit() and len(value) < 20 and int(value) < 2 ** (8 * size - 1):
                return int(value)
            self.problems.append(f"'{name}' is no number of {size} bytes: {_quoted(value)}")
            return None
        number = int.from_bytes(value, "big", signed=True)
        if number < 0 and not signed:
            self.problems.append(f"'{name}' is {number}, below 0")
            return None
        return number

    def partition(self, name: str) -> int | None:
        return self.number(name, highest=_INT32_MAX)

    def time(self, name: str, millis: int | None) -> datetime | None:
        """Milliseconds since 1970 as a time; Kafka's "no timestamp" is -1."""
        if millis is None or millis == -1:
            return None
        try:
            return datetime.fromtimestamp(millis / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            self.problems.append(f"'{name}' is {millis} ms, no time of the years 1 to 9999")
            return None

    def without(self, own: frozenset[str], prefixes: tuple[str, ...] = ()) -> Headers:
        """The record's headers without those that the dialect has added."""
        return [(n, v) for n, v in self.record.headers if n not in own and not (prefixes and n.startswith(prefixes))]

    def require_place(self, *names: str) -> None:
        """Say which headers are missing, when the original place is not known for want of them."""
        missing = [name for name in names if not self.has(name)]
        if missing:
            self.problems.append(f"where the record was is not said: there is no {' and no '.join(map(repr, missing))}")


def keep(facts: dict[str, Any], name: str, value: Any) -> None:
    """Keep what is known."""
    if value is not None:
        facts[name] = value


def kept_timestamp(record: Record) -> dict[str, Any]:
    """Times of a letter whose dialect sends the original record's timestamp along.

    A topic with its producers' timestamps has that of the original record; one with the broker's has the time of giving up.
    """
    if record.timestamp_type == "append":
        return {"failed_at": record.timestamp}
    return {"timestamp": record.timestamp, "timestamp_type": record.timestamp_type}


def _shortened(text: str, characters_max: int) -> str:
    if len(text) <= characters_max:
        return text
    end = min(_STACK_END_CHARACTERS, characters_max // 4)
    return f"{text[: characters_max - end - 3]}\n…\n{text[-end:]}"


def _quoted(value: str | bytes) -> str:
    shown = repr(value[:60])
    return f"{shown} …" if len(value) > 60 else shown
