"""SQL in .sql files, one for each noun, each query under a `-- name:` line; here is only the loader.

`named("outbox")["write"]` is the query as bytes, which psycopg takes as it is: no string is built at run time.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

_SECTION = re.compile(r"^-- (name|part): (\w+)\s*$", re.MULTILINE)
_SHARED = "parts"
_INCLUDE = re.compile(r"^-- include: (\w+)\s*$", re.MULTILINE)


@cache
def named(noun: str, package: str = __package__) -> dict[str, bytes]:
    """All queries of `<noun>.sql`, by name, in the file's order.

    What several of them have in common is a `-- part: NAME` before them, or in parts.sql for those of several nouns; a line
    `-- include: NAME` puts it in its place.
    """
    parts = dict(_parts()) if package == __package__ else {}
    return _read(noun, package, parts)


@cache
def _parts() -> dict[str, str]:
    parts: dict[str, str] = {}
    _read(_SHARED, __package__, parts)
    return parts


def _read(noun: str, package: str, parts: dict[str, str]) -> dict[str, bytes]:
    """The queries of a file; its parts are added to those that it may include."""
    text = (files(package) / f"{noun}.sql").read_text(encoding="utf-8")
    _, *words = _SECTION.split(text)
    queries = {}
    for kind, name, body in zip(words[0::3], words[1::3], words[2::3], strict=True):
        whole = _INCLUDE.sub(lambda found: parts[found[1]], body.strip().rstrip(";"))
        if kind == "part":
            parts[name] = whole
        else:
            queries[name] = whole.encode()
    return queries


@cache
def migrations() -> list[tuple[int, str, bytes]]:
    """All migrations as (number, name, SQL), in the order in which they are applied."""
    found = []
    for file in (files(__package__) / "migrations").iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append((int(number), name, file.read_bytes()))
    return sorted(found)


def tables() -> bytes:
    """The tables as they are today, in one readable script: what all migrations together make."""
    return (files(__package__) / "tables.sql").read_bytes()


@cache
def expected() -> dict[str, Any]:
    """What PostgreSQL says of the tables that tables.sql makes, for drift/; CONTRIBUTING.md says how it is generated."""
    found: dict[str, Any] = json.loads((files(__package__) / "expected.json").read_text(encoding="utf-8"))
    return found


def nouns() -> list[str]:
    """Nouns that have a file of queries, sorted."""
    names = [f.name.removesuffix(".sql") for f in files(__package__).iterdir() if f.name.endswith(".sql")]
    return sorted(n for n in names if n not in ("tables", _SHARED))
