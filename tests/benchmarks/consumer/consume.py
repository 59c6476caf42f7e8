"""One way of consuming a topic, in a process of its own, so that its CPU and memory are its own.

    python consume.py WAY TOPIC GROUP EVENTS SECONDS      (EVKIT_POSTGRES_DSN, EVKIT_KAFKA_BOOTSTRAP_SERVERS)

The ways and what they are for: `WAYS`. It ends after EVENTS events, or after SECONDS.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import UTC, datetime
from itertools import repeat

import psycopg
from work import INBOX_ROW, UPSERT, UPSERT_ALL, Clock, measured

from evkit import Consumer, connect, decoding, kafka
from evkit.event import fill
from evkit.kafka import Message
from evkit.runtime import claims
from evkit.runtime.assignment import Assignment
from evkit.runtime.delivery import Delivery
from evkit.runtime.fetched import stretches
from evkit.runtime.outcome import Counts

BATCH = 500


def batches(system, topic, group, events, clock, *, stored=True):
    """Polled batches of a client with the consumer's own settings; their offsets are stored after they were worked on."""
    client = kafka.consumer(system.settings, group, **{"enable.auto.commit": True, "auto.commit.interval.ms": 1000})
    client.subscribe([topic])
    left = events
    try:
        while left:
            messages = client.consume(min(BATCH, left), 1.0)
            if messages:
                clock.begin()
                yield messages
                left -= len(messages)
                for message in {m.partition(): m for m in messages}.values() if stored else ():
                    client.store_offsets(message=message)
        clock.end()
    finally:
        client.close()


def naive(clock, system, topic, group, events, _seconds):
    """What everybody writes first: a transaction an event, with an inbox row."""
    with psycopg.connect(system.settings.postgres_dsn) as connection:
        for messages in batches(system, topic, group, events, clock):
            for message in messages:
                headers, key = dict(message.headers()), message.key().decode()
                number = json.loads(message.value())["i"]
                row = (
                    group, headers["ce_id"].decode(), headers["ce_type"].decode(), topic,
                    message.partition(), message.offset(), key,
                )  # fmt: skip
                if connection.execute(INBOX_ROW, row).rowcount:
                    connection.execute(UPSERT, (key, number))
                connection.commit()
    return events


def own(clock, system, topic, group, events, _seconds):
    """The handler's own statements and nothing else: no inbox, no Event, a transaction a polled batch."""
    with psycopg.connect(system.settings.postgres_dsn) as connection:
        for messages in batches(system, topic, group, events, clock):
            for message in messages:
                connection.execute(UPSERT, (message.key().decode(), json.loads(message.value())["i"]))
            connection.commit()
    return events


def bare(clock, system, topic, group, events, _seconds):
    """The client alone: nothing is looked at, no offset stored."""
    for _ in batches(system, topic, group, events, clock, stored=False):
        pass
    return events


def decoded(clock, system, topic, group, events, _seconds):
    """The client, and what comes made into events with their payloads: what any consumer in Python does at least."""
    for messages in batches(system, topic, group, events, clock, stored=False):
        columns = zip(repeat(topic), *(map(of, messages) for of in (Message.key, Message.value, Message.headers)))
        for event, payload in zip(
            decoding.plain(columns), decoding.json_objects([m.value() for m in messages]), strict=True
        ):
            fill(event, payload)
    return events


def statements(clock, system, topic, group, events, _seconds, handle):
    """The statements that the consumer and its handler send, their values made before the clock runs: what PostgreSQL, and
    psycopg, allow. No client, no events, one batch after the other."""
    it = Consumer(group, [topic], system=system)
    it.handler()(handle)
    inbox, ready = it.inbox(system), []
    for messages in batches(system, topic, group, events, Clock(), stored=False):
        assignment = Assignment()
        found = stretches(messages, datetime.now(UTC))
        assignment.assign({stretch.place for stretch in found}, 1)
        assignment.add(found)
        deliveries = Delivery.of_all(assignment.take(BATCH, 0.0), inbox.handlers)
        handled = [(d.event.key, d.event.payload["i"]) for d in deliveries]
        ready.append((claims._values(inbox, deliveries, 1, None, 0.0), handled))
    with system.writing(autocommit=True) as connection:
        clock.begin()
        for values, handled in ready:
            with connection.transaction():
                connection.execute(claims._SQL["claim_new"], values)
                handle(connection, handled)
        clock.end()
    return events


def statements_pipeline(clock, *args):
    def handle(connection, handled):
        cursor = connection.cursor()
        with connection.pipeline():
            for values in handled:
                cursor.execute(UPSERT, values)

    return statements(clock, *args, handle)


def statements_batch(clock, *args):
    def handle(connection, handled):
        connection.execute(UPSERT_ALL, tuple(map(list, zip(*handled, strict=True))))

    return statements(clock, *args, handle)


def consumer(clock, system, topic, group, events, seconds, handle, handler=None, begun_before=BATCH, **options):
    """evkit's consumer with the given handler, as a service runs it.

    Of the first batch some of the work is done before its handler is called: it does not count for us (`begun_before`).
    """
    it = Consumer(group, [topic], system=system, batch_events_max=BATCH, **options)
    it.handler(**(handler or {}))(handle)
    thread = threading.Thread(target=it.run)
    thread.start()
    it.assigned.wait()
    until = time.monotonic() + seconds
    while it.counts.total < events and time.monotonic() < until and thread.is_alive():
        time.sleep(0.005)
    clock.end()
    done = it.counts.total
    it.stop()
    thread.join()
    assert done == events or seconds < 600, f"the consumer ended after {it.counts}"
    assert it.counts == Counts(handled=it.counts.total), it.counts
    return done - begun_before


def plain(clock, *args):
    def handle(event, tx):
        clock.begun or clock.begin()
        tx.execute(UPSERT, (event.key, event.payload["i"]))

    return consumer(clock, *args, handle)


def pipeline(clock, *args):
    def handle(event, tx):
        clock.begun or clock.begin()
        tx.execute(UPSERT, (event.key, event.payload["i"]))

    return consumer(clock, *args, handle, {"pipeline": True})


def batch(clock, *args):
    def handle(events, tx):
        clock.begin()
        tx.execute(UPSERT_ALL, ([event.key for event in events], [event.payload["i"] for event in events]))

    return consumer(clock, *args, handle, {"batch": True})


def sleep(clock, *args, concurrency=1):
    """Waits for something that is no database; proves the order of each key itself."""
    last = {}

    def handle(event, tx):
        clock.begun or clock.begin()
        time.sleep(0.005)
        number = event.payload["i"]
        assert last.get(event.key, -1) < number, f"{event.key}: {number} after {last[event.key]}"
        last[event.key] = number

    return consumer(clock, *args, handle, begun_before=0, concurrency=concurrency)


def sleep_16(clock, *args):
    return sleep(clock, *args, concurrency=16)


def noop(clock, *args):
    def handle(event, tx):
        clock.begun or clock.begin()

    return consumer(clock, *args, handle, inbox=False)


def noop_read(clock, *args):
    def handle(event, tx):
        clock.begun or clock.begin()
        event.payload["i"]

    return consumer(clock, *args, handle, inbox=False)


WAYS = {
    way.__name__: way
    for way in (
        naive, own, bare, decoded, statements_pipeline, statements_batch, plain, pipeline, batch, sleep, sleep_16, noop,
        noop_read,
    )
}  # fmt: skip


def main():
    way, topic, group, events, seconds = sys.argv[1:]
    measured(WAYS[way], connect(), topic, group, int(events), float(seconds))


if __name__ == "__main__":
    main()
