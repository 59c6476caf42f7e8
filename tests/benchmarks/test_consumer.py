"""The consumer against a transaction for each event: the same handler (one upsert), the same inbox row, the same topic."""

from __future__ import annotations

from datetime import UTC, datetime

from evkit import Consumer, Event, Relay, decoding, kafka, outbox

EVENTS = 20_000
EVENTS_EACH = 5_000
UPSERT = "INSERT INTO effect VALUES (%s, 1) ON CONFLICT (key) DO UPDATE SET n = effect.n + 1"


def test_consumer_against_a_transaction_for_each_event(evkit_system, evkit_topic, evkit_group, compare, timed):
    topic = evkit_topic(partitions=6)
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE effect (key text PRIMARY KEY, n bigint)")
        outbox.write_many(
            connection, [Event("a.b", f"k{i % 1000}", {"pad": "x" * 220}, topic=topic) for i in range(EVENTS)]
        )
    relay = Relay(evkit_system)
    while relay.step():
        pass
    relay.close()

    def ours():
        consumer = Consumer(evkit_group(), [topic], system=evkit_system)
        consumer.handler("a.b")(lambda event, tx: tx.execute(UPSERT, (event.key,)))
        consumer.step(5.0)  # joins the group, and warms up
        first = consumer.counts.total

        def work():
            while consumer.counts.total < EVENTS:
                consumer.step(1.0)
            return consumer.counts.total - first

        result = timed(work)
        consumer.close()
        return result

    def each():
        group = evkit_group()
        client = kafka.consumer(evkit_system.settings, group)
        client.subscribe([topic])
        client.poll(5.0)

        def work():
            done = 0
            with evkit_system.writing() as connection:
                while done < EVENTS_EACH:
                    for message in client.consume(500, 0.1):
                        record = kafka.record_of(message, datetime.now(UTC))
                        event = decoding.decode(record)
                        connection.execute(
                            "INSERT INTO evkit.inbox (consumer_group, event_id, event_type, topic, partition,"
                            ' "offset", key, received_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING',
                            (group, event.id, event.type, topic, record.partition, record.offset, event.key,
                             record.received_at),
                        )  # fmt: skip
                        connection.execute(UPSERT, (event.key,))
                        connection.commit()
                        done += 1
            return done

        result = timed(work)
        client.close()
        return result

    compare("consumer against a transaction for each event", ours, each)
