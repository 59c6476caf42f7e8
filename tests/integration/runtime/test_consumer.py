"""The consumer: each event once for each group, through failures, duplicates, bad records and broken connections."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace

import psycopg
import pytest
from pydantic import BaseModel

from evkit import Event, Retry, dead_letters, kafka, kafka_admin, views
from evkit.errors import BrokerUnreachable, UsageError
from evkit.runtime import membership
from evkit.runtime import retry as retry_module
from evkit.runtime.dead_letters import Selection
from evkit.settings import Settings
from evkit.system import System
from evkit.testing.faults import TcpProxy
from evkit.testing.waiting import until

QUICK = Retry(attempts=2, backoff_seconds=0.001)


@pytest.fixture
def effects(evkit_system):
    """A table that counts how often each event took effect, and a function that reads it."""
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE effect (grp text, id text, n int, nth bigserial, PRIMARY KEY (grp, id))")

    def read(group):
        with evkit_system.reading() as connection:
            return connection.execute("SELECT id, n FROM effect WHERE grp = %s ORDER BY nth", (group,)).fetchall()

    return read


def effect(event, tx):
    tx.execute(
        "INSERT INTO effect VALUES (%s, %s, 1) ON CONFLICT (grp, id) DO UPDATE SET n = effect.n + 1",
        (tx.group, event.id),
    )


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_each_event_takes_effect_once_and_offsets_follow(
    evkit_system, evkit_topic, new_consumer, effects, protocol, concurrency, published, consumed
):
    topic = evkit_topic(partitions=3)
    ids = published(*[Event("a.b", f"k{i % 9}", {"i": i}, topic=topic) for i in range(300)])
    consumer = new_consumer(topic, protocol=protocol, concurrency=concurrency)
    consumer.handler("a.b")(effect)

    consumed(consumer, 300)
    consumer.close()

    assert sorted(effects(consumer.group)) == sorted((i, 1) for i in ids)
    assert sum(kafka_admin.committed_offsets(evkit_system.settings, consumer.group).values()) == 300


@pytest.mark.parametrize("concurrency", [1, 4])
def test_events_of_a_key_are_handled_in_their_order(
    evkit_topic, new_consumer, effects, concurrency, published, consumed
):
    """P3."""
    topic = evkit_topic(partitions=2)
    published(*[Event("a.b", f"k{i % 5}", {"i": i}, topic=topic) for i in range(400)])
    seen: dict[str, list[int]] = {f"k{n}": [] for n in range(5)}
    consumer = new_consumer(topic, concurrency=concurrency)
    consumer.handler()(lambda event, tx: seen[event.key].append(event.payload["i"]))

    consumed(consumer, 400)

    assert all(numbers == sorted(numbers) and len(numbers) == 80 for numbers in seen.values())


def test_duplicates_in_the_topic_change_nothing(evkit_system, evkit_topic, new_consumer, effects, published, consumed):
    """P4: a second copy of every record, as a relay that crashed between publish and mark leaves it."""
    topic = evkit_topic()
    ids = published(*[Event("a.b", "k", {"i": i}, topic=topic) for i in range(20)])
    with evkit_system.writing() as connection:
        connection.execute("TRUNCATE evkit.publication")
        connection.execute("DELETE FROM evkit.relay")
    published()
    consumer = new_consumer(topic)
    consumer.handler("a.b")(effect)

    counts = consumed(consumer, 40)

    assert effects(consumer.group) == [(i, 1) for i in ids]
    assert (counts.handled, counts.duplicate) == (20, 20)


def test_two_groups_on_one_topic_do_not_know_of_each_other(
    evkit_system, evkit_topic, new_consumer, effects, published, consumed
):
    topic = evkit_topic()
    ids = published(*[Event("a.b", "k", {"i": i}, topic=topic) for i in range(10)])
    good, bad = new_consumer(topic), new_consumer(topic)
    good.handler("a.b")(effect)

    @bad.handler("a.b")
    def fail(event, tx):
        raise ValueError("never")

    consumed(good, 10)
    consumed(bad, 10)

    assert effects(good.group) == [(i, 1) for i in ids]
    assert {x.consumer_group for x in dead_letters.letters(evkit_system)} == {bad.group}


def test_failed_event_is_tried_again_then_dead_and_costs_its_neighbours_nothing(
    evkit_system, evkit_topic, new_consumer, effects, published, consumed
):
    topic = evkit_topic()
    events = [Event("a.b", f"k{i}", {"i": i}, topic=topic, headers={"tenant": "north"}) for i in range(10)]
    published(*events)
    consumer = new_consumer(topic, code_version="7")
    attempts = []

    @consumer.handler("a.b")
    def bill(event, tx):
        effect(event, tx)
        if event.payload["i"] == 4:
            attempts.append(tx.attempt)
            raise ValueError("no such account")

    counts = consumed(consumer, 10)

    assert (counts.handled, counts.dead) == (9, 1)
    assert effects(consumer.group) == [(e.id, 1) for e in events if e.payload["i"] != 4]
    assert attempts == [1, 2]  # in the optimistic batch, then alone
    (listed,) = dead_letters.letters(evkit_system, Selection(group=consumer.group))
    letter = dead_letters.show(evkit_system, listed.letter_id)
    dead = events[4]
    assert (letter.event_id, letter.event_type, letter.key) == (dead.id, "a.b", "k4")
    assert (letter.topic, letter.partition, letter.retry_count, letter.state) == (topic, 0, 1, "open")
    assert (letter.error_class, letter.error_message, letter.code_version) == ("ValueError", "no such account", "7")
    assert letter.raw_key == b"k4"
    assert letter.raw_value == b'{"i":4}'
    assert dict(letter.headers)["tenant"] == b"north"
    assert "in bill" in letter.stack_trace
    assert "inbox.py" not in letter.stack_trace
    assert letter.first_failed_at < letter.failed_at
    assert [a["disposition"] for a in letter.attempts] == ["retry", "dead"]
    with evkit_system.reading() as connection:
        outcomes = connection.execute(
            "SELECT outcome, attempts FROM evkit.inbox WHERE event_id = %s", (dead.id,)
        ).fetchall()
    assert outcomes == [("dead", 2)]


def test_event_that_succeeds_at_its_second_attempt_is_no_dead_letter(
    evkit_system, evkit_topic, new_consumer, effects, published, consumed
):
    topic = evkit_topic()
    (event_id,) = published(Event("a.b", "k", {}, topic=topic))
    consumer = new_consumer(topic)

    @consumer.handler("a.b")
    def flaky(event, tx):
        if tx.attempt == 1:
            raise TimeoutError("the other service is slow")
        effect(event, tx)

    assert consumed(consumer, 1).handled == 1
    assert effects(consumer.group) == [(event_id, 1)]
    with evkit_system.reading() as connection:
        assert connection.execute("SELECT attempts FROM evkit.inbox").fetchone() == (2,)
        assert connection.execute("SELECT disposition FROM evkit.attempt").fetchall() == [("retry",)]


@pytest.mark.parametrize(
    ("key", "value", "headers", "reason"),
    [
        (b"\xff\xfe", b"\x00\x01random", [], "no header says"),
        (b"k", b"no json", [("ce_id", b"x-1"), ("ce_type", b"a.b")], "not JSON"),
        (b"k", None, [("ce_id", b"x-2"), ("ce_type", b"a.b")], "tombstone"),
        (None, b"[1, 2]", [("ce_id", b"x-3"), ("ce_type", b"a.b")], "events have an object"),
        (b"k", b"{}", [], "'ce_id'"),
        (b"k", b"{}", [("ce_id", b"x\x00y"), ("ce_type", b"a.b"), ("ce_schemaversion", b"two")], "schemaversion"),
        (b"k", b"[" * 100_000, [("ce_id", b"x-4"), ("ce_type", b"a.b")], "JSON"),
    ],
)
def test_record_that_is_no_event_is_a_dead_letter_and_not_a_crash(
    evkit_system, evkit_topic, new_consumer, effects, key, value, headers, reason, published, consumed
):
    """P5."""
    topic = evkit_topic()
    producer = kafka.producer(evkit_system.settings)
    producer.produce(topic, value, key, headers=headers)
    producer.flush(60)
    published(Event("a.b", "another", {}, topic=topic))
    consumer = new_consumer(topic)
    consumer.handler("a.b")(effect)

    counts = consumed(consumer, 2)

    assert (counts.handled, counts.dead) == (1, 1)
    (listed,) = dead_letters.letters(evkit_system)
    letter = dead_letters.show(evkit_system, listed.letter_id)
    assert reason in letter.error_message
    assert (letter.raw_key, letter.raw_value) == (key, value)
    assert letter.retry_count == 0


def test_payload_that_does_not_fit_the_handlers_model_is_dead_without_retries(
    evkit_system, evkit_topic, new_consumer, consumed, published
):
    class Order(BaseModel):
        total: int

    topic = evkit_topic()
    published(Event("a.b", "k", {"total": "much"}, topic=topic), Event("a.b", "l", {"total": 3}, topic=topic))
    consumer = new_consumer(topic)
    totals = []
    consumer.handler("a.b", model=Order)(lambda event, tx: totals.append(event.payload.total))

    counts = consumed(consumer, 2)

    assert (counts.handled, counts.dead, totals[-1]) == (1, 1, 3)
    assert dead_letters.letters(evkit_system)[0].retry_count == 0


def test_handler_that_swallows_a_database_error_does_not_lose_its_event(
    evkit_system, evkit_topic, new_consumer, published, consumed
):
    """COMMIT of a failed transaction is a silent rollback; the offset would move past an event without effect."""
    topic = evkit_topic()
    published(Event("a.b", "k", {}, topic=topic))
    consumer = new_consumer(topic)

    @consumer.handler("a.b")
    def careless(event, tx):
        try:
            tx.execute("SELECT 1 / 0")
        except Exception:
            pass

    assert consumed(consumer, 1).dead == 1
    assert "caught an error of PostgreSQL" in dead_letters.letters(evkit_system)[0].error_message


def test_events_without_a_handler_are_skipped_and_counted(evkit_topic, new_consumer, effects, published, consumed):
    topic = evkit_topic()
    published(Event("a.b", "k", {}, topic=topic), Event("c.d", "k", {}, topic=topic))
    consumer = new_consumer(topic)
    consumer.handler("a.b")(effect)

    counts = consumed(consumer, 2)

    assert (counts.handled, counts.skipped) == (1, 1)


def test_batch_handler_gets_its_events_together_and_in_order(evkit_topic, new_consumer, published, consumed):
    topic = evkit_topic()
    published(*[Event("a.b", "k", {"i": i}, topic=topic) for i in range(30)])
    consumer = new_consumer(topic)
    calls = []
    consumer.handler("a.b", batch=True)(lambda events, tx: calls.append([e.payload["i"] for e in events]))

    consumed(consumer, 30)

    assert [i for call in calls for i in call] == list(range(30))
    assert len(calls) < 30


def test_follow_up_event_is_written_in_the_same_transaction_with_its_cause(
    evkit_system, evkit_topic, new_consumer, published, consumed
):
    topic, after = evkit_topic(), evkit_topic()
    (cause,) = published(Event("a.b", "k", {}, topic=topic))
    consumer = new_consumer(topic)
    consumer.handler("a.b")(lambda event, tx: tx.write(Event("a.done", "k", {}, topic=after)))

    consumed(consumer, 1)

    with evkit_system.reading() as connection:
        row = connection.execute(
            "SELECT causation_id, correlation_id FROM evkit.outbox WHERE type = 'a.done'"
        ).fetchone()
    assert row == (cause, cause)


def test_lost_database_burns_no_attempt_and_makes_no_dead_letter(
    evkit_system, evkit_topic, new_consumer, effects, published, consumed
):
    topic = evkit_topic()
    ids = published(*[Event("a.b", "k", {"i": i}, topic=topic) for i in range(40)])
    with TcpProxy.to_dsn(evkit_system.settings.postgres_dsn) as proxy:
        behind = System(Settings(postgres_dsn=proxy.dsn, kafka=evkit_system.settings.kafka))
        consumer = new_consumer(topic, system=behind, batch_events_max=10)
        handled = threading.Event()
        cut = []

        @consumer.handler("a.b")
        def bill(event, tx):
            if event.payload["i"] == 15 and not cut:
                cut.append(True)
                proxy.cut()
                threading.Timer(0.5, proxy.restore).start()
            effect(event, tx)
            handled.set()

        counts = consumed(consumer, 40)
        consumer.close()

    assert counts.dead == 0
    assert effects(consumer.group) == [(i, 1) for i in ids]
    with evkit_system.reading() as connection:
        (row,) = connection.execute("SELECT event_id, attempt, disposition FROM evkit.attempt").fetchall()
        assert row == (ids[15], 1, "held")
        assert connection.execute("SELECT max(attempts) FROM evkit.inbox").fetchone() == (1,)


@pytest.mark.parametrize("batch_events_max", [1, 10])
@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_each_attempt_that_postgresql_asks_to_repeat_is_a_row_and_none_is_counted(
    state, batch_events_max, evkit_system, evkit_topic, new_consumer, effects, published, consumed
):
    topic = evkit_topic()
    ids = published(*[Event("a.b", f"k{i}", {"i": i}, topic=topic) for i in range(3)])
    consumer = new_consumer(topic, batch_events_max=batch_events_max, code_version="7")
    calls = []

    @consumer.handler("a.b")
    def bill(event, tx):
        effect(event, tx)
        if event.payload["i"] == 1:
            calls.append(1)
            if len(calls) <= 4:  # more than there are attempts
                tx.execute(f"DO $$ BEGIN RAISE 'once more' USING ERRCODE = '{state}'; END $$")

    counts = consumed(consumer, 3)

    assert (counts.handled, counts.dead) == (3, 0)
    assert sorted(effects(consumer.group)) == sorted((i, 1) for i in ids)
    with evkit_system.reading() as connection:
        rows = connection.execute("SELECT event_id, attempt, disposition FROM evkit.attempt").fetchall()
        assert rows == [(ids[1], 1, "held")] * 4
        assert connection.execute("SELECT max(attempts) FROM evkit.inbox").fetchone() == (1,)
    (rate,) = views.error_rate(evkit_system, group=consumer.group).to_dicts()
    assert (rate["events"], rate["attempts"], rate["failures"], rate["held"], rate["dead"]) == (3, 7, 4, 4, 0)


@pytest.mark.parametrize("events", [1, 3])
def test_failure_of_its_own_is_not_held_for_a_session_that_was_lost_besides(
    events, evkit_system, evkit_topic, new_consumer, published, consumed
):
    topic = evkit_topic()
    published(*[Event("a.b", f"k{i}", {"i": i}, topic=topic) for i in range(events)])
    consumer = new_consumer(topic)
    calls = []

    @consumer.handler("a.b")
    def bill(event, tx):
        if event.payload["i"] == 0:
            calls.append(1)
            if len(calls) == 1:
                with contextlib.suppress(psycopg.Error):
                    tx.connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            if len(calls) <= 2:
                raise ValueError("its own")

    counts = consumed(consumer, events)

    assert (counts.handled, counts.dead) == (events, 0)
    with evkit_system.reading() as connection:
        rows = connection.execute("SELECT error_class, attempt, disposition FROM evkit.attempt").fetchall()
        assert rows == [("ValueError", 1, "retry")]


def test_consumer_that_waits_for_postgresql_inside_a_batch_stops_at_once_and_the_batch_comes_again(
    evkit_system, evkit_topic, new_consumer, effects, published, consumed, monkeypatch
):
    """Nobody is left who could finish the batch, so leaving the group waits for nobody."""
    monkeypatch.setattr(membership, "DRAIN_SECONDS_MAX", 600.0)
    topic = evkit_topic()
    ids = published(*[Event("a.b", "k", {"i": i}, topic=topic) for i in range(3)])
    with TcpProxy.to_dsn(evkit_system.settings.postgres_dsn) as proxy:
        behind = System(Settings(postgres_dsn=proxy.dsn, kafka=evkit_system.settings.kafka))
        consumer = new_consumer(topic, system=behind)
        consumer.handler("a.b")(lambda event, tx: proxy.cut())
        running = threading.Thread(target=consumer.run, daemon=True)
        running.start()
        until(lambda: consumer.standing().waits_for, bool)

        consumer.stop()
        running.join(60)

        assert not running.is_alive()
    again = new_consumer(topic, group=consumer.group)
    again.handler("a.b")(effect)
    consumed(again, 3)
    assert effects(consumer.group) == [(i, 1) for i in ids]


def test_memory_error_ends_the_consumer_and_makes_no_dead_letter(
    evkit_system, evkit_topic, new_consumer, published, consumed
):
    topic = evkit_topic()
    published(Event("a.b", "k", {}, topic=topic))
    consumer = new_consumer(topic)

    @consumer.handler("a.b")
    def hungry(event, tx):
        raise MemoryError

    with pytest.raises(MemoryError):
        consumed(consumer, 1)

    assert dead_letters.letters(evkit_system) == []


def test_slow_handler_keeps_its_partitions_and_polling_goes_on(
    evkit_system, evkit_topic, new_consumer, effects, published, consumed
):
    """A handler that takes longer than the group allows between two polls."""
    topic = evkit_topic()
    ids = published(*[Event("a.b", "k", {"i": i}, topic=topic) for i in range(3)])
    settings = evkit_system.settings
    strict = Settings(
        postgres_dsn=settings.postgres_dsn,
        kafka={**settings.kafka, "max.poll.interval.ms": "6000", "session.timeout.ms": "6000"},
    )
    consumer = new_consumer(topic, system=System(strict), protocol="classic")
    slow = threading.Event()

    @consumer.handler("a.b")
    def wait_a_little(event, tx):
        slow.wait(3)  # three of them in one batch: nine seconds without an end
        effect(event, tx)

    consumed(consumer, 3)
    consumer.close()

    assert effects(consumer.group) == [(i, 1) for i in ids]
    assert sum(kafka_admin.committed_offsets(settings, consumer.group).values()) == 3


def test_processed_at_is_the_end_of_the_handler_and_not_its_beginning(
    evkit_system, evkit_topic, new_consumer, published, consumed
):
    topic = evkit_topic()
    published(*[Event("a.b", "k", {"i": i}, topic=topic) for i in range(2)])
    consumer = new_consumer(topic)
    consumer.handler("a.b")(lambda event, tx: tx.execute("SELECT pg_sleep(0.1)"))

    consumed(consumer, 2)

    with evkit_system.reading() as connection:
        late = connection.execute("SELECT bool_and(processed_at - received_at > '180 ms') FROM evkit.inbox").fetchone()
    assert late == (True,)


def test_processed_at_is_not_in_the_future_when_a_batch_is_faster_than_the_one_before(
    evkit_system, evkit_topic, new_consumer, published, consumed
):
    topic = evkit_topic()
    published(*[Event("a.b", "k", {"i": i}, topic=topic) for i in range(4)])
    consumer = new_consumer(topic, batch_events_max=2)
    consumer.handler("a.b")(
        lambda event, tx: tx.execute("SELECT pg_sleep(%s)", (1.5 if event.payload["i"] < 2 else 0,))
    )

    consumed(consumer, 4)

    with evkit_system.reading() as connection:
        (rows, future) = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE processed_at > clock_timestamp()) FROM evkit.inbox"
        ).fetchone()
    assert (rows, future) == (4, 0), "three seconds were expected"


def test_second_member_takes_over_and_nothing_is_handled_twice(evkit_topic, new_consumer, effects, published):
    topic = evkit_topic(partitions=4)
    ids = published(*[Event("a.b", f"k{i}", {"i": i}, topic=topic) for i in range(400)])
    first = new_consumer(topic, batch_events_max=20)
    second = new_consumer(topic, group=first.group, batch_events_max=20)
    for consumer in (first, second):
        consumer.handler("a.b")(effect)
    while first.counts.total < 100:
        first.step(1.0)

    thread = threading.Thread(target=second.run)
    thread.start()
    while len(effects(first.group)) < 400:  # a count would have those that came again, too
        first.step(0.2)
    second.stop()
    thread.join(60)

    assert sorted(effects(first.group)) == sorted((i, 1) for i in ids)


def test_consumer_without_handler_or_broker_says_so(evkit_system, new_consumer):
    with pytest.raises(UsageError, match="no handler"):
        new_consumer("t").step()
    nowhere = System(
        Settings(
            postgres_dsn=evkit_system.settings.postgres_dsn,
            kafka={"bootstrap.servers": "127.0.0.1:1"},
            kafka_timeout_seconds=1,
        )
    )
    consumer = new_consumer("t", system=nowhere)
    consumer.handler()(lambda event, tx: None)
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1"):
        consumer.step()


def test_waiting_for_another_attempt_keeps_back_its_key_and_nobody_else(
    evkit_topic, new_consumer, published, consumed, monkeypatch
):
    """The event that fails first is tried again after every other key is through, and its own later ones come behind."""
    topic = evkit_topic()
    published(*[Event("a.b", key, {"n": n}, topic=topic) for n, key in enumerate("xyxyxy")])
    # The whole backoff each time, else chance may draw one that is over before the others had their turn.
    monkeypatch.setattr(retry_module, "random", SimpleNamespace(random=lambda: 1.0))
    consumer = new_consumer(topic, retry=Retry(attempts=4, backoff_seconds=1.0))
    order, failed = [], []

    @consumer.handler("a.b")
    def handle(event, tx):
        if event.payload["n"] == 0 and len(failed) < 3:  # twice: in its batch and in its first attempt alone
            failed.append(1)
            raise ValueError("not yet")
        order.append((tx.record.key, event.payload["n"]))

    consumed(consumer, 6)

    final = list(dict.fromkeys(order))
    assert [n for key, n in final if key == b"x"] == [0, 2, 4]
    assert [n for key, n in final if key == b"y"] == [1, 3, 5]
    assert final.index((b"y", 5)) < final.index((b"x", 0))


@pytest.mark.parametrize("batch", [False, True])
def test_handler_that_changes_its_payload_is_given_it_anew_when_a_neighbour_has_failed(
    batch, evkit_system, evkit_topic, new_consumer, published, consumed
):
    topic = evkit_topic()
    published(*[Event("a.b", f"k{n}", {"n": n}, topic=topic) for n in range(10)])
    consumer = new_consumer(topic, retry=Retry(attempts=1), breaker=None)

    def handle(event, tx):
        if event.payload.pop("n") == 7:
            raise ValueError("bad")

    if batch:
        consumer.handler("a.b", batch=True)(lambda events, tx: [handle(event, tx) for event in events])
    else:
        consumer.handler("a.b")(handle)

    counts = consumed(consumer, 10)

    assert (counts.handled, counts.dead) == (9, 1)
    with evkit_system.reading() as connection:
        assert connection.execute("SELECT error_class, key FROM evkit.dead_letter").fetchall() == [("ValueError", "k7")]


def test_pipelined_handler_has_the_same_effects_and_its_failures_are_found(
    evkit_system, evkit_topic, new_consumer, published, consumed
):
    topic = evkit_topic()
    published(*[Event("a.b", f"k{n % 5}", {"n": n}, topic=topic) for n in range(60)])
    consumer = new_consumer(topic, retry=Retry(attempts=1), park_key=False)
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE pipelined (n int PRIMARY KEY CHECK (n <> 41))")

    @consumer.handler("a.b", pipeline=True)
    def handle(event, tx):
        tx.execute("INSERT INTO pipelined VALUES (%s)", (event.payload["n"],))

    counts = consumed(consumer, 60)

    assert (counts.handled, counts.dead) == (59, 1)
    with evkit_system.reading() as connection:
        found = [row[0] for row in connection.execute("SELECT n FROM pipelined ORDER BY n").fetchall()]
        assert found == [n for n in range(60) if n != 41]
        (error,) = connection.execute("SELECT error_class FROM evkit.dead_letter").fetchone()
    assert "CheckViolation" in error


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_running_consumer_hands_partitions_over_and_every_event_takes_effect_once(
    protocol, evkit_topic, new_consumer, effects, published
):
    """On both group protocols: members come and go while it runs on four lanes."""
    topic = evkit_topic(partitions=4)
    first = new_consumer(topic, concurrency=2, protocol=protocol, batch_events_max=20)
    members = [
        first,
        *(new_consumer(topic, first.group, concurrency=2, protocol=protocol, batch_events_max=20) for _ in range(2)),
    ]
    done = threading.Semaphore(0)
    for member in members:

        @member.handler("a.b")
        def handle(event, tx):
            effect(event, tx)
            done.release()

    threads = [threading.Thread(target=member.run) for member in members]
    for thread in threads:
        published(*[Event("a.b", f"k{n % 11}", {"n": n}, topic=topic) for n in range(200)])
        thread.start()
    for _ in range(300):  # halfway through all of it, the first one goes
        assert done.acquire(timeout=60)
    first.stop()
    until(lambda: len(effects(first.group)) == 600)  # the last ones are done before they are committed
    for member, thread in zip(members, threads, strict=True):
        member.stop()
        thread.join(60)

    assert sorted({n for _, n in effects(first.group)}) == [1]
    assert len(effects(first.group)) == 600


def test_filters_choose_the_handler_and_what_none_lets_pass_is_skipped(evkit_topic, new_consumer, published, consumed):
    topic = evkit_topic()
    published(*[Event("a.b", f"k{n}", {"n": n}, topic=topic) for n in range(9)])
    consumer = new_consumer(topic, unknown="dead")
    seen = {"even": [], "three": []}
    consumer.handler("a.b", where=lambda event: event.payload["n"] % 2 == 0)(
        lambda event, tx: seen["even"].append(event.payload["n"])
    )
    consumer.handler("a.b", where=lambda event: event.payload["n"] % 3 == 0)(
        lambda event, tx: seen["three"].append(event.payload["n"])
    )

    counts = consumed(consumer, 9)

    assert (counts.handled, counts.skipped, counts.dead) == (6, 3, 0)
    assert {name: sorted(set(numbers)) for name, numbers in seen.items()} == {"even": [0, 2, 4, 6, 8], "three": [3]}


def test_filter_that_raises_is_a_failure_of_its_event_and_tried_again(
    evkit_system, evkit_topic, new_consumer, published, consumed
):
    topic = evkit_topic()
    published(*[Event("a.b", f"k{n}", {"n": n}, topic=topic) for n in range(5)])
    consumer = new_consumer(topic, retry=Retry(attempts=3, backoff_seconds=0.001))
    asked = {1: 0, 2: 0}

    def where(event):
        n = event.payload["n"]
        if n in asked:
            asked[n] += 1
            if n == 1 or asked[n] < 2:
                raise KeyError("total")
        return True

    consumer.handler("a.b", where=where)(lambda event, tx: None)

    counts = consumed(consumer, 5)

    assert (counts.handled, counts.dead) == (4, 1)
    assert asked == {1: 3, 2: 2}
    (letter,) = dead_letters.letters(evkit_system)
    assert (letter.error_class, letter.retry_count, letter.key) == ("KeyError", 2, "k1")
