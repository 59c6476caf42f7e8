"""The machinery of metrics: counts, levels and spreads by their attributes, in both spellings."""

from __future__ import annotations

import threading

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from evkit.errors import UsageError
from evkit.runtime import metrics
from evkit.runtime.metrics import OWN, Collector, Count, Level, Metric, Reading, Sample, Spread


class Bakery:
    """A part of its own kind, with one metric of each."""

    def __init__(self, town="Brno"):
        self.baked, self.waiting, self.seconds = Count(), Level(), Spread((1, 10))
        self.town = town

    def reading(self):
        return BakeryReading(self, {"group": self.town})


class BakeryReading(Reading):
    metrics = (
        Metric("bakery.baked", "counter", "{loaf}", "Loaves.", OWN, "baked", attributes=("topic", "partition")),
        Metric("bakery.waiting", "gauge", "{person}", "People.", OWN, "waiting"),
        Metric("bakery.flour", "gauge", "By", "Flour.", "store", "flour"),
        Metric(
            "bakery.duration", "histogram", "s", "Time.", OWN, "seconds", attributes=("error_type",),
            constant=(("messaging.system", "oven"),),
        ),
    )  # fmt: skip

    def asked(self, metric):
        yield Sample(5.0, self.about)


def lines(*parts):
    registry = CollectorRegistry()
    registry.register(Collector(*parts))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_numbers_are_labelled_by_what_they_are_split_by_and_by_the_part_they_are_of():
    bakery = Bakery()
    bakery.baked.add(2, "rye", "0")
    bakery.baked.add(1, "rye", "0")
    bakery.baked.add(7, "rye", "1")
    bakery.waiting.set(4)
    bakery.seconds.observe(3, "")
    bakery.seconds.observe(30, "burnt")

    assert lines(bakery) == [
        'bakery_baked_total{group="Brno",partition="0",topic="rye"} 3.0',
        'bakery_baked_total{group="Brno",partition="1",topic="rye"} 7.0',
        'bakery_waiting{group="Brno"} 4.0',
        'bakery_flour_bytes{group="Brno"} 5.0',
        'bakery_duration_seconds_bucket{error_type="",group="Brno",le="1.0"} 0.0',
        'bakery_duration_seconds_bucket{error_type="",group="Brno",le="10.0"} 1.0',
        'bakery_duration_seconds_bucket{error_type="",group="Brno",le="+Inf"} 1.0',
        'bakery_duration_seconds_count{error_type="",group="Brno"} 1.0',
        'bakery_duration_seconds_sum{error_type="",group="Brno"} 3.0',
        'bakery_duration_seconds_bucket{error_type="burnt",group="Brno",le="1.0"} 0.0',
        'bakery_duration_seconds_bucket{error_type="burnt",group="Brno",le="10.0"} 0.0',
        'bakery_duration_seconds_bucket{error_type="burnt",group="Brno",le="+Inf"} 1.0',
        'bakery_duration_seconds_count{error_type="burnt",group="Brno"} 1.0',
        'bakery_duration_seconds_sum{error_type="burnt",group="Brno"} 30.0',
    ]


def test_opentelemetry_is_given_the_names_of_its_conventions_and_no_empty_attribute():
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    bakery = Bakery()
    metrics.export(bakery, provider)
    bakery.baked.add(2, "rye", "0")
    bakery.seconds.observe(3, "")
    bakery.seconds.observe(30, "burnt")

    (resource,) = reader.get_metrics_data().resource_metrics
    points = {
        metric.name: [dict(p.attributes) for p in metric.data.data_points]
        for metric in resource.scope_metrics[0].metrics
    }
    provider.shutdown()

    of_group = {"messaging.consumer.group.name": "Brno"}
    assert points["bakery.baked"] == [
        of_group | {"messaging.destination.name": "rye", "messaging.destination.partition.id": "0"}
    ]
    assert points["bakery.duration"] == [
        of_group | {"messaging.system": "oven"},
        of_group | {"messaging.system": "oven", "error.type": "burnt"},
    ]


def test_two_kinds_of_parts_are_exported_side_by_side():
    class Mill(Bakery):
        def reading(self):
            return MillReading(self, {"outbox": "here"})

    class MillReading(Reading):
        metrics = (Metric("mill.ground", "counter", "{sack}", "Sacks.", OWN, "baked"),)

    mill = Mill()
    mill.baked.add(1)

    assert lines(Bakery(), mill)[-1] == 'mill_ground_total{outbox="here"} 1.0'


def test_two_parts_that_would_tell_their_numbers_under_one_name_are_refused():
    assert len(lines(Bakery("Brno"), Bakery("Zlín"))) == 2

    with pytest.raises(UsageError, match="two parts with group=Brno"):
        Collector(Bakery("Brno"), Bakery("Brno"))


def test_a_spread_that_has_begun_is_there_before_its_first_value():
    bakery = Bakery()
    assert not bakery.seconds.read()

    bakery.seconds.begin("")

    assert bakery.seconds.read() == {("",): ([(1.0, 0), (10.0, 0), (float("inf"), 0)], 0.0)}


def test_threads_that_add_at_the_same_time_lose_nothing():
    count = Count()
    threads = [threading.Thread(target=lambda: [count.add() for _ in range(20_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert count.value == 80_000
