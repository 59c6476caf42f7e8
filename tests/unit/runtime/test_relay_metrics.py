"""One list of metrics, exported twice: to a Prometheus registry and to OpenTelemetry's in-memory reader."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from evkit.errors import DatabaseUnreachable
from evkit.runtime import metrics, outbox
from evkit.runtime.metrics import Collector
from evkit.runtime.relay_metrics import METRICS, RelayMetrics, RelayReading
from evkit.settings import Settings
from evkit.system import System

QUIET = dict.fromkeys(outbox._STATUS) | dict.fromkeys(("waiting", "scheduled", "due", "unpublishable", "held"), 0)


class Relay:
    """What the export sees of a relay."""

    def __init__(self, database="orders"):
        dsn = f"postgresql://ops:s3cret@db:5432/{database}"
        self.system = System(Settings(postgres_dsn=dsn, kafka={"bootstrap.servers": "b:9092"}))
        self.metrics = RelayMetrics()

    def reading(self):
        return RelayReading(self)


@pytest.fixture
def status(monkeypatch):
    """What the outbox says; `asked` counts how often."""
    said = SimpleNamespace(asked=0, now=dict(QUIET))

    def answer(system, *, counts=True):
        assert not counts, "a scrape must not count the whole table"
        said.asked += 1
        if isinstance(said.now, Exception):
            raise said.now
        return said.now

    monkeypatch.setattr(outbox, "status", answer)
    return said


def scraped(*relays):
    registry = CollectorRegistry()
    registry.register(Collector(*relays))
    text = generate_latest(registry).decode()
    return {
        (s.name, *(v for k, v in sorted(s.labels.items()) if k != "outbox")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }, text


def observed(provider_and_reader):
    data = provider_and_reader[1].get_metrics_data()
    points = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    points[(metric.name, *(v for k, v in sorted(point.attributes.items()) if k != "outbox"))] = point
    return points


@pytest.fixture
def sdk():
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    yield provider, reader
    provider.shutdown()


def test_every_metric_of_the_relay_is_counted_by_it_and_every_other_is_in_the_status():
    counted = set(vars(RelayMetrics()))

    assert {m.key for m in METRICS if m.source == "own"} == counted
    assert {m.key for m in METRICS if m.source == "status"} <= set(outbox._STATUS) | {"readable"}
    assert len({m.name for m in METRICS}) == len(METRICS)


def test_names_in_prometheus_end_with_their_unit(status):
    _, text = scraped(Relay())

    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert names == {
        "evkit_outbox_pending", "evkit_outbox_oldest_age_seconds", "evkit_outbox_scheduled", "evkit_outbox_due",
        "evkit_outbox_due_oldest_age_seconds", "evkit_outbox_unpublishable",
        "evkit_outbox_unpublishable_oldest_age_seconds", "evkit_outbox_held", "evkit_outbox_hole_age_seconds",
        "evkit_outbox_hole_pid", "evkit_outbox_readable", "evkit_relay_published_total",
        "evkit_relay_published_size_bytes_total", "evkit_relay_marked_total", "evkit_relay_failed_total",
        "evkit_relay_retried_total", "evkit_relay_redelivered_total", "evkit_relay_batches_total",
        "evkit_relay_leads_total", "evkit_relay_leading", "evkit_relay_queued",
        "evkit_relay_batch_duration_seconds", "evkit_relay_batch_size",
    }  # fmt: skip


def test_what_the_relay_counts_and_what_the_outbox_says_are_scraped_together(status):
    relay = Relay()
    relay.metrics.published.add(5000)
    relay.metrics.failed.add(1, "poison")
    relay.metrics.queued.set(2, "under_way")
    relay.metrics.batch_seconds.observe(0.03)
    relay.metrics.batch_seconds.observe(1000)
    status.now |= {"waiting": 7, "oldest_waiting_seconds": 1.5, "hole_pid": 4711, "oldest_hole_seconds": 30.0}

    found, text = scraped(relay)

    assert found["evkit_relay_published_total",] == 5000
    assert found["evkit_relay_failed_total", "poison"] == 1
    assert found["evkit_relay_failed_total", "fatal"] == 0
    assert found["evkit_relay_queued", "under_way"] == 2
    assert found["evkit_outbox_pending",] == 7
    assert found["evkit_outbox_oldest_age_seconds",] == 1.5
    assert found["evkit_outbox_hole_pid",] == 4711
    assert found["evkit_outbox_hole_age_seconds",] == 30
    assert found["evkit_relay_batch_duration_seconds_bucket", "0.025"] == 0
    assert found["evkit_relay_batch_duration_seconds_bucket", "0.05"] == 1
    assert found["evkit_relay_batch_duration_seconds_bucket", "+Inf"] == 2
    assert found["evkit_relay_batch_duration_seconds_sum",] == pytest.approx(1000.03)
    assert 'evkit_outbox_pending{outbox="db:5432/orders"} 7.0' in text
    assert "s3cret" not in text


def test_ages_of_what_is_not_there_are_zero_and_an_unknown_pid_is_absent(status):
    found, _ = scraped(Relay())

    assert found["evkit_outbox_oldest_age_seconds",] == 0
    assert found["evkit_relay_published_total",] == 0
    assert ("evkit_outbox_hole_pid",) not in found


def test_while_postgresql_is_away_the_relays_own_numbers_are_still_there(status, caplog):
    status.now = DatabaseUnreachable("db:5432/orders", "refused")

    found, _ = scraped(Relay())

    assert found["evkit_outbox_readable",] == 0
    assert found["evkit_relay_leading",] == 0
    assert ("evkit_outbox_pending",) not in found
    assert "cannot be asked for its metrics" in caplog.text


def test_one_scrape_asks_the_outbox_once_and_the_next_one_only_after_a_while(status, monkeypatch):
    registry = CollectorRegistry()
    registry.register(Collector(Relay()))
    assert status.asked == 0  # to register is not to scrape

    generate_latest(registry)
    generate_latest(registry)
    assert status.asked == 1

    monkeypatch.setattr(metrics, "ASK_SECONDS", 0)
    generate_latest(registry)
    assert status.asked > 1


def test_several_relays_of_one_process_differ_by_their_outbox(status):
    one, other = Relay("orders"), Relay("payments")
    one.metrics.published.add(1)
    other.metrics.published.add(2)

    _, text = scraped(one, other)

    assert 'evkit_relay_published_total{outbox="db:5432/orders"} 1.0' in text
    assert 'evkit_relay_published_total{outbox="db:5432/payments"} 2.0' in text
    assert text.count("# TYPE evkit_relay_published_total") == 1


def test_openmetrics_takes_every_family(status):
    registry = CollectorRegistry()
    registry.register(Collector(Relay()))

    assert openmetrics(registry).decode().endswith("# EOF\n")


def test_opentelemetry_observes_the_same_under_its_own_names(status, sdk):
    relay = Relay()
    assert metrics.export(relay, sdk[0])
    relay.metrics.published.add(3)
    relay.metrics.failed.add(1, "poison")
    relay.metrics.batch_events.observe(300)
    status.now["waiting"] = 7

    points = observed(sdk)

    assert points["evkit.relay.published",].value == 3
    assert points["evkit.relay.failed", "poison"].value == 1
    assert points["evkit.outbox.pending",].value == 7
    assert points["evkit.outbox.pending",].attributes["outbox"] == "db:5432/orders"
    assert (points["evkit.relay.batch.size",].count, points["evkit.relay.batch.size",].sum) == (1, 300)
    assert points["evkit.relay.batch.size",].explicit_bounds == relay.metrics.batch_events.bounds


def test_both_exports_have_the_same_metrics(status, sdk):
    relay = Relay()
    metrics.export(relay, sdk[0])
    relay.metrics.queued.set(1, "read")
    relay.metrics.batch_events.observe(1)
    relay.metrics.batch_seconds.observe(1)
    status.now["hole_pid"] = 1

    assert {name for name, *_ in observed(sdk)} == {m.name for m in METRICS}


def test_a_relay_exported_twice_is_counted_once_and_one_that_is_gone_no_more(status, sdk, caplog):
    relay = Relay()
    metrics.export(relay, sdk[0])
    metrics.export(relay, sdk[0])
    relay.metrics.batch_events.observe(1)

    assert observed(sdk)["evkit.relay.batch.size",].count == 1
    assert "already" not in caplog.text

    del relay
    gc.collect()
    assert ("evkit.relay.published",) not in observed(sdk)
