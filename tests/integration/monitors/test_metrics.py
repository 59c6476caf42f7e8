"""evkit metrics: what the endpoint says on a real system, and the alert rules over it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from evkit import Consumer, Event, Relay, Retry, outbox
from evkit.cli.metrics import Measuring
from evkit.monitors import Thresholds
from evkit.monitors.exported import GAUGES
from evkit.monitors.rules import rule_file
from evkit.runtime import health
from evkit.system import System
from tests.relaying import drain

NAME = re.compile(r"\b(?:evkit|kafka)_\w+")
# What may be a label: there are as many of these as a system has, whatever flows through it.
LABELS = {"group", "topic", "partition", "event_type", "slo", "window", "status", "monitor"}
BOUNDS = Thresholds.of(
    {"slo": {s: {"objective": 0.9, "events_min": 1} for s in ("freshness", "correctness", "relay", "completeness")}}
)


def scraped(url, accept="application/openmetrics-text; version=1.0.0"):
    """The series by name: [(labels, value)]; the text must be valid OpenMetrics."""
    with urllib.request.urlopen(urllib.request.Request(f"{url}/metrics", headers={"Accept": accept})) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {f.name: [(x.labels, x.value) for x in f.samples] for f in families if f.samples}


@pytest.fixture
def served():
    servers = []

    def serve(loop):
        servers.append(health.serve(loop, collector=loop))
        return servers[-1].url

    yield serve
    for server in servers:
        server.close()


@pytest.fixture
def busy(evkit_system, evkit_topic, evkit_group):
    """A group with awkward names of types and keys, one dead letter, and a position that may still be filled."""
    topic, group = evkit_topic("order", partitions=2), evkit_group("billing")
    with evkit_system.writing() as connection:
        events = [Event('odd "type"\\', f"customer-{i}", {"i": i}, topic=topic) for i in range(10)]
        outbox.write_many(connection, events)
    relay = Relay(evkit_system)
    drain(relay)
    relay.close()
    consumer = Consumer(group, [topic], system=evkit_system, retry=Retry(attempts=1), breaker=None)

    @consumer.handler('odd "type"\\')
    def handle(event, tx):
        if event.payload["i"] == 3:
            raise ValueError("the bug")

    while consumer.counts.total < 10:
        consumer.step(1.0)
    consumer.close()
    with evkit_system.writing() as connection:
        connection.execute("UPDATE evkit.relay SET hole_position = 99, hole_since = now() - interval '1 minute'")
    return group, topic, [e.id for e in events]


def test_every_metric_of_the_rules_is_one_that_the_endpoint_has_and_no_id_or_key_is_a_label(evkit_system, busy, served):
    group, _, ids = busy
    loop = Measuring(evkit_system, BOUNDS, 15)
    url = served(loop)
    loop.step()

    series = scraped(url)

    asked = {n for rule in yaml.safe_load(rule_file(BOUNDS))["groups"][0]["rules"] for n in NAME.findall(rule["expr"])}
    assert asked <= set(series)
    assert set(series) <= {g.name.removesuffix("_total") for g in GAUGES}
    assert {label for found in series.values() for labels, _ in found for label in labels} <= LABELS
    values = {value for found in series.values() for labels, _ in found for value in labels.values()}
    assert not any(i in values for i in (*ids, "customer-3"))
    assert 'odd "type"\\' in values
    assert {(labels["group"], value) for labels, value in series["evkit_dead_letters_open"]} == {(group, 1)}
    lags = {
        labels["partition"]: value for labels, value in series["kafka_consumergroup_lag"] if labels["group"] == group
    }
    assert lags == {"0": 0, "1": 0}
    correct = {
        (labels["window"], value)
        for labels, value in series["evkit_slo_bad_events"]
        if (labels["slo"], labels["group"]) == ("correctness", group)
    }
    assert correct == {(w, 1) for w in ("5m", "30m", "1h", "6h", "3d")}


def total(series, slo, name="evkit_slo_events_judged"):
    return sum(value for labels, value in series[name] if labels["slo"] == slo)


def test_counters_of_objectives_grow_with_events_late_commits_too_and_begin_anew_with_the_process(
    evkit_system, busy, served
):
    """One event is written, and its deadline passes, while its transaction is open over two measurements."""
    _, topic, _ = busy
    bounds = Thresholds.of({"slo": {"relay": {"objective": 0.9, "target_seconds": 0.05}}})
    loop = Measuring(evkit_system, bounds, 15)
    url = served(loop)
    loop.step()
    before = scraped(url)
    with evkit_system.writing() as connection:
        outbox.write(connection, Event("order.placed", "late", {}, topic=topic))
        connection.execute("SELECT pg_sleep(0.1)")
        for _ in range(2):
            loop.step()
        while_open = scraped(url)
    loop.step()

    after = scraped(url)
    again = Measuring(evkit_system, bounds, 15)
    anew = served(again)
    again.step()

    assert [total(series, "relay") for series in (before, while_open, after)] == [0, 0, 1]
    assert total(after, "relay", "evkit_slo_events_good") == 0
    assert total(scraped(anew), "relay") == 0
    assert {labels["window"] for labels, _ in after["evkit_slo_bad_events"]} == {"5m", "30m", "1h", "6h", "3d"}


def test_a_scrape_asks_no_server(evkit_system, busy, served, monkeypatch):
    loop = Measuring(evkit_system, BOUNDS, 15)
    url = served(loop)
    loop.step()
    before = scraped(url)

    def asked(*_):
        raise AssertionError("a scrape asked PostgreSQL")

    monkeypatch.setattr(System, "reading", asked)
    monkeypatch.setattr(System, "admin", property(asked))

    assert scraped(url) == before


def test_what_cannot_be_measured_any_more_is_gone_and_not_what_it_was(evkit_system, busy, served):
    loop = Measuring(evkit_system, BOUNDS, 15)
    url = served(loop)
    loop.step()
    settings = evkit_system.settings.model_copy(update={"postgres_dsn": "postgresql://127.0.0.1:1/none"})
    loop._system = System(settings)
    before = scraped(url)
    loop.step()

    after = scraped(url)

    assert "evkit_outbox_pending_events" in before
    assert not [
        n for n in after if n.startswith(("evkit_outbox_", "evkit_slo_", "evkit_latency_", "evkit_dead_letters_"))
    ]
    gone = {labels["monitor"] for labels, value in after["evkit_monitor_measured"] if value == 0}
    assert gone >= {"relay_lag", "latency", "dead_letters", "slo"}
    assert {labels["monitor"]: v for labels, v in after["evkit_monitor_severity"]}["slo"] == 3
    assert after["evkit_measured_timestamp_seconds"][0][1] > before["evkit_measured_timestamp_seconds"][0][1]


def test_a_measurement_that_breaks_leaves_only_that_it_broke(evkit_system, served, monkeypatch):
    loop = Measuring(evkit_system, BOUNDS, 15)
    url = served(loop)

    def broken(*_, **__):
        raise MemoryError

    monkeypatch.setattr("evkit.views.measure", broken)
    loop.step()

    assert set(scraped(url)) == {"evkit_measured_timestamp_seconds", "evkit_measuring_failed"}


def test_the_command_answers_on_this_machine_alone_and_ends_when_told(evkit_system):
    environment = os.environ | {
        "EVKIT_POSTGRES_DSN": evkit_system.settings.postgres_dsn,
        "EVKIT_KAFKA_BOOTSTRAP_SERVERS": evkit_system.settings.bootstrap_servers,
    }
    command = [
        sys.executable,
        "-c",
        "from evkit.cli import main; main()",
        "metrics",
        "serve",
        "--port",
        "0",
        "--every",
        "1s",
    ]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        said = process.stderr.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", said)[0]
        with urllib.request.urlopen(f"{url}/health") as answer:
            assert json.load(answer)["ok"] is True
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait() == 0
