"""an exception → what is kept of it: class, message, stack, and a fingerprint that groups equal failures.

The fingerprint is the hash of the exception's class chain and of the frames of the service's own code, without line
numbers: a deploy that moves a line does not make a new group, and two keys that fail in the same way fall into one. Only
where no frame is the service's own is the message taken too, with its numbers and ids removed.
"""

from __future__ import annotations

import hashlib
import math
import re
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

# Prefix of every fingerprint: a change of the rule starts new groups and does not disturb old ones.
FINGERPRINT_VERSION = "1"

# The whole stack is kept in the database; this bounds what one endless recursion can write.
STACK_CHARACTERS_MAX = 32_000
MESSAGE_CHARACTERS_MAX = 4_000

_OURS = str(Path(__file__).parent.parent / "runtime")
_LIBRARIES = tuple({p for n in ("stdlib", "platstdlib", "purelib", "platlib") if (p := sysconfig.get_paths().get(n))})
_VARYING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27,}|\d+|'[^']*'|\"[^\"]*\"", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Failure:
    """What is kept of an exception.

    Attributes:
        error_class    qualified name of its class ("decimal.InvalidOperation", "ValueError")
        error_message  its text, at most 4,000 characters
        stack_trace    the traceback, causes included, from the handler on; at most 32,000 characters
        fingerprint    16 hexadecimal digits
    """

    error_class: str
    error_message: str
    stack_trace: str
    fingerprint: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception tells of; never raises, whatever the exception's own methods do."""
        try:
            message = str(error)
        except Exception:
            message = "(its message cannot be read)"
        stack = "".join(traceback.format_exception(type(error), error, _from_handler_on(error.__traceback__)))
        causes = chain(error)
        frames = [f for e in causes for f in _own_frames(e)]
        parts = [class_name(type(e)) for e in causes] + (frames or [_VARYING.sub("*", message)])
        digest = hashlib.sha256("\n".join([FINGERPRINT_VERSION, *parts]).encode(errors="replace")).hexdigest()
        return cls(
            error_class=class_name(type(error)),
            error_message=storable(message)[:MESSAGE_CHARACTERS_MAX],
            stack_trace=storable(stack)[-STACK_CHARACTERS_MAX:],
            fingerprint=digest[:16],
        )


def class_name(kind: type[BaseException]) -> str:
    """`module.Name`, without the module for built-in exceptions."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def storable(text: str) -> str:
    """Text that PostgreSQL can hold: no NUL, no lone surrogates."""
    if text.isascii() and "\x00" not in text:  # most are, and every event asks this three times
        return text
    return text.replace("\x00", "\\x00").encode("utf-8", errors="backslashreplace").decode("utf-8")


def storable_json(value: Any) -> Any:
    """A document that PostgreSQL can hold as jsonb: texts are `storable`, a number that JSON does not have is a text."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(n) if isinstance(n, str) else n: storable_json(item) for n, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def chain(error: BaseException) -> list[BaseException]:
    """The exception and what caused it, outermost first; at most ten, and a circle ends."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and len(found) < 10 and current not in found:
        found.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return found


def _from_handler_on(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of the runtime that called the handler; all of it if there is nothing else."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_OURS):
        inner = inner.tb_next
    return inner or trace


def _own_frames(error: BaseException) -> list[str]:
    """`module:function` of the frames that are neither evkit's runtime nor a library's."""
    frames = []
    for frame, _line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith((_OURS, *_LIBRARIES, "<frozen")):
            frames.append(f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}")
    return frames
