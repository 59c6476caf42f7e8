"""The service of the consumer's fault test: handlers of every form that write one row for each event they handle.

    FAULTS_GROUP=… FAULTS_TOPIC=… evkit consume service:lanes

Each attribute is a consumer of the same group, which takes the events in another form; `mended` is the release that is
deployed after the incident, whose handlers do not fail any more. The table `effect` has no constraint that could hide a
second effect. The row is written first, so that what fails has something to roll back. An event's payload says how often
its handler fails, and how long it takes:

    {"key": …, "n": …, "fails": 0, "error": "raise" or "sql", "seconds": 0}

With FAULTS_TRACE, a folder, every record that is handed in to be handled is noted there, in a file for each process.
"""

from __future__ import annotations

import os
import time

import evkit
from evkit.runtime.assignment import Work
from evkit.runtime.inbox import Inbox
from evkit.runtime.retry import Retry

TYPES = ("order.placed", "order.paid", "order.sent")  # order.ignored has no handler

ALWAYS = 99

_FAILED = "SELECT count(*) FROM evkit.attempt WHERE consumer_group = %s AND event_id = %s AND disposition <> 'held'"
_EFFECT = (
    "INSERT INTO effect (consumer_group, event_id, key, n, attempt, replay_id, form, pid)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
)


class Unlucky(Exception):
    """Raised for an event that fails only so often."""


class Broken(Exception):
    """Raised for an event that this release cannot handle."""


def _row(event, tx, form):
    payload = event.payload
    return (tx.group, event.id, payload["key"], payload["n"], tx.attempt, tx.replay_id, form, os.getpid())


def _fail_if_told(event, tx):
    payload = event.payload
    fails = payload["fails"]
    if payload["seconds"]:
        time.sleep(payload["seconds"])
    if 0 < fails < ALWAYS:
        # Until so many failures are written down: whatever was killed before it had said so has not happened.
        failed = tx.execute(_FAILED, (tx.group, event.id)).fetchone()[0]
        fails = max(0, fails - failed)
    if fails:
        if payload["error"] == "sql":
            tx.execute("SELECT 1 / 0")
        raise Broken(event.id) if fails == ALWAYS else Unlucky(event.id)


def one(event, tx):
    """Event by event."""
    tx.execute(_EFFECT, _row(event, tx, "one"))
    _fail_if_told(event, tx)


def pipelined(event, tx):
    """Event by event, statements sent without waiting for their answers."""
    tx.execute(_EFFECT, _row(event, tx, "pipelined"))
    _fail_if_told(event, tx)


def many(events, tx):
    """All events of a batch in one statement."""
    with tx.cursor() as cursor:
        cursor.executemany(_EFFECT, [_row(event, tx, "many") for event in events])
    for event in events:
        _fail_if_told(event, tx)


def repaired(event, tx):
    """What is deployed after the incident."""
    tx.execute(_EFFECT, _row(event, tx, "repaired"))


_attempt = Inbox.attempt


def _traced(inbox, sources, attempts=()):
    """A note of what is handed in; a line is one write, so a kill leaves no half of one."""
    for source in sources:
        record = source.record if isinstance(source, Work) else source
        os.write(_TRACE, f"{record.partition} {record.offset}\n".encode())
    return _attempt(inbox, sources, attempts)


def _consumer(**more):
    return evkit.Consumer(
        os.environ["FAULTS_GROUP"],
        [os.environ["FAULTS_TOPIC"]],
        retry=Retry(attempts=3, backoff_seconds=0.5, backoff_seconds_max=1.0),
        park_key=os.environ.get("FAULTS_PARK_KEY") != "no",
        protocol=os.environ.get("FAULTS_PROTOCOL", "consumer"),
        **more,
    )


_TRACE = 0
if folder := os.environ.get("FAULTS_TRACE"):
    _TRACE = os.open(f"{folder}/{os.getpid()}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    Inbox.attempt = _traced

plain = _consumer(batch_events_max=50)
plain.handler(*TYPES)(one)

pipeline = _consumer(batch_events_max=200)
pipeline.handler(*TYPES, pipeline=True)(pipelined)

batch = _consumer(batch_events_max=100)
batch.handler(*TYPES, batch=True)(many)

lanes = _consumer(batch_events_max=20, concurrency=4)
lanes.handler(*TYPES)(one)

mixed = _consumer(batch_events_max=60, concurrency=2)
mixed.handler(TYPES[0])(one)
mixed.handler(TYPES[1], pipeline=True)(pipelined)
mixed.handler(TYPES[2], batch=True)(many)

mended = _consumer()
mended.handler(*TYPES)(repaired)
