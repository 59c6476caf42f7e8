"""What the audit says of events that went through the real relay and consumer, and of what was done to them."""

from __future__ import annotations

import pytest

from evkit import Consumer, Event, Relay, Retry, outbox, views
from evkit.errors import InvalidParameter, UnknownGroup, UnknownTopic
from evkit.views.audit import FINDINGS


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
        while relay.step():
            pass
        relay.close()

    def consume(self, group, n):
        """Handle so many events, commit their offsets and leave."""
        made = Consumer(group, [self.topic], system=self.system, retry=Retry(attempts=1), breaker=None)

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
    shop.sql("INSERT INTO evkit.inbox SELECT consumer_group, event_id, 1, event_type, topic, partition, \"offset\", key, outcome,"
             " attempts, created_at, appended_at, received_at FROM evkit.inbox WHERE event_id = 'e009'")  # fmt: skip
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
