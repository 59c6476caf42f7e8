"""What a running relay says of itself: health and metrics over HTTP, and its spans, with the real servers."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from evkit import Event, Relay, outbox
from evkit.errors import RelayStopped
from evkit.runtime import health, metrics
from evkit.settings import Settings
from evkit.system import System
from evkit.testing.events import read_topic
from evkit.testing.waiting import until


def write(system, *events):
    with system.writing() as connection:
        return outbox.write_many(connection, events)


class Running:
    """A relay in a thread of its own, and what its endpoint answers."""

    def __init__(self, relay):
        self.relay = relay
        self.error = None
        self.server = health.serve(relay)
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.relay.run()
        except RelayStopped as error:
            self.error = error

    def start(self):
        self._thread.start()
        return self

    def health(self):
        try:
            with urllib.request.urlopen(self.server.url + "/health", timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def metrics(self):
        with urllib.request.urlopen(self.server.url + "/metrics", timeout=60) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {
                (s.name, *(v for k, v in sorted(s.labels.items()) if k != "outbox")): s.value
                for family in families
                for s in family.samples
            }

    def stop(self):
        self.relay.stop()
        if self._thread.ident is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()

    def close(self):
        self.stop()
        self.server.close()
        self.relay.close()


@pytest.fixture
def running(evkit_system, monkeypatch):
    """Factory: a relay of this test's outbox with its endpoint, stopped at the end. A scrape asks the outbox each time."""
    monkeypatch.setattr(metrics, "ASK_SECONDS", 0)
    made = []

    def make(system=evkit_system, **options):
        made.append(Running(Relay(system, **options)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_leader_is_well_and_counts_what_it_publishes_and_a_standby_is_well_too(evkit_system, evkit_topic, running):
    topic = evkit_topic()
    write(evkit_system, *[Event("order.placed", f"k{i}", {"i": i}, topic=topic) for i in range(20)])
    relay, standby = running(), running()

    relay.start()
    until(relay.metrics, lambda m: m["evkit_relay_marked_total",] == 20 and not m["evkit_outbox_pending",])
    standby.start()
    until(standby.health, lambda answer: answer[0] == 200)

    assert relay.health()[0] == 200
    assert (relay.health()[1]["status"], relay.health()[1]["leading"]) == ("ok", True)
    assert (standby.health()[1]["status"], standby.health()[1]["leading"]) == ("ok", False)
    found = relay.metrics()
    assert found["evkit_relay_published_total",] == 20
    assert found["evkit_relay_published_size_bytes_total",] == sum(len(f'{{"i":{i}}}') for i in range(20))
    assert (found["evkit_outbox_pending",], found["evkit_outbox_readable",], found["evkit_relay_leading",]) == (0, 1, 1)
    assert found["evkit_relay_batch_size_sum",] == 20
    assert found["evkit_relay_batch_duration_seconds_count",] == found["evkit_relay_batches_total",]
    assert standby.metrics()["evkit_relay_leading",] == 0


def test_a_relay_that_does_not_run_or_has_been_stopped_is_red(running):
    relay = running()
    assert relay.health() == (503, relay.health()[1])

    relay.start()
    until(relay.health, lambda answer: answer[0] == 200)
    relay.stop()

    status, document = relay.health()
    assert (status, document["reasons"]) == (503, ["the relay is not running"])


def test_a_fatal_error_is_red_with_its_sentence(evkit_system, running):
    """The brokers are not those that this outbox was published to so far."""
    with evkit_system.writing(autocommit=True) as connection:
        connection.execute("INSERT INTO evkit.relay (name, cluster_id) VALUES ('default', 'another-cluster')")
    relay = running().start()

    status, document = until(relay.health, lambda answer: answer[1]["reasons"][:1] != [] and relay.error)

    assert status == 503
    assert document["reasons"] == [f"stopped: {relay.error}"]
    assert "another-cluster" in document["reasons"][0]


def test_a_loop_that_hangs_in_the_database_is_red_until_it_goes_on(evkit_system, evkit_topic, evkit_database, running):
    relay = running(lease_seconds=1.5).start()
    until(relay.health, lambda answer: answer[0] == 200 and answer[1]["leading"])
    with psycopg.connect(evkit_database) as blocker:
        blocker.execute("LOCK TABLE evkit.relay IN ACCESS EXCLUSIVE MODE")
        write(evkit_system, Event("order.placed", "k", {}, topic=evkit_topic()))

        _, document = until(relay.health, lambda answer: answer[0] == 503)

        assert "silent for" in document["reasons"][0]
        assert "its lease is 1.5 s" in document["reasons"][0]
    until(relay.metrics, lambda m: m["evkit_relay_marked_total",] == 1)
    until(relay.health, lambda answer: answer[0] == 200)


def test_a_relay_without_brokers_is_degraded_at_first_and_red_after_its_lease(
    evkit_system, evkit_topic, evkit_settings, running
):
    write(evkit_system, Event("order.placed", "k", {}, topic=evkit_topic()))
    nobody = Settings(
        postgres_dsn=evkit_settings.postgres_dsn, kafka={"bootstrap.servers": "127.0.0.1:9"}, kafka_timeout_seconds=0.5
    )
    relay = running(System(nobody), lease_seconds=600).start()

    _, first = until(relay.health, lambda answer: answer[1]["waits_for"] is not None)
    relay.relay.lease_seconds = 4
    _, then = until(relay.health, lambda answer: (answer[1]["waits_seconds"] or 0) > 4)

    assert (first["status"], first["ok"], then["status"]) == ("degraded", True, "red")
    assert any("127.0.0.1:9" in reason for reason in then["reasons"])
    assert relay.metrics()["evkit_outbox_pending",] == 1


def test_an_event_that_cannot_be_published_is_counted_and_a_reason_and_not_red(evkit_system, evkit_topic, running):
    topic = evkit_topic(**{"max.message.bytes": "2000"})
    write(evkit_system, Event("order.placed", "k", {"text": "x" * 5000}, topic=topic))
    write(evkit_system, Event("order.placed", "k", {}, topic=topic), Event("order.placed", "other", {}, topic=topic))
    relay = running().start()

    until(relay.metrics, lambda m: m["evkit_relay_marked_total",] and not m["evkit_outbox_pending",])

    found = relay.metrics()
    assert (found["evkit_outbox_unpublishable",], found["evkit_outbox_held",]) == (1, 1)
    assert found["evkit_relay_marked_total",] == 1
    assert found["evkit_relay_failed_total", "poison"] == 1
    status, document = relay.health()
    assert (status, document["status"], document["held_keys"]) == (200, "degraded", 1)
    assert document["reasons"][0].startswith("1 key is held by unpublishable events")


def test_an_open_hole_is_told_with_its_age_and_the_backend_that_keeps_it(evkit_system, evkit_topic, running):
    topic = evkit_topic()
    relay = running().start()
    with evkit_system.writing() as slow:
        outbox.write(slow, Event("order.placed", "slow", {}, topic=topic))
        write(evkit_system, Event("order.placed", "quick", {}, topic=topic))

        found = until(relay.metrics, lambda m: m["evkit_outbox_hole_age_seconds",] > 0)

        assert found["evkit_outbox_hole_pid",] == slow.info.backend_pid
        assert found["evkit_relay_published_total",] == 1
    found = until(relay.metrics, lambda m: m["evkit_outbox_hole_age_seconds",] == 0)
    assert found["evkit_relay_published_total",] == 2


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_the_writers_span_goes_through_the_outbox_to_the_relays_span_and_the_record(
    evkit_system, evkit_topic, monkeypatch, delivery
):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    topic = evkit_topic()
    with trace.get_tracer("shop").start_as_current_span("place order") as writer:
        write(evkit_system, Event("order.placed", "k", {}, topic=topic))
    write(evkit_system, Event("order.placed", "k", {}, topic=topic))  # by somebody without a trace
    relay = Relay(evkit_system, delivery=delivery)

    relay.step()
    relay.close()

    context = writer.get_span_context()
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    with evkit_system.reading() as connection:
        rows = connection.execute("SELECT traceparent FROM evkit.outbox ORDER BY position").fetchall()
    assert rows == [(traceparent,), (None,)]
    (span,) = [s for s in exporter.get_finished_spans() if s.name == f"send {topic}"]
    assert [link.context.span_id for link in span.links] == [context.span_id]
    assert span.attributes["messaging.batch.message_count"] == 2
    assert [dict(r.headers).get("traceparent") for r in read_topic(evkit_system, topic)] == [traceparent.encode(), None]


def test_the_span_of_a_batch_with_a_refused_event_says_why(evkit_system, evkit_topic, monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    topic = evkit_topic(**{"max.message.bytes": "2000"})
    write(evkit_system, Event("order.placed", "k", {"text": "x" * 5000}, topic=topic))
    relay = Relay(evkit_system)

    relay.step()
    relay.close()

    (span,) = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "MSG_SIZE_TOO_LARGE"
