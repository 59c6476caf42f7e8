"""reader's schema, writer's schema → refusals: what a consumer of one version would not survive in events of another.

The question is one of sets: is everything that the writer's schema allows also allowed by the reader's? Keywords are
compared one by one; those that are not known here must be equal. Where the answer is unsure it is "no": a needless refusal
costs somebody a sentence in a commit, a missed one costs a night.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from evkit.event_types import shortened

# Said of code and types whose equality proves nothing: they are refused even where both versions have them.
NOT_COMPARABLE = "which evkit cannot compare"

Refusal = tuple[str, str]  # dotted path of a field, and what a reader would not survive there


def refusals(reader: Any, writer: Any, keep_all: bool) -> list[Refusal]:
    """What a reader of one version would refuse in an event of another; with `keep_all` also what it would lose."""
    common = {"", *(reader["schema"].get("properties", {}).keys() & writer["schema"].get("properties", {}).keys())}
    try:
        found = list(_Comparison(reader["schema"], writer["schema"], keep_all).of_roots())
    except RecursionError:
        found = [("", "the schema is nested too deeply to be judged")]
    ours, theirs = ({tuple(p) for p in side["beside"] if p[0].partition(".")[0] in common} for side in (reader, writer))
    for field, what in sorted((ours ^ theirs) | {part for part in ours if NOT_COMPARABLE in part[1]}):
        held = f"{_named(field)} has '{shortened(what)}', not surely the same in both versions"
        found.append((field, f"{held}, and evkit cannot judge what it does"))
    return found


def _named(path: str) -> str:
    return f"field '{path}'" if path else "the payload"


def inlined(schema: Any) -> Any:
    """The schema with its references replaced by what they mean, as far as they do not lead back to themselves."""
    definitions = schema.get("$defs", {})

    def inline(node: Any, inside: tuple[str, ...]) -> Any:
        if isinstance(node, dict):
            ref = str(node.get("$ref", "")).rpartition("/")[2]
            rest = {k: inline(v, inside) for k, v in node.items() if k not in ("$ref", "$defs", "mapping")}
            if ref and ref not in inside and isinstance(definitions.get(ref), dict):
                return {**inline(definitions[ref], (*inside, ref)), **rest}
            return {**rest, "$ref": ref} if ref else rest
        return [inline(part, inside) for part in node] if isinstance(node, list) else node

    return inline(schema, ())


_UNIONS = ("anyOf", "oneOf")
_SILENT = frozenset({"title", "description", "examples", "default", "deprecated", "readOnly", "writeOnly", "$defs"})
_EQUAL_OR_ABSENT = ("pattern", "format", "uniqueItems", "multipleOf", "contentEncoding", "contentMediaType")
_BOUNDS = (
    ("minimum", "exclusiveMinimum", 1, "at least"), ("maximum", "exclusiveMaximum", -1, "at most"),
    ("minLength", "", 1, "of length at least"), ("maxLength", "", -1, "of length at most"),
    ("minItems", "", 1, "of items at least"), ("maxItems", "", -1, "of items at most"),
    ("minProperties", "", 1, "of fields at least"), ("maxProperties", "", -1, "of fields at most"),
)  # fmt: skip
_JUDGED = frozenset({
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems", "discriminator",
    *_EQUAL_OR_ABSENT, *(k for bound in _BOUNDS for k in bound[:2] if k),
})  # fmt: skip
_PYTHON_TYPES: dict[Any, Any] = {"string": str, "integer": int, "number": (int, float), "object": dict, "array": list}


class _Comparison:
    """Whether all that a writer's schema allows is allowed by a reader's; keywords it does not know must be equal.

    A missing `additionalProperties` means "no others" at the writer, which `event_types.encode` sees to, and "any others,
    ignored" at the reader, which is how pydantic reads.
    """

    def __init__(self, reader: Any, writer: Any, keep_all: bool) -> None:
        self.reader, self.writer, self.keep_all = reader, writer, keep_all
        self.open: list[tuple[Any, Any]] = []  # pairs being compared: a recursive model meets itself here

    def of_roots(self) -> Iterator[Refusal]:
        return self.compare(self.reader, self.writer, "")

    def compare(self, reader: Any, writer: Any, path: str) -> Iterator[Refusal]:
        readers, tags = self.branches(self.reader, reader)
        writers, their_tags = self.branches(self.writer, writer)
        if {} in readers:
            return
        for tag in sorted(tags - their_tags):
            if any(_kind(branch) == "object" and tag not in branch.get("required", ()) for branch in writers):
                yield path, f"{_named(path)} is told apart by '{tag}', which may be left out there"
        for branch in writers:
            tries = [list(self.one(r, branch, path)) for r in readers]
            if [] in tries:
                continue
            # The nearest branch explains best: one of the same type, else all of them together.
            alike = [t for r, t in zip(readers, tries, strict=True) if _kind(r) == _kind(branch)]
            if len(readers) == 1 or len(alike) == 1:
                yield from (alike or tries)[0]
            else:
                yield (
                    path,
                    f"{_named(path)} may be {_kind(branch)}, where {' or '.join(map(_kind, readers))} is expected",
                )

    def branches(self, root: Any, node: Any) -> tuple[list[Any], set[str]]:
        """What a value may be, one schema each, references followed; and the fields that unions are told apart by."""
        node = _resolved(root, node)
        keywords = node.keys() - _SILENT
        for union in _UNIONS:
            if union in keywords and not keywords - {union, "discriminator"}:
                found, tags = [], {node["discriminator"]["propertyName"]} if "discriminator" in node else set()
                for part in node[union]:
                    more, inner = self.branches(root, part)
                    found += more
                    tags |= inner
                return found, tags
        if isinstance(node.get("type"), list):
            return [{**node, "type": t} for t in node["type"]], set()
        return [node if keywords else {}], set()

    def one(self, reader: Any, writer: Any, path: str) -> Iterator[Refusal]:
        if reader == {} or any(reader is r and writer is w for r, w in self.open):
            return
        self.open.append((reader, writer))
        try:
            yield from self.judged(reader, writer, path)
        finally:
            self.open.pop()

    def judged(self, reader: Any, writer: Any, path: str) -> Iterator[Refusal]:
        if writer == {}:
            yield path, f"{_named(path)} may be anything, where {_kind(reader)} is expected"
            return
        known, values = _values(reader), _values(writer)
        if known is not None:
            if values is None:
                yield path, f"{_named(path)} may be any {_kind(writer)}, where only {_list(known)} is known"
            elif more := values.keys() - known.keys():
                what = _list(dict.fromkeys(more))
                yield path, f"{_named(path)} may be {what}, where only {_list(known)} is known"
            return
        yield from self.unknown(reader, writer, path)
        kind = reader.get("type")
        if values is not None and writer.get("type") is None:
            if not all(_is(value, kind) for value in values.values()):
                yield path, f"{_named(path)} may be {_list(values)}, where {_kind(reader)} is expected"
        elif kind is not None and kind != writer.get("type") and (kind, writer.get("type")) != ("number", "integer"):
            yield path, f"{_named(path)} may be {_kind(writer)}, where {_kind(reader)} is expected"
            return
        yield from self.limits(reader, writer, path)
        if kind == "object":
            yield from self.objects(reader, writer, path)
        elif kind == "array":
            yield from self.arrays(reader, writer, path)

    def unknown(self, reader: Any, writer: Any, path: str) -> Iterator[Refusal]:
        for keyword in sorted((reader.keys() | writer.keys()) - _JUDGED - _SILENT):
            ours, theirs = (inlined({**side, "$defs": root.get("$defs", {})}).get(keyword)
                            for side, root in ((reader, self.reader), (writer, self.writer)))  # fmt: skip
            if ours != theirs:
                yield path, f"{_named(path)} differs in '{keyword}', and evkit cannot judge what that does"

    def limits(self, reader: Any, writer: Any, path: str) -> Iterator[Refusal]:
        for plain, strict, sign, words in _BOUNDS:
            low, their_low = _bound(reader, plain, strict, sign), _bound(writer, plain, strict, sign)
            if low is not None and (their_low is None or their_low < low):
                limit = reader[plain] if plain in reader else f"(but not equal to) {reader[strict]}"
                now = "has no such limit" if their_low is None else f"allows {writer.get(plain, writer.get(strict))}"
                yield path, f"{_named(path)} is expected to be {words} {limit}, and the other version {now}"
        for keyword in _EQUAL_OR_ABSENT:
            ours, theirs = reader.get(keyword), writer.get(keyword)
            if ours not in (None, False) and ours != theirs:
                what = f"{keyword} {shortened(ours)}, and the other version has {shortened(theirs or 'none')}"
                yield path, f"{_named(path)} is expected to have {what}"

    def objects(self, reader: Any, writer: Any, path: str) -> Iterator[Refusal]:
        ours, theirs = reader.get("properties", {}), writer.get("properties", {})
        needed, given = set(reader.get("required", ())), set(writer.get("required", ()))
        others, their_others = reader.get("additionalProperties"), writer.get("additionalProperties", False)
        for name in sorted(needed - given):
            way = "may be left out there" if name in theirs else "is not known there"
            at = _under(path, name)
            yield at, f"field '{at}' is required and {way}: give it a default"
        for name in sorted(ours.keys() | theirs.keys()):
            at = _under(path, name)
            if name in ours and name in theirs:
                yield from self.compare(ours[name], theirs[name], at)
            elif name in ours:
                if their_others is not False:
                    yield from self.compare(ours[name], their_others, at)
            elif isinstance(others, (dict, bool)):
                yield from self.compare(others, theirs[name], at)
            elif self.keep_all:
                yield at, f"field '{at}' is gone: keep it, and let producers stop filling it"
        if isinstance(others, (dict, bool)) and their_others is not False:
            yield from self.compare(others, their_others, _under(path, "*"))
        elif self.keep_all and their_others is not False:
            yield path, f"{_named(path)} no longer keeps fields of any name"

    def arrays(self, reader: Any, writer: Any, path: str) -> Iterator[Refusal]:
        if "prefixItems" in reader or "prefixItems" in writer:
            ours, theirs = reader.get("prefixItems", []), writer.get("prefixItems", [])
            if len(ours) != len(theirs):
                yield path, f"{_named(path)} has {len(theirs)} places, where {len(ours)} are expected"
                return
            for nth, (our, their) in enumerate(zip(ours, theirs, strict=True)):
                yield from self.compare(our, their, f"{path}[{nth}]")
        if "items" in reader:
            # Without `items` a tuple of fixed length has no others, and any other array has anything.
            nothing = "prefixItems" in writer and writer.get("maxItems") == len(writer["prefixItems"])
            yield from self.compare(reader["items"], writer.get("items", not nothing), f"{path}[]")


def _resolved(root: Any, node: Any) -> Any:
    while isinstance(node, dict):
        keywords = node.keys() - _SILENT
        if keywords == {"$ref"} and node["$ref"].startswith("#/$defs/"):
            node = root.get("$defs", {})[node["$ref"].rpartition("/")[2]]
        elif keywords == {"allOf"} and len(node["allOf"]) == 1:
            node = node["allOf"][0]
        else:
            return node
    # true is any value, false is none: a union of nothing.
    return {} if node is True else {"anyOf": []}


def _values(schema: Any) -> dict[str, Any] | None:
    if "const" in schema:
        return {json.dumps(schema["const"], ensure_ascii=False): schema["const"]}
    # By their JSON text: in Python 1, 1.0 and True are one.
    return {json.dumps(v, ensure_ascii=False): v for v in schema["enum"]} if "enum" in schema else None


def _is(value: Any, kind: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(kind == ("null" if value is None else "boolean"))
    return kind is None or isinstance(value, _PYTHON_TYPES.get(kind, ()))


def _bound(schema: Any, plain: str, strict: str, sign: int) -> tuple[float, bool] | None:
    """A limit so that the greater tuple is the narrower one, lower and upper limits alike."""
    found = [(sign * schema[k], k == strict) for k in (plain, strict) if k in schema]
    return max(found) if found else None


def _kind(schema: Any) -> str:
    values = _values(schema)
    return str(schema.get("format") or schema.get("type") or (_list(values) if values else "anything"))


def _list(values: Mapping[str, Any]) -> str:
    return shortened(", ".join(sorted(values)), 200)


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
