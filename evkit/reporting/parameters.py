"""The parameters cell of a notebook → typed parameters, and what a person typed → values that fit them.

The cell tagged `parameters` is the one place that says what a notebook takes:

    group: str | None = None      # consumer group; None: all of them
    since: Instant = "now-1h"     # start of the window: ISO time (UTC) or now-2h

It is read as Python (papermill's own reader is a regular expression that does not see `str | None`), and values are checked
before a kernel starts: an unknown name or a `dry_run="false"` that would be true must not reach a notebook.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from evkit.errors import InvalidParameter, closest
from evkit.window import duration, instant

# Texts that a notebook reads as a moment or a length of time; annotations of its parameters.
Instant = str
Duration = str

KINDS = ("str", "int", "float", "bool", "list[str]", "Instant", "Duration")
# Parameters are written into the executed notebook; a secret belongs into a profile, which a parameter may name.
_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)?$|passw|secret|token|dsn|credential|api_?key|private_?key", re.IGNORECASE
)
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a notebook.

    Attributes:
        name      as in the cell
        kind      str, int, float, bool, list[str], Instant or Duration
        optional  None is a value too
        default   as in the cell
        meaning   the comment behind it, with units
    """

    name: str
    kind: str
    optional: bool
    default: Any
    meaning: str

    @property
    def type(self) -> str:
        """The kind as people say it: "time or none"."""
        words = {"Instant": "time", "Duration": "duration", "list[str]": "list of texts", "str": "text"}
        return words.get(self.kind, self.kind) + (" or none" if self.optional else "")


def read(source: str, where: str = "the parameters cell") -> tuple[Parameter, ...]:
    """The parameters of a cell, in its order.

    Raises:
        InvalidParameter: it is no Python, a line is no `name: type = value`, a type is unknown, a default is computed, or
            a name looks like a secret's.
    """
    try:
        meanings, lines = _comments(source), ast.parse(source).body
    except (SyntaxError, tokenize.TokenError) as error:
        raise InvalidParameter(f"{where} is no Python: {error}", name="") from None
    found = []
    for line in lines:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name) or line.value is None:
            raise InvalidParameter(
                f"{where} may only hold lines like `group: str = 'billing'  # consumer group`, "
                f"and line {line.lineno} is none",
                name="",
            )
        name = line.target.id
        if _SECRET_NAME.search(name):
            raise InvalidParameter(
                f"parameter '{name}' in {where} looks like a secret, and parameters are written into the report: "
                "take it from a profile (evkit.toml, env:NAME)",
                name=name,
            )
        written = ast.unparse(line.annotation)
        kinds = [k.strip() for k in written.split("|")]
        optional = "None" in kinds
        kind = next((k for k in kinds if k != "None"), "")
        if kind not in KINDS or len(kinds) > 1 + optional:
            raise InvalidParameter(
                f"parameter '{name}' in {where} has the type {written}: take one of {', '.join(KINDS)}, or one `| None`",
                name=name,
            )
        try:
            default = ast.literal_eval(line.value)
        except ValueError:
            raise InvalidParameter(
                f"the default of parameter '{name}' in {where} is computed: write a value", name=name
            ) from None
        found.append(Parameter(name, kind, optional, default, meanings.get(line.lineno, "")))
    return tuple(found)


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def resolve(
    parameters: Iterable[Parameter], given: Mapping[str, Any], *, notebook: str, now: datetime | None = None
) -> dict[str, Any]:
    """Values for all parameters: the given ones, read as their types, and the defaults. JSON can hold them.

    Times become ISO in UTC, so that the executed notebook says which window it saw, whatever `now` was.

    Raises:
        InvalidParameter: a name that the notebook does not have (near matches are named), or a value of another type.
    """
    known = {p.name: p for p in parameters}
    for name in given:
        if name not in known:
            near = closest(name, known)
            hint = f"; did you mean '{near[0]}'?" if near else f"; it has {', '.join(known) or 'none'}"
            raise InvalidParameter(
                f"notebook '{notebook}' has no parameter '{name}'{hint}", name=name, value=given[name]
            )
    now = now or datetime.now(UTC)
    return {name: parse(p, given.get(name, p.default), now=now) for name, p in known.items()}


def parse(parameter: Parameter, value: Any, *, now: datetime | None = None) -> Any:
    """The value as its parameter's type: what was typed (`-p limit=20`), or a Python value.

    Raises:
        InvalidParameter: it cannot be read as that type.
    """
    if value is None or (parameter.optional and isinstance(value, str) and value.lower() in ("none", "")):
        if not parameter.optional:
            raise _wrong(parameter, value)
        return None
    if parameter.kind == "Instant":
        return _iso(instant(value, now=now, name=parameter.name))
    if parameter.kind == "Duration":
        if not isinstance(value, str):
            raise _wrong(parameter, value)
        duration(value, name=parameter.name)
        return value.strip()
    if parameter.kind == "list[str]":
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return list(value)
        raise _wrong(parameter, value)
    return _scalar(parameter, value)


def _scalar(parameter: Parameter, value: Any) -> Any:
    kind = parameter.kind
    try:
        if kind == "bool":
            if isinstance(value, bool):
                return value
            text = str(value).strip().lower()
            if text in _TRUE or text in _FALSE:
                return text in _TRUE
        elif kind == "str" and not isinstance(value, (bool, list, dict, tuple)):
            return str(value)
        elif kind == "int" and not isinstance(value, (bool, float)):
            return int(value)
        elif kind == "float" and not isinstance(value, bool):
            number = float(value)
            if number - number == 0:  # neither infinite nor NaN
                return number
    except (TypeError, ValueError):
        pass
    raise _wrong(parameter, value)


def _wrong(parameter: Parameter, value: Any) -> InvalidParameter:
    wanted = {
        "bool": "true or false",
        "int": "a whole number",
        "float": "a number",
        "list[str]": "texts with commas between",
        "Duration": "a duration like 15m or 2h",
        "Instant": "a time like 2013-02-08T14:00Z or now-2h",
        "str": "a text",
    }[parameter.kind]
    meant = f" ({parameter.meaning})" if parameter.meaning else ""
    return InvalidParameter(
        f"parameter '{parameter.name}'{meant} is {wanted}, not {value!r}", name=parameter.name, value=value
    )


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
