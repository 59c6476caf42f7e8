"""What tests of consumers share: events in a topic, and consumers that are closed at the end."""

from __future__ import annotations

import pytest

from evkit import Consumer, Relay, Retry, outbox


@pytest.fixture
def published(evkit_system):
    """`published(*events)`: write events and relay them; returns their ids."""

    def publish(*events):
        with evkit_system.writing() as connection:
            ids = outbox.write_many(connection, events)
        relay = Relay(evkit_system)
        while relay.step():
            pass
        relay.close()
        return ids

    return publish


@pytest.fixture
def new_consumer(evkit_system, evkit_group):
    """`new_consumer(topic, ...)`: a consumer of a group of its own, unless `group` is given."""
    made = []

    def make(topic, group=None, **more):
        more.setdefault("retry", Retry(attempts=2, backoff_seconds=0.001))
        made.append(Consumer(group or evkit_group(), [topic], system=more.pop("system", evkit_system), **more))
        return made[-1]

    yield make
    for consumer in made:
        consumer.close()


@pytest.fixture
def consumed():
    """`consumed(consumer, events)`: step until so many are through; one that gets stuck ends in the test's timeout."""

    def consume(consumer, events):
        while consumer.counts.total < events:
            consumer.step(1.0)
        return consumer.counts

    return consume


@pytest.fixture
def rows(evkit_system):
    """`rows("SELECT ...", ...)`: what the database answers."""

    def ask(query, *values):
        with evkit_system.reading() as connection:
            return connection.execute(query, values).fetchall()

    return ask
