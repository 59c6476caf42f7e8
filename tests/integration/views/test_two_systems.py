"""Two systems in one process, each with a PostgreSQL and a Kafka of its own: what one shows is nothing of the other."""

from __future__ import annotations

import threading

import pytest

import evkit
from evkit import Consumer, Event, Relay, kafka, outbox, postgres, views
from tests.relaying import drain

ASKED = (
    "lag",
    "lag_groups",
    "consumer_status",
    "publish_rate",
    "latency",
    "outbox",
    "errors",
    "throughput",
    "audit_counts",
)


@pytest.fixture(scope="module")
def servers(evkit_stack, own_stack):
    """Two clusters; in both databases are tables of evkit."""
    postgres.migrate(own_stack.postgres_dsn)
    return own_stack


@pytest.fixture
def both(servers, evkit_database, evkit_stack, tmp_path, monkeypatch):
    """The systems of two profiles, with the same names of topic and group, and other numbers."""
    profiles = {
        "here": (evkit_database, evkit_stack.kafka_bootstrap_servers),
        "there": (servers.postgres_dsn, servers.kafka_bootstrap_servers),
    }
    text = "".join(
        f'[profiles.{name}]\npostgres_dsn = "{dsn}"\n[profiles.{name}.kafka]\n"bootstrap.servers" = "{at}"\n'
        for name, (dsn, at) in profiles.items()
    )
    (tmp_path / "evkit.toml").write_text(text)
    monkeypatch.setenv("EVKIT_CONFIG", str(tmp_path / "evkit.toml"))
    return evkit.connect("here"), evkit.connect("there")


def play(system, topic, group, n, failing):
    """n events, of which the first ones fail and die."""
    with system.writing() as connection:
        events = [Event("order.placed", f"{system.settings.profile}-{i}", {"i": i}, topic=topic) for i in range(n)]
        outbox.write_many(connection, events)
    relay = Relay(system)
    drain(relay)
    relay.close()
    consumer = Consumer(group, [topic], system=system, retry=evkit.Retry(attempts=1), breaker=None)

    @consumer.handler("order.placed")
    def handle(event, tx):
        if event.payload["i"] < failing:
            raise ValueError(system.settings.profile)

    while consumer.counts.total < n:
        consumer.step(1.0)
    consumer.close()


def shown(system, group, topic):
    frames = {name: getattr(views, name)(system) for name in ASKED}
    of_group = frames["audit_counts"].filter(group=group)
    assert frames["lag"].filter(group=group)["end_offset"].to_list() == of_group["published"].to_list()
    return {
        "written": frames["publish_rate"].filter(topic=topic)["written"].sum(),
        "keys": sorted(frames["outbox"]["key"].to_list()),
        "failed": sorted(set(frames["errors"]["error_message"].to_list())),
        "errors": frames["errors"].height,
        "latency": frames["latency"].filter(group=group)["n"].to_list(),
        "groups": sorted(set(frames["audit_counts"]["group"].drop_nulls().to_list())),
    }


def test_frames_of_two_systems_do_not_mix_also_when_both_are_asked_at_once(both, evkit_topic, evkit_group):
    here, there = both
    topic, group = evkit_topic("order"), evkit_group("billing")
    kafka.create_topics(there.settings, {topic: 1})
    for system, n, failing in ((here, 7, 2), (there, 4, 1)):
        play(system, topic, group, n, failing)
    alone = [shown(system, group, topic) for system in both]
    found, errors = {0: [], 1: []}, []

    def ask(which):
        try:
            found[which].extend(shown(both[which], group, topic) for _ in range(3))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(which,)) for which in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert alone[0] == {"written": 7, "keys": [f"here-{i}" for i in range(7)], "failed": ["here"], "errors": 2,
                        "latency": [5], "groups": [group]}  # fmt: skip
    assert alone[1] == {"written": 4, "keys": [f"there-{i}" for i in range(4)], "failed": ["there"], "errors": 1,
                        "latency": [3], "groups": [group]}  # fmt: skip
    for which in (0, 1):
        assert found[which] == [alone[which]] * 6
    assert kafka.cluster_id(here.settings) != kafka.cluster_id(there.settings)
