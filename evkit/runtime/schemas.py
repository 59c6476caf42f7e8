"""old version → new version: check, upcast.

A topic brings any version back: consumers are deployed before or after the producer, dead letters are redriven weeks
later, a replay starts at the beginning. So a new version must be readable by the consumers of every earlier one, and its
own consumers must be able to read every earlier one. Versions that only add fields with defaults have both properties;
an upcaster (see event_types.py) can give the second.

`lock` writes down what every version looks like, and `check` compares the code with it. They see a model's JSON Schema
and, beside it, what a JSON Schema does not show: validators (by their source), constraints of dates and decimals, keys of
dicts. What `check` cannot judge it calls not additive. It does not run upcasters, does not follow what a validator calls,
and believes a schema that a model states by hand (`json_schema_extra`, `WithJsonSchema`).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUserError

from evkit import event_types
from evkit.errors import SchemaMismatch, UsageError
from evkit.event import Event
from evkit.event_types import Registry, shortened
from evkit.runtime.compatibility import NOT_COMPARABLE, inlined, refusals

M = TypeVar("M", bound=BaseModel)


def read(event: Event, model: type[M], registry: Registry | None = None) -> M:
    """The event's payload as the model that a handler declared.

    A payload of an earlier version goes through the upcasters first; what only added fields gets the model's defaults.
    A payload of a later version than the model is read as it is, its further fields ignored: `evkit schema check` sees to
    it that later versions only add. A model that is not registered for the type is simply tried.

    Raises:
        SchemaMismatch: the payload does not fit the model, or an upcaster failed.
    """
    if type(event.payload) is model:
        return event.payload
    known = event_types.registry if registry is None else registry
    payload: Any = event.payload
    if isinstance(payload, BaseModel):
        payload = payload.model_dump(mode="json", by_alias=True)
    version = known.version_of(model, event.type)
    try:
        if version is not None and event.schema_version < version:
            payload = known.upcast(event.type, payload, event.schema_version, version)
        return _validated(model, payload)
    except SchemaMismatch as error:
        raise SchemaMismatch(f"event {event.id} (version {event.schema_version}): {error}") from error.__cause__
    except ValidationError as error:
        raise SchemaMismatch(_mismatch(event, model, version, error)) from None


def _validated(model: type[M], payload: Mapping[str, Any]) -> M:
    try:
        return model.model_validate(payload)
    except ValidationError:
        # A strict model takes the text of a date from JSON, and refuses the same text from Python.
        try:
            text = json.dumps(payload)
        except (TypeError, ValueError):
            text = ""
        if not text:
            raise
        return model.model_validate_json(text)


def _mismatch(event: Event, model: type[BaseModel], version: int | None, error: ValidationError) -> str:
    reader = model.__name__ if version is None else f"{model.__name__}, version {version}"
    what = (
        f"event {event.id} ('{event.type}', schema version {event.schema_version}) does not fit {reader}: "
        f"{event_types.described(error)}"
    )
    if version is not None and event.schema_version > version:
        return f"{what}; deploy the handler with the newer model, then redrive"
    if version is not None and event.schema_version < version:
        return f"{what}; register an upcaster from version {event.schema_version}, or give the new fields a default"
    return what


# --- lock and check ---------------------------------------------------------------------------------------------------

LOCK_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the code and the lock.

    Attributes:
        event_type  name of the type
        version     the version that is new, changed or gone
        field       dotted path of the field, "" where it is about the whole version
        additive    whether consumers and topics of today survive it
        sentence    what changed, and what to do about it
    """

    event_type: str
    version: int
    field: str
    additive: bool
    sentence: str


def lock(registry: Registry | None = None) -> dict[str, Any]:
    """What every version of every registered type looks like: the content of the lock file, in a stable order.

    Titles, descriptions and examples are left out, so that a better word for a field is no change.

    Raises:
        UsageError: a model has no JSON Schema, or forbids unknown fields somewhere inside.
    """
    known = event_types.registry if registry is None else registry
    return {
        "evkit_schema_lock": LOCK_FORMAT,
        "event_types": {
            name: {
                "upcasters": known.upcasters(name),
                "versions": {str(v): _entry(name, v, known.model(name, v)) for v in known.versions(name)},
            }
            for name in known.types
        },
    }


def check(registry: Registry | None, locked: Mapping[str, Any]) -> list[Change]:
    """Differences between the registered models and a lock, by type and version; additive ones too. Empty: no difference.

    A version that is not in the lock is compared with every other version of its type, both ways.

    Raises:
        UsageError: the lock is not what `lock` writes, or a model has no JSON Schema.
    """
    now = _types_in(lock(registry))
    was = _types_in(locked)
    changes: list[Change] = []
    for name in sorted(now.keys() | was.keys()):
        changes += _type_changes(name, now.get(name), was.get(name))
    return changes


@dataclass(frozen=True)
class _Type:
    upcasters: list[int]
    versions: dict[int, Any]


def _types_in(document: Mapping[str, Any]) -> dict[str, _Type]:
    try:
        if document["evkit_schema_lock"] != LOCK_FORMAT:
            raise ValueError(f"format {document['evkit_schema_lock']!r}, this evkit reads {LOCK_FORMAT}")
        found = {}
        for name, content in document["event_types"].items():
            versions = {int(v): entry for v, entry in content["versions"].items()}
            for entry in versions.values():
                if not isinstance(entry["schema"], dict) or not all(len(part) == 2 for part in entry["beside"]):
                    raise ValueError(f"a version of '{name}' has no schema")
            found[name] = _Type([int(v) for v in content["upcasters"]], versions)
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"this is no schema lock ({type(error).__name__}: {shortened(error)}): take it from version control again, "
            "or write a new one with `evkit schema lock`"
        ) from None


def _type_changes(name: str, now: _Type | None, was: _Type | None) -> Iterator[Change]:
    if now is None:
        assert was is not None
        newest = max(was.versions, default=0)
        yield Change(name, newest, "", False, f"event type '{name}' is locked and no longer declared: topics and dead "
                     "letters may bring it back, so declare it again or import its module")  # fmt: skip
        return
    if was is None:
        was = _Type([], {})
        yield Change(name, min(now.versions), "", True, f"event type '{name}' is new")
    for version in sorted(was.versions.keys() - now.versions.keys()):
        yield Change(name, version, "", False, f"version {version} of '{name}' is locked and no longer declared: topics "
                     "and dead letters may bring it back, so keep its model")  # fmt: skip
    for version in sorted(was.versions.keys() & now.versions.keys()):
        yield from _changed_in_place(name, version, was.versions[version], now.versions[version])
    for version in sorted(set(was.upcasters) - set(now.upcasters)):
        yield Change(name, version, "", False, f"the upcaster of '{name}' from version {version} is gone: events of that "
                     "version cannot be read without it")  # fmt: skip
    for version in sorted(set(now.upcasters) - set(was.upcasters)):
        yield Change(name, version, "", True, f"'{name}' has a new upcaster from version {version} to {version + 1}")
    versions = now.versions | was.versions
    new = now.versions.keys() - was.versions.keys()
    for newer in sorted(versions):
        for older in sorted(v for v in versions if v < newer):
            if newer in new or older in new:
                yield from _pair_changes(name, older, newer, versions, now.upcasters)


def _changed_in_place(name: str, version: int, was: Any, now: Any) -> Iterator[Change]:
    if inlined(was["schema"]) == inlined(now["schema"]) and was["beside"] == now["beside"]:
        return
    found = [*refusals(now, was, True), *refusals(was, now, True)]
    field, what = found[0] if found else ("", "a default, a name or another part of its schema")
    yield Change(name, version, field, False, f"version {version} of '{name}' is locked and was changed in place ({what}): "
                 f"leave it as it was and declare the next version")  # fmt: skip


def _pair_changes(
    name: str, older: int, newer: int, versions: Mapping[int, Any], upcasters: list[int]
) -> Iterator[Change]:
    old, new = versions[older], versions[newer]
    steps = [v for v in upcasters if older <= v < newer]
    bad: list[Change] = []
    if steps:
        # Between upcasters a payload must already look like the version that the next one expects.
        stations = [older, *(v for step in steps for v in (step, step + 1)), newer]
        for left, right in zip(stations[::2], stations[1::2], strict=True):
            for missing in sorted({left, right} - versions.keys()) if left != right else ():
                way = f"'{name}': the way from version {older} to {newer} leads through version {missing}"
                bad.append(
                    Change(name, newer, "", False, f"{way}, which is not declared: declare it, or add upcasters")
                )
    else:
        start = f"'{name}': version {newer} cannot take over from version {older}"
        bad += [Change(name, newer, field, False, f"{start}: {what}") for field, what in refusals(new, old, True)]
    start = f"'{name}': consumers of version {older} cannot read version {newer}"
    bad += [Change(name, newer, field, False, f"{start}: {what}") for field, what in refusals(old, new, False)]
    if bad:
        yield from bad
        return
    added = sorted(new["schema"].get("properties", {}).keys() - old["schema"].get("properties", {}).keys())
    how = f"adds {', '.join(added)}" if added else "takes nothing away"
    yield Change(name, newer, "", True, f"version {newer} of '{name}' {how}, and goes together with version {older}"
                 + (" by its upcaster" if steps else ""))  # fmt: skip


# --- what of a model is locked ----------------------------------------------------------------------------------------

_WORDS = frozenset({"title", "description", "examples"})


def _entry(name: str, version: int, model: type[BaseModel]) -> dict[str, Any]:
    where = f"event type '{name}' version {version}"
    try:
        schema = _without_words(model.model_json_schema())
    except (PydanticUserError, ValueError) as error:
        raise UsageError(f"{where}: {model.__name__} has no JSON Schema ({shortened(error, 200)})") from None
    for part in [schema, *schema.get("$defs", {}).values()]:
        if isinstance(part, dict) and part.get("additionalProperties") is False:
            raise UsageError(f"{where}: {model.__name__} forbids unknown fields somewhere inside (extra='forbid'), so its "
                             "consumers would refuse the next version's fields: take it away")  # fmt: skip
    beside = sorted({(field, text) for field, text in _beside(model.__pydantic_core_schema__, (), {})})
    return {"schema": schema, "beside": [list(part) for part in beside]}


def _without_words(schema: Any, named: bool = False) -> Any:
    """The schema in a stable order without what only people read; `named`: the keys are names of fields, not keywords."""
    if isinstance(schema, dict):
        kept = {k: v for k, v in schema.items() if named or k not in _WORDS}
        return {
            k: v if not named and k in ("default", "enum", "const")
            else sorted(v) if not named and k == "required"
            else _without_words(v, not named and k in ("properties", "$defs", "patternProperties"))
            for k, v in sorted(kept.items())
        }  # fmt: skip
    return [_without_words(part) for part in schema] if isinstance(schema, list) else schema


# Nodes of pydantic's core schema that the JSON Schema shows completely, and keys of any node that change nothing in JSON.
_SHOWN = frozenset({
    "model", "model-fields", "model-field", "none", "any", "bool", "list", "set", "frozenset", "tuple", "nullable",
    "union", "tagged-union", "default", "definitions", "definition-ref", "literal", "enum", "typed-dict",
    "typed-dict-field", "dataclass", "dataclass-args", "dataclass-field", "json-or-python", "lax-or-strict", "dict",
    "function-after", "function-before", "function-wrap", "function-plain", "no-info", "with-info",
    "is-instance", "chain", "named-tuple", "named-tuple-field",
})  # fmt: skip
_SCALARS = frozenset(
    {"str", "int", "float", "bytes", "decimal", "date", "datetime", "time", "timedelta", "uuid", "url"}
)
_NEUTRAL = frozenset({"type", "metadata", "ref", "serialization", "strict", "microseconds_precision", "schema"})
_LIMITS = frozenset({"ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern"})


def _beside(  # noqa: PLR0912 - one branch for each kind of node
    node: Any, path: tuple[str, ...], shared: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """(field, what holds for it) that a model's JSON Schema does not show: code, and constraints of some types.

    A part that is used twice stands in the core schema once, under a name (`shared`); what holds for it is told where it
    is used, so that a second use of a type changes nothing for the first.
    """
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _beside(part, path, shared)
    if not isinstance(node, dict):
        return
    if node.get("type") == "definitions":
        yield from _beside(node["schema"], path, shared | {part["ref"]: part for part in node["definitions"]})
        return
    if node.get("type") == "definition-ref":
        name = node["schema_ref"]
        # Followed once on each way: a type that contains itself holds the same again, only deeper.
        yield from _beside(shared.get(name), path, {k: v for k, v in shared.items() if k != name})
        return
    place = ".".join(path)
    yield from ((place, text) for text in _own(node))
    for key, part in node.items():
        if key == "fields" and isinstance(part, dict):
            for name, field in part.items():
                yield from _beside(field, (*path, field.get("serialization_alias", name)), shared)
        elif key == "fields":
            for field in part:
                if isinstance(field, dict):  # a dataclass has them once as names and once as nodes
                    yield from _beside(field, (*path, field.get("name", "")), shared)
        elif key == "serialization":
            functions = list(_code(part["function"])) if callable(part.get("function")) else []
            yield place, f"written by {', '.join(functions) or part['type']}"
        elif key not in ("cls", "computed_fields", "metadata", "config", "default", "members", "expected"):
            yield from _beside(
                list(part.values()) if key == "choices" and isinstance(part, dict) else part, path, shared
            )


def _own(node: dict[str, Any]) -> Iterator[str]:
    """What one node of the core schema does that the JSON Schema does not show."""
    kind = node.get("type")
    if callable(node.get("function")):
        yield from _code(node["function"])
    if kind in _SCALARS:
        shown = _LIMITS if kind in ("str", "int", "float") else frozenset()
        extra = {k: str(v) for k, v in sorted(node.items()) if k not in _NEUTRAL | shown}
        if extra or kind == "decimal":  # whose JSON Schema allows any text
            yield f"{kind} {json.dumps(extra)}"
    elif kind == "dict":
        keys = {k: str(v) for k, v in node.get("keys_schema", {}).items() if k not in ("metadata", "ref")}
        if keys not in ({}, {"type": "str"}):
            yield f"keys {json.dumps(keys)}"
    elif kind in ("model", "dataclass", "typed-dict"):
        config = {k: str(v) for k, v in sorted(node.get("config", {}).items()) if k != "title"}
        if config:
            yield f"config {json.dumps(config)}"
        if node.get("custom_init"):
            yield from _code(node["cls"].__init__)
        if hook := node.get("post_init"):
            yield from _code(getattr(node["cls"], "__post_init__" if hook is True else hook))
    elif isinstance(kind, str) and kind not in _SHOWN:
        yield f"{kind}, {NOT_COMPARABLE}"


def _code(function: Any) -> Iterator[str]:
    """A function's name and a digest of its source and of the values it was made with; of a library's own the name."""
    bound: list[Any] = []
    while isinstance(function, functools.partial):
        bound += [*function.args, *function.keywords.values()]
        function = function.func
    function = inspect.unwrap(getattr(function, "__func__", function))
    name = getattr(function, "__name__", type(function).__name__)
    package = (getattr(function, "__module__", None) or "").partition(".")[0]
    if not bound and (package in ("pydantic", "pydantic_core") or package in sys.stdlib_module_names):
        # pydantic wraps a model's own model_post_init where there are private attributes, which alone check nothing.
        if name not in ("init_private_attributes", "wrapped_model_post_init"):
            yield f"{package} {getattr(function, '__qualname__', name)}"
        for cell in getattr(function, "__closure__", None) or ():
            if callable(cell.cell_contents) and not isinstance(cell.cell_contents, type):
                yield from _code(cell.cell_contents)
        return
    try:
        # Comments and layout are no change; a lambda in the middle of an expression keeps them.
        source = textwrap.dedent(inspect.getsource(function))
        with contextlib.suppress(SyntaxError):
            source = ast.unparse(ast.parse(source))
        bound += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        bound += [cell.cell_contents for cell in function.__closure__ or ()]
    except (OSError, TypeError, ValueError, AttributeError):
        yield f"code {name}, {NOT_COMPARABLE}"
        return
    for value in bound:
        if callable(value) and not isinstance(value, type):
            source += "".join(_code(value))
        elif value is None or isinstance(value, (str, int, float, bool, type)):
            source += f"\n{value!r}"
        else:
            source += NOT_COMPARABLE
    # What cannot be compared keeps saying so: equal digests would prove nothing.
    blind = f", {NOT_COMPARABLE}" if NOT_COMPARABLE in source else ""
    yield f"code {name} {sha256(source.encode()).hexdigest()[:16]}{blind}"
