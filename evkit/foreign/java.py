"""Java's stack traces: which exceptions, with which messages, from which frames; for reading, never for trusting."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# Exceptions that only say that another one happened; passed over when there is another one.
WRAPPERS = frozenset({
    "java.lang.reflect.InvocationTargetException",
    "java.lang.reflect.UndeclaredThrowableException",
    "java.util.concurrent.CompletionException",
    "java.util.concurrent.ExecutionException",
    "org.apache.kafka.common.errors.SerializationException",
    "org.apache.kafka.connect.errors.ConnectException",
    "org.apache.kafka.connect.errors.DataException",
    "org.apache.kafka.connect.errors.RetriableException",
    "org.apache.kafka.streams.errors.StreamsException",
    "org.springframework.kafka.listener.ListenerExecutionFailedException",
    "org.springframework.kafka.listener.TimestampedException",
    "org.springframework.kafka.support.serializer.DeserializationException",
})  # fmt: skip

# Packages that are not the service's own code.
_LIBRARIES = (
    "com.fasterxml.jackson.", "com.sun.", "io.micrometer.", "java.", "javax.", "jakarta.", "jdk.", "kotlin.", "kotlinx.",
    "org.apache.kafka.", "org.springframework.", "reactor.", "scala.", "sun.", "tools.jackson.",
)  # fmt: skip
# What the JVM and its proxies number anew with every start, or every build.
_GENERATED = re.compile(r"\$\$.*|\$Proxy\d+.*|(?<=lambda\$).*|(?<=Accessor)\d+|\d+$")
_QUALIFIED = re.compile(r"[\w$]+(?:\.[\w$]+)+\Z")
_NAME = re.compile(r"[\w$]+(?:\.[\w$]+)*\Z")

_CAUSED_BY = "Caused by: "
_EXCEPTIONS_MAX = 20
_FRAMES_MAX = 100


@dataclass(slots=True)
class Cause:
    """One exception of a stack trace. `own_frames` are `class.method` of the service's own code, without line numbers."""

    class_name: str
    message: str | None
    own_frames: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.class_name if self.message is None else f"{self.class_name}: {self.message}"


def chain(stack_trace: str) -> list[Cause]:
    """The exceptions of a stack trace, outermost first; empty when it is none of Java.

    A message may have lines that look like those of a stack trace; nobody can tell them apart, and nothing depends on it.
    """
    found: list[Cause] = []
    before = ""
    for line in stack_trace.split("\n"):
        if line.startswith("\tat "):
            if found and len(found[-1].own_frames) < _FRAMES_MAX and (frame := _own_frame(line[4:])):
                found[-1].own_frames.append(frame)
        elif not line.startswith("\t"):
            cause = _cause(line.removeprefix(_CAUSED_BY)) if _opens(line, before, first=not found) else None
            if cause is not None and len(found) < _EXCEPTIONS_MAX:
                found.append(cause)
            elif found and not before.startswith("\t") and found[-1].message is not None:
                found[-1].message += f"\n{line}"
            elif not found:
                return []
        before = line
    return found


def raised(causes: list[Cause]) -> Cause | None:
    """The exception that the service's code has raised: the first that is no wrapper, or else the innermost."""
    return next((cause for cause in causes if cause.class_name not in WRAPPERS), causes[-1] if causes else None)


def root(causes: list[Cause]) -> Cause | None:
    """The innermost cause."""
    return causes[-1] if causes else None


def _opens(line: str, before: str, *, first: bool) -> bool:
    """Whether a line is the head of an exception, and not one more line of a message."""
    if first:
        return True
    return line.startswith(_CAUSED_BY) and (
        before.startswith("\t") or bool(_QUALIFIED.match(line.removeprefix(_CAUSED_BY).partition(": ")[0]))
    )


def _cause(text: str) -> Cause | None:
    name, colon, message = text.rstrip("\r").partition(": ")
    if len(name) > 500 or not _NAME.match(name):
        return None
    return Cause(name, message if colon else None)


def _own_frame(text: str) -> str | None:
    """`orders.Billing.bill` of "app//orders.Billing.bill(Billing.java:7)"; None for a library's."""
    name = text.partition("(")[0].rpartition("/")[2]
    if name.startswith(_LIBRARIES) or not _NAME.match(name):
        return None
    owner, _, method = name.rpartition(".")
    return f"{_GENERATED.sub('', owner)}.{_GENERATED.sub('', method)}"
