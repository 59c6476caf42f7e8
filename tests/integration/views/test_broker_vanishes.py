"""A broker that hangs or dies in the middle of a view: a sentence, or rows with nulls; never a wrong number."""

from __future__ import annotations

import logging
from functools import partial

import pytest

from evkit import Consumer, Event, Relay, kafka, outbox, postgres, views
from evkit.errors import EvkitError
from evkit.system import System
from evkit.testing.faults import kill9, pause, resume
from tests.integration.vanishing import Watched, once_awake, outcome, require_honest, settings_of, watch
from tests.integration.views.groups import commit
from tests.integration.views.test_journey import FROM_KAFKA

GROUP, TOPIC = "billing", "order"
# What asks Kafka beside PostgreSQL.
ALSO = {"audit", "audit_counts", "timeline", "change_points"}
WITH_GROUP = {"lag_history", "rebalances", "offset_resets", "unread_keys"}
WITH_TOPIC = {"scan", "scan_plan", "scan_coverage"}


@pytest.fixture(scope="module")
def busy(own_stack):
    """Twenty events, twelve of which are handled; nothing happens any more."""
    postgres.migrate(own_stack.postgres_dsn)
    system = System(settings_of(own_stack))
    kafka.create_topics(system.settings, {TOPIC: 2})
    with system.writing() as connection:
        outbox.write_many(connection, [Event("order.placed", f"k{i % 5}", {"i": i}, topic=TOPIC) for i in range(20)])
    relay = Relay(system)
    while relay.step():
        pass
    relay.close()
    consumer = Consumer(GROUP, [TOPIC], system=system)
    consumer.handler("order.placed")(lambda event, tx: None)
    while consumer.counts.total < 20:
        consumer.step(1.0)
    consumer.close()
    commit(system, "theirs", TOPIC, 3, 5)
    return own_stack


@pytest.fixture
def watched(busy, monkeypatch):
    return watch(Watched(settings_of(busy)), monkeypatch)


def arguments_of(name):
    found = {"group": "theirs" if name == "unread_keys" else GROUP} if name in WITH_GROUP else {}
    if name in WITH_TOPIC:
        found["topic"] = TOPIC
    if name == "lag_history":
        found["source"] = "offsets_log"
    return found


def seen(name, system):
    return getattr(views, name)(system, **arguments_of(name)).to_dicts()


def until_calm(name, system):
    def look():
        system.questions = 0
        return seen(name, system)

    return once_awake(look)


@pytest.mark.parametrize("part", [0.5, 0.99])
@pytest.mark.parametrize("name", sorted(FROM_KAFKA | ALSO))
def test_a_broker_that_hangs_in_the_middle_of_a_view_makes_an_error_and_no_wrong_number(
    name, part, busy, watched, caplog
):
    calm = until_calm(name, watched)
    at, watched.questions = 1 + int(watched.questions * part), 0
    watched.before_question = lambda n: pause(busy.kafka_pid) if n == at else None
    caplog.set_level(logging.WARNING)
    caplog.clear()

    try:
        found = outcome(name, lambda: seen(name, watched))
    finally:
        resume(busy.kafka_pid)

    require_honest(name, found, calm, caplog)


def test_after_a_broker_was_killed_in_the_middle_of_one_view_all_say_that_it_is_away(busy, watched, caplog):
    """The last test of this module: its broker does not come back."""
    calm = {name: seen(name, watched) for name in sorted(FROM_KAFKA | ALSO)}
    watched.questions = 0
    watched.before_question = lambda n: kill9(busy.kafka_pid) if n == 4 else None
    caplog.set_level(logging.WARNING)

    first = outcome("lag", lambda: seen("lag", watched))
    watched.before_question = lambda _: None
    others = {name: outcome(name, partial(seen, name, watched)) for name in calm}

    require_honest("lag", first, calm["lag"], caplog)
    for name, found in others.items():
        require_honest(name, found, calm[name], caplog)
        if name in FROM_KAFKA:
            assert isinstance(found, EvkitError), name
            assert "127.0.0.1" in str(found), name
