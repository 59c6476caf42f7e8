"""The endpoint: what the parts of a process say of themselves, over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import urllib.error
import urllib.request

import pytest

from evkit.errors import DatabaseUnreachable, UsageError
from evkit.runtime import outbox
from evkit.runtime.consumer_health import ConsumerHealth
from evkit.runtime.health import serve
from evkit.runtime.relay_health import RelayHealth
from evkit.runtime.relay_metrics import RelayMetrics, RelayReading
from evkit.runtime.standing import Standing
from evkit.settings import Settings
from evkit.system import System

WELL = {"alive": True, "leading": True, "last_loop_seconds": 0.1, "lease_seconds": 10.0}


class Relay:
    def __init__(self):
        dsn = "postgresql://ops:s3cret@db:5432/orders"
        self.system = System(Settings(postgres_dsn=dsn, kafka={"bootstrap.servers": "b:9092"}))
        self.metrics = RelayMetrics()
        self.said = RelayHealth.of(**WELL)

    def reading(self):
        return RelayReading(self)

    def health(self):
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


@pytest.fixture
def relay(monkeypatch):
    def away(*_, **__):
        raise DatabaseUnreachable("db:5432/orders", "refused")

    monkeypatch.setattr(outbox, "status", away)
    return Relay()


@pytest.fixture
def server(relay):
    running = serve(relay)
    yield running
    running.close()


def get(server, path, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, headers=headers), timeout=60) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_health_is_200_while_ok_and_503_while_red(relay, server):
    status, headers, body = get(server, "/health")
    assert (status, headers["Content-Type"], json.loads(body)["status"]) == (200, "application/json", "ok")

    relay.said = RelayHealth.of(**(WELL | {"last_loop_seconds": 99.0}))
    status, _, body = get(server, "/health")
    assert status == 503
    assert json.loads(body) == {
        "status": "red", "ok": False, "reasons": ["the relay's loop was silent for 99.0 s; its lease is 10 s"],
        "leading": True, "last_loop_seconds": 99.0, "lease_seconds": 10.0, "waits_for": None, "waits_seconds": None,
        "held_keys": 0,
    }  # fmt: skip


def test_a_relay_that_cannot_be_asked_is_not_well(relay, server):
    relay.said = RuntimeError("password=s3cret")

    status, _, body = get(server, "/health")

    assert status == 503
    assert "RuntimeError" in body
    assert "s3cret" not in body


def test_health_answers_while_a_scrape_waits_for_the_database(relay, server, monkeypatch):
    asked, go_on = threading.Event(), threading.Event()

    def slow(*_, **__):
        asked.set()
        go_on.wait(30)
        raise DatabaseUnreachable("db:5432/orders", "refused")

    monkeypatch.setattr(outbox, "status", slow)
    scrape = threading.Thread(target=get, args=(server, "/metrics"))
    scrape.start()
    try:
        assert asked.wait(30)
        assert get(server, "/health")[0] == 200
    finally:
        go_on.set()
        scrape.join()


def test_metrics_are_prometheus_text_or_openmetrics(relay, server):
    relay.metrics.published.add(12)

    status, headers, body = get(server, "/metrics")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert 'evkit_relay_published_total{outbox="db:5432/orders"} 12.0' in body

    _, headers, body = get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_a_process_with_several_parts_is_red_as_soon_as_one_of_them_is(relay):
    consumer = Relay()
    consumer.system = System(Settings(postgres_dsn="postgresql://db:5432/bills", kafka={"bootstrap.servers": "b:9092"}))
    consumer.said = ConsumerHealth.of("billing", Standing(running=True, last_loop_seconds=0.1))
    relay.said = RelayHealth.of(**(WELL | {"held_keys": 1}))
    both = serve(relay, consumer)
    try:
        status, _, body = get(both, "/health")
        assert (status, json.loads(body)["status"]) == (200, "degraded")

        consumer.said = ConsumerHealth.of("billing", Standing())
        status, _, body = get(both, "/health")
        document = json.loads(body)
        assert (status, document["status"]) == (503, "red")
        assert document["reasons"][0] == "consumer of billing: the consumer is not running"
        assert document["reasons"][1].startswith("relay: 1 key is held")
        assert [(part["part"], part["status"]) for part in document["parts"]] == [
            ("relay", "degraded"),
            ("consumer of billing", "red"),
        ]
    finally:
        both.close()


def test_head_has_no_body_and_another_path_says_what_there_is(server):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    connection.request("HEAD", "/health")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    connection.close()

    assert get(server, "/")[0] == 404
    assert "/health and /metrics" in get(server, "/")[2]
    assert get(server, "/health?verbose=1")[0] == 200


def test_a_port_that_is_taken_is_one_sentence(relay):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"cannot answer on 127.0.0.1:{port} .*give another --http-port"):
            serve(relay, port=port)
    for host, port in (("203.0.113.7", 0), ("127.0.0.1", 99_999)):
        with pytest.raises(UsageError, match="cannot answer on"):
            serve(relay, host=host, port=port)


def test_it_listens_on_this_machine_alone_and_is_gone_after_close(relay):
    server = serve(relay)
    assert server.host == "127.0.0.1"

    server.close()
    server.close()

    with pytest.raises(OSError, match="refused"):
        socket.create_connection((server.host, server.port), timeout=5)


def test_ipv6(relay):
    try:
        server = serve(relay, host="::1")
    except UsageError:
        pytest.skip("needs IPv6 on the loopback interface")
    try:
        assert get(server, "/health")[0] == 200
    finally:
        server.close()
