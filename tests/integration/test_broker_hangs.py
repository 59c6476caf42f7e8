"""A broker that hangs tells no offset: neither to a view nor to what acts on offsets."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import evkit
from evkit import Event, kafka, kafka_admin, postgres, records
from evkit.errors import BrokerUnreachable, EvkitError
from evkit.kafka import KafkaException, OffsetSpec, TopicPartition
from evkit.runtime import replay_plan, rewind
from evkit.system import System
from evkit.testing.faults import pause, resume
from tests.integration.handling import handle_all
from tests.integration.vanishing import TIMEOUT_SECONDS, Watched, once_awake, outcome, settings_of, watch
from tests.integration.views.groups import commit

GROUP, TOPIC = "billing", "order"
PLACES = [(TOPIC, 0), (TOPIC, 1)]


@pytest.fixture(scope="module")
def busy(own_stack):
    """Ten events, handled by one group; another is behind."""
    postgres.migrate(own_stack.postgres_dsn)
    system = System(settings_of(own_stack))
    kafka.create_topics(system.settings, {TOPIC: 2})
    handle_all(system, GROUP, [Event("order.placed", f"k{i}", {}, topic=TOPIC) for i in range(10)])
    commit(system, "theirs", TOPIC, 1, 1)
    return own_stack


PARTITIONS = [TopicPartition(*place) for place in PLACES]
NOW = datetime.now(UTC)
ASKED = {
    "offsets": lambda s: kafka.offsets(s.settings, PARTITIONS, client=s.admin),
    "start_offsets": lambda s: kafka.start_offsets(s.settings, PARTITIONS, s.admin),
    "offsets_at": lambda s: kafka.offsets_at(s.settings, PARTITIONS, NOW, s.admin),
    "stable_ends": lambda s: kafka_admin.stable_ends(s.settings, PARTITIONS, s.admin),
    "told_offsets": lambda s: kafka_admin.told_offsets(s.settings, PLACES, OffsetSpec.latest(), s.admin),
    "told_offsets_stable": lambda s: kafka_admin.told_offsets(s.settings, PLACES, None, s.admin),
    "record_at": lambda s: [records.record_at(s.settings, *place, 0) for place in PLACES],
    "committed": lambda s: kafka.committed(s.settings, GROUP, PARTITIONS),
    "committed_offsets": lambda s: kafka_admin.committed_offsets(s.settings, GROUP, s.admin),
}


@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_question_for_offsets_that_a_broker_leaves_open_is_no_answer(name, busy):
    system = System(settings_of(busy))
    calm = once_awake(lambda: ASKED[name](system))

    pause(busy.kafka_pid)
    try:
        with pytest.raises(BrokerUnreachable):
            ASKED[name](system)
    finally:
        resume(busy.kafka_pid)

    assert len(calm) == len(PLACES)


def test_an_answer_that_nobody_waits_for_is_none_either_when_the_broker_hangs(busy):
    """The consumer's watchdog and the relay's decisions look at futures now and then."""
    system = System(settings_of(busy))
    once_awake(lambda: ASKED["offsets"](system))

    pause(busy.kafka_pid)
    try:
        asked = kafka_admin.ask_stable_ends(system.admin, PLACES, TIMEOUT_SECONDS)
        errors = [future.exception(30) for future in asked.values()]
    finally:
        resume(busy.kafka_pid)

    assert all(isinstance(error, KafkaException) for error in errors), errors
    assert not any(kafka.was_answered(future) for future in asked.values())
    assert set(once_awake(lambda: ASKED["stable_ends"](system))) == set(PLACES)


def test_nothing_asks_the_admin_client_itself_for_offsets():
    """It says -1001 where there was no answer, and every comparison takes that for a small offset."""
    folder = Path(evkit.__file__).parent
    files = folder.rglob("*.py")
    asking = {str(f.relative_to(folder)) for f in files if re.search(r"(?<!kafka)\.list_offsets\(", f.read_text())}

    assert asking == {"kafka.py"}


def planned(system, what):
    ago = datetime.now(UTC) - timedelta(hours=1)
    if what == "replay":
        found = replay_plan.plan(system, GROUP, ago)
        return [(r.topic, r.partition, r.start, r.end) for r in found.ranges]
    return [(m.topic, m.partition, m.before, m.after) for m in rewind.plan(system, "theirs", ago).moves]


@pytest.mark.parametrize("what", ["replay", "rewind"])
def test_a_plan_that_a_broker_leaves_in_the_middle_is_an_error_and_never_another_plan(what, busy, monkeypatch):
    system = watch(Watched(settings_of(busy)), monkeypatch)
    once_awake(lambda: planned(system, what))
    system.questions = 0
    calm = planned(system, what)
    questions, wrong = system.questions, []

    for n in range(2, questions + 1):
        system.questions = 0
        system.before_question = lambda asked, n=n: pause(busy.kafka_pid) if asked == n else None
        try:
            found = outcome(what, lambda: planned(system, what))
        finally:
            system.before_question = lambda _: None
            resume(busy.kafka_pid)
        if not isinstance(found, EvkitError) and found != calm:
            wrong.append((n, found))
        once_awake(lambda: planned(System(system.settings), what))

    assert questions > 2
    assert calm
    assert wrong == []
