"""P3 after a dead letter: later events of its key wait in order, the offsets go on, and a redrive runs letter and tail."""

from __future__ import annotations

import json
import os
import sys
import threading
import types
from itertools import groupby

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from evkit import Consumer, Event, Relay, Retry, dead_letters, kafka, outbox, views
from evkit.cli import app
from evkit.errors import RedriveRefused
from evkit.runtime import release
from evkit.runtime.dead_letters import Selection
from evkit.runtime.inbox import Inbox
from evkit.runtime.release import parked_keys
from evkit.testing.events import read_topic
from evkit.testing.waiting import until
from tests.relaying import drain


class Billing:
    """A group that notes what it handled, in its order, and fails at the events that `bad` names."""

    def __init__(self, system, group, topic, *, form="plain", **options):
        self.system, self.topic = system, topic
        self.bad = set()
        self.attempts = 0
        self.consumer = Consumer(
            group, [topic], system=system, retry=Retry(attempts=2, backoff_seconds=0.001), **options
        )
        handle = (lambda events, tx: [self.handle(event, tx) for event in events]) if form == "batch" else self.handle
        self.consumer.handler("a.b", batch=form == "batch", pipeline=form == "pipeline")(handle)
        self.relay = Relay(system)
        with system.writing() as connection:
            connection.execute("DROP TABLE IF EXISTS effect")
            connection.execute("CREATE TABLE effect (n bigserial, key text, i int)")

    def close(self):
        self.consumer.close()
        self.relay.close()

    def handle(self, event, tx):
        self.attempts += 1
        tx.execute("INSERT INTO effect (key, i) VALUES (%s, %s)", (event.key, event.payload["i"]))
        if (event.key, event.payload["i"]) in self.bad:
            raise ValueError(f"bad {event.key}")

    def write(self, *events, type="a.b", **more):
        with self.system.writing() as connection:
            outbox.write_many(connection, [Event(type, key, {"i": i} | more, topic=self.topic) for key, i in events])
        drain(self.relay)

    def consume(self, total):
        while self.consumer.counts.total < total:
            self.consumer.step(1.0)

    def of(self, key):
        with self.system.reading() as connection:
            rows = connection.execute("SELECT i FROM effect WHERE key = %s ORDER BY n", (key,)).fetchall()
        return [i for (i,) in rows]

    def outcomes(self):
        with self.system.reading() as connection:
            rows = connection.execute(
                "SELECT outcome, count(*)::int FROM evkit.inbox WHERE consumer_group = %s GROUP BY 1",
                (self.consumer.group,),
            ).fetchall()
        return dict(rows)

    def deaths(self):
        """How many attempts have made a letter, of live handling and of releases."""
        with self.system.reading() as connection:
            return connection.execute(
                "SELECT count(*)::int FROM evkit.attempt WHERE consumer_group = %s AND disposition = 'dead'",
                (self.consumer.group,),
            ).fetchone()[0]

    def open_letters(self):
        return [letter.letter_id for letter in dead_letters.letters(self.system, Selection(group=self.consumer.group))]

    def redrive(self):
        plan = dead_letters.plan_redrive(self.system, Selection(group=self.consumer.group))
        return dead_letters.redrive(self.system, plan, self.consumer)


@pytest.fixture
def new_billing(evkit_system, evkit_topic, evkit_group):
    made = []

    def make(partitions=1, **options):
        made.append(Billing(evkit_system, evkit_group(), evkit_topic(partitions=partitions), **options))
        return made[-1]

    yield make
    for billing in made:
        billing.close()


@pytest.mark.parametrize("version", [None, "offset"])
def test_a_key_that_no_index_takes_is_not_parked_and_holds_up_nobody(new_billing, caplog, version):
    billing = new_billing(version=version)
    key = os.urandom(1_800).hex()  # nothing that PostgreSQL could compress
    billing.bad = {(key, 0)}
    producer = kafka.producer(billing.system.settings)
    for n, of in enumerate([key, key, "short"]):
        headers = {"ce_id": f"{of[:8]}-{n}", "ce_type": "a.b"}
        producer.produce(billing.topic, json.dumps({"i": n}).encode(), of.encode(), headers=headers)
    producer.flush(60)

    billing.consume(3)

    assert (len(billing.open_letters()), billing.of(key), billing.of("short")) == (1, [1], [2])
    assert billing.outcomes() == {"dead": 1, "handled": 2}
    assert "has 3600 bytes, more than the 2000 that can be parked" in caplog.text


def test_an_empty_key_is_a_key(new_billing):
    billing = new_billing()
    billing.bad = {("", 0)}
    producer = kafka.producer(billing.system.settings)
    for n in range(3):
        headers = {"ce_id": f"empty-{n}", "ce_type": "a.b"}
        producer.produce(billing.topic, json.dumps({"i": n}).encode(), b"", headers=headers)
    producer.flush(60)

    billing.consume(3)
    assert (billing.outcomes(), billing.of("")) == ({"dead": 1, "parked": 2}, [])
    billing.bad = set()
    billing.redrive()

    assert (billing.outcomes(), billing.of("")) == ({"handled": 3}, [0, 1, 2])


@pytest.fixture
def billing(new_billing):
    """Events 0-9 of the keys 'a' and 'b'; event 3 of 'a' is dead, and six wait behind it."""
    billing = new_billing()
    billing.bad = {("a", 3)}
    billing.write(*[(key, i) for i in range(10) for key in "ab"])
    billing.consume(20)
    return billing


def committed(billing):
    return views.lag(billing.system, billing.consumer.group)["committed_offset"][0]


def test_events_behind_a_dead_one_of_their_key_wait_and_everybody_elses_go_on(billing):
    assert billing.of("a") == [0, 1, 2]
    assert billing.of("b") == list(range(10))
    assert billing.outcomes() == {"handled": 13, "dead": 1, "parked": 6}
    assert billing.consumer.counts.parked == 6
    (key,) = parked_keys(billing.system)
    assert (key.key, key.events, key.letter_state) == ("a", 6, "open")
    billing.consumer._client.commit(asynchronous=False)
    assert committed(billing) == 20


def test_redrive_runs_the_letter_and_then_what_waits_behind_it_in_order(billing):
    billing.bad.clear()

    result = billing.redrive()

    assert (len(result.resolved), result.released, result.failed_behind) == (1, 6, [])
    assert billing.of("a") == list(range(10))
    assert billing.outcomes() == {"handled": 20}
    assert parked_keys(billing.system) == []
    billing.write(("a", 10))
    billing.consume(21)
    assert billing.of("a") == list(range(11))


def test_event_that_fails_behind_a_letter_is_the_letter_that_the_others_wait_behind(billing):
    billing.bad = {("a", 6)}

    result = billing.redrive()

    assert billing.of("a") == [0, 1, 2, 3, 4, 5]
    assert billing.outcomes() == {"handled": 16, "dead": 1, "parked": 3}
    assert result.failed_behind == billing.open_letters()
    assert [k.letter_id for k in parked_keys(billing.system)] == result.failed_behind
    billing.bad.clear()
    billing.redrive()
    assert billing.of("a") == list(range(10))


def test_release_catches_up_with_a_key_of_which_more_keeps_coming(billing):
    """Its consumer parks what comes, in batches, and each has the key's row for as long as its transaction takes."""
    billing.bad.clear()
    at_rest = threading.Event()
    consumer = threading.Thread(target=billing.consumer.run)
    consumer.start()
    come = 0

    def keep_coming():
        nonlocal come
        while not at_rest.is_set():
            billing.write(*[("a", 10 + come + i) for i in range(20)])
            come += 20

    feeder = threading.Thread(target=keep_coming)
    feeder.start()
    until(lambda: billing.outcomes()["parked"] > 100)

    result = billing.redrive()
    at_rest.set()
    feeder.join()
    until(lambda: billing.consumer.counts.total == 20 + come)
    billing.consumer.stop()
    consumer.join()

    assert (len(result.resolved), result.failed_behind) == (1, [])
    assert result.released > 100
    assert billing.of("a") == list(range(10 + come))
    assert parked_keys(billing.system) == []


@pytest.mark.parametrize("form", ["plain", "pipeline", "batch"])
@given(
    bad=st.sets(st.integers(1, 40), max_size=4), others=st.sets(st.integers(1, 40), max_size=8), most=st.integers(1, 16)
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tail_runs_in_order_and_once_whatever_fails_in_it(new_billing, form, bad, others, most):
    """Bad ones are letters one after the other, ones that nobody handles are skipped, whatever is taken together."""
    billing = new_billing(form=form)
    billing.bad = {("a", i) for i in (0, *bad)}
    for of_type, stretch in groupby(range(41), key=lambda i: "x.y" if i in others else "a.b"):
        billing.write(*[("a", i) for i in stretch], type=of_type)
    billing.consume(41)
    wanted = [i for i in range(41) if i not in others]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "EVENTS_MAX", most)
        for dead in [i for i in wanted if ("a", i) in billing.bad]:
            billing.bad.discard(("a", dead))
            result = billing.redrive()
            assert len(result.resolved) == 1

    assert billing.of("a") == wanted
    assert parked_keys(billing.system) == []
    assert billing.outcomes() == {"handled": len(wanted)} | ({"skipped": len(others)} if others else {})
    assert billing.deaths() == len(bad - others) + 1
    billing.close()


def test_large_events_behind_a_letter_are_not_all_taken_together(new_billing, monkeypatch):
    billing = new_billing()
    billing.bad = {("a", 0)}
    billing.write(*[("a", i) for i in range(21)], padding="x" * 100_000)
    billing.consume(21)
    billing.bad.clear()
    monkeypatch.setattr(release, "BYTES_MAX", 250_000)
    sizes = []
    call = Inbox.call

    def called(inbox, connection, handler, run, *arguments, **more):
        sizes.append(len(run))
        call(inbox, connection, handler, run, *arguments, **more)

    monkeypatch.setattr(Inbox, "call", called)

    billing.redrive()

    assert sizes[:3] == [1, 1, 2]  # the letter, and then the tail
    assert max(sizes) == 3
    assert billing.of("a") == list(range(21))


def test_letter_that_fails_again_keeps_its_tail_waiting(billing):
    result = billing.redrive()

    assert (len(result.failed), result.released) == (1, 0)
    assert billing.outcomes() == {"handled": 13, "dead": 1, "parked": 6}


def test_release_runs_what_waits_behind_an_archived_letter(billing):
    dead_letters.archive(billing.system, billing.open_letters(), note="test order")
    plan = dead_letters.plan_release(billing.system, billing.consumer.group, key="a")

    dead_letters.redrive(billing.system, plan, billing.consumer, reason="the letter needs no handling")

    assert billing.of("a") == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert billing.outcomes() == {"handled": 19, "dead": 1}
    with pytest.raises(RedriveRefused, match=r"key 'a' of group '.*' is not parked"):
        dead_letters.plan_release(billing.system, billing.consumer.group, key="a")


def test_events_that_come_while_a_key_is_released_are_handled_after_the_others(billing, monkeypatch):
    """The consumer parks on until the release finds nothing left, and no event falls between the two."""
    billing.bad.clear()
    call = Inbox.call
    come = iter(range(10, 14))

    def called(inbox, *arguments, **more):
        call(inbox, *arguments, **more)
        if inbox.replay_id is not None and (i := next(come, None)) is not None:
            before = billing.consumer.counts.total
            billing.write(("a", i))
            thread = threading.Thread(target=billing.consume, args=(before + 1,))
            thread.start()
            thread.join()

    monkeypatch.setattr(Inbox, "call", called)

    billing.redrive()

    assert billing.of("a") == list(range(14))
    assert billing.outcomes() == {"handled": 24}


def test_redelivered_records_of_a_parked_key_change_nothing(billing):
    again = Consumer(billing.consumer.group, [billing.topic], system=billing.system)
    again.handler("a.b")(billing.handle)
    billing.consumer.close()
    inbox = again.inbox(billing.system)
    records = read_topic(billing.system, billing.topic)

    counts = inbox.handle(records)

    inbox.close()
    assert counts.duplicate == 20
    assert billing.outcomes() == {"handled": 13, "dead": 1, "parked": 6}


def test_without_park_key_later_events_overtake_the_dead_one(new_billing):
    billing = new_billing(park_key=False)
    billing.bad = {("a", 0)}
    billing.write(*[("a", i) for i in range(4)])

    billing.consume(4)

    assert billing.of("a") == [1, 2, 3]
    assert parked_keys(billing.system) == []


def test_records_without_a_key_park_nothing(new_billing):
    billing = new_billing()
    billing.bad = {("", 0)}
    billing.write(*[("", i) for i in range(4)])

    billing.consume(4)

    assert billing.of("") == [1, 2, 3]


@pytest.mark.parametrize("limit", ["parked_key_events_max", "parked_group_events_max"])
def test_at_the_cap_the_key_stays_in_kafka_and_says_so_and_others_go_on(new_billing, monkeypatch, limit):
    monkeypatch.setattr("evkit.runtime.inbox.FULL_SECONDS", 0.5)
    billing = new_billing(batch_events_max=1, **{limit: 3})
    billing.bad = {("a", 0)}
    billing.write(*[(key, i) for i in range(6) for key in "ab"])
    thread = threading.Thread(target=billing.consumer.run)
    thread.start()
    try:
        until(lambda: billing.consumer.counts.total == 10 and billing.consumer.parking_full)
        assert billing.of("b") == list(range(6))
        assert billing.outcomes() == {"handled": 6, "dead": 1, "parked": 3}
        (sentence,) = billing.consumer.parking_full
        assert sentence.startswith(f"{billing.topic}/0 is paused: 3 events of")
        assert "at most 3 may wait" in sentence
        until(lambda: committed(billing) == 8)  # event 4 of a is the first that is not dealt with

        billing.bad.clear()
        billing.redrive()
        until(lambda: billing.consumer.counts.total == 12)
        assert billing.of("a") == list(range(6))
    finally:
        billing.consumer.stop()
        thread.join()


@pytest.mark.parametrize("way_out", ["redrive", "release"])
def test_at_the_cap_the_partition_is_not_fetched_and_red_until_there_is_room(new_billing, monkeypatch, way_out):
    monkeypatch.setattr("evkit.runtime.inbox.FULL_SECONDS", 0.5)
    billing = new_billing(partitions=2, parked_key_events_max=3)
    consumer = billing.consumer
    keys = "abcdefgh"
    billing.write(*[(key, 100) for key in keys])
    partition = {record.key.decode(): record.partition for record in read_topic(billing.system, billing.topic)}
    beside = next(key for key in keys[1:] if partition[key] == partition["a"])
    elsewhere = next(key for key in keys if partition[key] != partition["a"])
    place = (billing.topic, partition["a"])
    billing.bad = {("a", 0)}
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        for parked, i in enumerate([0, 1, 2, 3]):  # one by one, so that the last one alone finds no room
            billing.write(("a", i))
            until(lambda: (consumer.counts.dead, consumer.counts.parked) == (1, parked))  # noqa: B023
        billing.write(("a", 4))
        until(lambda: [p.partition for p in consumer.standing().partitions if p.paused] == [partition["a"]])
        came = consumer.standing().polled[place]
        billing.write((beside, 1))
        billing.write((elsewhere, 1))
        until(lambda: billing.of(elsewhere) == [100, 1])

        assert (consumer.standing().polled[place], billing.of(beside)) == (came, [100])
        health = consumer.health()
        assert not health.ok
        (letter,) = billing.open_letters()
        assert health.reasons[0].startswith(
            f"{billing.topic}/{partition['a']} is paused: 3 events of key 'a' of topic '{billing.topic}' wait behind dead "
            f"letter {letter} of group '{consumer.group}' and 1 more came, but at most 3 may wait: `evkit dlq redrive "
            f"{letter}`, or archive it and `evkit dlq release`"
        )

        billing.bad.clear()
        if way_out == "redrive":
            billing.redrive()
        else:
            dead_letters.archive(billing.system, [letter], note="not needed")
            plan = dead_letters.plan_release(billing.system, consumer.group, key="a")
            dead_letters.redrive(billing.system, plan, consumer, reason="the letter needs no handling")
        until(lambda: billing.of(beside) == [100, 1] and consumer.health().ok)
        assert billing.of("a") == [100, *range(way_out == "release", 5)]
        assert not any(p.paused for p in consumer.standing().partitions)
    finally:
        consumer.stop()
        thread.join()


def test_a_zombie_that_parks_a_key_meanwhile_is_seen_by_the_claim_that_waited_for_it(billing):
    """Our claim waits for the inbox row that the zombie has written; what stands behind that event must wait too."""
    billing.write(("c", 0), ("c", 1))
    first, second = read_topic(billing.system, billing.topic)[-2:]
    billing.bad = {("c", 0)}
    zombie = billing.consumer.inbox(billing.system)
    ours = billing.consumer.inbox(billing.system)
    buried, go_on = threading.Event(), threading.Event()
    park = zombie.parking.park

    def parks_and_waits(*args):
        park(*args)
        buried.set()
        assert go_on.wait(60)

    zombie.parking.park = parks_and_waits
    thread = threading.Thread(target=zombie.handle, args=([first],))
    thread.start()
    assert buried.wait(60)
    billing.bad = set()
    counts = []
    other = threading.Thread(target=lambda: counts.append(ours.handle([first, second])))
    other.start()
    with billing.system.reading() as connection:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while not connection.execute(waiting).fetchone()[0]:
            connection.rollback()
    go_on.set()
    thread.join()
    other.join()
    zombie.close()
    ours.close()

    assert (counts[0].duplicate, counts[0].parked, counts[0].handled) == (1, 1, 0)
    assert billing.of("c") == []


def test_journey_of_a_parked_event_says_what_it_waits_for(billing):
    with billing.system.reading() as connection:
        (event_id,) = connection.execute("SELECT event_id FROM evkit.parked ORDER BY parked_id LIMIT 1").fetchone()

    stops = views.journey(billing.system, event_id).filter(group=billing.consumer.group)

    assert stops["stage"].to_list() == ["received", "waiting"]


def test_total_time_of_retries_counts_from_the_first_failure_in_the_database(new_billing):
    """Also one that another consumer has seen: here one of an hour ago."""
    billing = new_billing()
    billing.consumer.retry = Retry(attempts=99, backoff_seconds=0.001, seconds_max=60)
    billing.bad = {("a", 0)}

    def old(event, tx):
        if tx.attempt == 1:
            with billing.system.writing() as other:
                other.execute(
                    'INSERT INTO evkit.attempt (consumer_group, event_id, event_type, topic, partition, "offset", attempt,'
                    " failed_at, duration_seconds, error_class, error_message, stack_trace, fingerprint, disposition)"
                    " VALUES (%s, %s, 'a.b', 't', 0, 0, 1, now() - interval '1 hour', 0, 'E', '', '', 'f', 'retry')",
                    (tx.group, event.id),
                )
        billing.attempts += 1
        raise ValueError("always")

    billing.consumer.handlers = type(billing.consumer.handlers)()
    billing.consumer.handler("a.b")(old)
    billing.write(("a", 0))

    billing.consume(1)

    assert billing.outcomes() == {"dead": 1}
    assert billing.attempts <= 3


@pytest.fixture
def evkit_dlq(billing, monkeypatch):
    """`evkit dlq ...` on the system of the test, with its consumer as `--app billing:consumer`."""
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", billing.system.settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", billing.system.settings.bootstrap_servers)
    module = types.ModuleType("billing")
    module.consumer = billing.consumer
    monkeypatch.setitem(sys.modules, "billing", module)
    return lambda *arguments: CliRunner().invoke(app, ["dlq", *arguments])


def test_parked_keys_are_listed_and_released_from_the_command_line(billing, evkit_dlq):
    group = billing.consumer.group

    (listed,) = json.loads(evkit_dlq("parked", "--format", "json").stdout)
    assert (listed["key"], listed["events"], listed["letter_id"]) == ("a", 6, billing.open_letters()[0])

    planned = evkit_dlq("release", "--group", group, "--dry-run", "--format", "json")
    assert planned.exit_code == 0
    assert json.loads(planned.stdout)["parked_events"] == 6
    assert billing.outcomes() == {"handled": 13, "dead": 1, "parked": 6}

    assert evkit_dlq("release", "--group", group, "--app", "billing:consumer", "--yes").exit_code == 1  # it fails again
    billing.bad.clear()
    done = evkit_dlq("release", "--group", group, "--app", "billing:consumer", "--yes", "--reason", "mended")

    assert done.exit_code == 0
    assert "1 resolved" in done.stdout
    assert "6 released" in done.stdout
    assert billing.outcomes() == {"handled": 20}
    with billing.system.reading() as connection:
        acts = connection.execute("SELECT act, reason FROM evkit.audit ORDER BY audit_id").fetchall()
    assert acts == [("dead_letters.redrive", None), ("dead_letters.redrive", "mended")]
