"""The edges of a consumer: ends behind markers, partitions that stand still, large records, old events, no inbox."""

from __future__ import annotations

import threading

import pytest

from evkit import Event, Retry, dead_letters, kafka
from evkit.errors import BrokerRefused
from evkit.runtime import consumer as consumer_module
from evkit.runtime import watchdog
from evkit.runtime.dead_letters import Selection
from evkit.system import System
from evkit.testing.waiting import until

PROTOCOLS = pytest.mark.parametrize("protocol", ["consumer", "classic"])


@pytest.fixture
def running():
    """`running(consumer)`: run it in a thread until the end of the test."""
    started = []

    def run(consumer):
        thread = threading.Thread(target=consumer.run)
        thread.start()
        started.append((consumer, thread))
        return thread

    yield run
    for consumer, thread in started:
        consumer.stop()
        thread.join(60)


@PROTOCOLS
def test_end_of_a_transactional_topic_leaves_no_phantom_lag(protocol, evkit_system, evkit_topic, new_consumer, running):
    """A commit marker is the last offset of the partition, and the end comes while its events are still in hand."""
    topic = evkit_topic()
    producer = kafka.producer(
        evkit_system.settings, **{"transactional.id": f"{topic}-writer", "delivery.timeout.ms": 30_000}
    )
    producer.init_transactions(30)
    for turn in range(3):
        producer.begin_transaction()
        for n in range(5):
            producer.produce(topic, b"{}", f"k{n}".encode(), headers={"ce_id": f"{turn}-{n}", "ce_type": "a.b"})
        producer.commit_transaction(30)
    consumer = new_consumer(topic, protocol=protocol)
    consumer.handler("a.b")(lambda event, tx: until(lambda: consumer._assignment.ended_at((topic, 0)) == 18))

    running(consumer)

    partitions = kafka.partitions_of(evkit_system.settings, [topic])
    assert kafka.offsets(evkit_system.settings, partitions) == {(topic, 0): 18}, "15 events and 3 markers"
    until(lambda: kafka.committed(evkit_system.settings, consumer.group, partitions) == {(topic, 0): 18})
    assert consumer.counts.handled == 15


@PROTOCOLS
def test_message_from_before_a_rebalance_does_not_stand_before_what_it_comes_behind(
    protocol, evkit_system, evkit_topic, published, new_consumer, running
):
    """A message is polled; then, before the next is, its partition is taken away, with events before it undone, and given
    back."""
    topic = evkit_topic()
    place = (topic, 0)
    consumer = new_consumer(topic, protocol=protocol, batch_events_max=10)
    handled, reached = [], threading.Event()

    def handle(event, tx):
        if event.payload["n"] == 50:
            reached.set()
            until(lambda: consumer._assignment._partitions[place].winds_up)
        handled.append(event.payload["n"])

    consumer.handler("a.b")(handle)
    running(consumer)
    published(*[Event("a.b", "k", {"n": n}, topic=topic) for n in range(70)])
    # Its batch, of up to ten events however they came, is in hand, and at least 60 to 69 are in line.
    until(lambda: reached.is_set() and consumer.counts.handled + consumer._assignment.unfinished == 70)
    client = consumer._client
    told = consumer._membership.told

    class Meanwhile:
        """The client; while it gives what is there besides a first message, it leaves its group and joins it again."""

        def __getattr__(self, name):
            return getattr(client, name)

        def consume(self, messages_max, _timeout):
            consumer._client = client
            client.unsubscribe()
            while consumer._assignment.places:
                client.consume(messages_max, 0.1)
            client.subscribe([topic], **told)
            came = []
            while not came:
                came = [m for m in client.consume(messages_max, 0.1) if m.error() is None]
            return came

    consumer._client = Meanwhile()
    published(*[Event("a.b", "k", {"n": n}, topic=topic) for n in range(70, 300)])

    partition = kafka.TopicPartition(*place)
    until(lambda: kafka.committed(evkit_system.settings, consumer.group, [partition]) == {place: 300})
    assert handled == list(range(300))


@PROTOCOLS
def test_topic_made_anew_is_read_from_its_start_while_an_event_of_before_waits(
    protocol, evkit_system, evkit_topic, published, new_consumer, running, caplog
):
    topic = evkit_topic()
    consumer = new_consumer(
        topic, protocol=protocol, retry=Retry(attempts=99, backoff_seconds=600, backoff_seconds_max=600)
    )
    handled = set()

    def handle(event, tx):
        if event.key == "bad":
            raise ValueError("its wait is long")
        handled.add(event.payload["n"])

    consumer.handler("a.b")(handle)
    running(consumer)
    published(*[Event("a.b", "bad" if n == 20 else f"k{n}", {"n": n}, topic=topic) for n in range(40)])
    until(lambda: consumer.counts.handled == 39)

    evkit_system.admin.delete_topics([topic])[topic].result()
    until(lambda: topic not in kafka.topics(evkit_system.settings, kafka.admin(evkit_system.settings)))
    until(lambda: kafka.create_topics(evkit_system.settings, {topic: 1}))
    producer = kafka.producer(evkit_system.settings)
    for n in range(100, 130):
        producer.produce(topic, b'{"n": %d}' % n, b"k%d" % n, headers={"ce_id": f"anew-{n}", "ce_type": "a.b"})
    assert producer.flush(60) == 0

    until(lambda: consumer.counts.handled == 69)
    assert handled == {*range(20), *range(21, 40), *range(100, 130)}
    if protocol == "classic":  # else its broker may take the topic away before anything of it comes
        assert f"goes back to offset 0 of {topic}/0" in caplog.text
        assert "1 records of before that were not done are given up" in caplog.text


def test_partition_that_stands_still_although_it_has_records_is_pushed(
    evkit_system, evkit_topic, published, new_consumer, running, monkeypatch, caplog
):
    """Paused behind the consumer's back, as librdkafka does it by mistake: no error, no record, growing lag."""
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(watchdog, "STUCK_SECONDS", 0.5)
    topic = evkit_topic(partitions=2)
    published(*[Event("a.b", f"k{n}", {}, topic=topic) for n in range(20)])
    consumer = new_consumer(topic)
    consumer.handler("a.b")(lambda event, tx: None)
    running(consumer)
    until(lambda: consumer.counts.handled == 20)
    consumer._client.pause([kafka.TopicPartition(topic, p) for p in (0, 1)])

    published(*[Event("a.b", f"k{n}", {}, topic=topic) for n in range(20)])

    until(lambda: consumer.counts.handled == 40)
    assert "has not moved from offset" in caplog.text
    until(lambda: consumer.stuck == [])
    assert "moves again" in caplog.text


def at(broker, settings):
    """The settings for a mock broker."""
    return settings.model_copy(update={"kafka": {"bootstrap.servers": broker.bootstrap_servers}})


def produce_orders(settings, n):
    producer = kafka.producer(settings)
    for i in range(n):
        producer.produce("orders", b"{}", f"k{i}".encode(), headers={"ce_id": str(i), "ce_type": "a.b"})
    producer.flush(60)


@PROTOCOLS
def test_partition_that_never_begins_is_taken_again(
    protocol, mock_broker, evkit_settings, new_consumer, running, monkeypatch, caplog
):
    """The coordinator moves when it is asked for the committed offsets: the client says so once, and never asks again."""
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(watchdog, "BEGIN_SECONDS", 0.5)
    broker = mock_broker("orders", 2)
    settings = at(broker, evkit_settings)
    produce_orders(settings, 20)
    broker.answer_next(broker.OFFSET_FETCH, broker.NOT_COORDINATOR)
    consumer = new_consumer("orders", system=System(settings), protocol=protocol)
    consumer.handler("a.b")(lambda event, tx: None)

    running(consumer)

    until(lambda: consumer.counts.handled == 20)
    assert "Broker: Not coordinator" in caplog.text
    assert "it is pushed" in caplog.text


def test_where_the_broker_does_not_know_kip_848_a_classic_group_is_joined(
    mock_broker, evkit_settings, new_consumer, running, caplog
):
    broker = mock_broker("orders", 2)
    settings = at(broker, evkit_settings)
    produce_orders(settings, 1)
    broker.answer_next(broker.CONSUMER_GROUP_HEARTBEAT, broker.UNSUPPORTED_VERSION)
    consumer = new_consumer("orders", system=System(settings), protocol=None)
    consumer.handler("a.b")(lambda event, tx: None)

    running(consumer)

    until(lambda: consumer.counts.handled == 1)
    assert consumer.protocol == "classic"
    assert "does not know KIP-848 groups, so it joins a classic one" in caplog.text


def test_what_ends_the_client_ends_the_consumer_and_is_said(mock_broker, evkit_settings, new_consumer):
    """Asked for KIP-848 and nothing else, it cannot go on; it must not look as if it did."""
    broker = mock_broker("orders", 2)
    settings = at(broker, evkit_settings)
    broker.answer_next(broker.CONSUMER_GROUP_HEARTBEAT, broker.UNSUPPORTED_VERSION)
    consumer = new_consumer("orders", system=System(settings), protocol="consumer")
    consumer.handler("a.b")(lambda event, tx: None)

    with pytest.raises(BrokerRefused, match="API version not supported"):
        consumer.run()

    assert not consumer.health().ok
    assert "API version not supported" in str(consumer.health().reasons)


def test_committed_offsets_are_asked_again_while_the_coordinator_moves(mock_broker, evkit_settings):
    """An admin client, asked the same, ends the process by a segmentation fault."""
    broker = mock_broker("orders", 2)
    settings = at(broker, evkit_settings)
    client = kafka.consumer(settings, "billing")
    client.commit(offsets=[kafka.TopicPartition("orders", 1, 7)], asynchronous=False)
    client.close()
    broker.answer_next(broker.OFFSET_FETCH, broker.NOT_COORDINATOR)

    found = kafka.committed(settings, "billing", [kafka.TopicPartition("orders", n) for n in (0, 1)])

    assert found == {("orders", 1): 7}


def test_quiet_partitions_are_not_taken_for_stuck_ones(
    evkit_system, evkit_topic, published, new_consumer, running, monkeypatch, caplog
):
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "STUCK_SECONDS", 0.2)
    topic, empty = evkit_topic(partitions=2), evkit_topic("empty", partitions=2)
    published(*[Event("a.b", f"k{n}", {}, topic=topic) for n in range(20)])
    consumer = new_consumer(topic)
    consumer.topics.append(empty)
    consumer.handler("a.b")(lambda event, tx: None)
    running(consumer)
    until(lambda: consumer.counts.handled == 20)
    caplog.clear()  # a broker that takes its time to bring them is another matter
    looked = []
    judge = consumer._watchdog._judge
    consumer._watchdog._judge = lambda *args: looked.append(judge(*args))

    until(lambda: len(looked) > 20)

    assert consumer.stuck == []
    assert "has not moved" not in caplog.text


def test_large_records_pause_their_partition_before_they_fill_the_memory(
    evkit_system, evkit_topic, new_consumer, running, monkeypatch
):
    monkeypatch.setattr(consumer_module, "BUFFER_BYTES_MAX", 4_000_000)
    topic = evkit_topic()
    producer = kafka.producer(evkit_system.settings)
    value = b'{"pad": "' + b"x" * 900_000 + b'"}'
    for n in range(60):
        producer.produce(topic, value, f"k{n}".encode(), headers={"ce_id": str(n), "ce_type": "a.b"})
        producer.poll(0)
    producer.flush(60)
    consumer = new_consumer(topic, batch_events_max=2)
    go = threading.Semaphore(0)
    seen = []

    @consumer.handler("a.b")
    def slow(event, tx):
        go.acquire()
        seen.append(event.id)

    running(consumer)
    until(lambda: consumer._paused)
    at_most = consumer._assignment.unfinished_bytes
    for _ in range(200):
        go.release()
    until(lambda: consumer.counts.handled == 60)

    assert 4_000_000 <= at_most < 4_000_000 + 3 * 900_000
    assert sorted(set(seen), key=int) == [str(n) for n in range(60)]
    assert consumer._assignment.unfinished_bytes == 0


@pytest.mark.parametrize("form", ["one by one", "batch"])
def test_event_older_than_what_was_applied_to_its_key_is_flagged_stale(
    form, evkit_system, evkit_topic, published, new_consumer, consumed
):
    """Event 1 of the key is dead, 2 and 3 overtake it in a group that parks nothing, and then it is redriven."""
    topic = evkit_topic()
    published(*[Event("a.b", key, {"n": n}, topic=topic) for n in range(4) for key in ("k", "l")])
    consumer = new_consumer(topic, park_key=False, version=lambda event: event.payload["n"])
    broken, seen = True, []

    def note(event, stale):
        if broken and event.key == "k" and event.payload["n"] == 1:
            raise ValueError("not yet")
        seen.append((event.key, event.payload["n"], stale))

    if form == "batch":
        consumer.handler("a.b", batch=True)(lambda events, tx: [note(e, e.id in tx.stale_ids) for e in events])
    else:
        consumer.handler("a.b")(lambda event, tx: note(event, tx.stale))
    consumed(consumer, 8)
    broken = False
    seen.clear()

    plan = dead_letters.plan_redrive(evkit_system, Selection(group=consumer.group))
    assert dead_letters.redrive(evkit_system, plan, consumer).failed == []

    assert seen == [("k", 1, True)]


def test_producer_that_writes_out_of_order_is_seen_by_sequence(evkit_system, evkit_topic, new_consumer, consumed, rows):
    topic = evkit_topic()
    producer = kafka.producer(evkit_system.settings)
    for n, sequence in enumerate(["1", "3", "2", "x", "4", None, "99999999999999999999"]):
        headers = {"ce_id": f"e{n}", "ce_type": "a.b"} | ({"ce_sequence": sequence} if sequence else {})
        producer.produce(topic, b"{}", b"k", headers=headers)
    producer.flush(30)
    consumer = new_consumer(topic, version="sequence", batch_events_max=3)
    stale = []
    consumer.handler("a.b")(lambda event, tx: stale.append(event.id) if tx.stale else None)

    consumed(consumer, 7)

    assert stale == ["e2"]
    assert rows("SELECT version, event_id FROM evkit.key_version") == [(4, "e4")]


def test_version_is_rolled_back_with_the_event_that_failed(
    evkit_system, evkit_topic, published, new_consumer, consumed, rows
):
    topic = evkit_topic()
    published(Event("a.b", "k", {"n": 7}, topic=topic))
    consumer = new_consumer(topic, version="offset")

    @consumer.handler("a.b")
    def fail(event, tx):
        raise ValueError("no")

    assert consumed(consumer, 1).dead == 1
    assert rows("SELECT count(*)::int FROM evkit.key_version") == [(0,)]


def test_without_an_inbox_events_are_handled_without_rows_and_failures_become_letters(
    evkit_system, evkit_topic, published, new_consumer, consumed, rows
):
    topic = evkit_topic()
    published(*[Event("a.b", f"k{n}", {"n": n}, topic=topic) for n in range(30)])
    consumer = new_consumer(topic, inbox=False)
    seen = []

    @consumer.handler("a.b")
    def handle(event, tx):
        if event.payload["n"] == 17:
            raise ValueError("no")
        seen.append(event.payload["n"])

    counts = consumed(consumer, 30)

    assert (counts.handled, counts.dead) == (29, 1)
    assert set(seen) == set(range(30)) - {17}
    assert rows("SELECT outcome, count(*)::int FROM evkit.inbox GROUP BY 1") == [("dead", 1)]
    (letter,) = dead_letters.letters(evkit_system)
    assert letter.key == "k17"


def test_handler_may_say_that_its_types_park_no_key(evkit_system, evkit_topic, published, new_consumer, consumed, rows):
    topic = evkit_topic()
    published(*[Event(kind, "k", {"n": n}, topic=topic) for n in range(3) for kind in ("measured", "moved")])
    consumer = new_consumer(topic)
    seen = []

    @consumer.handler("measured", park_key=False)
    def measured(event, tx):
        if event.payload["n"] == 0:
            raise ValueError("no")
        seen.append(("measured", event.payload["n"]))

    @consumer.handler("moved")
    def moved(event, tx):
        if event.payload["n"] == 1:
            raise ValueError("no")
        seen.append(("moved", event.payload["n"]))

    counts = consumed(consumer, 6)

    assert (counts.dead, counts.parked) == (2, 1)
    assert list(dict.fromkeys(seen)) == [("moved", 0), ("measured", 1), ("measured", 2)]
    assert rows("SELECT event_type FROM evkit.parked") == [("moved",)]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_ends_a_process_makes_no_dead_letter(kind, evkit_topic, published, new_consumer, consumed, rows):
    """Raised in the middle of a batch, by one of its events."""
    topic = evkit_topic()
    published(*[Event("a.b", f"k{n}", {"n": n}, topic=topic) for n in range(5)])
    consumer = new_consumer(topic)

    @consumer.handler("a.b")
    def handle(event, tx):
        if event.payload["n"] == 3:
            raise kind

    with pytest.raises(kind):
        consumed(consumer, 5)

    assert rows("SELECT count(*)::int FROM evkit.attempt") == [(0,)]
    assert rows("SELECT count(*)::int FROM evkit.dead_letter") == [(0,)]


def test_redelivered_event_whose_filter_now_fails_is_a_duplicate_and_no_failure(
    evkit_system, evkit_topic, published, new_consumer, consumed, rows
):
    topic = evkit_topic()
    published(Event("a.b", "k", {}, topic=topic))
    first = new_consumer(topic)
    first.handler("a.b")(lambda event, tx: None)
    consumed(first, 1)
    first._assignment.to_store()
    first._client.close()
    first._client = None
    with evkit_system.writing() as connection:
        connection.execute("TRUNCATE evkit.publication")
        connection.execute("DELETE FROM evkit.relay")
    published()
    second = new_consumer(topic, first.group)

    def where(event):
        raise KeyError("total")

    second.handler("a.b", where=where)(lambda event, tx: None)

    while second.counts.duplicate == 0:
        second.step(1.0)

    assert second.counts.dead == 0
    assert rows("SELECT count(*)::int FROM evkit.attempt") == [(0,)]


def test_letter_that_a_filter_refuses_now_says_so(evkit_system, evkit_topic, published, new_consumer, consumed):
    topic = evkit_topic()
    published(Event("a.b", "k", {}, topic=topic))
    consumer = new_consumer(topic, retry=Retry(attempts=1))
    let = True

    @consumer.handler("a.b", where=lambda event: let)
    def fail(event, tx):
        raise ValueError("no")

    consumed(consumer, 1)
    let = False
    plan = dead_letters.plan_redrive(evkit_system, Selection(group=consumer.group))

    result = dead_letters.redrive(evkit_system, plan, consumer)

    (letter,) = dead_letters.letters(evkit_system)
    assert (result.failed, result.skipped) == ([], [letter.letter_id])
    assert "the filters of its handlers (where=) let event" in result.skipped_because
    assert letter.error_message == "no", "nothing was tried, so it is no attempt"


def test_inbox_rows_tell_which_code_handled_an_event(
    evkit_system, evkit_topic, published, new_consumer, consumed, rows
):
    topic = evkit_topic()
    published(Event("a.b", "k", {}, topic=topic), Event("a.c", "k", {}, topic=topic))
    consumer = new_consumer(topic, code_version="2013.2")

    @consumer.handler("a.b")
    def bill(event, tx):
        pass

    consumed(consumer, 2)

    assert rows("SELECT outcome, handler, code_version FROM evkit.inbox ORDER BY outcome") == [
        ("handled", bill.__module__ + "." + bill.__qualname__, "2013.2"),
        ("skipped", None, "2013.2"),
    ]
