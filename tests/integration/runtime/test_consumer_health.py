"""What a running consumer says of itself: health and metrics over HTTP, and its spans, with the real servers."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from evkit import Event, Relay, Retry, dead_letters, kafka, replay
from evkit.runtime import consumer_health, health, metrics, session
from evkit.runtime.dead_letters import Selection
from evkit.settings import Settings
from evkit.system import System
from evkit.testing.faults import TcpProxy, pause, resume
from evkit.testing.waiting import until

PROTOCOLS = pytest.mark.parametrize("protocol", ["consumer", "classic"])


class Running:
    """A consumer in a thread of its own, and what its endpoint answers."""

    def __init__(self, consumer):
        self.consumer = consumer
        self.error = None
        self.server = health.serve(consumer)
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.consumer.run()
        except BaseException as error:
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
                (
                    s.name.removeprefix("evkit_consumer_"),
                    *(v for k, v in sorted(s.labels.items()) if k != "group"),
                ): s.value
                for family in families
                for s in family.samples
            }

    def stop(self):
        self.consumer.stop()
        if self._thread.ident is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()

    def close(self):
        self.stop()
        self.server.close()


@pytest.fixture
def running(new_consumer, monkeypatch):
    """Factory: a consumer with its endpoint, stopped at the end. A scrape asks the servers each time."""
    monkeypatch.setattr(metrics, "ASK_SECONDS", 0)
    made = []

    def make(topic, handler=lambda event, tx: None, **options):
        consumer = new_consumer(topic, **options)
        consumer.handler("a.b")(handler)
        made.append(Running(consumer))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def gate():
    """A handler that waits at the events that are named, until `open` is set; it is set at the end."""

    class Gate:
        def __init__(self):
            self.open, self.at, self.closed_for = threading.Event(), threading.Event(), {0}

        def handle(self, event, tx):
            if event.payload["i"] in self.closed_for:
                self.at.set()
                assert self.open.wait(60)

    made = Gate()
    yield made
    made.open.set()


def events(topic, n, keys=3):
    return [Event("a.b", f"k{i % keys}", {"i": i}, topic=topic) for i in range(n)]


def total(found, name):
    return sum(value for (n, *_), value in found.items() if n == name)


@PROTOCOLS
def test_a_consumer_is_well_and_its_numbers_are_those_of_the_topic(published, evkit_topic, running, protocol):
    topic = evkit_topic(partitions=3)
    published(*events(topic, 60, keys=9))
    one = running(topic, protocol=protocol).start()

    until(one.metrics, lambda m: total(m, "lag_committed") == 0 and m["events_total", "handled", "false"] == 60)

    status, document = one.health()
    assert (status, document["status"], document["partitions"], document["reasons"]) == (200, "ok", 3, [])
    found = until(one.metrics, lambda m: total(m, "position") == 60 and total(m, "lag") == 0)
    assert total(found, "messaging_client_consumed_messages_total") == 60
    assert found["partitions_assigned",] == 3
    assert found["running",] == 1
    assert found["rebalances_total", "assigned"] >= 1
    assert found["batch_size_sum", "false"] == 60
    assert found["messaging_process_duration_seconds_count", "", "false"] == found["batch_size_count", "false"]
    assert found["broker_readable",] == found["database_readable",] == 1


@PROTOCOLS
def test_while_a_handler_works_its_partition_lags_for_itself_and_for_the_broker(
    published, evkit_topic, running, gate, protocol
):
    topic = evkit_topic()
    published(*events(topic, 10))
    gate.closed_for = {4}
    one = running(topic, gate.handle, protocol=protocol, batch_events_max=4).start()
    assert gate.at.wait(60)

    # The first batch is committed; of the second one its first event is in hand, and the rest waits here.
    found = until(one.metrics, lambda m: m.get(("lag_committed", "0", topic)) == m.get(("lag", "0", topic)) == 6)

    assert found["position", "0", topic] == 4
    assert (found["in_hand",], found["buffered", "0", topic]) == (4, 6)
    assert found["buffered_size_bytes", "0", topic] == 6 * len(b'{"i":4}' + b"k1")
    assert until(one.metrics, lambda m: m["progress_age_seconds", "0", topic] > 1)
    assert one.health()[1]["status"] == "ok"

    gate.open.set()
    found = until(one.metrics, lambda m: m["lag", "0", topic] == m["lag_committed", "0", topic] == 0)
    assert found["progress_age_seconds", "0", topic] == 0
    assert (found["in_hand",], found["buffered", "0", topic]) == (0, 0)


@PROTOCOLS
def test_members_tell_only_of_the_partitions_that_they_have(published, evkit_topic, evkit_group, running, protocol):
    topic, group = evkit_topic(partitions=2), evkit_group()
    published(*events(topic, 20, keys=9))
    one = running(topic, group=group, protocol=protocol).start()
    until(one.metrics, lambda m: m["partitions_assigned",] == 2 and total(m, "position") == 20)

    other = running(topic, group=group, protocol=protocol).start()

    until(other.metrics, lambda m: m["partitions_assigned",] == 1)
    found = until(one.metrics, lambda m: m["partitions_assigned",] == 1)
    assert found["rebalances_total", "revoked"] == 1
    assert len([n for n, *_ in found if n == "lag_committed"]) == 1
    assert total(found, "messaging_client_consumed_messages_total") == 20  # also of the one that it gave up
    other.stop()
    until(one.metrics, lambda m: m["partitions_assigned",] == 2)
    assert other.health()[1]["reasons"] == ["the consumer is not running"]


def test_a_consumer_that_does_not_run_or_has_been_stopped_is_red(evkit_topic, running):
    one = running(evkit_topic())
    assert one.health()[0] == 503

    one.start()
    until(one.health, lambda answer: answer[0] == 200)
    one.stop()

    status, document = one.health()
    assert (status, document["reasons"]) == (503, ["the consumer is not running"])


def test_a_consumer_that_drains_says_so_and_is_not_red(published, evkit_topic, running, gate):
    topic = evkit_topic()
    published(*events(topic, 1))
    one = running(topic, gate.handle).start()
    assert gate.at.wait(60)

    one.consumer.stop()

    status, document = until(one.health, lambda answer: answer[1]["reasons"] != [])
    assert (status, document["reasons"]) == (200, ["was told to stop and finishes what is in hand"])


def test_what_ended_the_consumer_is_red_with_its_sentence(published, evkit_topic, running):
    topic = evkit_topic()
    published(*events(topic, 1))

    def hungry(event, tx):
        raise MemoryError("no more")

    one = running(topic, hungry).start()

    until(lambda: one.error, bool)
    status, document = one.health()
    assert (status, document["reasons"]) == (503, ["stopped: no more"])


def test_a_lane_that_ends_while_the_others_go_on_is_red(published, evkit_topic, running):
    topic = evkit_topic()
    published(*events(topic, 1))

    def leaves(event, tx):
        raise session.Stopped

    one = running(topic, leaves, concurrency=2).start()

    ended = ["1 of 2 lanes ended: what they had in hand does not move"]
    until(one.health, lambda answer: answer[0] == 503 and answer[1]["reasons"] == ended)


def test_while_postgresql_is_away_it_is_degraded_at_first_then_red_and_well_again(
    evkit_system, published, evkit_topic, running, monkeypatch
):
    monkeypatch.setattr(consumer_health, "WAIT_SECONDS", 600.0)
    topic = evkit_topic()
    with TcpProxy.to_dsn(evkit_system.settings.postgres_dsn) as proxy:
        system = System(Settings(postgres_dsn=proxy.dsn, kafka=evkit_system.settings.kafka, postgres_timeout_seconds=1))
        one = running(topic, system=system).start()
        until(one.health, lambda answer: answer[1]["partitions"] == 1)
        proxy.cut()
        published(*events(topic, 5))

        _, first = until(one.health, lambda answer: answer[1]["waits_for"] is not None)
        monkeypatch.setattr(consumer_health, "WAIT_SECONDS", 2.0)
        _, then = until(one.health, lambda answer: answer[1]["status"] == "red")
        found = one.metrics()
        proxy.restore()

        assert first["status"] == "degraded"
        assert "PostgreSQL" in then["reasons"][0]
        assert "s3cret" not in then["reasons"][0]
        assert then["waits_seconds"] > 2
        assert (found["database_readable",], found["broker_readable",]) == (0, 1)
        assert found["waiting_seconds",] > 2
        until(one.metrics, lambda m: m["events_total", "handled", "false"] == 5)
        until(one.health, lambda answer: answer[1]["status"] == "ok")


def test_a_consumer_without_brokers_at_its_start_waits_and_is_red_after_a_while(
    evkit_system, evkit_topic, running, monkeypatch
):
    monkeypatch.setattr(consumer_health, "WAIT_SECONDS", 600.0)
    nobody = Settings(
        postgres_dsn=evkit_system.settings.postgres_dsn,
        kafka={"bootstrap.servers": "127.0.0.1:9"},
        kafka_timeout_seconds=0.5,
    )
    one = running(evkit_topic(), system=System(nobody)).start()

    _, first = until(one.health, lambda answer: answer[1]["waits_for"] is not None)
    monkeypatch.setattr(consumer_health, "WAIT_SECONDS", 2.0)
    _, then = until(one.health, lambda answer: (answer[1]["waits_seconds"] or 0) > 2)

    assert (first["status"], then["status"]) == ("degraded", "red")
    assert "127.0.0.1:9" in then["reasons"][0]
    assert one.metrics()["broker_readable",] == 0


@PROTOCOLS
def test_a_broker_that_hangs_is_waited_for_also_on_an_idle_topic(
    evkit_system, evkit_topic, evkit_group, own_stack, running, monkeypatch, protocol
):
    """The client itself says nothing for a minute."""
    monkeypatch.setattr(consumer_health, "WAIT_SECONDS", 3.0)
    settings = Settings(
        postgres_dsn=evkit_system.settings.postgres_dsn,
        kafka={"bootstrap.servers": own_stack.kafka_bootstrap_servers},
        kafka_timeout_seconds=2,
    )
    kafka.create_topics(settings, {(topic := f"idle-{protocol}"): 1})
    one = running(topic, system=System(settings), protocol=protocol).start()
    until(one.health, lambda answer: answer[1]["partitions"] == 1)

    pause(own_stack.kafka_pid)
    try:
        _, document = until(one.health, lambda answer: answer[1]["status"] == "red")
    finally:
        resume(own_stack.kafka_pid)

    assert "no Kafka broker answers at 127.0.0.1" in document["reasons"][0]
    until(one.health, lambda answer: answer[1]["status"] == "ok")


@PROTOCOLS
@pytest.mark.parametrize("lacks", ["group", "topic"])
def test_a_right_that_is_lacking_is_red_until_it_is_given(evkit_secured_kafka, evkit_group, running, protocol, lacks):
    """The client says it once, and then tries on in silence."""
    user, group, topic = f"service-{protocol}-{lacks}", evkit_group(), evkit_secured_kafka.topic()
    settings = evkit_secured_kafka.settings(user, topic_metadata_refresh_interval_ms="1000")
    rights = {"group": ("READ", group), "topic": (["READ", "DESCRIBE"], topic)}
    evkit_secured_kafka.allow(user, ["READ", "DESCRIBE"], topic="elsewhere")  # so that a broker answers at the start
    for name, (operations, resource) in rights.items():
        if name != lacks:
            evkit_secured_kafka.allow(user, operations, **{name: resource})

    one = running(topic, system=System(settings), protocol=protocol, group=group).start()

    _, document = until(one.health, lambda answer: answer[0] == 503 and "refuses" in str(answer[1]["reasons"]))
    assert f"{lacks.title()} authorization failed" in document["reasons"][0]
    operations, resource = rights[lacks]
    evkit_secured_kafka.allow(user, operations, **{lacks: resource})
    until(one.health, lambda answer: answer[1]["status"] == "ok" and answer[1]["partitions"] == 1)


@PROTOCOLS
def test_a_handler_that_hangs_is_red_with_what_it_holds_and_its_stack_is_in_the_log(
    published, evkit_topic, running, gate, caplog, protocol
):
    topic = evkit_topic()
    published(*events(topic, 3))
    gate.closed_for = {1}
    one = running(topic, gate.handle, protocol=protocol, hung_seconds=1.0).start()

    _, document = until(one.health, lambda answer: answer[0] == 503 and answer[1]["hung"])

    assert document["reasons"][0].startswith("a handler has not come back for ")
    assert document["reasons"][0].endswith(
        f"it is at a batch of 3 from {topic}/0 offset 0 on, and holds {topic}/0; its stack is in the log"
    )
    assert one.metrics()["handlers_hung",] == 1
    until(lambda: "self.open.wait(60)" in caplog.text)  # the poll loop says it in its next turn
    gate.open.set()
    until(one.health, lambda answer: answer[1]["status"] == "ok")


def test_a_slow_handler_does_not_hang(published, evkit_topic, running):
    topic = evkit_topic()
    published(*events(topic, 12))
    seen, called_at = [], []

    def slow(event, tx):
        called_at.append(time.monotonic())
        time.sleep(0.25)

    one = running(topic, slow, hung_seconds=1.0).start()

    def handled():
        seen.extend(one.health()[1]["hung"])
        return one.metrics()

    until(handled, lambda m: m["events_total", "handled", "false"] == 12)
    called_at.append(time.monotonic())

    # Where the machine itself stood still for a second, a handler did not come back for as long.
    assert seen == [] or max(later - earlier for earlier, later in pairwise(called_at)) > 0.9


def test_failures_retries_dead_letters_and_what_waits_behind_them_are_counted(
    evkit_system, published, evkit_topic, running
):
    topic = evkit_topic()
    published(*events(topic, 9))
    mended = threading.Event()

    def fails(event, tx):
        if event.payload["i"] == 0 and not mended.is_set():
            raise ValueError("no such account")

    one = running(topic, fails).start()

    found = until(
        one.metrics, lambda m: m["events_total", "parked", "false"] == 2 and m["events_total", "handled", "false"] == 6
    )

    assert found["events_total", "dead", "false"] == 1
    assert found["attempts_failed_total", "retry", "false"] == 1
    assert found["attempts_failed_total", "dead", "false"] == 1
    assert found["messaging_process_duration_seconds_count", "ValueError", "false"] == 2
    assert (found["parked",], found["parked_keys",]) == (2, 1)
    published(Event("a.b", "k1", {"i": 100}, topic=topic))  # what is parked is known from the last batch
    _, document = until(one.health, lambda answer: answer[1]["parked"])
    assert (document["status"], document["reasons"]) == (
        "degraded", ["events wait behind dead letters of their keys: `evkit dlq parked` shows which"],
    )  # fmt: skip

    mended.set()
    dead_letters.redrive(
        evkit_system, dead_letters.plan_redrive(evkit_system, Selection(group=one.consumer.group)), one.consumer
    )

    found = until(one.metrics, lambda m: m["events_total", "handled", "false"] == 7)
    assert found["events_total", "handled", "true"] == 3
    assert found["parked",] == 0


def test_what_a_replay_handles_again_is_counted_apart(evkit_system, published, evkit_topic, running):
    topic = evkit_topic()
    published(*events(topic, 5))
    one = running(topic).start()
    until(one.metrics, lambda m: m["events_total", "handled", "false"] == 5)
    one.stop()

    from_time = datetime.now(UTC) - timedelta(hours=1)
    plan = replay.plan(evkit_system, one.consumer.group, from_time, dedupe="again")
    replay.run(evkit_system, plan, one.consumer)

    found = one.metrics()
    assert (found["events_total", "handled", "false"], found["events_total", "handled", "true"]) == (5, 5)


def test_keys_that_wait_for_another_attempt_are_a_reason_and_not_red(published, evkit_topic, running):
    topic = evkit_topic()
    published(*events(topic, 3))

    def fails(event, tx):
        if event.key != "k0":
            raise ValueError(event.key)

    one = running(topic, fails, retry=Retry(attempts=2, backoff_seconds=1e6, backoff_seconds_max=1e6)).start()

    _, document = until(one.health, lambda answer: answer[1]["waiting_keys"] == 2)

    assert (document["status"], document["reasons"]) == (
        "degraded", ["2 keys wait for another attempt at a failed event"],
    )  # fmt: skip
    assert one.metrics()["retry_keys",] == 2


def test_full_parking_is_red(published, evkit_topic, running):
    topic = evkit_topic()
    published(*events(topic, 4, keys=1))

    def fails(event, tx):
        if event.payload["i"] == 0:
            raise ValueError("no such account")

    one = running(topic, fails, batch_events_max=1, parked_key_events_max=1).start()

    _, document = until(one.health, lambda answer: answer[1]["parking_full"])

    assert document["status"] == "red"
    assert "wait behind dead letter" in document["reasons"][0]
    assert one.metrics()["parking_full",] == 1


@pytest.fixture
def spans(monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return lambda name: [s for s in exporter.get_finished_spans() if s.name == name]


def test_a_trace_goes_from_the_writer_through_the_handler_to_what_it_writes(
    evkit_system, published, evkit_topic, new_consumer, consumed, spans, rows
):
    topic, follow_up = evkit_topic(), evkit_topic("follow")
    with trace.get_tracer("shop").start_as_current_span("place order") as writer:
        published(Event("a.b", "k", {"i": 0}, topic=topic))
    published(Event("a.b", "k", {"i": 1}, topic=topic))  # by somebody without a trace
    consumer = new_consumer(topic)

    @consumer.handler("a.b")
    def bill(event, tx):
        with trace.get_tracer("shop").start_as_current_span(f"bill {event.payload['i']}"):
            pass
        tx.write(Event("a.c", "k", {}, topic=follow_up))

    consumed(consumer, 2)

    (process,) = spans(f"process {topic}")
    assert [link.context.span_id for link in process.links] == [writer.get_span_context().span_id]
    assert process.attributes["messaging.consumer.group.name"] == consumer.group
    assert process.attributes["messaging.batch.message_count"] == 2
    assert spans("bill 1")[0].parent.span_id == process.context.span_id
    written = rows("SELECT DISTINCT traceparent FROM evkit.outbox WHERE topic = %s", follow_up)
    assert [w.split("-")[1:3] for (w,) in written] == [
        [f"{process.context.trace_id:032x}", f"{process.context.span_id:016x}"]
    ]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_event_that_fails_has_a_span_of_its_own_that_says_why(
    published, evkit_topic, new_consumer, consumed, spans, concurrency
):
    topic = evkit_topic()
    with trace.get_tracer("shop").start_as_current_span("place order") as writer:
        published(*events(topic, 3))
    consumer = new_consumer(topic, concurrency=concurrency, retry=Retry(attempts=2, backoff_seconds=0.001))

    @consumer.handler("a.b")
    def bill(event, tx):
        if event.payload["i"] == 1:
            raise KeyError("no such account")

    consumed(consumer, 3)

    failed = [s for s in spans(f"process {topic}") if "error.type" in s.attributes]
    assert {s.attributes["error.type"] for s in failed} == {"KeyError"}
    (alone,) = [s for s in failed if s.attributes.get("messaging.kafka.offset") == 1][-1:]
    assert [link.context.span_id for link in alone.links] == [writer.get_span_context().span_id]
    well = [s for s in spans(f"process {topic}") if "error.type" not in s.attributes]
    assert sum(s.attributes.get("messaging.batch.message_count", 1) for s in well) == 2


def test_relay_and_consumer_of_one_process_answer_on_one_port(evkit_system, evkit_topic, new_consumer):
    relay, consumer = Relay(evkit_system), new_consumer(evkit_topic())
    server = health.serve(relay, consumer)
    try:
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(server.url + "/health", timeout=60)
        document = json.load(answer.value)
        with urllib.request.urlopen(server.url + "/metrics", timeout=60) as page:
            text = page.read().decode()
    finally:
        server.close()

    assert document["reasons"] == [
        "relay: the relay is not running", f"consumer of {consumer.group}: the consumer is not running",
    ]  # fmt: skip
    assert "evkit_relay_leading{" in text
    assert f'evkit_consumer_running{{group="{consumer.group}"}} 0.0' in text
