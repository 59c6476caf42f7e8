"""Events that went all the way: written, relayed, and handled by a group that does nothing with them."""

from __future__ import annotations

from evkit import Consumer, Event, Relay, outbox
from evkit.system import System
from tests.relaying import drain


def handle_all(system: System, group: str, events: list[Event]) -> None:
    """Write events of one topic, publish them, and handle each once; nothing runs any more afterwards."""
    with system.writing() as connection:
        outbox.write_many(connection, events)
    relay = Relay(system)
    drain(relay)
    relay.close()
    (topic,) = {event.topic for event in events}
    consumer = Consumer(group, [topic], system=system)
    consumer.handler("order.placed")(lambda event, tx: None)
    while consumer.counts.total < len(events):
        consumer.step(1.0)
    consumer.close()
