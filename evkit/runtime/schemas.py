"""old version → new version: check, upcast."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from evkit import event_types
from evkit.errors import SchemaMismatch
from evkit.event import Event
from evkit.event_types import Registry

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
