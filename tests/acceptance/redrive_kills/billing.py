"""The service whose redrive is killed: a handler that is broken while REDRIVE_BROKEN is set, and that a redrive
finds slow enough to be met by a kill."""

from __future__ import annotations

import os
import time

from evkit import Consumer, Retry
from evkit.runtime import ramp

# So that some of a hundred letters are begun while the handlers of those before them run.
ramp.BATCH_LETTERS_MAX, ramp.RAMP = 8, (1, 10)

consumer = Consumer(
    os.environ["REDRIVE_GROUP"],
    [os.environ["REDRIVE_TOPIC"]],
    retry=Retry(attempts=1),
    breaker=None,
    batch_events_max=50,
)
broken = os.environ.get("REDRIVE_BROKEN") == "1"


@consumer.handler("order.placed")
def bill(event, tx):
    if broken and event.payload["bad"]:
        raise ValueError("the bug")
    if tx.is_replay:
        time.sleep(0.005)
    # A counter that is read and written back: handled twice, or out of order, it shows.
    tx.execute("INSERT INTO bill (grp, key, i) VALUES (%s, %s, %s)", (tx.group, event.key, event.payload["i"]))
    tx.execute(
        "INSERT INTO total AS t VALUES (%s, %s, %s) ON CONFLICT (grp, key) DO UPDATE SET n = t.n + EXCLUDED.n",
        (tx.group, event.key, event.payload["i"]),
    )
