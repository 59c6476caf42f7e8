"""Fields of a JSON payload, by their path: `total`, `items.0.price`, `items[0].price`, `/items/0/price`."""

from __future__ import annotations

import json
import re
from typing import Any

from evkit.errors import InvalidParameter

Steps = tuple[str, ...]

_INDEX = re.compile(r"\[(\d+|\*)\]")


def steps_of(path: str, *, name: str = "field") -> Steps:
    """The names and places that a path goes through. One that starts with `/` is a JSON pointer, for names with dots.

    Raises:
        InvalidParameter: it is no path.
    """
    if path.startswith("/") and len(path) > 1:
        return tuple(step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/"))
    plain = _INDEX.sub(r".\1", path.removeprefix("$.")).removeprefix(".")
    if not plain or not all(plain.split(".")):
        raise InvalidParameter(
            f"{name} '{path}' is no path: write total, items.0.price, or /items/0/price", name=name, value=path
        )
    return tuple(plain.split("."))


def value_at(document: Any, steps: Steps) -> Any:
    """What is there; None where nothing is, or a null."""
    here = document
    for step in steps:
        if isinstance(here, dict):
            here = here.get(step)
        elif isinstance(here, list) and step.isdecimal() and int(step) < len(here):
            here = here[int(step)]
        else:
            return None
    return here


def text_of(value: Any) -> str | None:
    """A value as text: a string as it is, anything else as JSON; None stays None."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
