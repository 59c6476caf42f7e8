"""Event types: what payloads look like, as pydantic models with versions, and how a payload becomes JSON.

A type is declared beside the code that writes it; old versions stay declared as long as a topic may bring them back:

    @evkit.event_type("flight.departed", version=1)
    class FlightDeparted(BaseModel):
        flight: int
        delay: int | None = None

Writers are closed and readers are open: what is written has the declared fields and no others, what is read may have
more. On this rests the promise that a version which only adds fields can be read by everybody (see runtime/schemas.py).
Types that nobody declared travel too: their payload is any JSON object.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NoReturn, TypeVar, get_args
from uuid import UUID

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from evkit.errors import InvalidEvent, SchemaMismatch, UnknownName, UsageError
from evkit.event import Event

Model = TypeVar("Model", bound=type[BaseModel])
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

VALUE_CHARACTERS_MAX = 80  # of a payload's value in a sentence: enough to recognise it, too little to fill a log


class UnknownEventType(UnknownName):
    """Raised when no model is registered for an event type."""

    noun, plural = "event type", "event types"
    where = "to the registry: is the module that declares it imported?"


class Registry:
    """Which models the versions of each event type have, and how an old payload becomes the next version's.

    The default one is `evkit.event_types.registry`; another is for tests, or for a module that plays two services.
    """

    def __init__(self) -> None:
        self._models: dict[str, dict[int, type[BaseModel]]] = {}
        self._types_of: dict[type[BaseModel], dict[str, int]] = {}
        self._upcasters: dict[str, dict[int, Upcaster]] = {}

    def event_type(self, name: str, version: int = 1) -> Callable[[Model], Model]:
        """Class decorator: the model is the payload of this version of the type.

        Running the same definition again (a reloaded module, a notebook cell) replaces it.

        Raises:
            UsageError: the version is taken by another model, is no number from 1, or the model could not be evolved:
                it forbids unknown fields, or writes a field under a name that it does not read.
        """
        if not name or type(version) is not int or version < 1:
            raise UsageError(f"event type '{name}' version {version!r}: a type has a name, and versions count from 1")

        def register(model: Model) -> Model:
            if not (isinstance(model, type) and issubclass(model, BaseModel)):
                raise UsageError(f"event type '{name}' version {version}: {model!r} is no pydantic model")
            versions = self._models.get(name, {})
            for other, known in versions.items():
                if (other == version) != (_place(known) == _place(model)):
                    raise UsageError(
                        f"event type '{name}' version {other} is {_place(known)} already: give {_place(model)} "
                        "a version and a name of its own"
                    )
            _require_evolvable(name, version, model)
            self._models.setdefault(name, {})[version] = model
            self._types_of.setdefault(model, {})[name] = version
            return model

        return register

    def upcaster(self, name: str, from_version: int) -> Callable[[Upcaster], Upcaster]:
        """Function decorator: makes of a payload (dict) of `from_version` one of `from_version` + 1.

        The function gets a copy and returns a dict. It must be pure: it runs again at every retry and replay. A step
        without an upcaster is one that only added fields.

        Raises:
            UsageError: the step has another upcaster, or `from_version` is no number from 1.
        """
        if type(from_version) is not int or from_version < 1:
            raise UsageError(f"upcaster of '{name}' from version {from_version!r}: versions count from 1")

        def register(function: Upcaster) -> Upcaster:
            known = self._upcasters.get(name, {}).get(from_version)
            if known is not None and _place(known) != _place(function):
                raise UsageError(f"two upcasters of '{name}' from version {from_version}: {_place(known)} and "
                                 f"{_place(function)}")  # fmt: skip
            self._upcasters.setdefault(name, {})[from_version] = function
            return function

        return register

    @property
    def types(self) -> list[str]:
        """Names of the registered types, sorted."""
        return sorted(self._models)

    def versions(self, name: str) -> list[int]:
        """Registered versions of a type, ascending; empty for a type that nobody declared."""
        return sorted(self._models.get(name, ()))

    def model(self, name: str, version: int | None = None) -> type[BaseModel]:
        """The model of a version; of the newest without one.

        Raises:
            UnknownEventType: nobody declared the type.
            UsageError: it has no such version.
        """
        versions = self._models.get(name)
        if not versions:
            raise UnknownEventType(name, self._models)
        found = versions.get(max(versions) if version is None else version)
        if found is None:
            raise UsageError(f"event type '{name}' has no version {version}; registered: {_listed(versions)}")
        return found

    def version_of(self, model: type[BaseModel], name: str) -> int | None:
        """The version that this model is of the type, or None when it is not registered for it."""
        return self._types_of.get(model, {}).get(name)

    def types_of(self, model: type[BaseModel]) -> list[str]:
        """Names of the types whose payload this model is, sorted."""
        return sorted(self._types_of.get(model, ()))

    def upcasters(self, name: str) -> list[int]:
        """Versions of the type that an upcaster starts from, ascending."""
        return sorted(self._upcasters.get(name, ()))

    def upcast(self, name: str, payload: Mapping[str, Any], from_version: int, to_version: int) -> dict[str, Any]:
        """A copy of the payload, led through the upcasters from one version to a later one; no validation.

        Raises:
            SchemaMismatch: an upcaster failed, or returned something other than a dict.
        """
        steps = self._upcasters.get(name, {})
        chain = [v for v in sorted(steps) if from_version <= v < to_version]
        current = copy.deepcopy(dict(payload)) if chain else dict(payload)
        for version in chain:
            try:
                current = steps[version](current)
            except Exception as error:
                raise SchemaMismatch(
                    f"the upcaster of '{name}' from version {version} ({_place(steps[version])}) failed: "
                    f"{type(error).__name__}: {shortened(error)}"
                ) from error
            if not isinstance(current, dict):  # what a type checker knows, a running program may not
                raise SchemaMismatch(
                    f"the upcaster of '{name}' from version {version} ({_place(steps[version])}) returned "
                    f"{type(current).__name__}: it must return the payload of version {version + 1} as a dict"
                )
        return current


registry = Registry()


def event_type(name: str, version: int = 1) -> Callable[[Model], Model]:
    """Class decorator: the model is the payload of this version of the type; see `Registry.event_type`."""
    return registry.event_type(name, version)


def upcaster(name: str, from_version: int) -> Callable[[Upcaster], Upcaster]:
    """Function decorator: from a payload (dict) of one version to the next one's; see `Registry.upcaster`."""
    return registry.upcaster(name, from_version)


# --- payload → JSON ---------------------------------------------------------------------------------------------------


def encode(event: Event, registry: Registry | None = None) -> tuple[bytes, int]:
    """The payload as JSON (compact, UTF-8) and its schema version.

    A model instance has the version it is registered with. A mapping has the event's `schema_version`; where the type is
    registered it is read by that version's model first and written as the model writes it, defaults included, so that
    both ways of writing give the same bytes. Computed fields are not written: every reader can compute them.

    In a mapping of a type that nobody declared, a date or a datetime with a time zone becomes ISO 8601 text, and a UUID or
    a Decimal its own text (a float would lose digits); a tuple becomes a list. Nothing else is converted silently.

    Raises:
        InvalidEvent: not strict JSON (NaN, infinity, keys that are not text, sets, bytes, datetimes without a time
            zone, lone surrogates), fields that the model does not accept or know, or a version that is not registered.
    """
    known = _default if registry is None else registry
    payload, versions = event.payload, known._models.get(event.type)
    if isinstance(payload, BaseModel):
        version = known.version_of(type(payload), event.type)
        if version is not None:
            return _model_json(event, payload), version
        owners = known.types_of(type(payload))
        if owners:
            _refuse(event, f"has a payload of {type(payload).__name__}, which is the model of '{owners[0]}'")
        if versions is None:
            return _model_json(event, payload), event.schema_version
        payload = json.loads(_model_json(event, payload))
    elif not isinstance(payload, Mapping):
        _refuse(
            event, f"has a payload of type {type(payload).__name__}: a payload is a JSON object or a pydantic model"
        )
    if versions is None:
        return _mapping_json(event, payload), event.schema_version
    model = versions.get(event.schema_version)
    if model is None:
        _refuse(
            event,
            f"has schema version {event.schema_version}, and this type is registered with {_listed(versions)}: "
            "declare that version's model, or write one of these (schema_version=)",
        )
    return _model_json(event, _read_strictly(event, model, payload)), event.schema_version


_default = registry


def _mapping_json(event: Event, payload: Mapping[str, Any]) -> bytes:
    """Strict JSON of any mapping. The checks that cost nothing come first; where one fails, the place is looked for."""
    try:
        text = _JSON.encode(payload if isinstance(payload, dict) else dict(payload))
        # json turns the key 1 into "1" without a word, and two keys into one name.
        if _keys_are_text(payload):
            return text.encode("utf-8")
    except RecursionError:
        _refuse(event, "has a payload that is nested too deeply, or contains itself")
    except (TypeError, ValueError) as error:
        if "Circular" in str(error):
            _refuse(event, "has a payload that contains itself")
        reason = str(error)
    else:
        reason = "a key is not text"
    fault = next(_faults(payload, "payload"), None) or f"has a payload that is not JSON ({shortened(reason)})"
    raise InvalidEvent(fault, event_id=str(event.id), event_type=str(event.type))


def _as_text(value: object) -> object:
    """What json does not know and a reader can get back from text; called only for such values."""
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            return value.isoformat()
    elif isinstance(value, (date, UUID)):
        return str(value)
    elif isinstance(value, Decimal):
        if value.is_finite():
            return str(value)
    elif isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_text)
_SCALARS = frozenset({str, int, float, bool, type(None)})


def _keys_are_text(payload: Mapping[str, Any]) -> bool:
    """Whether every object in a payload has only text for keys. The encoder has been here, so there is no circle."""
    waiting: list[Any] = [payload]
    while waiting:
        current = waiting.pop()
        values = current
        if isinstance(current, Mapping):
            for key in current:
                if not isinstance(key, str):
                    return False
            values = current.values()
        for value in values:
            if type(value) not in _SCALARS and isinstance(value, (dict, list, tuple, Mapping)):
                waiting.append(value)
    return True


def _faults(value: Any, path: str) -> Iterator[str]:
    """Sentences on what JSON does not know, with the place of each; looked for only when there is one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield f"has the key {shortened(repr(key))} at {path}: keys in JSON are text"
            elif _has_surrogates(key):
                yield f"has a key with a lone surrogate at {path}, which UTF-8 does not know"
            else:
                yield from _faults(inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for nth, inner in enumerate(value):
            yield from _faults(inner, f"{path}[{nth}]")
    elif fault := _fault(value, path):
        yield fault


def _fault(value: Any, path: str) -> str | None:
    if isinstance(value, str):
        if not _has_surrogates(value):
            return None
        return f"has a lone surrogate at {path}, which UTF-8 does not know: decode the text it came from correctly"
    if isinstance(value, (float, Decimal)) and not math.isfinite(value):
        return f"has {_non_finite(value)} at {path}, which JSON does not know: leave it out, or write null"
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            return None
        return f"has a datetime without a time zone at {path}, which names no moment: give it a tzinfo"
    if isinstance(value, BaseModel):
        return f"has a {type(value).__name__} at {path}: pass its .model_dump(mode='json')"
    if isinstance(value, (int, float, date, UUID, Decimal, type(None))):
        return None
    kind = type(value).__name__
    return f"has a value of type {kind} at {path}, which JSON does not know: convert it to text, a number or a list"


def _non_finite(value: float | Decimal) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def _model_json(event: Event, payload: BaseModel) -> bytes:
    """A model instance as it writes itself; what would be written as something else is refused."""
    try:
        text = payload.model_dump_json(by_alias=True, exclude_computed_fields=True, warnings="error")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        _refuse(event, f"has a {type(payload).__name__} that cannot be written as JSON: {shortened(error, 300)}")
    # pydantic writes NaN as null, and the number would be gone. Only such texts are worth a second look.
    if "null" in text or "NaN" in text or "Infinity" in text:
        for path, value in _numbers(payload.model_dump(by_alias=True, exclude_computed_fields=True), "payload"):
            if not math.isfinite(value):
                _refuse(
                    event, f"has {_non_finite(value)} at {path}, which JSON does not know: leave it out, or write null"
                )
    return text.encode("utf-8")


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for nth, inner in enumerate(value):
            yield from _numbers(inner, f"{path}[{nth}]")


def _read_strictly(event: Event, model: type[BaseModel], payload: Mapping[str, Any]) -> BaseModel:
    """The mapping as the model reads it, unknown fields refused: a misspelt name would be dropped silently."""
    try:
        return model.model_validate(payload, extra=None if _keeps_unknown(model) else "forbid")
    except ValidationError as error:
        _refuse(event, f"does not fit version {event.schema_version} of its type: {described(error)}")


def described(error: ValidationError, most: int = 5) -> str:
    """A validation error as part of a sentence: fields and reasons, values cut after 80 characters."""
    parts = []
    for fault in error.errors(include_url=False, include_context=False)[:most]:
        field = ".".join(str(part) for part in fault["loc"]) or "payload"
        if fault["type"] == "missing":
            parts.append(f"field '{field}' is missing")
        elif fault["type"] == "extra_forbidden":
            parts.append(f"field '{field}' is not declared")
        else:
            parts.append(f"field '{field}' is {shortened(repr(fault['input']))} ({shortened(fault['msg'], 200)})")
    if error.error_count() > most:
        parts.append(f"and {error.error_count() - most} more")
    return "; ".join(parts)


def shortened(value: object, most: int = VALUE_CHARACTERS_MAX) -> str:
    """Text of at most so many characters, on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 1] + "…"


# --- what a model must be so that it can change later -----------------------------------------------------------------


def _require_evolvable(name: str, version: int, model: type[BaseModel]) -> None:
    where = f"event type '{name}' version {version}"
    for part in _models_in(model, set()):
        if part.model_config.get("extra") == "forbid":
            raise UsageError(
                f"{where}: {part.__name__} has extra='forbid', so its consumers would refuse the next version's fields: "
                "take it away (unknown fields are refused where events are written)"
            )
        by_name = part.model_config.get("populate_by_name") or part.model_config.get("validate_by_name")
        for field_name, field in part.model_fields.items():
            if field.exclude and field.is_required():
                raise UsageError(f"{where}: {part.__name__}.{field_name} is required and excluded from what is written: "
                                 "give it a default")  # fmt: skip
            written = field.serialization_alias or field_name
            accepted = field.validation_alias
            choices = accepted.choices if isinstance(accepted, AliasChoices) else [accepted or field_name]
            if written not in choices and not (by_name and written == field_name):
                raise UsageError(
                    f"{where}: {part.__name__}.{field_name} is written as '{written}' and not read under that name: "
                    "use alias= for both"
                )


def _models_in(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """The model and the models of its fields, as far as their names are known by now."""
    if model in seen:
        return
    seen.add(model)
    yield model
    waiting = [field.annotation for field in model.model_fields.values()]
    while waiting:
        annotation = waiting.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _models_in(annotation, seen)
        waiting.extend(get_args(annotation))


_keeping: dict[type[BaseModel], bool] = {}


def _keeps_unknown(model: type[BaseModel]) -> bool:
    """Whether the model, or one inside it, takes unknown fields on purpose (extra='allow')."""
    known = _keeping.get(model)
    if known is None:
        known = _keeping[model] = any(m.model_config.get("extra") == "allow" for m in _models_in(model, set()))
    return known


def _place(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _listed(versions: Mapping[int, Any]) -> str:
    return ", ".join(str(v) for v in sorted(versions))


def _refuse(event: Event, why: str) -> NoReturn:
    raise InvalidEvent(why, event_id=str(event.id), event_type=str(event.type))
