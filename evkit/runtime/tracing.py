"""writer's trace → outbox row → record → handler: link the spans of those who write, publish and handle an event.

evkit speaks OpenTelemetry's API and brings no SDK: where the service has set one up, its spans go through the outbox; where
it has not, nothing is imported and nothing is paid. A writer's context is kept with its row (`current`), travels as the
record's `traceparent`, and the spans of the relay (`publish_span`) and of a consumer (`process_span`) link to it: a link
and not a parent, for one batch holds the events of many writers, and may be sent and handled long after they have ended.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from evkit.event import TRACEPARENT

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, SpanContext

    from evkit.kafka import Record

# What the SDK keeps of a span's links by default (OTEL_SPAN_LINK_COUNT_LIMIT); more would only be made to be dropped.
LINKS_MAX = 128


def current() -> tuple[str | None, str | None]:
    """The W3C `traceparent` and `tracestate` of the span that is current in this thread or task; (None, None) without one.

    Costs a look into a dict in a process that never imported opentelemetry.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None, None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None, None
    # Not by the propagator, which may have been set to another format than the one that a record's header has.
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"
    return traceparent, context.trace_state.to_header() or None


def enabled() -> bool:
    """Whether somebody has set up an SDK for traces in this process: without one, spans go nowhere."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return False
    return not isinstance(trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider))


class BatchSpan(Protocol):
    """A span around the work on a batch; also a context manager, which notes an exception that passes through."""

    def end(self, *, error_type: str | None = None) -> None:
        """The work is done, wholly or with an error of this type; a second call changes nothing."""

    def __enter__(self) -> BatchSpan: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def publish_span(topics: Iterable[str], traceparents: Iterable[str | None], events: int) -> BatchSpan:
    """Start the span of a batch on its way to the broker; `end()` it when the last event is answered.

    One topic gives "send {topic}", several "send" alone, as OpenTelemetry's messaging conventions have it. It is not made
    current: other batches are under way at the same time. Kind PRODUCER, so that tools which draw a topic between those
    who send and those who receive find one, whatever kind the writer's own span is.

    The arguments are not looked at while no SDK is set up, so give generators.

    Args:
        topics        destination of each event
        traceparents  writer's context of each event; None, or text that is no traceparent, is left out. The first 128
                      different ones are linked
        events        how many events the batch has
    """
    if not enabled():
        return _NOTHING
    attributes: dict[str, str | int] = {}
    if events != 1:
        attributes["messaging.batch.message_count"] = events
    return _Recording("send", "PRODUCER", topics, traceparents, attributes)


def process_span(group: str, records: Iterable[Record], events: int, *, replay_id: str | None = None) -> BatchSpan:
    """Start the span of events that a consumer group handles in one transaction; `with` it is current, so that spans which
    handlers start are its children, and events which they write continue its trace.

    One topic gives "process {topic}", several "process" alone. Kind CONSUMER, a trace of its own, with links to those who
    wrote the events. The records are not looked at while no SDK is set up, so give a generator.

    Args:
        records    what is handled; the `traceparent` among the headers of each is linked: the first 128 different ones
        events     how many they are; a single one is named by its offset
        replay_id  of the replay or redrive that handles them on purpose
    """
    if not enabled():
        return _NOTHING
    handled = list(records)
    attributes: dict[str, str | int] = {"messaging.consumer.group.name": group}
    if len(partitions := {(r.topic, r.partition) for r in handled}) == 1:
        attributes["messaging.destination.partition.id"] = str(next(iter(partitions))[1])
    if events != 1:
        attributes["messaging.batch.message_count"] = events
    elif handled:
        attributes["messaging.kafka.offset"] = handled[0].offset
    if replay_id is not None:
        attributes["evkit.replay.id"] = replay_id
    topics, traceparents = (r.topic for r in handled), (_traceparent(r) for r in handled)
    return _Recording("process", "CONSUMER", topics, traceparents, attributes, current=True)


class _Nothing:
    def end(self, *, error_type: str | None = None) -> None:
        pass

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass


_NOTHING = _Nothing()


class _Recording:
    def __init__(
        self,
        operation: Literal["send", "process"],
        kind: Literal["PRODUCER", "CONSUMER"],
        topics: Iterable[str],
        traceparents: Iterable[str | None],
        attributes: dict[str, str | int],
        *,
        current: bool = False,
    ) -> None:
        from opentelemetry import context, trace

        counted = Counter(topics)
        only = next(iter(counted)) if len(counted) == 1 else None
        attributes |= {
            "messaging.system": "kafka",
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
        }
        if only is not None:
            attributes["messaging.destination.name"] = only
        self._span: Span = trace.get_tracer("evkit").start_span(
            f"{operation} {only}" if only is not None else operation,
            context=context.Context(),  # a trace of its own, whatever span this thread was started in
            kind=trace.SpanKind[kind],
            attributes=attributes,
            links=_links(traceparents),
        )
        self._current = current
        self._token: Any = None

    def end(self, *, error_type: str | None = None) -> None:
        if error_type is not None and self._span.is_recording():
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", error_type)
            self._span.set_status(Status(StatusCode.ERROR))
        if self._span.is_recording():
            self._span.end()

    def __enter__(self) -> _Recording:
        if self._current:
            from opentelemetry import context, trace

            self._token = context.attach(trace.set_span_in_context(self._span, context.Context()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            from opentelemetry import context

            context.detach(self._token)
        self.end(error_type=None if kind is None else kind.__name__)


def _traceparent(record: Record) -> str | None:
    """What the record's header says; its bytes are whatever its writer put there."""
    for name, value in record.headers:
        if name == TRACEPARENT and value is not None:
            return value.decode("ascii", errors="replace")
    return None


def _links(traceparents: Iterable[str | None]) -> list[Link]:
    from opentelemetry import trace

    links: list[Link] = []
    seen: set[str] = set()
    for traceparent in traceparents:
        if traceparent is None or traceparent in seen:
            continue
        seen.add(traceparent)
        context = _context(traceparent)
        if context is not None:
            links.append(trace.Link(context))
            if len(links) == LINKS_MAX:
                break
    return links


def _context(traceparent: str) -> SpanContext | None:
    """The span that a W3C traceparent names; None for text that is none: a row may hold whatever its writer put there."""
    from opentelemetry import trace

    try:
        version, trace_id, span_id, flags, *_ = traceparent.split("-")
        if (len(version), len(trace_id), len(span_id), len(flags)) != (2, 32, 16, 2) or version == "ff":
            return None
        context = trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(int(flags, 16))
        )
    except ValueError:
        return None
    return context if context.is_valid else None
