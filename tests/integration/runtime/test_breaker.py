"""One bad event becomes a dead letter; a dependency that is away holds its handler, and nothing is lost or given up."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from evkit import Breaker, Event, Retry, TryLater, dead_letters
from evkit.cli import app
from evkit.errors import UnknownGroup, UsageError
from evkit.runtime import breaker
from evkit.runtime.breaker import breakers
from evkit.runtime.failure import Failure
from evkit.testing.waiting import until

QUICK = Breaker(keys_min=5, probe_seconds=0.05, probe_seconds_max=0.2)


class Dependency:
    """Something that a handler needs, and that is away at first."""

    def __init__(self):
        self.away = True
        self.calls = 0
        self.handled = []

    def use(self, event, tx):
        self.calls += 1
        if self.away:
            raise RuntimeError("the price service answers 503")
        self.handled.append((event.key, event.payload["n"]))


@pytest.fixture
def dependency():
    return Dependency()


def many(topic, keys=20, each=3, type="price.wanted"):
    return [Event(type, f"k{n % keys}", {"n": n}, topic=topic) for n in range(keys * each)]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_dependency_that_is_away_costs_no_attempt_and_no_dead_letter(
    concurrency, evkit_system, evkit_topic, published, new_consumer, dependency, rows
):
    topic = evkit_topic(partitions=2)
    ids = published(*many(topic))
    consumer = new_consumer(
        topic, breaker=QUICK, concurrency=concurrency, retry=Retry(attempts=3, backoff_seconds=0.001)
    )
    consumer.handler("price.wanted")(dependency.use)
    thread = threading.Thread(target=consumer.run)
    thread.start()

    until(lambda: breakers(evkit_system, consumer.group, only_open=True) and breakers(evkit_system)[0].probes >= 3)
    (held,) = breakers(evkit_system, consumer.group)
    assert (held.state, held.error_class, held.error_message) == (
        "open",
        "RuntimeError",
        "the price service answers 503",
    )
    assert held.keys >= 5
    assert consumer.counts.total == 0
    calls = dependency.calls
    assert calls < 200, "it is not called for each event again and again"
    dependency.away = False
    until(lambda: consumer.counts.handled == len(ids))
    consumer.stop()
    thread.join(60)

    assert dead_letters.letters(evkit_system) == []
    for key in {key for key, _ in dependency.handled}:
        numbers = [n for k, n in dependency.handled if k == key]
        assert numbers == sorted(numbers), "in the order of each key"
    (after,) = breakers(evkit_system, consumer.group)
    assert (after.state, after.closed_by) == ("closed", "probe")
    assert max(n for (n,) in rows("SELECT attempts FROM evkit.inbox")) <= 3
    assert {d for (d,) in rows("SELECT DISTINCT disposition FROM evkit.attempt")} <= {"held", "retry"}


def test_dependency_of_a_quiet_topic_that_is_away_holds_its_handler_after_a_few_keys(
    evkit_system, evkit_topic, published, new_consumer, dependency, rows
):
    """One event after the other, each on a key of its own, as an hour brings them; far fewer than keys_min."""
    topic = evkit_topic()
    quiet = Breaker(keys_min=1000, window_seconds=0.5, probe_seconds=0.02, probe_seconds_max=0.05)
    consumer = new_consumer(topic, breaker=quiet)
    consumer.handler("a.b")(dependency.use)
    thread = threading.Thread(target=consumer.run)
    thread.start()

    def held():
        return breakers(evkit_system, consumer.group, only_open=True)

    written = 0
    while not held():
        published(Event("a.b", f"k{written}", {"n": written}, topic=topic))
        written += 1
        until(lambda: held() or consumer.counts.dead == written)  # noqa: B023
    dead = consumer.counts.dead
    until(lambda: held()[0].probes > 10)  # also of one that waits alone
    published(Event("a.b", "more", {"n": written}, topic=topic))

    assert 2 <= dead == written - 1
    assert (held()[0].keys, consumer.counts.dead) == (3, dead)
    dependency.away = False
    until(lambda: consumer.counts.handled == 2)
    consumer.stop()
    thread.join(60)
    assert [key for key, _ in sorted(dependency.handled)] == [f"k{written - 1}", "more"]
    assert held() == []


def test_few_keys_hold_no_handler_of_which_another_member_has_a_success(
    evkit_system, evkit_topic, published, new_consumer, consumed
):
    topic = evkit_topic()
    published(*[Event("a.b", f"k{n}", {"n": n}, topic=topic) for n in range(4)])
    consumer = new_consumer(topic, breaker=None)

    @consumer.handler("a.b")
    def handle(event, tx):
        if event.payload["n"]:
            raise RuntimeError("no answer")

    consumed(consumer, 4)
    name = f"{handle.__module__}.{handle.__qualname__}"
    with evkit_system.writing(autocommit=True) as connection:
        fingerprint = connection.execute("SELECT fingerprint FROM evkit.attempt LIMIT 1").fetchone()[0]
        failure = Failure("RuntimeError", "no answer", "", fingerprint)
        member = breaker.Breakers(consumer.group, Breaker())

        assert not member.opens(connection, name, failure, breaker.Suspicion(3, 60.0, streak=True))
        connection.execute("UPDATE evkit.inbox SET processed_at = processed_at - interval '1 hour'")
        assert member.opens(connection, name, failure, breaker.Suspicion(3, 60.0, streak=True))


@pytest.mark.parametrize("window_seconds", [60.0, 0.01])
def test_poison_of_one_key_goes_to_its_dead_letter_and_holds_nobody(
    window_seconds, evkit_system, evkit_topic, published, new_consumer, consumed
):
    topic = evkit_topic()
    published(*[Event("a.b", "bad", {"n": n}, topic=topic) for n in range(15)])
    consumer = new_consumer(topic, breaker=replace(QUICK, window_seconds=window_seconds), park_key=False)

    @consumer.handler("a.b")
    def handle(event, tx):
        raise RuntimeError("this one never")

    counts = consumed(consumer, 15)

    assert counts.dead == 15
    assert breakers(evkit_system) == []


def test_bug_in_one_event_type_is_a_matter_for_dead_letters(
    evkit_system, evkit_topic, published, new_consumer, consumed
):
    """Many keys, one fingerprint, all events of the handler; but most of the group are well, and it is a TypeError."""
    topic = evkit_topic()
    wanted, placed = many(topic, 30, 1), many(topic, 90, 1, type="order.placed")
    published(*[e for n, event in enumerate(wanted) for e in (*placed[3 * n : 3 * n + 3], event)])
    consumer = new_consumer(topic, breaker=QUICK, batch_events_max=200, park_key=False)
    consumer.handler("order.placed")(lambda event, tx: None)

    @consumer.handler("price.wanted")
    def handle(event, tx):
        return None + event.payload["n"]

    counts = consumed(consumer, 120)

    assert breakers(evkit_system) == []
    assert counts.dead == 30


def test_other_handlers_go_on_while_one_is_held(evkit_system, evkit_topic, published, new_consumer, dependency):
    topic = evkit_topic()
    published(*many(topic, 20, 1))
    consumer = new_consumer(topic, breaker=QUICK)
    consumer.handler("price.wanted")(dependency.use)
    others = []
    consumer.handler("order.placed")(lambda event, tx: others.append(event.key))
    thread = threading.Thread(target=consumer.run)
    thread.start()
    until(lambda: breakers(evkit_system, only_open=True))

    published(*[Event("order.placed", f"o{n}", {}, topic=topic) for n in range(50)])
    published(Event("order.placed", "k3", {}, topic=topic))
    until(lambda: len(others) >= 50)

    assert "k3" not in others, "its key waits behind an event of the held handler"
    dependency.away = False
    until(lambda: "k3" in others)
    until(lambda: len(set(dependency.handled)) == 20)
    consumer.stop()
    thread.join(60)


def test_restart_and_a_second_member_know_that_the_handler_is_held(
    evkit_system, evkit_topic, published, new_consumer, dependency
):
    topic = evkit_topic()
    published(*many(topic, 20, 1))
    patient = Breaker(keys_min=5, probe_seconds=600, probe_seconds_max=600)
    first = new_consumer(topic, breaker=patient)
    first.handler("price.wanted")(dependency.use)
    thread = threading.Thread(target=first.run)
    thread.start()
    until(lambda: breakers(evkit_system, only_open=True))
    first.stop()
    thread.join(60)
    calls = dependency.calls

    second = new_consumer(topic, first.group, breaker=patient)
    second.handler("price.wanted")(dependency.use)
    thread = threading.Thread(target=second.run)
    thread.start()
    until(lambda: second.breakers.open)

    assert dependency.calls <= calls + 1
    dependency.away = False
    assert breaker.close(evkit_system, first.group, reason="the service is back") == [second.breakers.open[0]]
    second.stop()
    thread.join(60)
    third = new_consumer(topic, first.group, breaker=patient)
    third.handler("price.wanted")(dependency.use)
    while len(set(dependency.handled)) < 20:  # the second one may have handled some before it stopped
        third.step(1.0)


def test_poison_that_is_left_alone_behind_an_open_breaker_is_judged_in_the_end(
    evkit_system, evkit_topic, published, new_consumer
):
    """Else a breaker that is opened by an outage would stay open for ever over one event that fails in the same way."""
    topic = evkit_topic()
    published(*many(topic, 10, 1))
    consumer = new_consumer(topic, breaker=QUICK)
    away = threading.Event()
    away.set()

    @consumer.handler("price.wanted")
    def handle(event, tx):
        if away.is_set() or event.key == "k0":
            raise RuntimeError("no price")

    thread = threading.Thread(target=consumer.run)
    thread.start()
    until(lambda: breakers(evkit_system, only_open=True))
    away.clear()
    until(lambda: consumer.counts.total == 10)
    consumer.stop()
    thread.join(60)

    assert [letter.key for letter in dead_letters.letters(evkit_system)] == ["k0"]


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_network_that_is_away_and_a_handler_that_says_so_cost_no_attempt(
    protocol, evkit_system, evkit_topic, published, new_consumer, consumed, rows
):
    topic = evkit_topic()
    published(Event("a.b", "k", {}, topic=topic), Event("a.c", "l", {}, topic=topic))
    consumer = new_consumer(
        topic, protocol=protocol, retry=Retry(attempts=2, backoff_seconds=0.001, backoff_seconds_max=0.01)
    )
    calls = {"a.b": 0, "a.c": 0}

    @consumer.handler("a.b")
    def network(event, tx):
        calls["a.b"] += 1
        if calls["a.b"] < 6:
            try:
                raise ConnectionRefusedError(111, "Connection refused")
            except OSError as error:
                raise RuntimeError("the client library's own error") from error

    @consumer.handler("a.c")
    def polite(event, tx):
        calls["a.c"] += 1
        if calls["a.c"] < 6:
            raise TryLater("maintenance", seconds=0.01)

    counts = consumed(consumer, 2)

    assert (counts.handled, counts.dead) == (2, 0)
    assert rows("SELECT event_type, attempts FROM evkit.inbox ORDER BY 1") == [("a.b", 1), ("a.c", 1)]
    assert rows(
        "SELECT event_type, disposition, attempt, count(*)::int FROM evkit.attempt GROUP BY 1, 2, 3 ORDER BY 1"
    ) == [
        ("a.b", "held", 1, 5),
        ("a.c", "held", 1, 5),
    ]


def test_event_that_brings_its_database_session_down_waits_and_lets_the_others_pass(
    evkit_system, evkit_topic, published, new_consumer, dependency, rows
):
    topic = evkit_topic()
    published(*[Event("a.b", f"k{n}", {"n": n}, topic=topic) for n in range(10)])
    consumer = new_consumer(topic)
    down = threading.Event()
    down.set()

    @consumer.handler("a.b")
    def handle(event, tx):
        if event.payload["n"] == 4 and down.is_set():
            tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    thread = threading.Thread(target=consumer.run)
    thread.start()
    until(lambda: consumer.counts.handled == 9)
    until(lambda: rows("SELECT 1 FROM evkit.attempt WHERE disposition = 'held'"))
    down.clear()
    until(lambda: consumer.counts.handled == 10)
    consumer.stop()
    thread.join(60)

    assert dead_letters.letters(evkit_system) == []


def test_breaker_command_lists_and_closes_with_a_plan_and_an_audit_row(
    evkit_system, evkit_topic, published, new_consumer, dependency, rows, monkeypatch
):
    topic = evkit_topic()
    published(*many(topic, 20, 1))
    consumer = new_consumer(topic, breaker=Breaker(keys_min=5, probe_seconds=600, probe_seconds_max=600))
    consumer.handler("price.wanted")(dependency.use)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    until(lambda: breakers(evkit_system, only_open=True))
    consumer.stop()
    thread.join(60)
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", evkit_system.settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", evkit_system.settings.bootstrap_servers)
    run = CliRunner().invoke

    listed = run(app, ["breaker", "list", "--format", "json"])
    assert listed.exit_code == 0
    assert "the price service answers 503" in listed.stdout
    dry = run(app, ["breaker", "close", "--group", consumer.group, "--dry-run"])
    assert dry.exit_code == 0
    assert breakers(evkit_system, only_open=True)
    done = run(app, ["breaker", "close", "--group", consumer.group, "--yes", "--reason", "back"])
    assert done.exit_code == 0, done.output
    assert breakers(evkit_system, only_open=True) == []
    assert rows("SELECT act, target, reason FROM evkit.audit") == [("breaker.close", consumer.group, "back")]
    unknown = run(app, ["breaker", "close", "--group", "nobody", "--yes"])
    assert isinstance(unknown.exception, UnknownGroup)


def test_closing_what_is_not_held_is_one_sentence(evkit_system):
    with pytest.raises(UnknownGroup, match="nobody"):
        breaker.close(evkit_system, "nobody")


@pytest.mark.parametrize("wrong", [{"keys_min": 1}, {"share_min": 0}, {"probe_seconds": 0}, {"probe_seconds_max": 0.1}])
def test_impossible_breaker_is_refused(wrong):
    with pytest.raises(ValueError, match="a breaker needs"):
        Breaker(**wrong)


def test_parking_without_an_inbox_is_refused(new_consumer):
    with pytest.raises(UsageError, match="cannot park keys without an inbox"):
        new_consumer("t", inbox=False, park_key=True)
