"""A broker that hangs or dies in the middle of a view: a sentence, or rows with nulls; never a wrong number."""

from __future__ import annotations

import logging
import math
import threading
from datetime import datetime

import pytest

from evkit import Consumer, Event, Relay, kafka, outbox, postgres, views
from evkit.errors import BrokerRefused, EvkitError
from evkit.settings import Settings
from evkit.system import System
from evkit.testing.faults import kill9, pause, resume
from tests.integration.views.groups import commit
from tests.integration.views.test_journey import FROM_KAFKA

GROUP, TOPIC = "billing", "order"
TIMEOUT_SECONDS = 1.0
# Each question has its timeout, and a view asks about ten; nothing waits for longer than all of them.
HANG_SECONDS = 90
# What asks Kafka beside PostgreSQL.
ALSO = {"audit", "audit_counts", "timeline", "change_points"}
WITH_GROUP = {"lag_history", "rebalances", "offset_resets", "unread_keys"}
WITH_TOPIC = {"scan", "scan_plan", "scan_coverage"}


class Watched(System):
    """A system that tells before each question to the broker how many there were."""

    def __init__(self, settings):
        super().__init__(settings)
        self.questions = 0
        self.before_question = lambda _: None

    def asked(self):
        self.questions += 1
        self.before_question(self.questions)

    @property
    def admin(self):
        self.asked()
        return self.__dict__.setdefault("_admin", kafka.admin(self.settings))


def settings_of(stack):
    return Settings(
        profile="test",
        postgres_dsn=stack.postgres_dsn,
        kafka={"bootstrap.servers": stack.kafka_bootstrap_servers},
        kafka_timeout_seconds=TIMEOUT_SECONDS,
    )


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
    system = Watched(settings_of(busy))
    made = kafka.consumer

    def consumer(*arguments, **named):
        system.asked()
        return made(*arguments, **named)

    monkeypatch.setattr(kafka, "consumer", consumer)
    return system


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
    """What a view shows when the broker is itself again: after a long pause it has first to be let in by its controller."""
    while True:
        try:
            system.questions = 0
            return seen(name, system)
        except BrokerRefused:
            threading.Event().wait(0.2)


def outcome(name, system):
    """The rows of a view, or the error that it raised; fails when it hangs."""
    found = []

    def look():
        try:
            found.append(seen(name, system))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(HANG_SECONDS)
    assert found, f"{name} hangs"
    return found[0]


def require_honest(name, found, calm, log):
    """An error in a sentence; or rows that are among those of a calm broker, with null where something is not known."""
    if isinstance(found, EvkitError):
        assert "\n" not in str(found)
        return
    assert not isinstance(found, Exception), repr(found)
    keys = [c for c in ("group", "topic", "partition", "offset", "position", "event_id", "key", "at", "bucket_at")
            if calm and c in calm[0] and not (c == "at" and name != "rebalances")]  # fmt: skip
    for row in found:
        like = [other for other in calm if all(other[k] == row[k] for k in keys)]
        assert like, f"{name}: {row} was not there"
        for column, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not column.endswith("_seconds"):
                assert any(is_same(value, other[column]) for other in like), f"{name}.{column}: {value}, {like}"
    if len(found) < len(calm):
        assert log.text, f"{name}: {len(calm) - len(found)} rows are gone, and nobody said so"


def is_same(value, other):
    return other is not None and not isinstance(other, datetime) and math.isclose(value, other, rel_tol=1e-6)


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
        found = outcome(name, watched)
    finally:
        resume(busy.kafka_pid)

    require_honest(name, found, calm, caplog)


def test_after_a_broker_was_killed_in_the_middle_of_one_view_all_say_that_it_is_away(busy, watched, caplog):
    """The last test of this module: its broker does not come back."""
    calm = {name: seen(name, watched) for name in sorted(FROM_KAFKA | ALSO)}
    watched.questions = 0
    watched.before_question = lambda n: kill9(busy.kafka_pid) if n == 4 else None
    caplog.set_level(logging.WARNING)

    first = outcome("lag", watched)
    watched.before_question = lambda _: None
    others = {name: outcome(name, watched) for name in calm}

    require_honest("lag", first, calm["lag"], caplog)
    for name, found in others.items():
        require_honest(name, found, calm[name], caplog)
        if name in FROM_KAFKA:
            assert isinstance(found, EvkitError), name
            assert "127.0.0.1" in str(found), name
