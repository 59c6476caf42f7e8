"""What the audit says of events that went through the real relay and consumer, and of what was done to them."""

from __future__ import annotations

import threading
from importlib import import_module

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from evkit import Consumer, Event, Relay, Retry, dead_letters, kafka, kafka_admin, outbox, views
from evkit.errors import InvalidParameter, UnknownGroup, UnknownTopic
from evkit.kafka import TopicPartition
from evkit.runtime.dead_letters import Selection
from evkit.system import System
from evkit.views.audit import FINDINGS
from tests.relaying import drain


class Shop:
    """Two groups on one topic of two partitions; `billing` fails at what it is told to fail at."""

    def __init__(self, system, topic, group):
        self.system, self.topic = system, topic("order", partitions=2)
        self.billing, self.shipping = group("billing"), group("shipping")
        self.fails = set()

    def write(self, *ids, key=None, event_type="order.placed"):
        with self.system.writing() as connection:
            outbox.write_many(connection, [Event(event_type, key or f"k{i}", {}, topic=self.topic, id=i) for i in ids])

    def publish(self):
        relay = Relay(self.system)
        drain(relay)
        relay.close()

    def consume(self, group, n):
        """Handle so many events, commit their offsets and leave."""
        once = Retry(attempts=1)
        made = Consumer(group, [self.topic], system=self.system, retry=once, breaker=None, batch_events_max=4)

        @made.handler("order.placed")
        def bill(event, tx):
            if event.id in self.fails:
                raise ValueError("no total")

        while made.counts.total < n:
            made.step(1.0)
        made.close()

    def sql(self, query, *values):
        with self.system.writing() as connection:
            connection.execute(query, values)

    def handled(self, group):
        with self.system.reading() as connection:
            rows = connection.execute("SELECT event_id FROM evkit.inbox WHERE consumer_group = %s", (group,)).fetchall()
        return {row[0] for row in rows}

    def audit(self, **how):
        how = {"settle": "0s"} | how
        return [
            (row["event_id"], row["group"], row["verdict"])
            for row in views.audit(self.system, "1h", **how).iter_rows(named=True)
        ]


@pytest.fixture
def shop(evkit_system, evkit_topic, evkit_group):
    return Shop(evkit_system, evkit_topic, evkit_group)


def ids(n, start=0):
    return [f"e{i:03}" for i in range(start, start + n)]


def counts(shop, **how):
    frame = views.audit_counts(shop.system, "1h", settle="0s", **how)
    return {row["group"]: row for row in frame.iter_rows(named=True)}


def test_events_that_every_group_has_handled_are_ok_and_add_up(shop):
    shop.write(*ids(50))
    shop.publish()
    shop.consume(shop.billing, 50)
    shop.consume(shop.shipping, 50)

    assert shop.audit() == []
    assert {v for _, _, v in shop.audit(every=True)} == {"ok"}
    assert len(shop.audit(every=True)) == 150
    found = counts(shop)
    assert (found[None]["written"], found[None]["published"], found[None]["unaccounted"]) == (50, 50, 0)
    for group in (shop.billing, shop.shipping):
        assert (found[group]["published"], found[group]["handled"], found[group]["unaccounted_group"]) == (50, 50, 0)


def test_each_way_of_being_lost_late_or_doubled_has_its_name(shop):
    shop.fails = {"e003"}
    shop.write(*ids(20))
    shop.write("x1", event_type="order.moved")  # nobody has a handler for it
    shop.write("e003b", key="ke003")  # of the key of the one that dies
    shop.publish()
    shop.consume(shop.billing, 22)
    shop.write("late")
    shop.publish()
    shop.write("waits")
    shop.sql("DELETE FROM evkit.inbox WHERE event_id = 'e007'")
    shop.sql(
        'INSERT INTO evkit.inbox SELECT consumer_group, event_id, 1, event_type, topic, partition, "offset", key, outcome,'
        " attempts, created_at, appended_at, received_at FROM evkit.inbox WHERE event_id = 'e009'"
    )
    shop.sql("DELETE FROM evkit.publication p USING evkit.outbox o WHERE o.position = p.position AND o.id = 'e011'")
    shop.publish()

    found = shop.audit(every=True)

    expected = {
        ("e003", shop.billing): "dead", ("e003b", shop.billing): "parked", ("e007", shop.billing): "not_consumed",
        ("e009", shop.billing): "processed_twice", ("x1", shop.billing): "skipped", ("late", shop.billing): "pending",
        ("waits", shop.billing): "pending",
    }  # fmt: skip
    assert {(e, g): v for e, g, v in found if v != "ok"} == expected
    assert {v for _, _, v in shop.audit()} <= set(FINDINGS)
    found = counts(shop)[shop.billing]
    assert (found["published"], found["handled"], found["dead"], found["parked"], found["skipped"], found["lagging"]) == (
        24, 18, 1, 1, 1, 2,
    )  # fmt: skip
    assert found["unaccounted_group"] == found["not_consumed_n"] == 1


def test_unknown_names_and_verdicts_are_refused_with_near_matches(shop):
    shop.write(*ids(1))
    shop.publish()
    shop.consume(shop.billing, 1)

    with pytest.raises(UnknownGroup, match=f"did you mean '{shop.billing}'"):
        shop.audit(group=shop.billing + "s")
    with pytest.raises(UnknownTopic, match=f"did you mean '{shop.topic}'"):
        shop.audit(topic=shop.topic + "s")
    with pytest.raises(InvalidParameter, match="it is one of not_published, missing"):
        shop.audit(verdicts=["lost"])
    with pytest.raises(InvalidParameter, match="copies_within 'soon'"):
        shop.audit(copies_within="soon")


def test_a_group_that_was_set_forward_has_skipped_what_lies_between(shop):
    shop.write(*ids(10), key="one")
    shop.publish()
    shop.consume(shop.billing, 10)
    shop.write(*ids(5, start=10), key="one")
    shop.publish()
    (place,) = [p for p, end in ends(shop).items() if end == 15]
    kafka_admin.move_offsets(shop.system.settings, shop.billing, {place: 15}, shop.system.admin)
    shop.write(*ids(5, start=15), key="one")
    shop.publish()
    shop.consume(shop.billing, 5)

    found = views.audit(shop.system, "1h", settle="0s")

    assert [(row[0], row[1]) for row in found.select("event_id", "verdict").rows()] == [
        (event_id, "skipped_by_reset") for event_id in ids(5, start=10)
    ]
    assert f"went from offset 10 to 15 of partition {place[1]}" in found["evidence"][0]
    assert "Kafka's record of its commits" in found["evidence"][0]


def test_what_retention_took_before_the_group_came_is_lost_to_it(shop):
    shop.write(*ids(10), key="one")
    shop.publish()
    shop.consume(shop.billing, 10)
    shop.consume(shop.shipping, 4)
    (place,) = [p for p, end in ends(shop).items() if end == 10]
    committed = kafka.committed(shop.system.settings, shop.shipping, [TopicPartition(*place)]).get(place)
    handled = shop.handled(shop.shipping)
    assert committed == len(handled)
    taken = shop.system.admin.delete_records([TopicPartition(*place, 10)])
    next(iter(taken.values())).result()

    assert shop.audit() == [
        (event_id, shop.shipping, "lost_to_retention") for event_id in ids(10) if event_id not in handled
    ]


def test_a_relay_that_forgot_what_it_had_published_publishes_twice_and_both_places_are_named(shop):
    shop.write(*ids(6), key="one")
    shop.publish()
    shop.sql("DELETE FROM evkit.publication WHERE position > 3")
    shop.sql("UPDATE evkit.relay SET settled_position = 3")
    shop.publish()
    shop.consume(shop.billing, 9)

    found = views.audit(shop.system, "1h", settle="0s")

    assert found.select("event_id", "group", "verdict").rows() == [
        (event_id, None, "published_twice") for event_id in ids(3, start=3)
    ]
    assert "offset 3, partition" in found["evidence"][0]
    assert found["in_log_n"].to_list() == [2, 2, 2]


def test_a_copy_that_came_long_after_the_window_is_found_or_it_is_said_how_far_was_looked(shop, caplog, monkeypatch):
    shop.write(*ids(4), key="one")
    shop.publish()
    shop.sql("DELETE FROM evkit.publication WHERE position > 2")
    shop.sql("UPDATE evkit.relay SET settled_position = 2")
    shop.publish()
    # The first records are what is marked, so that the copies lie behind all that the window's events are known to be at.
    shop.sql('UPDATE evkit.publication SET "offset" = position - 1')
    shop.sql("UPDATE evkit.outbox SET created_at = created_at - interval '2 hours'")
    window = "now-3h/now-1h"
    doubled = [("e002", "published_twice"), ("e003", "published_twice")]

    def found(**how):
        caplog.clear()
        return views.audit(shop.system, window, **how).select("event_id", "verdict").rows()

    assert found() == found(copies_within="end") == found(copies_within="61m") == doubled
    assert not caplog.text
    assert found(copies_within="10m") == []
    assert "2 records that came after the window were not looked at for copies" in caplog.text
    monkeypatch.setattr(import_module("evkit.views.audit.examine"), "COPIES_RECORDS_MAX", 1)
    assert found() == []
    assert "2 records that came after" in caplog.text


def test_a_dead_event_that_was_redriven_late_is_neither_out_of_order_nor_handled_twice(shop):
    shop.fails = {"e000"}
    shop.write(*ids(3), key="one")
    shop.publish()
    shop.consume(shop.billing, 3)
    shop.fails = set()
    consumer = Consumer(shop.billing, [shop.topic], system=shop.system)
    consumer.handler("order.placed")(lambda event, tx: None)
    plan = dead_letters.plan_redrive(shop.system, Selection(group=shop.billing))
    dead_letters.redrive(shop.system, plan, consumer)

    assert shop.audit() == []


def test_a_handler_that_overtakes_by_less_than_the_clock_tells_is_told_by_its_transactions(shop):
    shop.write(*ids(2), key="one")
    shop.publish()
    shop.consume(shop.billing, 2)
    at = "SELECT min(processed_at) FROM evkit.inbox"
    shop.sql(f"UPDATE evkit.inbox SET processed_at = ({at}) - interval '1 ms' WHERE event_id = 'e001'")
    shop.sql("UPDATE evkit.inbox SET processed_at = processed_at WHERE event_id = 'e000'")

    assert shop.audit() == [("e001", shop.billing, "out_of_order")]


def test_a_group_without_an_inbox_is_left_out_and_that_is_said(shop, caplog):
    shop.write("e1")
    shop.publish()
    shop.sql(
        'INSERT INTO evkit.attempt (consumer_group, event_id, event_type, topic, partition, "offset", attempt,'
        " duration_seconds, error_class, error_message, stack_trace, fingerprint, disposition)"
        " VALUES ('loose', 'e1', 'order.placed', 'order', 0, 0, 1, 0, 'E', '', '', 'f', 'retry')"
    )

    assert shop.audit(every=True) == [("e1", None, "ok")]
    assert "group 'loose' has no inbox" in caplog.text


def test_of_too_many_rows_the_worst_are_kept_and_that_is_said(shop, caplog):
    shop.write(*ids(5))
    shop.publish()
    shop.write("never")
    shop.publish()
    shop.sql("UPDATE evkit.outbox SET id = 'other' WHERE id = 'never'")
    shop.sql("DELETE FROM evkit.publication p USING evkit.outbox o WHERE o.position = p.position AND o.id = 'other'")

    assert shop.audit(every=True, rows_max=2) == [("e000", None, "ok"), ("other", None, "not_published")]
    assert "only the worst 2 of 6 rows are shown" in caplog.text


@pytest.mark.parametrize("key", ['a"b', "a,b", "a\nb\r\nc", "\\N", "", "'", "\u202e\x7f", "NULL", " "])
def test_keys_that_are_hard_to_write_down_come_back_as_they_were(shop, key):
    shop.write("e1")
    shop.sql("UPDATE evkit.outbox SET aggregateid = %s", key)

    assert views.audit(shop.system, "1h", every=True)["key"].to_list() == [key]


def test_what_may_not_be_read_is_said_and_not_guessed(evkit_secured_kafka, caplog):
    shop = Shop(System(evkit_secured_kafka.open_settings), evkit_secured_kafka.topic, lambda name: f"{name}-secured")
    shop.write(*ids(6), key="one")
    shop.publish()
    shop.consume(shop.billing, 6)
    shop.write(*ids(3, start=6), key="one")
    shop.publish()
    (place,) = [p for p, end in ends(shop).items() if end == 9]
    kafka_admin.move_offsets(shop.system.settings, shop.billing, {place: 9}, shop.system.admin)
    for user, rights in (("analyst", ["DESCRIBE", "READ"]), ("blind", ["DESCRIBE"])):
        shop.system = System(evkit_secured_kafka.settings(user))
        evkit_secured_kafka.allow(user, rights, topic=shop.topic)
        evkit_secured_kafka.allow(user, ["DESCRIBE", "READ"], group=shop.billing)

        found = views.audit(shop.system, "1h", settle="0s")

        assert found["verdict"].to_list() == ["skipped_by_reset"] * 3
        assert "inferred from 3 unhandled events in a row: Kafka's record of commits may not" in found["evidence"][0]
        assert found["in_log_n"].to_list() == ([1] * 3 if "READ" in rights else [None] * 3)
    assert f"topic {shop.topic} may not be read by us" in caplog.text


def test_what_the_broker_does_not_take_is_unpublishable_and_adds_up(shop):
    shop.write("fits", key="one")
    shop.publish()
    with shop.system.writing() as connection:
        outbox.write(connection, Event("order.placed", "one", {"pad": "x" * 300_000}, topic=shop.topic, id="huge"))
    shop.write("behind", key="one")
    shop.system.admin.incremental_alter_configs([small(shop.topic)])[small(shop.topic)].result()
    shop.publish()

    found = views.audit(shop.system, "1h", settle="0s")

    assert found.select("event_id", "verdict").rows() == [("huge", "unpublishable"), ("behind", "unpublishable")]
    assert "waits behind position" in found["evidence"][1]
    of_topic = counts(shop)[None]
    assert [of_topic[name] for name in ("written", "published", "unpublishable", "held", "unaccounted")] == [
        3,
        1,
        1,
        1,
        0,
    ]


def test_the_numbers_add_up_at_any_moment_while_relay_and_consumer_run(shop):
    relay = Relay(shop.system)
    consumer = Consumer(shop.billing, [shop.topic], system=shop.system)
    consumer.handler("order.placed")(lambda event, tx: None)
    shop.write("first")
    relay_thread = relay.start()
    assert relay.leading.wait(60)  # where no relay ever led, what is written is not on its way
    consumer_thread = threading.Thread(target=consumer.run)
    consumer_thread.start()
    written = threading.Event()

    def write():
        for n in range(40):
            shop.write(*ids(25, start=25 * n))
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    asked = 0
    try:
        while True:
            is_last = written.is_set()
            found = counts(shop)
            asked += 1
            assert found.pop(None)["unaccounted"] == 0
            assert all(row["unaccounted_group"] == 0 for row in found.values())
            if is_last and shop.billing in found and found[shop.billing]["handled"] == 1001:
                break
    finally:
        writer.join(60)
        consumer.stop()
        relay.stop()
        consumer_thread.join(60)
        relay_thread.join(60)
    assert asked > 2
    assert shop.audit() == []


def ends(shop):
    return kafka.offsets(shop.system.settings, kafka.partitions_of(shop.system.settings, [shop.topic]))


def small(topic):
    """Takes batches of at most 100 kB from now on."""
    change = ConfigEntry("max.message.bytes", "100000", incremental_operation=AlterConfigOpType.SET)
    return ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[change])
