"""Trace contexts into the outbox and out of it, with the SDK's own in-memory exporter."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from evkit.kafka import Record
from evkit.runtime import tracing

WRITER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def spans(monkeypatch):
    """What an SDK set up by the service would export."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter.get_finished_spans


def test_the_current_span_is_told_in_w3c_form_and_nothing_is_told_without_one(spans):
    assert tracing.current() == (None, None)

    with trace.get_tracer("shop").start_as_current_span("place order") as span:
        traceparent, tracestate = tracing.current()

    context = span.get_span_context()
    assert traceparent == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert tracestate is None


def test_a_span_that_is_not_sampled_says_so_and_keeps_its_vendors_state():
    context = trace.SpanContext(1, 2, False, trace.TraceFlags(0), trace.TraceState([("vendor", "x:1")]))

    with trace.use_span(trace.NonRecordingSpan(context)):
        assert tracing.current() == (f"00-{1:032x}-{2:016x}-00", "vendor=x:1")


def test_a_process_that_never_imported_opentelemetry_does_not_import_it_here():
    script = (
        "import sys; from evkit.runtime import tracing\n"
        "assert tracing.current() == (None, None)\n"
        "with tracing.publish_span((1 / 0 for _ in [1]), (), 1): pass\n"
        "with tracing.process_span('g', (1 / 0 for _ in [1]), 1): pass\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'prometheus'))])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_without_an_sdk_a_span_costs_nothing_and_looks_at_nothing():
    assert not tracing.enabled()

    span = tracing.publish_span((1 / 0 for _ in range(1)), (1 / 0 for _ in range(1)), 1)

    span.end(error_type="poison")


def test_the_span_of_a_batch_is_a_producers_and_links_to_its_writers(spans):
    tracing.publish_span(["order", "order"], [WRITER, None], 2).end()

    (span,) = spans()
    assert (span.name, span.kind, span.parent) == ("send order", SpanKind.PRODUCER, None)
    assert dict(span.attributes) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "order",
        "messaging.batch.message_count": 2,
    }
    (link,) = span.links
    assert f"{link.context.trace_id:032x}-{link.context.span_id:016x}" == WRITER[3:52]
    assert link.context.is_remote


def test_the_span_of_one_event_has_no_count_and_one_of_many_topics_no_destination(spans):
    tracing.publish_span(["order"], [], 1).end()
    tracing.publish_span(["order", "payment"], [], 2).end()

    one, many = spans()
    assert "messaging.batch.message_count" not in one.attributes
    assert many.name == "send"
    assert "messaging.destination.name" not in many.attributes


def test_a_span_starts_a_trace_of_its_own_whatever_is_current(spans):
    with trace.get_tracer("service").start_as_current_span("started the relay's thread"):
        tracing.publish_span(["order"], [WRITER], 1).end()

    assert spans()[0].parent is None


def test_a_batch_of_thousands_links_to_the_first_128_writers_each_once(spans):
    writers = [f"00-{1:032x}-{i // 2:016x}-01" for i in range(2, 2000)]

    tracing.publish_span(["order"], writers, len(writers)).end()

    linked = [link.context.span_id for link in spans()[0].links]
    assert linked == list(range(1, 129))


@pytest.mark.parametrize(
    "text", ["", "x", "00-1-2-01", WRITER.upper()[:-2] + "zz", f"00-{0:032x}-{0:016x}-00", "ff" + WRITER[2:], "-" * 9]
)
def test_text_that_is_no_traceparent_is_no_link_and_no_error(spans, text):
    tracing.publish_span(["order"], [text], 1).end()

    assert not spans()[0].links


def test_a_failed_batch_says_of_what_kind_the_error_was(spans):
    tracing.publish_span(["order"], [], 1).end(error_type="MSG_SIZE_TOO_LARGE")

    (span,) = spans()
    assert span.attributes["error.type"] == "MSG_SIZE_TOO_LARGE"
    assert span.status.status_code is StatusCode.ERROR


def test_an_exception_passes_through_and_is_noted_and_the_span_ends_once(spans):
    with pytest.raises(KeyError), tracing.publish_span(["order"], [], 1) as span:
        raise KeyError("x")
    span.end()

    (ended,) = spans()
    assert re.fullmatch("KeyError", ended.attributes["error.type"])


def record(offset=0, partition=0, topic="order", traceparent=None):
    headers = [("ce_type", b"order.placed")] + ([] if traceparent is None else [("traceparent", traceparent)])
    return Record(topic, partition, offset, b"k", b"{}", headers, None, "none", None, datetime.now(UTC))


def test_the_span_of_a_handled_batch_is_a_consumers_and_links_to_its_writers(spans):
    batch = [record(7, traceparent=WRITER.encode()), record(8), record(9, traceparent=b"\xff\xfe"), record(10)]

    with tracing.process_span("billing", iter(batch), 4):
        pass

    (span,) = spans()
    assert (span.name, span.kind, span.parent) == ("process order", SpanKind.CONSUMER, None)
    assert dict(span.attributes) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "billing",
        "messaging.destination.name": "order",
        "messaging.destination.partition.id": "0",
        "messaging.batch.message_count": 4,
    }
    assert [f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in span.links] == [WRITER[3:52]]


def test_the_span_of_one_event_has_its_offset_and_one_of_many_topics_neither_topic_nor_partition(spans):
    with tracing.process_span("billing", [record(7)], 1, replay_id="redrive-1"):
        pass
    with tracing.process_span("billing", [record(7), record(3, topic="payment")], 2):
        pass

    one, many = spans()
    assert one.attributes["messaging.kafka.offset"] == 7
    assert one.attributes["evkit.replay.id"] == "redrive-1"
    assert "messaging.batch.message_count" not in one.attributes
    assert many.name == "process"
    assert not {"messaging.destination.name", "messaging.destination.partition.id"} & set(many.attributes)


def test_spans_of_handlers_are_its_children_and_what_they_write_continues_its_trace(spans):
    """Whatever span the thread was started in, which is current again afterwards."""
    with trace.get_tracer("service").start_as_current_span("started the lane") as outer:
        with tracing.process_span("billing", [record()], 1):
            traceparent, _ = tracing.current()
            with trace.get_tracer("shop").start_as_current_span("bill"):
                pass
        assert trace.get_current_span() is outer

    bill, process, _ = spans()
    assert process.parent is None
    assert bill.parent.span_id == process.context.span_id
    assert traceparent.startswith(f"00-{process.context.trace_id:032x}-{process.context.span_id:016x}-")


def test_a_handlers_error_is_noted_and_the_span_is_not_current_any_more(spans):
    with pytest.raises(KeyError), tracing.process_span("billing", [record()], 1):
        raise KeyError("x")

    (span,) = spans()
    assert (span.attributes["error.type"], span.status.status_code) == ("KeyError", StatusCode.ERROR)
    assert tracing.current() == (None, None)
