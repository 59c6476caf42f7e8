"""A system that has run for a while, made in bulk: outbox, publication and inbox by COPY, the topic by a bare producer.

Nothing of evkit's runtime runs, so what is wrong with it is exactly what a test has put there.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import psycopg

from evkit import kafka, kafka_admin

STEP = timedelta(milliseconds=5)


class Planted:
    """`events` events over `keys` keys and four partitions, all handled by two groups; then it is damaged, then made.

    log        what is in the topic, in its order: (id or None, partition)
    lost       ids of events that are handled by nobody in `group`, for any reason
    """

    def __init__(self, system, topic, group, other, *, events, keys=5000, partitions=4):
        self.system, self.topic, self.group, self.other = system, topic, group, other
        self.n, self.keys, self.partitions = events, keys, partitions
        self.began_at = datetime.now(UTC) - timedelta(minutes=1) - events * STEP
        self.log = [(self.id(i), self.partition(i)) for i in range(events)]
        self.unmarked, self.dead, self.parked, self.skipped, self.late = set(), set(), set(), set(), {}
        self.lost, self.again, self.unpublishable = set(), {}, {}
        self.settled = events
        self.commits = []  # (partition, offset), in the order in which they are made
        self.marked_last = set()  # ids whose publication names the last of their records, not the first

    def id(self, i):
        return f"{i:08}"

    def partition(self, i):
        return (i % self.keys) % self.partitions

    def window(self):
        return f"{(datetime.now(UTC) - self.began_at).total_seconds() + 60:.0f}s"

    def make(self):
        places = self._produce()
        with psycopg.connect(self.system.settings.postgres_dsn) as connection:
            self._write(connection, places)
        for partition, offset in self.commits:
            for name in (self.group, self.other):
                assert not kafka_admin.move_offsets(
                    self.system.settings, name, {(self.topic, partition): offset}, self.system.admin
                )
        return self

    def end(self, partition):
        return sum(p == partition for _, p in self.log)

    def _produce(self):
        producer = kafka.producer(self.system.settings, **{"linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
        first, last, at = {}, {}, Counter()
        for n, (event_id, partition) in enumerate(self.log):
            name = event_id.removeprefix("gone:") if event_id else None
            is_foreign = event_id is None or event_id.startswith("gone:")
            headers = {} if is_foreign else {"ce_id": event_id.encode(), "ce_type": b"order.placed"}
            producer.produce(self.topic, b"{}", b"k", partition, headers=headers)
            if name is not None:
                first.setdefault(name, (partition, at[partition]))
                last[name] = (partition, at[partition])
            at[partition] += 1
            if n % 1000 == 0:
                producer.poll(0)
        assert producer.flush(120) == 0
        return {i: (last if i in self.marked_last else first)[i] for i in first}

    def _write(self, connection, places):
        cursor = connection.cursor()
        created = [self.began_at + i * STEP for i in range(self.n)]
        with cursor.copy(
            "COPY evkit.outbox (position, id, aggregatetype, aggregateid, type, payload, created_at) FROM STDIN"
        ) as copy:
            for i in range(self.n):
                copy.write_row((i + 1, self.id(i), self.topic, f"k{i % self.keys}", "order.placed", "{}", created[i]))
        with cursor.copy('COPY evkit.publication (position, partition, "offset", published_at) FROM STDIN') as copy:
            for i in range(self.n):
                if self.id(i) in places and self.id(i) not in self.unmarked:
                    copy.write_row((i + 1, *places[self.id(i)], created[i] + STEP))
        with cursor.copy(
            'COPY evkit.inbox (consumer_group, event_id, generation, event_type, topic, partition, "offset", outcome,'
            " received_at, processed_at, replay_id) FROM STDIN"
        ) as copy:
            for i in range(self.n):
                event_id = self.id(i)
                if event_id not in places:
                    continue
                processed = created[i] + timedelta(seconds=1)
                row = ("order.placed", self.topic, *places[event_id])
                copy.write_row((self.other, event_id, 0, *row, "handled", processed, processed, None))
                if event_id not in self.lost:
                    outcome = next(
                        (o for o in ("dead", "parked", "skipped") if event_id in getattr(self, o)), "handled"
                    )
                    at = processed + self.late.get(event_id, timedelta(0))
                    copy.write_row((self.group, event_id, 0, *row, outcome, at, at, None))
                if event_id in self.again:
                    copy.write_row(
                        (self.group, event_id, 1, *row, "handled", processed, processed, self.again[event_id])
                    )
        for event_id, (state, blocked_by) in self.unpublishable.items():
            cursor.execute(
                "INSERT INTO evkit.unpublishable (position, topic, key, state, blocked_by, error)"
                " VALUES (%s, %s, 'k', %s, %s, 'too large')",
                (int(event_id) + 1, self.topic, state, blocked_by),
            )
        cursor.execute("INSERT INTO evkit.relay (name, settled_position) VALUES ('default', %s)", (self.settled,))
        cursor.execute(
            "INSERT INTO evkit.replay_run (replay_id, consumer_group, topics, from_time, dedupe, generation, ranges, actor)"
            " VALUES ('again-1', %s, ARRAY[%s], now(), 'again', 1, '[]', 'ada')",
            (self.group, self.topic),
        )
        connection.commit()
        connection.autocommit = True
        connection.execute("ANALYZE")
