"""evkit: an incident analysis kit for event-driven systems, and the runtime it analyses. Names in the order of travel.

    Event, event_type, upcaster       what happened, and what its payload looks like
    outbox.write, outbox.write_many   the caller's transaction → outbox table
    Relay                             outbox table → topic
    Consumer, Retry, Breaker          topic → handler, once
    Record, decoding                  what a topic holds, and how it becomes an Event
    dead_letters, replay, schemas     failures and the past, on purpose
    foreign                           dead letters in other frameworks' words
    annotation                        deploys, incidents and notes, written down for the timeline
    connect, System, Window           a system to look at, a stretch of time
    views, monitors, figures          records → frames → findings, drawings    (extra: views)
    reporting                         notebooks, executed                      (extra: notebooks)

Everything is loaded when it is first used: `import evkit` brings neither a client library nor a dataframe.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evkit import decoding, errors, event_types, figures, foreign, monitors, reporting, views
    from evkit.errors import EvkitError, TryLater
    from evkit.event import Event
    from evkit.event_types import event_type, upcaster
    from evkit.kafka import Record
    from evkit.runtime import annotation, dead_letters, outbox, replay, schemas
    from evkit.runtime.breaker import Breaker
    from evkit.runtime.consumer import Consumer
    from evkit.runtime.handler import Tx
    from evkit.runtime.relay import Relay
    from evkit.runtime.retry import Retry
    from evkit.settings import Settings
    from evkit.system import System, connect
    from evkit.window import Window

# Where each name lives; a name that is its module's own stands alone.
_HOMES = {
    "Event": "evkit.event",
    "event_type": "evkit.event_types",
    "upcaster": "evkit.event_types",
    "event_types": "evkit.event_types:",
    "outbox": "evkit.runtime.outbox:",
    "Relay": "evkit.runtime.relay",
    "Consumer": "evkit.runtime.consumer",
    "Retry": "evkit.runtime.retry",
    "Breaker": "evkit.runtime.breaker",
    "Tx": "evkit.runtime.handler",
    "decoding": "evkit.decoding:",
    "Record": "evkit.kafka",
    "dead_letters": "evkit.runtime.dead_letters:",
    "foreign": "evkit.foreign:",
    "annotation": "evkit.runtime.annotation:",
    "replay": "evkit.runtime.replay:",
    "schemas": "evkit.runtime.schemas:",
    "connect": "evkit.system",
    "System": "evkit.system",
    "Settings": "evkit.settings",
    "Window": "evkit.window",
    "views": "evkit.views:",
    "monitors": "evkit.monitors:",
    "figures": "evkit.figures:",
    "reporting": "evkit.reporting:",
    "errors": "evkit.errors:",
    "EvkitError": "evkit.errors",
    "TryLater": "evkit.errors",
}

__all__ = [
    "Breaker",
    "Consumer",
    "Event",
    "EvkitError",
    "Record",
    "Relay",
    "Retry",
    "Settings",
    "System",
    "TryLater",
    "Tx",
    "Window",
    "annotation",
    "connect",
    "dead_letters",
    "decoding",
    "errors",
    "event_type",
    "event_types",
    "figures",
    "foreign",
    "monitors",
    "outbox",
    "replay",
    "reporting",
    "schemas",
    "upcaster",
    "views",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'evkit' has no attribute '{name}'")
    module = importlib.import_module(home.rstrip(":"))
    value = module if home.endswith(":") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(__all__) | set(globals()))
