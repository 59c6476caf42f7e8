"""P2 with delivery="exactly-once", where Kafka forgets what it has acknowledged: a kill as it says "committed".

After one of five such kills the broker takes the transaction for complete and never writes its markers (decisions.py).
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from evkit import Event, Relay, decoding, kafka, outbox, postgres, records
from evkit.errors import Unreachable
from evkit.local.kafka_server import KafkaServer
from evkit.runtime import refusal
from evkit.runtime.decisions import Decisions
from evkit.runtime.transactional_publisher import TransactionalPublisher
from evkit.settings import Settings
from evkit.system import System

KILLS = 4


@pytest.mark.timeout(600)
def test_commit_of_a_broker_that_is_killed_as_it_acknowledges_it_is_published_once(own_stack, monkeypatch):
    broker = KafkaServer(Path(own_stack.home) / "kafka")
    brokers = {"bootstrap.servers": own_stack.kafka_bootstrap_servers}
    system = System(Settings(postgres_dsn=own_stack.postgres_dsn, kafka=brokers))
    postgres.migrate(own_stack.postgres_dsn)
    kafka.create_topics(system.settings, {"orders": 3})
    add, victims = Decisions.add, []

    def add_after_a_kill(self, batch):  # what is called when the commit was acknowledged
        if process := victims and victims.pop():
            process.kill()  # at once: in a few milliseconds its markers are there
            process.wait(60)
            broker.start(lambda _: None)
        add(self, batch)

    send_claim, failing = TransactionalPublisher._send_claim, []

    def send_claim_or_fail(self, claim):  # librdkafka may hang in here after a restart: the transaction is given up
        if claim and not victims and failing:
            failing.pop()
            raise refusal.PublishFailed("planted")
        send_claim(self, claim)

    monkeypatch.setattr(Decisions, "add", add_after_a_kill)
    monkeypatch.setattr(TransactionalPublisher, "_send_claim", send_claim_or_fail)
    written: list[str] = []
    undecided = 0

    for kill in range(KILLS):
        events = [Event("order.placed", f"k{n}", {"n": n}, topic="orders") for n in range(50)]
        with system.writing() as connection:
            written += outbox.write_many(connection, events)
        victims.append(broker.process())
        failing.append(True)
        until, done = time.monotonic() + 120, False
        while not done:
            assert time.monotonic() < until, f"not published 120 s after kill {kill}"
            relay = Relay(system, delivery="exactly-once", batch_events_max=25)
            try:
                while relay.step():
                    pass
                done = True
            except (refusal.PublishFailed, refusal.Fenced, Unreachable) as error:
                undecided += "does not show it" in str(error)
            finally:
                relay.close()

    print(f"undecided after {undecided} of {KILLS} kills")
    found = Counter(decoding.decode(record).id for record in records.scan(system.settings, "orders"))
    assert found == Counter(written)
