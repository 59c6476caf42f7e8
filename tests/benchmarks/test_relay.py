"""The relay against the loop that everybody writes first: poll every 100 ms, publish one, wait, mark one."""

from __future__ import annotations

import time

from evkit import Event, Relay, kafka, outbox

EVENTS = 50_000
EVENTS_NAIVE = 1_500
PAYLOAD = {"pad": "x" * 220}


def fill(system, topic, events):
    with system.writing() as connection:
        connection.execute("TRUNCATE evkit.outbox, evkit.publication, evkit.relay RESTART IDENTITY")
        outbox.write_many(connection, [Event("a.b", f"k{i % 1000}", PAYLOAD, topic=topic) for i in range(events)])


def test_relay_against_the_naive_loop(evkit_system, evkit_topic, compare, timed):
    topic = evkit_topic(partitions=6)

    def ours():
        fill(evkit_system, topic, EVENTS)
        relay = Relay(evkit_system)

        def work():
            done = 0
            while done < EVENTS:
                done += relay.step()
            return done

        result = timed(work)
        relay.close()
        return result

    def naive():
        fill(evkit_system, topic, EVENTS_NAIVE)
        producer = kafka.producer(evkit_system.settings)
        producer.produce(topic, b"warm")
        producer.flush()

        def work():
            done = 0
            with evkit_system.writing(autocommit=True) as connection:
                connection.execute("ALTER TABLE evkit.outbox ADD COLUMN IF NOT EXISTS published_at timestamptz")
                while done < EVENTS_NAIVE:
                    started = time.perf_counter()
                    rows = connection.execute(
                        "SELECT position, aggregateid, payload::text FROM evkit.outbox WHERE published_at IS NULL"
                        " ORDER BY position LIMIT 100"
                    ).fetchall()
                    for position, key, payload in rows:
                        producer.produce(topic, payload.encode(), key.encode())
                        producer.flush()
                        connection.execute(
                            "UPDATE evkit.outbox SET published_at = now() WHERE position = %s", (position,)
                        )
                    done += len(rows)
                    time.sleep(max(0.0, 0.1 - (time.perf_counter() - started)))
            return done

        return timed(work)

    compare("relay against the naive loop", ours, naive)


def test_relay_against_the_bare_producer(evkit_system, evkit_topic, compare, timed):
    """The same events with the same seven headers and a callback each, from memory, nothing marked."""
    topic = evkit_topic(partitions=6)

    def ours():
        fill(evkit_system, topic, EVENTS)
        relay = Relay(evkit_system)

        def work():
            done = 0
            while done < EVENTS:
                done += relay.step()
            return done

        result = timed(work)
        relay.close()
        return result

    def bare():
        producer = kafka.producer(evkit_system.settings)
        headers = [(f"ce_{n}", "some value") for n in range(7)]
        confirmed = []

        def work():
            for i in range(EVENTS):
                while True:
                    try:
                        producer.produce(
                            topic, b'{"pad": "' + b"x" * 220 + b'"}', f"k{i % 1000}".encode(), headers=headers,
                            on_delivery=lambda error, message: confirmed.append(1),
                        )  # fmt: skip
                        break
                    except BufferError:
                        producer.poll(0.01)
                producer.poll(0)
            producer.flush()
            return len(confirmed)

        return timed(work)

    compare("relay against the bare producer", ours, bare)
