# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["faststream[confluent]==0.7.8", "psycopg[binary]>=3.3"]
# ///
"""FastStream on the same topic with the same handler: a transaction an event, with an inbox row.

uv run --script with_faststream.py POLICY TOPIC GROUP EVENTS SECONDS

POLICY: ack_first (its default: the offset goes before the handler, so a crash loses the event), or ack (after it).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psycopg
from faststream import AckPolicy
from faststream.confluent import KafkaBroker, KafkaMessage

sys.path.append(str(Path(__file__).parents[1]))
from work import INBOX_ROW, UPSERT, measured


def consume(clock, policy, topic, group, events):
    async def work():
        broker = KafkaBroker(os.environ["EVKIT_KAFKA_BOOTSTRAP_SERVERS"], logger=None)
        connection = await psycopg.AsyncConnection.connect(os.environ["EVKIT_POSTGRES_DSN"])
        done, all_done = 0, asyncio.Event()

        @broker.subscriber(topic, group_id=group, auto_offset_reset="earliest", ack_policy=AckPolicy(policy))
        async def handle(body: dict, message: KafkaMessage):
            nonlocal done
            if done == events:
                return
            clock.begin()
            raw, headers = message.raw_message, message.headers
            key = raw.key().decode()
            row = (group, headers["ce_id"], headers["ce_type"], topic, raw.partition(), raw.offset(), key)
            if (await connection.execute(INBOX_ROW, row)).rowcount:
                await connection.execute(UPSERT, (key, body["i"]))
            await connection.commit()
            done += 1
            if done == events:
                clock.end()
                all_done.set()

        await broker.start()
        await all_done.wait()
        await broker.stop()
        await connection.close()

    asyncio.run(work())
    return events


if __name__ == "__main__":
    measured(consume, *sys.argv[1:4], int(sys.argv[4]))
