"""A relay is red when it keeps every event from moving; the rest is a reason."""

from __future__ import annotations

import pytest

from evkit.runtime.relay_health import RelayHealth

WELL = {"alive": True, "leading": True, "last_loop_seconds": 0.1, "lease_seconds": 10.0}


@pytest.mark.parametrize("more", [{}, {"leading": False}])
def test_a_leader_and_a_standby_whose_loops_are_heard_are_well(more):
    health = RelayHealth.of(**(WELL | more))

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
    health = RelayHealth.of(**(WELL | more))

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
    health = RelayHealth.of(**(WELL | more))

    assert (health.ok, health.status) == (True, "degraded")
    assert health.reasons[0].startswith(reason)


def test_the_worst_reason_comes_first():
    health = RelayHealth.of(**(WELL | {"held_keys": 2, "waits_for": "PostgreSQL", "waits_seconds": 60}))

    assert [r.split()[0] for r in health.reasons] == ["waits", "2"]
