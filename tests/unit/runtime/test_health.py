"""Red is what stops every event; the rest is a reason. And the endpoint says so over HTTP."""

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
from evkit.runtime.health import Health, serve
from evkit.runtime.relay_metrics import RelayMetrics, RelayReading
from evkit.settings import Settings
from evkit.system import System

WELL = {"alive": True, "leading": True, "last_loop_seconds": 0.1, "lease_seconds": 10.0}


class Relay:
    def __init__(self):
        dsn = "postgresql://ops:s3cret@db:5432/orders"
        self.system = System(Settings(postgres_dsn=dsn, kafka={"bootstrap.servers": "b:9092"}))
        self.metrics = RelayMetrics()
        self.said = Health.of(**WELL)

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
        with urllib.request.urlopen(urllib.request.Request(server.url + path, headers=headers), timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


@pytest.mark.parametrize("more", [{}, {"leading": False}])
def test_a_leader_and_a_standby_whose_loops_are_heard_are_well(more):
    health = Health.of(**(WELL | more))

    assert (health.ok, health.status, health.reasons) == (True, "ok", [])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"alive": False}, "the relay is not running"),
        ({"last_loop_seconds": None}, "the relay's loop has not begun; its lease is 10 s"),
        ({"last_loop_seconds": 10.5}, "the relay's loop was silent for 10.5 s; its lease is 10 s"),
        ({"alive": False, "fatal": "no authorisation"}, "stopped: no authorisation"),
        (
            {"waits_for": "Kafka at b:9092: no answer", "waits_seconds": 11},
            "waits for 11.0 s: Kafka at b:9092: no answer",
        ),
    ],
)
def test_what_stops_every_event_is_red(more, reason):
    health = Health.of(**(WELL | more))

    assert (health.ok, health.status, health.reasons) == (False, "red", [reason])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"waits_for": "broker restarts", "waits_seconds": 9.0}, "waits for 9.0 s: broker restarts"),
        ({"held_keys": 1}, "1 key is held by unpublishable events"),
        ({"held_keys": 1200}, "1,200 keys are held by unpublishable events"),
    ],
)
def test_what_lets_the_others_flow_is_only_a_reason(more, reason):
    health = Health.of(**(WELL | more))

    assert (health.ok, health.status) == (True, "degraded")
    assert health.reasons[0].startswith(reason)


def test_the_worst_reason_comes_first():
    health = Health.of(**(WELL | {"held_keys": 2, "waits_for": "PostgreSQL", "waits_seconds": 60}))

    assert [r.split()[0] for r in health.reasons] == ["waits", "2"]


def test_health_is_200_while_ok_and_503_while_red(relay, server):
    status, headers, body = get(server, "/health")
    assert (status, headers["Content-Type"], json.loads(body)["status"]) == (200, "application/json", "ok")

    relay.said = Health.of(**(WELL | {"last_loop_seconds": 99.0}))
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


def test_head_has_no_body_and_another_path_says_what_there_is(server):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
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
            serve(relay, host, port)


def test_it_listens_on_this_machine_alone_and_is_gone_after_close(relay):
    server = serve(relay)
    assert server.host == "127.0.0.1"

    server.close()
    server.close()

    with pytest.raises(OSError, match="refused"):
        socket.create_connection((server.host, server.port), timeout=5)


def test_ipv6(relay):
    try:
        server = serve(relay, "::1")
    except UsageError:
        pytest.skip("needs IPv6 on the loopback interface")
    try:
        assert get(server, "/health")[0] == 200
    finally:
        server.close()
