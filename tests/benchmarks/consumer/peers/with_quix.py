# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["quixstreams==3.28.1", "psycopg[binary]>=3.3"]
# ///
"""Quix Streams on the same topic with the same handler: a transaction an event, with an inbox row.

A script with dependencies of its own, for Quix Streams wants confluent-kafka < 2.13 and evkit 2.16: no dependency group of
evkit's could have both.

uv run --script with_quix.py at_least_once TOPIC GROUP EVENTS SECONDS
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import psycopg
from quixstreams import Application, message_context

sys.path.append(str(Path(__file__).parents[1]))
from work import INBOX_ROW, UPSERT, measured


def consume(clock, topic, group, events):
    app = Application(
        os.environ["EVKIT_KAFKA_BOOTSTRAP_SERVERS"],
        consumer_group=group,
        auto_offset_reset="earliest",
        loglevel="ERROR",
        state_dir=tempfile.mkdtemp(prefix="quix-"),  # else it makes one where it stands
    )
    connection = psycopg.connect(os.environ["EVKIT_POSTGRES_DSN"])

    def handle(value, key, _timestamp, headers):
        clock.begin()
        context, known, text = message_context(), dict(headers), key.decode()
        row = (
            group, known["ce_id"].decode(), known["ce_type"].decode(), topic, context.partition, context.offset, text,
        )  # fmt: skip
        if connection.execute(INBOX_ROW, row).rowcount:
            connection.execute(UPSERT, (text, value["i"]))
        connection.commit()
        handle.done += 1
        if handle.done == events:
            clock.end()

    handle.done = 0
    app.dataframe(app.topic(topic)).update(handle, metadata=True)
    app.run(count=events)
    connection.close()
    return events


if __name__ == "__main__":
    measured(consume, sys.argv[2], sys.argv[3], int(sys.argv[4]))
