"""writer's trace → outbox row → record: link the spans of those who write an event and of those who publish it.

evkit speaks OpenTelemetry's API and brings no SDK: where the service has set one up, its spans go through the outbox; where
it has not, nothing is imported and nothing is paid. A writer's context is kept with its row (`current`), travels as the
record's `traceparent`, and the relay's span links to it (`publish_span`): a link and not a parent, for one batch holds the
events of many writers, and may be sent long after they have ended.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, SpanContext

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


class PublishSpan(Protocol):
    """A span around the publishing of a batch; also a context manager, which notes an exception that passes through."""

    def end(self, *, error_type: str | None = None) -> None:
        """The batch is answered, wholly or with an error of this type; a second call changes nothing."""

    def __enter__(self) -> PublishSpan: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def publish_span(topics: Iterable[str], traceparents: Iterable[str | None], events: int) -> PublishSpan:
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
    return _Recording(topics, traceparents, events) if enabled() else _NOTHING


class _Nothing:
    def end(self, *, error_type: str | None = None) -> None:
        pass

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass


_NOTHING = _Nothing()


class _Recording:
    def __init__(self, topics: Iterable[str], traceparents: Iterable[str | None], events: int) -> None:
        from opentelemetry import context, trace

        counted = Counter(topics)
        only = next(iter(counted)) if len(counted) == 1 else None
        attributes: dict[str, str | int] = {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
        }
        if only is not None:
            attributes["messaging.destination.name"] = only
        if events != 1:
            attributes["messaging.batch.message_count"] = events
        self._span: Span = trace.get_tracer("evkit").start_span(
            f"send {only}" if only is not None else "send",
            context=context.Context(),  # a trace of its own, whatever span the relay's thread was started in
            kind=trace.SpanKind.PRODUCER,
            attributes=attributes,
            links=_links(traceparents),
        )

    def end(self, *, error_type: str | None = None) -> None:
        if error_type is not None and self._span.is_recording():
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", error_type)
            self._span.set_status(Status(StatusCode.ERROR))
        if self._span.is_recording():
            self._span.end()

    def __enter__(self) -> _Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error_type=None if kind is None else kind.__name__)


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
