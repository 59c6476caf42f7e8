"""event → the service's own code: which function handles which event type, and what it is given besides the event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from evkit.decoding import Decode
from evkit.errors import UsageError
from evkit.event import REPLAY_ID, Event, marked
from evkit.kafka import Record
from evkit.runtime import outbox, schemas
from evkit.runtime.answer import Statements

if TYPE_CHECKING:
    import psycopg
    from pydantic import BaseModel

Function = TypeVar("Function", bound=Callable[..., Any])
Where = Callable[[Event], bool]


class Source(Protocol):
    """What an event in hand came from: a delivery."""

    @property
    def record(self) -> Record:
        """All of it."""

    @property
    def place(self) -> tuple[str, int]:
        """Topic and partition."""

    @property
    def offset(self) -> int:
        """Of the record."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A record by itself."""

    record: Record

    @property
    def place(self) -> tuple[str, int]:
        return self.record.topic, self.record.partition

    @property
    def offset(self) -> int:
        return self.record.offset


@dataclass(slots=True)
class Around:
    """What the events of one transaction and handler have in common; see `Tx`."""

    connection: psycopg.Connection[Any]
    group: str
    attempt: int
    replay_id: str | None
    stale_ids: frozenset[str] = frozenset()
    dry: bool = False
    statements: Statements | None = None


class Tx:
    """The transaction that a handler writes in; the inbox row of its event is in it, so the effect happens once.

    Attributes:
        connection  the psycopg connection; its transaction is committed after the handler, never by it
        group       consumer group
        event       the event in hand (of a batch handler: the first)
        record      where it came from: topic, partition, offset, timestamp
        attempt     1 for the first delivery; of the optimistic batch always 1
        replay_id   of the replay or redrive that is running, or None
        stale_ids   ids of those events of this transaction that came after a newer one of their key was applied; empty
                    unless the consumer says what a version is (`Consumer(version=...)`)
        dry         this transaction will be rolled back (a dry replay): whatever reaches out of it is better left out
    """

    __slots__ = ("_around", "_delivery", "event")

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        group: str,
        event: Event,
        record: Record,
        attempt: int = 1,
        replay_id: str | None = None,
        stale_ids: frozenset[str] = frozenset(),
        dry: bool = False,
    ) -> None:
        """One of its own, for a service's tests of its handlers."""
        self._around = Around(connection, group, attempt, replay_id, stale_ids, dry)
        self.event = event
        self._delivery: Source = _Given(record)

    @classmethod
    def of(cls, around: Around, event: Event, delivery: Source) -> Tx:
        """What a handler is given: it shares with its neighbours what they have in common."""
        tx = cls.__new__(cls)
        tx._around = around
        tx.event = event
        tx._delivery = delivery
        return tx

    def __repr__(self) -> str:
        """For a log line, or a debugger."""
        return (
            f"Tx(group={self.group!r}, event={self.event.id!r}, attempt={self.attempt}, replay_id={self.replay_id!r})"
        )

    @property
    def connection(self) -> psycopg.Connection[Any]:
        return self._around.connection

    @property
    def group(self) -> str:
        return self._around.group

    @property
    def record(self) -> Record:
        return self._delivery.record

    @property
    def attempt(self) -> int:
        return self._around.attempt

    @property
    def replay_id(self) -> str | None:
        return self._around.replay_id

    @property
    def stale_ids(self) -> frozenset[str]:
        return self._around.stale_ids

    @property
    def dry(self) -> bool:
        return self._around.dry

    @property
    def topic(self) -> str:
        """Where the event in hand comes from."""
        return self._delivery.place[0]

    @property
    def partition(self) -> int:
        """Where the event in hand comes from."""
        return self._delivery.place[1]

    @property
    def offset(self) -> int:
        """Where the event in hand comes from."""
        return self._delivery.offset

    @property
    def stale(self) -> bool:
        """Whether this group has already applied a newer event of this one's key; see `stale_ids`."""
        return self.event.id in self.stale_ids

    @property
    def is_replay(self) -> bool:
        """Whether this event is handled on purpose by a replay or a redrive, not as it came along."""
        return self.replay_id is not None

    def execute(self, query: Any, params: Any = None) -> psycopg.Cursor[Any]:
        """Run one statement in this transaction; returns what psycopg's `connection.execute` does, or what acts like it."""
        around = self._around
        if around.statements is None:
            return around.connection.execute(query, params)
        return cast("psycopg.Cursor[Any]", around.statements.run(query, params))

    def cursor(self) -> psycopg.Cursor[Any]:
        """A cursor in this transaction, for `executemany` and `copy`."""
        return self.connection.cursor()

    def write(self, event: Event) -> str:
        """Write a follow-up event into the outbox in this transaction; returns its id.

        The event in hand is its cause, and its correlation id goes on (where it had none, its id becomes one).
        It is marked as replayed when this handling is a redrive or a replay, unless the replay says otherwise (`emit`).
        """
        more = {} if self.replay_id is None else {REPLAY_ID: self.replay_id}
        follow_up = replace(
            event,
            headers={**event.headers, **more},
            causation_id=event.causation_id or self.event.id,
            correlation_id=event.correlation_id or self.event.correlation_id or self.event.id,
        )
        return outbox.write(self.connection, follow_up)


@dataclass(frozen=True, slots=True)
class Handler:
    """One function of the service, and how it wants its events."""

    function: Callable[..., Any]
    model: type[BaseModel] | None
    batch: bool
    pipeline: bool = False
    where: Where | None = None
    park_key: bool | None = None
    name: str = field(init=False)

    def __post_init__(self) -> None:
        # A partial, or an object that can be called, is named by what is behind it.
        function = getattr(self.function, "func", self.function)
        named = function if hasattr(function, "__qualname__") else type(function)
        object.__setattr__(self, "name", f"{named.__module__}.{named.__qualname__}")

    def prepared(self, event: Event, replay_id: str | None) -> Event:
        """The event as this handler gets it: its payload as the declared model, marked when it is a replay.

        Raises:
            SchemaMismatch: the payload does not fit the model.
        """
        if replay_id is not None:
            event = marked(event, REPLAY_ID, replay_id)
        if self.model is not None:
            event = replace(event, payload=schemas.read(event, self.model))
        return event


class Handlers:
    """Which function handles which event type, how records become events for them, and what becomes of other types.

    Attributes:
        decode   record → event, or None for a record to pass over; None: the formats that evkit knows (decoding.py)
        unknown  events of a type without a handler: "skip" them (and count them), or make them "dead" letters
        group    whose they are: an event that is meant for another group (header `evkit-target-group`) is skipped; None:
                 nobody looks
    """

    def __init__(
        self, decode: Decode | None = None, unknown: Literal["skip", "dead"] = "skip", group: str | None = None
    ) -> None:
        if unknown not in ("skip", "dead"):
            raise UsageError(f"unknown={unknown!r}: events of a type without a handler are 'skip'ped or 'dead'")
        self.decode = decode
        self.unknown = unknown
        self.group = group
        self._by_type: dict[str | None, list[Handler]] = {}  # None: the types that are not named

    def add(
        self,
        types: Iterable[str],
        function: Callable[..., Any],
        model: type[BaseModel] | None,
        batch: bool,
        pipeline: bool = False,
        where: Where | None = None,
        park_key: bool | None = None,
    ) -> None:
        """Register a function; no types means every type that has none of its own."""
        handler = Handler(function, model, batch, pipeline, where, park_key)
        for event_type in tuple(types) or (None,):
            known = self._by_type.setdefault(event_type, [])
            if known and known[-1].where is None:
                what = "two default handlers" if event_type is None else f"two handlers for '{event_type}'"
                more = "" if where is None else "; the one with a filter goes before the one without"
                raise UsageError(f"{what}: {known[-1].name} and {handler.name}{more}")
            known.append(handler)

    def require_any(self, group: str) -> None:
        """Raise UsageError when no function is registered."""
        if not self._by_type:
            raise UsageError(f"consumer '{group}' has no handler: register one with @consumer.handler('type')")

    def knows(self, event_type: str) -> bool:
        """Whether there is a handler for this type, whatever its filter says of an event."""
        return bool(self._candidates(event_type))

    def of(self, event: Event) -> Handler | None:
        """The handler of an event: of those of its type, in their order, the first whose filter lets it pass.

        None when this group does not care about it. The default is not asked where its type has handlers of its own.

        Raises: whatever a filter raises.
        """
        for handler in self._candidates(event.type):
            if handler.where is None or handler.where(event):
                return handler
        return None

    def always(self, event_type: str) -> Handler | Literal["ask"] | None:
        """Who handles every event of this type, None when nobody does; "ask": that depends on the event, or is an error."""
        candidates = self._candidates(event_type)
        if not candidates:
            return None if self.unknown == "skip" else "ask"
        return "ask" if candidates[0].where is not None else candidates[0]

    def _candidates(self, event_type: str) -> Sequence[Handler]:
        return self._by_type.get(event_type) or self._by_type.get(None) or ()

    @property
    def any_parks_key(self) -> bool:
        """Whether a handler asks for its keys to be parked."""
        return any(handler.park_key for handlers in self._by_type.values() for handler in handlers)

    @property
    def types(self) -> Sequence[str]:
        """Types with a handler of their own, sorted."""
        return sorted(event_type for event_type in self._by_type if event_type is not None)

    def __bool__(self) -> bool:
        return bool(self._by_type)
