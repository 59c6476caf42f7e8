"""The service of tests/acceptance/test_replay_kill9.py: its consumer, and a process that runs one replay with it.

python app.py REPLAY_ID
"""

from __future__ import annotations

import os
import sys

import evkit
from evkit import Event, Retry

FAILS_EACH = 97

orders = evkit.Consumer(
    os.environ["KILLS_GROUP"], [os.environ["KILLS_TOPIC"]], batch_events_max=40, concurrency=2, retry=Retry(attempts=2)
)


@orders.handler("order.placed")
def place(event, tx):
    """An effect and a follow-up event each; one in ninety-seven cannot be handled in a replay."""
    number = event.payload["i"]
    tx.execute(
        "INSERT INTO effect (consumer_group, id, key, i, replay_id) VALUES (%s, %s, %s, %s, %s)",
        (tx.group, event.id, event.key, number, tx.replay_id),
    )
    tx.write(Event("order.billed", event.key, {"i": number}, topic="billed"))
    if number % FAILS_EACH == 0:
        raise ValueError("this one never")


if __name__ == "__main__":
    print(evkit.replay.resume(evkit.connect(), sys.argv[1], orders).summary())
