"""A consumer is red when its partitions do not move and will not soon; what the others flow past is a reason."""

from __future__ import annotations

import pytest

from evkit.runtime.consumer_health import ConsumerHealth
from evkit.runtime.standing import PartitionStanding, Standing

PARTITIONS = tuple(
    PartitionStanding(
        "order", n, buffered=0, buffered_bytes=0, in_hand=0, span=0, paused=False, position=7, lag=0, still_seconds=0.0
    )
    for n in range(3)
)
WELL = {"running": True, "last_loop_seconds": 0.1, "partitions": PARTITIONS}


def judged(more):
    return ConsumerHealth.of("billing", Standing(**(WELL | more)))


@pytest.mark.parametrize("more", [{}, {"partitions": ()}, {"last_loop_seconds": 29.9}])
def test_a_consumer_whose_loop_turns_is_well_also_without_partitions(more):
    health = judged(more)

    assert (health.ok, health.status, health.reasons) == (True, "ok", [])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"running": False}, "the consumer is not running"),
        ({"running": False, "fatal": "the database has no evkit tables"}, "stopped: the database has no evkit tables"),
        ({"last_loop_seconds": None}, "the poll loop has not begun"),
        ({"last_loop_seconds": 31}, "the poll loop was silent for 31.0 s; 30 s are allowed"),
        ({"lanes": 4, "lanes_ended": 1}, "1 of 4 lanes ended: what they had in hand does not move"),
        ({"waits_for": "PostgreSQL is away", "waits_seconds": 10.4}, "waits for 10.4 s: PostgreSQL is away"),
        ({"hung": ["a handler has been at it for 70 s"]}, "a handler has been at it for 70 s"),
        ({"parking_full": ["too many wait behind letter 7"], "parked": True}, "too many wait behind letter 7"),
        ({"refused": ["Kafka refuses: Group authorization failed"]}, "Kafka refuses: Group authorization failed"),
        ({"stuck": ["order/1 has not moved"]}, "order/1 has not moved"),
        (
            {"held": ["app.bill", "app.pay"]},
            "holds app.bill, app.pay, whose events fail alike on many keys: `evkit breaker list` says why; one is tried "
            "from time to time",
        ),
    ],
)
def test_what_keeps_partitions_from_moving_is_red(more, reason):
    health = judged(more)

    assert (health.ok, health.status, health.reasons) == (False, "red", [reason])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"waits_for": "broker restarts", "waits_seconds": 9.0}, "waits for 9.0 s: broker restarts"),
        ({"waiting_keys": 1}, "1 key waits for another attempt at a failed event"),
        ({"waiting_keys": 1200}, "1,200 keys wait for another attempt at a failed event"),
        ({"paused_for": "replay-1"}, "handles nothing while replay-1 runs: `evkit replay status replay-1`"),
        (
            {"parked": True},
            "events wait behind dead letters of their keys: `evkit dlq parked` shows which",
        ),
        (
            {"stopping": True, "last_loop_seconds": 99, "lanes_ended": 1},
            "was told to stop and finishes what is in hand",
        ),
    ],
)
def test_what_the_others_flow_past_is_only_a_reason(more, reason):
    health = judged(more)

    assert (health.ok, health.status, health.reasons) == (True, "degraded", [reason])


def test_the_worst_reason_comes_first_and_its_document_has_every_field():
    health = judged({"waiting_keys": 2, "waits_for": "PostgreSQL", "waits_seconds": 60})

    assert [r.split()[0] for r in health.reasons] == ["waits", "2"]
    assert health.part == "consumer of billing"
    assert health.document() == {
        "status": "red", "ok": False, "reasons": health.reasons, "group": "billing", "partitions": 3,
        "last_loop_seconds": 0.1, "waits_for": "PostgreSQL", "waits_seconds": 60, "refused": (),
        "hung": (), "stuck": (), "held": (),
        "waiting_keys": 2, "parked": False, "parking_full": (),
    }  # fmt: skip
