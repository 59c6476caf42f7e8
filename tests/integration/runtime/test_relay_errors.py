"""P2, P3 and P5 when the broker says no: one event waits with its key, others flow, and a refusal stops the relay loudly.

Every error here is the real broker's own.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from evkit import Event, Relay, decoding, kafka, outbox
from evkit.errors import EvkitError, RelayStopped
from evkit.runtime import transactional_publisher, unpublishable
from evkit.runtime.publisher import Publisher
from evkit.runtime.refusal import PublishFailed
from evkit.system import System
from evkit.testing.events import read_topic
from evkit.testing.waiting import until

DELIVERIES = ("at-least-once", "exactly-once")


@pytest.fixture(params=DELIVERIES)
def delivery(request):
    return request.param


@pytest.fixture
def relay(evkit_system, delivery):
    relay = Relay(evkit_system, delivery=delivery)
    yield relay
    relay.close()


def write(system, *events):
    with system.writing() as connection:
        return outbox.write_many(connection, events)


def numbered(topic, key, *numbers, **more):
    """Events of one key that say their number, with `more` in each payload."""
    return [Event("order.placed", key, {"n": n, **more}, topic=topic) for n in numbers]


def settle(relay):
    """Step until nothing waits any more; returns the outbox's status."""
    deadline = time.monotonic() + 120
    while True:
        relay.step()
        status = outbox.status(relay.system)
        if status["waiting"] == status["retrying"] == status["due"] == 0:
            return status
        assert time.monotonic() < deadline, status


def told(system, topic, key=None):
    """The numbers of a topic's events, as its partitions have them; of one key, in its order."""
    return [event.payload["n"] for event in _events(system, topic, key)]


def told_by(delivery, system, topic, key=None):
    """The same, without what an at-least-once relay told again after the broker had refused a batch."""
    events = _events(system, topic, key)
    if delivery == "at-least-once":
        events = list({event.id: event for event in events}.values())
    return [event.payload["n"] for event in events]


def _events(system, topic, key):
    events = [decoding.decode(record) for record in read_topic(system, topic)]
    return [event for event in events if key in (None, event.key)]


def adds_up(status):
    parts = ("published", "waiting", "unpublishable", "held", "retrying", "skipped")
    return status["written"] == sum(status[part] for part in parts)


def is_open(system, topic, partitions_count):
    """Whether the broker has made the log of every partition: it names a topic a moment before."""
    places = [kafka.TopicPartition(topic, partition) for partition in range(partitions_count)]
    try:
        return len(kafka.offsets(system.settings, places, client=system.admin)) == partitions_count
    except (EvkitError, KafkaException):
        return False


def delete_topic(settings, topic):
    """Returns when the broker does not know it any more."""
    client = kafka.admin(settings)
    client.delete_topics([topic])[topic].result()
    deadline = time.monotonic() + 120
    while topic in kafka.topics(settings, client):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def limit_topic(settings, topic, bytes_max):
    """Change what a topic takes; returns when the broker says so."""
    change = ConfigEntry("max.message.bytes", str(bytes_max), incremental_operation=AlterConfigOpType.SET)
    client = kafka.admin(settings)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[change])
    client.incremental_alter_configs([resource])[resource].result()
    until(lambda: kafka.topic_bytes_max(settings, topic), lambda found: found == bytes_max)


@contextlib.contextmanager
def running(relay):
    """The relay in a thread; yields a list that its error is put into, and stops it at the end."""
    ended = []

    def run():
        try:
            relay.run()
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ended
    finally:
        relay.stop()
        thread.join(60)
        assert not thread.is_alive()


# --- one event is not taken -------------------------------------------------------------------------------------------


def large_among_small(topic):
    """Forty small events of four keys; the eleventh of them all, of key k2, is larger than the topic takes."""
    events = [Event("order.placed", f"k{n % 4}", {"n": n}, topic=topic) for n in range(40)]
    events[10] = Event("order.placed", "k2", {"n": 10, "blob": "x" * 20_000}, topic=topic)
    return events


def test_event_larger_than_its_topic_takes_holds_its_key_and_nothing_else(evkit_system, evkit_topic, relay):
    """Small events of the same batch flow, although the broker refuses batches and not events."""
    topic = evkit_topic(partitions=2, **{"max.message.bytes": "10000"})
    write(evkit_system, *large_among_small(topic))

    status = settle(relay)

    (parked,) = unpublishable.rows(evkit_system)
    assert (parked.position, parked.key, parked.attempts, parked.held) == (11, "k2", 1, 7)
    assert parked.error_class == "MSG_SIZE_TOO_LARGE"
    assert "10,000" in parked.error
    assert told(evkit_system, topic, "k2") == [2, 6]
    for key, numbers in {"k0": range(0, 40, 4), "k1": range(1, 40, 4), "k3": range(3, 40, 4)}.items():
        assert told(evkit_system, topic, key) == list(numbers)
    assert (status["published"], status["unpublishable"], status["held"]) == (32, 1, 7)
    assert adds_up(status)


def test_limit_that_was_lowered_under_a_running_relay_parks_the_large_event_alone(
    evkit_system, evkit_topic, relay, delivery
):
    """Nobody tells the relay: the broker refuses a batch in which most events are innocent."""
    topic = evkit_topic()
    write(evkit_system, *numbered(topic, "k0", 0))
    settle(relay)
    limit_topic(evkit_system.settings, topic, 10_000)

    write(evkit_system, *large_among_small(topic))
    status = settle(relay)

    assert [(row.position, row.error_class) for row in unpublishable.rows(evkit_system)] == [(12, "MSG_SIZE_TOO_LARGE")]
    assert told_by(delivery, evkit_system, topic, "k2") == [2, 6]
    assert sorted(told_by(delivery, evkit_system, topic)) == sorted(
        [0, *(n for n in range(40) if n % 4 != 2 or n < 10)]
    )
    assert adds_up(status)


def test_limit_that_the_relay_may_not_ask_for_parks_the_large_event_alone(evkit_secured_kafka, delivery):
    topic = evkit_secured_kafka.topic("orders", **{"max.message.bytes": "10000"})
    settings = evkit_secured_kafka.settings("service")
    allow_relay(evkit_secured_kafka, "service")
    evkit_secured_kafka.allow("service", "WRITE", topic=topic)
    system = System(settings)
    assert kafka.topic_bytes_max(settings, topic) is None
    events = large_among_small(topic)
    events += [Event("order.placed", f"k{n % 4}", {"n": n, "blob": "x" * 2000}, topic=topic) for n in range(40, 80)]
    write(system, *events)
    relay = Relay(system, delivery=delivery)

    status = settle(relay)
    relay.close()

    assert [row.position for row in unpublishable.rows(system)] == [11]
    for key, numbers in {"k0": range(0, 80, 4), "k1": range(1, 80, 4), "k2": [2, 6], "k3": range(3, 80, 4)}.items():
        assert told_by(delivery, System(evkit_secured_kafka.open_settings), topic, key) == list(numbers)
    assert adds_up(status)


def test_refusal_that_comes_while_events_are_still_handed_over_is_mended_there(
    evkit_system, evkit_topic, relay, monkeypatch
):
    topic = evkit_topic(**{"max.message.bytes": "10000"})
    monkeypatch.setattr(kafka, "topic_bytes_max", lambda _settings, _topic: None)  # it may not ask
    hand_over = Publisher._produce

    def until_one_is_refused(publisher, batch, rows):
        hand_over(publisher, batch, rows)
        while not publisher._failures and not all(b.is_answered for b in publisher._under_way):
            publisher._serve(0.1)

    monkeypatch.setattr(Publisher, "_produce", until_one_is_refused)
    write(evkit_system, *large_among_small(topic))

    status = settle(relay)

    assert [row.error_class for row in unpublishable.rows(evkit_system)] == ["MSG_SIZE_TOO_LARGE"]
    assert status["published"] + status["unpublishable"] + status["held"] == status["written"]


def test_topic_that_takes_more_than_others_gets_its_large_event(evkit_system, evkit_topic, relay):
    """A client's own limit of a megabyte is not the topic's."""
    topic = evkit_topic(**{"max.message.bytes": "5000000"})
    large = Event("order.placed", "k", {"n": 1, "blob": "x" * 3_000_000}, topic=topic)
    with evkit_system.writing() as connection:
        outbox.write(connection, large, event_bytes_max=4_000_000)
    write(evkit_system, *numbered(topic, "k", 2))

    settle(relay)

    assert told(evkit_system, topic) == [1, 2]


def test_skipping_lets_the_key_of_a_large_event_go_on(evkit_system, evkit_topic, delivery):
    topic = evkit_topic(**{"max.message.bytes": "10000"})
    write(evkit_system, *large_among_small(topic))
    relay = Relay(evkit_system, delivery=delivery, on_poison="skip")

    status = settle(relay)
    relay.close()

    assert told(evkit_system, topic, "k2") == [n for n in range(2, 40, 4) if n != 10]
    (skipped,) = unpublishable.rows(evkit_system, states=["skipped"])
    assert (skipped.position, skipped.error_class) == (11, "MSG_SIZE_TOO_LARGE")
    assert (status["published"], status["skipped"], status["held"]) == (39, 1, 0)
    assert adds_up(status)


def test_retry_publishes_the_parked_event_and_what_is_held_behind_it_in_order(evkit_system, evkit_topic, relay):
    """First too early, so that it is parked again with one more attempt; then the topic takes more."""
    topic = evkit_topic(**{"max.message.bytes": "10000"})
    write(evkit_system, *large_among_small(topic))
    settle(relay)

    unpublishable.retry(evkit_system, [11], reason="the limit is higher, they say")
    status = settle(relay)
    (parked,) = unpublishable.rows(evkit_system)
    assert (parked.position, parked.attempts, parked.held) == (11, 2, 7)
    assert adds_up(status)

    limit_topic(evkit_system.settings, topic, 100_000)
    unpublishable.retry(evkit_system, [11])
    write(evkit_system, *numbered(topic, "k2", 42))
    status = settle(relay)

    assert told(evkit_system, topic, "k2") == [*range(2, 40, 4), 42]
    assert (status["written"], status["published"], status["unpublishable"], status["held"]) == (41, 41, 0, 0)


def test_skip_by_hand_publishes_what_was_held_behind_and_the_numbers_add_up(evkit_system, evkit_topic, relay):
    topic = evkit_topic(**{"max.message.bytes": "10000"})
    write(evkit_system, *large_among_small(topic))
    settle(relay)

    unpublishable.skip(evkit_system, [11], reason="the customer has cancelled")
    status = settle(relay)

    assert told(evkit_system, topic, "k2") == [n for n in range(2, 40, 4) if n != 10]
    assert (status["published"], status["skipped"], status["held"], status["unpublishable"]) == (39, 1, 0, 0)
    assert adds_up(status)


@pytest.mark.parametrize("name", ["no topic of that name", "x" * 250, "..", "größe"])
def test_name_that_can_be_no_topic_parks_its_events_at_once(evkit_system, evkit_topic, relay, name):
    """`outbox.write` refuses such a name; a plain INSERT does not."""
    topic = evkit_topic()
    with evkit_system.writing() as connection:
        connection.execute(
            "INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload) VALUES (%s, 'k', 'order.placed', '{}')",
            (name,),
        )
    write(evkit_system, *numbered(topic, "k", 1))

    status = settle(relay)

    (parked,) = unpublishable.rows(evkit_system)
    assert (parked.topic, parked.key) == (name, "k")
    assert "topic" in parked.error.lower()
    assert told(evkit_system, topic) == [1]
    assert adds_up(status)


@pytest.mark.parametrize("headers", ["[1]", '{"a": 1}', '{"a": {"b": "c"}}', '"text"', "1", '{"a": "\\ud800"}'])
def test_row_whose_headers_are_not_an_object_of_text_is_parked(evkit_system, evkit_topic, relay, headers):
    topic = evkit_topic()
    with evkit_system.writing() as connection:
        connection.execute(
            "INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload, headers) "
            "VALUES (%(t)s, 'bad', 'order.placed', '{\"n\": 1}', %(h)s),"
            "       (%(t)s, 'good', 'order.placed', '{\"n\": 2}', '{}'),"
            "       (%(t)s, 'bad', 'order.placed', '{\"n\": 3}', NULL)",
            {"t": topic, "h": headers},
        )

    status = settle(relay)

    (parked,) = unpublishable.rows(evkit_system)
    assert (parked.position, parked.key, parked.held) == (1, "bad", 1)
    assert parked.error
    assert told(evkit_system, topic) == [2]
    assert adds_up(status)


def test_headers_that_are_json_null_are_no_headers(evkit_system, evkit_topic, relay):
    topic = evkit_topic()
    with evkit_system.writing() as connection:
        connection.execute(
            "INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload, headers) "
            "VALUES (%s, 'k', 'order.placed', '{\"n\": 1}', 'null')",
            (topic,),
        )

    settle(relay)

    assert not unpublishable.rows(evkit_system)
    assert told(evkit_system, topic) == [1]


def test_value_like_sql_and_headers_of_any_text_travel_unchanged(evkit_system, evkit_topic, relay):
    topic = evkit_topic()
    nasty = "Robert'); DROP TABLE evkit.outbox;-- \\ %s {} $1 \" \u0001 \U0001f600 \u05d0"
    event = Event(
        f"order.{nasty[:8]}",
        nasty,
        {"n": nasty, nasty: [None, 1.5, "ß"]},
        topic=topic,
        headers={"tenant": "Žluťoučký kůň", "größe-ж": nasty, "empty": ""},
    )
    write(evkit_system, event)

    settle(relay)

    (record,) = read_topic(evkit_system, topic)
    published = decoding.decode(record)
    assert (published.type, published.key, published.payload) == (event.type, event.key, event.payload)
    assert published.headers == event.headers
    assert record.key == nasty.encode()


# --- the topic is gone, or another one --------------------------------------------------------------------------------


@pytest.fixture
def short_transactions(monkeypatch):
    """Events for a partition that is no more hold a transaction until its time is over, half a minute by default."""
    monkeypatch.setattr(transactional_publisher, "_TRANSACTION_SECONDS", 10)


@pytest.mark.parametrize("drive", ["step", "run"])
def test_topic_deleted_under_a_running_relay_parks_its_events_and_others_flow(
    evkit_system, evkit_topic, delivery, drive, short_transactions
):
    doomed, there = evkit_topic("doomed"), evkit_topic("there")
    write(evkit_system, *numbered(doomed, "k", 0), *numbered(there, "k", 0))
    relay = Relay(evkit_system, delivery=delivery)
    with running(relay) if drive == "run" else contextlib.closing(relay):

        def settled():
            if drive == "step":
                with contextlib.suppress(PublishFailed):  # what `run` waits out: the topic's partitions are others
                    relay.step()
            status = outbox.status(evkit_system)
            return status if status["waiting"] == status["retrying"] == 0 else None

        until(settled, bool)
        delete_topic(evkit_system.settings, doomed)
        write(
            evkit_system,
            *[event for n in (1, 2) for topic in (doomed, there) for event in numbered(topic, "k", n)],
            *numbered(doomed, "other", 1),
        )

        status = until(settled, bool)

        assert told_by(delivery, evkit_system, there) == [0, 1, 2]
        parked = unpublishable.rows(evkit_system)
        assert [(row.topic, row.key, row.held) for row in parked] == [(doomed, "k", 1), (doomed, "other", 0)]
        assert all("UNKNOWN_TOPIC" in row.error_class for row in parked)
        assert (status["published"], status["unpublishable"], status["held"]) == (4, 2, 1)
        assert adds_up(status)

        kafka.create_topics(evkit_system.settings, {doomed: 1})
        unpublishable.retry(evkit_system, [row.position for row in parked])
        status = until(settled, bool)

        assert told_by(delivery, evkit_system, doomed, "k") == [1, 2]
        assert told_by(delivery, evkit_system, doomed, "other") == [1]
        assert status["published"] == status["written"] == 7


@pytest.mark.parametrize("drive", ["step", "run"])
def test_topic_made_again_with_fewer_partitions_gets_every_event_in_the_order_of_its_key(
    evkit_system, evkit_topic, delivery, drive, short_transactions
):
    topic = evkit_topic(partitions=6)
    keys = [f"k{i}" for i in range(12)]
    write(evkit_system, *[event for n in range(3) for key in keys for event in numbered(topic, key, n)])
    relay = Relay(evkit_system, delivery=delivery, batch_events_max=50)
    with running(relay) if drive == "run" else contextlib.closing(relay):

        def settled():
            if drive == "step":
                with contextlib.suppress(PublishFailed):  # what `run` waits out: the topic's partitions are others
                    relay.step()
            status = outbox.status(evkit_system)
            return status if status["waiting"] == status["retrying"] == 0 else None

        until(settled, bool)
        delete_topic(evkit_system.settings, topic)
        until(lambda: kafka.create_topics(evkit_system.settings, {topic: 2}), bool)
        until(lambda: is_open(evkit_system, topic, 2), bool)  # before, order is not promised: see Relay
        # One of each key first: of two batches under way, the later one may be the first that a new partition takes.
        for stretch in (range(3, 4), range(4, 20)):
            write(evkit_system, *[event for n in stretch for key in keys for event in numbered(topic, key, n)])
            status = until(settled, bool)
            # What came while nobody knew of the new topic may be parked: that is told, and a retry brings it.
            if parked := unpublishable.rows(evkit_system):
                unpublishable.retry(evkit_system, [row.position for row in parked])
                status = until(settled, bool)

    assert (status["unpublishable"], status["held"], status["skipped"]) == (0, 0, 0)
    assert status["published"] == status["written"] == 240
    assert {record.partition for record in read_topic(evkit_system, topic)} <= {0, 1}
    for key in keys:
        firsts = list(dict.fromkeys(told(evkit_system, topic, key)))
        assert firsts == list(range(3, 20))


# --- the relay itself is refused --------------------------------------------------------------------------------------


def refused(relay, caplog, password):
    """Run until the relay gives up; what its error, its health and its outbox say. Nothing says the password."""
    caplog.set_level(logging.DEBUG)
    with running(relay) as ended:
        until(lambda: ended, bool)
    (error,) = ended
    health, status = relay.health(), outbox.status(relay.system)
    assert isinstance(error, RelayStopped), error
    assert not health.ok
    assert str(error) in health.reasons[0]
    assert adds_up(status)
    everything = f"{error!r} {health!r} {status!r} {caplog.text} {[vars(r) for r in caplog.records]}"
    assert password not in everything
    return str(error), status


def test_wrong_password_stops_the_relay_and_nothing_is_marked(evkit_secured_kafka, delivery, caplog):
    topic = evkit_secured_kafka.topic("orders")
    evkit_secured_kafka.settings("service")
    evkit_secured_kafka.allow("service", topic="*")
    system = System(evkit_secured_kafka.settings("service", password="not-the-password-5e1f"))
    write(system, *numbered(topic, "k", 1))

    sentence, status = refused(Relay(system, delivery=delivery), caplog, "not-the-password-5e1f")

    assert "password" in sentence
    assert "then start it again" in sentence
    assert (status["waiting"], status["published"], status["unpublishable"]) == (1, 0, 0)


def test_acl_that_forbids_writing_stops_the_relay_and_nothing_is_marked(evkit_secured_kafka, delivery, caplog):
    topic = evkit_secured_kafka.topic("orders")
    settings = evkit_secured_kafka.settings("service")
    allow_relay(evkit_secured_kafka, "service")
    evkit_secured_kafka.allow("service", "DESCRIBE", topic=topic)
    system = System(settings)
    write(system, *numbered(topic, "k", 1))

    sentence, status = refused(Relay(system, delivery=delivery), caplog, settings.kafka["sasl.password"])

    assert f"'{topic}'" in sentence
    assert "right to write" in sentence
    assert (status["waiting"], status["published"], status["unpublishable"]) == (1, 0, 0)

    evkit_secured_kafka.allow("service", "WRITE", topic=topic)
    relay = Relay(system, delivery=delivery)
    settle(relay)
    relay.close()
    assert told(System(evkit_secured_kafka.open_settings), topic) == [1]


def test_acl_that_is_taken_away_stops_a_running_relay_after_what_was_confirmed(evkit_secured_kafka, delivery, caplog):
    topic = evkit_secured_kafka.topic("orders")
    settings = evkit_secured_kafka.settings("service")
    allow_relay(evkit_secured_kafka, "service")
    evkit_secured_kafka.allow("service", topic=topic)
    system = System(settings)
    write(system, *numbered(topic, "k", 1))
    caplog.set_level(logging.DEBUG)
    relay = Relay(system, delivery=delivery)
    with running(relay) as ended:
        until(lambda: outbox.status(system)["published"], lambda published: published == 1)
        evkit_secured_kafka.deny("service", "WRITE", topic=topic)
        write(system, *numbered(topic, "k", 2))
        until(lambda: ended, bool)

    assert isinstance(ended[0], RelayStopped), ended
    assert topic in str(ended[0])
    assert not relay.health().ok
    status = outbox.status(system)
    assert (status["published"], status["waiting"], status["unpublishable"]) == (1, 1, 0)
    assert told(System(evkit_secured_kafka.open_settings), topic) == [1]
    assert settings.kafka["sasl.password"] not in caplog.text + str(ended[0])


def test_missing_right_to_its_transactional_id_stops_an_exactly_once_relay(evkit_secured_kafka, caplog):
    topic = evkit_secured_kafka.topic("orders")
    settings = evkit_secured_kafka.settings("service")
    evkit_secured_kafka.allow("service", topic="*")
    evkit_secured_kafka.allow("service", group="*")
    system = System(settings)
    write(system, *numbered(topic, "k", 1))

    sentence, status = refused(Relay(system, delivery="exactly-once"), caplog, settings.kafka["sasl.password"])

    assert "transactional.id" in sentence
    assert (status["waiting"], status["published"]) == (1, 0)


def allow_relay(secured, user):
    """What an exactly-once relay needs besides its topics, which a relay at least once does not."""
    kafka.create_topics(secured.open_settings, {"evkit.relay": 1})
    secured.allow(user, ("READ", "DESCRIBE"), topic="evkit.relay")
    secured.allow(user, ("READ", "DESCRIBE"), group="evkit.relay.*")
    secured.allow(user, ("WRITE", "DESCRIBE"), transactional_id="evkit.relay.*")
    secured.allow(user, ("WRITE",), topic="unrelated")
