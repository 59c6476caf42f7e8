"""A consumer's numbers from one list, exported twice; servers are asked through functions of the test."""

from __future__ import annotations

import gc
import re

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from evkit.errors import BrokerUnreachable, DatabaseUnreachable
from evkit.runtime import consumer_metrics, metrics
from evkit.runtime.consumer_metrics import (
    BROKER,
    DATABASE,
    METRICS,
    PARTITION,
    STANDING,
    ConsumerMetrics,
    ConsumerReading,
)
from evkit.runtime.metrics import OWN, Collector
from evkit.runtime.outcome import Counts, HandlerRaised
from evkit.runtime.standing import PartitionStanding, Standing
from evkit.settings import Settings
from evkit.system import System

PARTITION_3 = PartitionStanding(
    "order", 3, buffered=40, buffered_bytes=4000, in_hand=5, span=12, paused=True, position=100, lag=60,
    still_seconds=1.5,
)  # fmt: skip
NEW = PartitionStanding(
    "order", 4, buffered=0, buffered_bytes=0, in_hand=0, span=0, paused=False, position=None, lag=None,
    still_seconds=0.0,
)  # fmt: skip


class Consumer:
    """What the export sees of a consumer."""

    def __init__(self, group="billing"):
        self.group = group
        self.system = System(Settings(postgres_dsn="postgresql://db:5432/bills", kafka={"bootstrap.servers": "b:9092"}))
        self.metrics = ConsumerMetrics()
        self.now = Standing(running=True, partitions=(PARTITION_3, NEW), polled={("order", 3): 140, ("order", 9): 7})

    def standing(self):
        return self.now

    def reading(self):
        return ConsumerReading(self)


@pytest.fixture
def consumer(monkeypatch):
    """A consumer whose broker says 60 and whose database 2 parked events, or raises what the test puts there."""
    said = {"committed": {("order", 3): 90}, "ends": {("order", 3): 160}, "parked": (2, 1)}

    def answer(what):
        if isinstance(said[what], Exception):
            raise said[what]
        return said[what]

    def ends(settings, partitions, client):
        assert [(p.topic, p.partition) for p in partitions] == [("order", 3)]
        return answer("ends")

    def committed(settings, group, partitions):
        assert {(p.topic, p.partition) for p in partitions} == {("order", 3), ("order", 4)}  # those that it has
        return answer("committed")

    class Connection:
        def execute(self, *_):
            return self

        def fetchone(self):
            return answer("parked")

        def __enter__(self):
            answer("parked")
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(consumer_metrics.kafka, "committed", committed)
    monkeypatch.setattr(consumer_metrics.kafka, "offsets", ends)
    monkeypatch.setattr(System, "reading", lambda _: Connection())
    made = Consumer()
    made.said = said
    return made


def scraped(*consumers):
    registry = CollectorRegistry()
    registry.register(Collector(*consumers))
    text = generate_latest(registry).decode()
    return {
        (s.name, *(v for k, v in sorted(s.labels.items()) if k != "group")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }, text


def test_every_number_in_the_list_has_its_source():
    sources = {m.source for m in METRICS}
    assert sources == {OWN, STANDING, PARTITION, BROKER, DATABASE}
    assert {m.key for m in METRICS if m.source == OWN} == set(vars(ConsumerMetrics()))
    assert {m.key for m in METRICS if m.source == STANDING} == set(consumer_metrics._OF_CONSUMER)
    assert {m.key for m in METRICS if m.source == PARTITION} - {"polled"} < set(PartitionStanding.__slots__)
    assert len({m.name for m in METRICS}) == len(METRICS)


def test_only_bounded_things_are_labels():
    assert {a for m in METRICS for a in m.attributes} == {
        "outcome", "replay", "disposition", "error_type", "kind", "topic", "partition",
    }  # fmt: skip


def test_names_in_prometheus_end_with_their_unit(consumer):
    _, text = scraped(consumer)

    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert names == {
        "evkit_consumer_events_total", "evkit_consumer_conflicting_total", "evkit_consumer_attempts_failed_total",
        "messaging_process_duration_seconds", "evkit_consumer_batch_size", "evkit_consumer_rebalances_total",
        "messaging_client_consumed_messages_total", "evkit_consumer_running", "evkit_consumer_waiting_seconds",
        "evkit_consumer_partitions_assigned", "evkit_consumer_partitions_paused", "evkit_consumer_partitions_stuck",
        "evkit_consumer_in_hand", "evkit_consumer_handlers_hung", "evkit_consumer_retry_keys",
        "evkit_consumer_breaker_open", "evkit_consumer_parking_full", "evkit_consumer_buffered",
        "evkit_consumer_buffered_size_bytes", "evkit_consumer_inflight_span", "evkit_consumer_position",
        "evkit_consumer_lag", "evkit_consumer_lag_committed", "evkit_consumer_progress_age_seconds",
        "evkit_consumer_broker_readable", "evkit_consumer_parked", "evkit_consumer_parked_keys",
        "evkit_consumer_database_readable",
    }  # fmt: skip


def test_events_are_counted_by_their_end_and_replays_apart(consumer):
    consumer.metrics.ended(Counts(handled=7, duplicate=2, conflicting=1), replay=False)
    consumer.metrics.ended(Counts(handled=3, parked=1), replay=True)
    consumer.metrics.failed("retry", replay=False)

    found, text = scraped(consumer)

    assert found["evkit_consumer_events_total", "handled", "false"] == 7
    assert found["evkit_consumer_events_total", "handled", "true"] == 3
    assert found["evkit_consumer_events_total", "duplicate", "false"] == 2
    assert found["evkit_consumer_events_total", "dead", "false"] == 0
    assert found["evkit_consumer_conflicting_total", "false"] == 1
    assert found["evkit_consumer_attempts_failed_total", "retry", "false"] == 1
    assert 'evkit_consumer_events_total{group="billing",outcome="handled",replay="false"} 7.0' in text


def test_a_transaction_is_timed_counted_and_named_by_what_the_handler_raised(consumer):
    with consumer.metrics.processing("billing", (1 / 0 for _ in [1]), 40, None):
        pass
    with pytest.raises(HandlerRaised), consumer.metrics.processing("billing", (), 40, "replay-1"):
        raise HandlerRaised from KeyError("x")
    with pytest.raises(ValueError), consumer.metrics.processing("billing", (), 1, None):  # noqa: PT011
        raise ValueError from KeyError("what the handler says was the reason")

    found, _ = scraped(consumer)

    assert found["messaging_process_duration_seconds_count", "", "false"] == 1
    assert found["messaging_process_duration_seconds_count", "KeyError", "true"] == 1
    assert found["messaging_process_duration_seconds_count", "ValueError", "false"] == 1
    assert found["evkit_consumer_batch_size_sum", "false"] == 41
    assert found["evkit_consumer_batch_size_sum", "true"] == 40


def test_partitions_tell_how_they_stand_and_what_is_not_known_is_absent(consumer):
    found, text = scraped(consumer)

    assert found["evkit_consumer_partitions_assigned",] == 2
    assert found["evkit_consumer_partitions_paused",] == 1
    assert found["evkit_consumer_in_hand",] == 5
    assert found["evkit_consumer_buffered", "3", "order"] == 40
    assert found["evkit_consumer_buffered_size_bytes", "3", "order"] == 4000
    assert found["evkit_consumer_inflight_span", "3", "order"] == 12
    assert found["evkit_consumer_position", "3", "order"] == 100
    assert found["evkit_consumer_lag", "3", "order"] == 60
    assert found["evkit_consumer_progress_age_seconds", "3", "order"] == 1.5
    assert found["evkit_consumer_progress_age_seconds", "4", "order"] == 0
    assert ("evkit_consumer_lag", "4", "order") not in found
    assert found["messaging_client_consumed_messages_total", "3", "order"] == 140
    assert found["messaging_client_consumed_messages_total", "9", "order"] == 7  # was ours
    assert 'evkit_consumer_lag{group="billing",partition="3",topic="order"} 60.0' in text


def test_the_lag_that_the_broker_sees_and_what_is_parked_stand_beside_it(consumer):
    found, _ = scraped(consumer)

    assert found["evkit_consumer_lag_committed", "3", "order"] == 70
    assert ("evkit_consumer_lag_committed", "4", "order") not in found  # nothing is committed
    assert (found["evkit_consumer_parked",], found["evkit_consumer_parked_keys",]) == (2, 1)
    assert (found["evkit_consumer_broker_readable",], found["evkit_consumer_database_readable",]) == (1, 1)


def test_while_servers_are_away_the_consumers_own_numbers_are_still_there(consumer, caplog):
    consumer.said |= {
        "committed": BrokerUnreachable("b:9092", "refused"),
        "parked": DatabaseUnreachable("db:5432/bills", "refused"),
    }

    found, _ = scraped(consumer)

    assert (found["evkit_consumer_broker_readable",], found["evkit_consumer_database_readable",]) == (0, 0)
    assert found["evkit_consumer_lag", "3", "order"] == 60
    assert not [name for name, *_ in found if name in ("evkit_consumer_lag_committed", "evkit_consumer_parked")]
    assert len(re.findall("cannot be asked", caplog.text)) == 2


def test_servers_are_asked_once_in_a_while_and_not_before_the_consumer_has_started(consumer, monkeypatch):
    registry = CollectorRegistry()
    registry.register(Collector(consumer))
    consumer.said["committed"] = BrokerUnreachable("b:9092", "refused")
    generate_latest(registry)
    consumer.said["committed"] = {}
    assert b'evkit_consumer_broker_readable{group="billing"} 0.0' in generate_latest(registry)

    monkeypatch.setattr(metrics, "ASK_SECONDS", 0)
    consumer.said["ends"] = {}
    monkeypatch.setattr(consumer_metrics.kafka, "offsets", lambda *_, **__: {})
    assert b'evkit_consumer_broker_readable{group="billing"} 1.0' in generate_latest(registry)

    consumer.system = None
    assert b"evkit_consumer_broker_readable{" not in generate_latest(registry)


def test_openmetrics_takes_every_family(consumer):
    registry = CollectorRegistry()
    registry.register(Collector(consumer))

    assert openmetrics(registry).decode().endswith("# EOF\n")


def test_opentelemetry_observes_the_same_under_the_names_of_its_conventions(consumer):
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    metrics.export(consumer, provider)
    with consumer.metrics.processing("billing", (), 40, None):
        pass

    def points():
        data = reader.get_metrics_data()
        scopes = data.resource_metrics[0].scope_metrics if data else ()
        return {m.name: list(m.data.data_points) for scope in scopes for m in scope.metrics}

    found = points()
    assert set(found) == {m.name for m in METRICS}
    (lag,) = found["evkit.consumer.lag"]
    assert (lag.value, dict(lag.attributes)) == (
        60,
        {
            "messaging.consumer.group.name": "billing",
            "messaging.destination.name": "order",
            "messaging.destination.partition.id": "3",
        },
    )
    (took,) = found["messaging.process.duration"]
    assert dict(took.attributes) == {
        "messaging.system": "kafka", "messaging.operation.name": "process",
        "messaging.consumer.group.name": "billing", "replay": "false",
    }  # fmt: skip
    assert dict(found["messaging.client.consumed.messages"][0].attributes)["messaging.operation.name"] == "poll"
    provider.shutdown()


def test_a_consumer_that_is_gone_is_not_observed_any_more():
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    consumer = Consumer()
    metrics.export(consumer, provider)
    consumer.system = None

    del consumer
    gc.collect()

    assert reader.get_metrics_data() is None or not reader.get_metrics_data().resource_metrics
    provider.shutdown()
