"""Dead letters afterwards: redriven through the failing group only, archived, purged, restored; every act on record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evkit import Consumer, Event, Relay, Retry, dead_letters, kafka, outbox
from evkit.errors import (
    DatabaseUnreachable,
    InvalidParameter,
    PurgeRefused,
    RedriveRefused,
    UnknownGroup,
    UnknownLetter,
)
from evkit.runtime import release
from evkit.runtime.dead_letters import Selection
from tests.relaying import drain


class Billing:
    """A group whose handler fails while `broken`, and counts its effects in the database."""

    def __init__(self, system, group, topic):
        self.system = system
        self.broken = True
        self.seen = []
        self.consumer = Consumer(group, [topic], system=system, retry=Retry(attempts=2, backoff_seconds=0.001))
        self.consumer.handler("a.b")(self.handle)
        with system.writing() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS bill (grp text, id text, n int, PRIMARY KEY (grp, id))")

    def handle(self, event, tx):
        tx.execute(
            "INSERT INTO bill VALUES (%s, %s, 1) ON CONFLICT (grp, id) DO UPDATE SET n = bill.n + 1",
            (tx.group, event.id),
        )
        self.seen.append((event.payload["i"], tx.is_replay, event.headers.get("evkit-replay-id"), tx.attempt))
        if self.broken and event.payload["i"] % 2:
            raise ValueError(f"odd {event.payload['i']}")

    def effects(self):
        with self.system.reading() as connection:
            rows = connection.execute("SELECT id, n FROM bill WHERE grp = %s", (self.consumer.group,)).fetchall()
        return dict(rows)


@pytest.fixture
def billing(evkit_system, evkit_topic, evkit_group):
    """Ten events, five of them dead: those with an odd number."""
    topic = evkit_topic()
    billing = Billing(evkit_system, evkit_group(), topic)
    with evkit_system.writing() as connection:
        billing.ids = outbox.write_many(connection, [Event("a.b", f"k{i}", {"i": i}, topic=topic) for i in range(10)])
    relay = Relay(evkit_system)
    drain(relay)
    relay.close()
    while billing.consumer.counts.total < 10:
        billing.consumer.step(1.0)
    billing.seen.clear()
    yield billing
    billing.consumer.close()


def states(system):
    return [x.state for x in dead_letters.letters(system, Selection(states=None))]


def test_redrive_after_the_fix_resolves_the_letters_and_each_event_took_effect_once(evkit_system, billing):
    """P4, P6."""
    billing.broken = False
    plan = dead_letters.plan_redrive(evkit_system, Selection(group=billing.consumer.group))

    result = dead_letters.redrive(evkit_system, plan, billing.consumer, reason="fixed in 8")

    assert len(result.resolved) == 5
    assert billing.effects() == dict.fromkeys(billing.ids, 1)
    assert [(i, replay, mark) for i, replay, mark, _ in billing.seen] == [
        (i, True, result.redrive_id) for i in (1, 3, 5, 7, 9)
    ]
    assert {attempt for *_, attempt in billing.seen} == {3}
    assert states(evkit_system) == ["resolved"] * 5
    with evkit_system.reading() as connection:
        assert connection.execute("SELECT DISTINCT outcome FROM evkit.inbox").fetchall() == [("handled",)]
        replayed = connection.execute("SELECT count(*) FROM evkit.inbox WHERE replay_id = %s", (result.redrive_id,))
        assert replayed.fetchone() == (5,)
        act, reason, outcome = connection.execute("SELECT act, reason, result FROM evkit.audit").fetchone()
    assert (act, reason, outcome["resolved"]) == ("dead_letters.redrive", "fixed in 8", 5)


def test_redrive_publishes_nothing(evkit_system, billing):
    before = kafka.offsets(evkit_system.settings, kafka.partitions_of(evkit_system.settings, billing.consumer.topics))
    billing.broken = False

    dead_letters.redrive(
        evkit_system, dead_letters.plan_redrive(evkit_system, Selection(group=billing.consumer.group)), billing.consumer
    )

    after = kafka.offsets(evkit_system.settings, kafka.partitions_of(evkit_system.settings, billing.consumer.topics))
    assert after == before


def test_redrive_without_a_fix_stops_at_the_first_failure_and_the_letter_stays_the_same(evkit_system, billing):
    plan = dead_letters.plan_redrive(evkit_system, Selection(group=billing.consumer.group))

    result = dead_letters.redrive(evkit_system, plan, billing.consumer)

    assert (result.failed, result.not_tried) == ([plan.ids[0]], list(plan.ids[1:]))
    assert states(evkit_system) == ["open"] * 5
    letter = dead_letters.show(evkit_system, plan.ids[0])
    assert letter.retry_count == 2
    assert len(letter.attempts) == 3
    assert set(billing.effects().values()) == {1}
    assert len(billing.effects()) == 5


def test_letter_that_was_redriven_once_is_skipped_the_second_time(evkit_system, billing):
    billing.broken = False
    plan = dead_letters.plan_redrive(evkit_system, Selection(group=billing.consumer.group))
    dead_letters.redrive(evkit_system, plan, billing.consumer)

    again = dead_letters.redrive(evkit_system, plan, billing.consumer)

    assert (again.resolved, len(again.skipped)) == ([], 5)
    assert billing.effects() == dict.fromkeys(billing.ids, 1)


def test_event_that_was_handled_meanwhile_is_not_handled_again(evkit_system, billing):
    billing.broken = False
    plan = dead_letters.plan_redrive(evkit_system, Selection(group=billing.consumer.group))
    with evkit_system.writing() as connection:  # as a replay that handled it would leave it
        connection.execute("UPDATE evkit.inbox SET outcome = 'handled' WHERE outcome = 'dead'")

    result = dead_letters.redrive(evkit_system, plan, billing.consumer)

    assert len(result.resolved) == 5
    assert billing.seen == []


def test_redrive_whose_session_ends_says_so_in_a_sentence_and_what_it_had_resolved_stays_so(evkit_system, billing):
    billing.broken = False
    cut = Consumer(billing.consumer.group, billing.consumer.topics, system=evkit_system)

    @cut.handler("a.b")
    def until_the_third(event, tx):
        billing.handle(event, tx)
        if event.payload["i"] == 5:
            tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    def redrive(consumer):
        plan = dead_letters.plan_redrive(evkit_system, Selection(group=consumer.group))
        return dead_letters.redrive(evkit_system, plan, consumer)

    with pytest.raises(DatabaseUnreachable, match="terminating connection due to administrator command"):
        redrive(cut)
    # The first stage is one letter; the others were in one transaction.
    assert states(evkit_system) == ["resolved", "open", "open", "open", "open"]

    again = redrive(billing.consumer)

    assert len(again.resolved) == 4
    assert billing.effects() == dict.fromkeys(billing.ids, 1)


def test_letters_of_another_group_are_refused(evkit_system, evkit_topic, billing):
    plan = dead_letters.plan_redrive(evkit_system, Selection(group=billing.consumer.group))
    other = Consumer("other", ["t"], system=evkit_system)

    with pytest.raises(RedriveRefused, match="'other'"):
        dead_letters.redrive(evkit_system, plan, other)


def test_archive_and_purge_are_soft_and_restore_brings_the_state_back(evkit_system, billing):
    ids = sorted(x.letter_id for x in dead_letters.letters(evkit_system))

    assert dead_letters.archive(evkit_system, ids[:2], note="test accounts") == ids[:2]
    assert dead_letters.purge(evkit_system, ids[:1], reason=None) == ids[:1]
    assert states(evkit_system).count("open") == 3
    assert dead_letters.restore(evkit_system, ids[:1]) == ids[:1]

    assert dead_letters.show(evkit_system, ids[0]).state == "archived"
    assert dead_letters.show(evkit_system, ids[0]).note == "test accounts"
    assert dead_letters.restore(evkit_system, ids[:2]) == ids[:2]
    assert states(evkit_system) == ["open"] * 5
    with evkit_system.reading() as connection:
        acts = [row[0] for row in connection.execute("SELECT act FROM evkit.audit ORDER BY audit_id").fetchall()]
    assert acts == ["dead_letters.archive", "dead_letters.purge", "dead_letters.restore", "dead_letters.restore"]


def test_open_letters_are_purged_only_with_a_reason(evkit_system, billing):
    ids = [x.letter_id for x in dead_letters.letters(evkit_system)]

    with pytest.raises(PurgeRefused, match="5 of 5 letters are open"):
        dead_letters.purge(evkit_system, ids, reason=None)
    assert states(evkit_system) == ["open"] * 5

    assert len(dead_letters.purge(evkit_system, ids, reason="test data")) == 5


def test_unknown_names_are_one_sentence_with_near_matches(evkit_system, billing):
    group = billing.consumer.group

    with pytest.raises(UnknownGroup, match=f"did you mean '{group}'"):
        dead_letters.letters(evkit_system, Selection(group=group[:-1]))
    with pytest.raises(UnknownLetter, match="999999"):
        dead_letters.show(evkit_system, 999999)
    with pytest.raises(UnknownLetter, match="999999"):
        dead_letters.archive(evkit_system, [999999], note="x")
    for act in (
        lambda ids: dead_letters.archive(evkit_system, ids, note="x"),
        lambda ids: dead_letters.purge(evkit_system, ids, reason=None),
        lambda ids: dead_letters.plan_redrive(evkit_system, Selection(ids=tuple(ids))),
    ):
        with pytest.raises(
            UnknownLetter, match=f"dead letter '{10**30}' is not known"
        ):  # more than PostgreSQL can count
            act([10**30])
    for look in (release.parked_keys, dead_letters.runs):
        with pytest.raises(UnknownGroup, match=f"did you mean '{group}'"):
            look(evkit_system, group[:-1])


def test_selection_that_ends_before_it_begins_is_a_mistake_and_not_an_empty_one():
    now = datetime.now(UTC)

    with pytest.raises(InvalidParameter, match="is reversed and so is empty: its end must be after its start"):
        Selection(since=now, until=now - timedelta(hours=1))


def test_equal_failures_are_one_group(evkit_system, billing):
    (group,) = dead_letters.groups(evkit_system)

    assert (group["n_letters"], group["n_keys"], group["error_class"]) == (5, 5, "ValueError")
