"""bytes of a payload → what a person can read, compare and change: text, hexadecimal, JSON, differences, paths."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from evkit import decoding
from evkit.errors import Undecodable, UsageError
from evkit.fields import Steps

# Of a hexdump: what fits on a screen.
HEX_BYTES_MAX = 256
_HEX_BYTES_A_LINE = 16


def text_of(raw: bytes | None) -> str | None:
    """The text in these bytes; None when there are none, or they are no UTF-8."""
    try:
        return None if raw is None else bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        return None


def hexdump(raw: bytes, bytes_max: int = HEX_BYTES_MAX) -> str:
    """The first bytes as lines of offset, hexadecimal and what is printable ASCII."""
    lines = []
    for start in range(0, min(len(raw), bytes_max), _HEX_BYTES_A_LINE):
        part = raw[start : min(start + _HEX_BYTES_A_LINE, bytes_max)]
        readable = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  {readable}")
    if len(raw) > bytes_max:
        lines.append(f"… {len(raw):,} bytes in all")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two JSON documents.

    Attributes:
        path    where, as `items[0].price`; "" for the document itself
        kind    "added", "removed", "type" (of another JSON type) or "value"
        before  None where it was added
        after   None where it was removed
        steps   the path's, one by one: a name may have dots
    """

    path: str
    kind: str
    before: Any
    after: Any
    steps: Steps = field(default=(), compare=False, repr=False)

    def document(self) -> dict[str, Any]:
        return {"path": self.path, "kind": self.kind, "before": self.before, "after": self.after}


def difference(before: Any, after: Any) -> list[Change]:
    """What changed from one JSON document to another, in the order of `before`, then what was added.

    Lists are compared place by place: an element put in front changes all behind it. (A library that finds moves was looked
    at; what a person checks at night is whether this field is there and what it holds.)
    """
    return list(_differences("", (), before, after))


def _differences(path: str, steps: Steps, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(n for n in after if n not in before)]:
            place = f"{path}.{name}" if path else name
            yield from _one(place, (*steps, name), name in before, name in after, before.get(name), after.get(name))
    elif isinstance(before, list) and isinstance(after, list):
        for i in range(max(len(before), len(after))):
            was, is_ = i < len(before), i < len(after)
            old, new = before[i] if was else None, after[i] if is_ else None
            yield from _one(f"{path}[{i}]", (*steps, str(i)), was, is_, old, new)
    elif _type(before) != _type(after):
        yield Change(path, "type", before, after, steps)
    elif before != after:
        yield Change(path, "value", before, after, steps)


def _one(path: str, steps: Steps, was: bool, is_: bool, before: Any, after: Any) -> Iterator[Change]:
    if was and is_:
        yield from _differences(path, steps, before, after)
    else:
        yield Change(path, "removed" if was else "added", before, after, steps)


def _type(value: Any) -> str:
    """JSON's types: a whole number is a number, true is none."""
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def json_payload(raw: bytes | None) -> dict[str, Any]:
    """The JSON object in a payload.

    Raises:
        Undecodable: it is none.
    """
    return decoding.json_object(raw)


def encoded(payload: dict[str, Any]) -> bytes:
    """A payload as bytes, as a relay publishes it; one with half a surrogate pair, which UTF-8 does not have, in ASCII.

    Raises:
        ValueError: it has a number that JSON does not have.
    """
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(payload, separators=(",", ":")).encode("ascii")


def changed(payload: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A copy of the payload with values set at paths: `total`, `items.0.price`, or `/items/0/price` (a JSON pointer, for
    names that have dots). Objects on the way are made; a list takes a place that it has, or the next.

    Raises:
        UsageError: there is something else on the way.
    """
    result = copy.deepcopy(payload)
    for path, value in settings.items():
        steps = _steps(path)
        here: Any = result
        for i, step in enumerate(steps):
            last = i == len(steps) - 1
            if isinstance(here, dict):
                here[step] = value if last else here.get(step, {})
                here = here[step]
            elif isinstance(here, list) and step.isdecimal() and int(step) <= len(here) - (0 if last else 1):
                if last:
                    here[int(step) :] = [value, *here[int(step) + 1 :]]
                else:
                    here = here[int(step)]
            else:
                what = (
                    f"a list of {len(here)}" if isinstance(here, list) else f"the {_type(here)} {json.dumps(here)[:40]}"
                )
                raise UsageError(f"cannot set '{path}': there is {what}, which has no place '{step}'")
    return result


def _steps(path: str) -> list[str]:
    if path.startswith("/"):
        return [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]
    if not path or not all(path.split(".")):
        raise UsageError(f"'{path}' is no path: write total, items.0.price, or /items/0/price")
    return path.split(".")


def readable(raw: bytes | None) -> Any:
    """A payload for a difference when it is no JSON: its text, or hexadecimal after 0x; at most 2,000 characters."""
    if raw is None:
        return None
    text = text_of(raw)
    return ("0x" + raw[:999].hex() if text is None else text[:2_000]).replace("\x00", "\\x00")


def object_or_reason(raw: bytes | None) -> tuple[dict[str, Any] | None, str | None]:
    """(payload, None), or (None, why it is none)."""
    try:
        return json_payload(raw), None
    except Undecodable as problem:
        return None, problem.reason
