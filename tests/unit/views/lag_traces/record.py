"""a real broker, made to suffer → one JSON a trace: commits, ends, and what was truly the case. Not a test; run by hand.

    uv run python tests/unit/views/lag_traces/record.py [trace ...]      all of them take four minutes, four at a time

Each play has a topic and a group of its own on a stack that is made for the recording. Time is compressed 20 times: what is
judged by a window of 30 s here is judged by one of 10 min in life, so a group that commits each 0.5 s stands for one that
commits each 10 s. Commits are those of the group coordinator's own log (`__consumer_offsets`), with its timestamps.

    commits   [at, offset]                               offset null: the broker has forgotten it
    samples   [at, committed, start, end, stable]        four a second, committed asked first
    probes    [at, committed, readable]                  1 when a record could be read at that offset, 0 at the end of all
    paused    [from, to]                                 when the partition was paused on purpose
    truth     [from, to, word, why]                      what the play did, as it did it

Times are seconds since the play's start.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from evkit.local import Stack

HERE = Path(__file__).parent
SAMPLE_SECONDS = 0.25
PLAYS_AT_ONCE = 4


class Flow(threading.Thread):
    """Writes `rate` events a second, evenly; in transactions of `transaction_seconds` where that is set."""

    def __init__(self, play: Play, rate: float = 40, transaction_seconds: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.play, self.rate, self.keys = play, rate, 1000
        self.transaction_seconds = transaction_seconds
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        extra = {"transactional.id": self.play.topic} if self.transaction_seconds else {}
        producer = Producer({"bootstrap.servers": self.play.servers, "linger.ms": 5, **extra})
        if extra:
            producer.init_transactions()
        debt, last, began, n = 0.0, time.monotonic(), None, 0
        while not self.ended.is_set():
            time.sleep(0.02)
            now = time.monotonic()
            debt += self.rate * (now - last)
            last = now
            if extra and began is None and debt >= 1:
                producer.begin_transaction()
                began = now
            while debt >= 1:
                producer.produce(self.play.topic, b"x" * 40, key=str(n % self.keys).encode())
                debt, n = debt - 1, n + 1
            producer.poll(0)
            if began is not None and now - began >= self.transaction_seconds:
                producer.commit_transaction()
                began = None
        if began is not None:
            producer.commit_transaction()
        producer.flush(10)

    def end(self) -> None:
        self.ended.set()
        self.join()


class Reader(threading.Thread):
    """A consumer that handles `rate` events a second at most and commits each `commit_seconds`; 0 is after every record.

    mode  "read"; "stuck": its handler fails at one record, so it comes back to it and commits where it stands;
          "paused": it polls, and commits where it stands; "frozen": it does nothing at all, and stays in the group
    """

    def __init__(
        self, play: Play, rate: float = 400, commit_seconds: float = 0.5, batch: int = 1, **config: Any
    ) -> None:
        super().__init__(daemon=True)
        self.play, self.rate, self.commit_seconds, self.batch = play, rate, commit_seconds, batch
        self.mode, self.position, self.config = "read", -1, config
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self.play.servers,
                "group.id": self.play.group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
                **self.config,
            }
        )
        consumer.subscribe([self.play.topic])
        committed_at, handled, paused = time.monotonic(), 0, False
        budget, last = 0.0, time.monotonic()
        while not self.ended.is_set():
            if self.mode == "frozen":
                time.sleep(0.02)
                continue
            if (self.mode == "paused") != paused and (assigned := consumer.assignment()):
                paused = self.mode == "paused"
                (consumer.pause if paused else consumer.resume)(assigned)
            message = consumer.poll(0.05)
            if message is not None and message.error() is None:
                if self.mode == "stuck":
                    consumer.seek(TopicPartition(self.play.topic, 0, message.offset()))
                    time.sleep(0.1)
                else:
                    self.position = message.offset() + 1
                    handled += 1
                    now = time.monotonic()
                    budget, last = min(budget + (now - last) * self.rate, 2.0) - 1, now
                    if budget < 0:
                        time.sleep(-budget / self.rate)
            due = time.monotonic() - committed_at >= self.commit_seconds
            if self.position >= 0 and due and (handled >= self.batch or self.mode in ("stuck", "paused")):
                self.commit(consumer)
                committed_at, handled = time.monotonic(), 0
        with contextlib.suppress(KafkaException):
            if self.mode == "frozen":  # what a member does that learns too late that its topic is another
                self.commit(consumer)
        consumer.close()

    def commit(self, consumer: Consumer) -> None:
        # After every record nobody waits for the answer: that would be 40 round trips a second.
        places = [TopicPartition(self.play.topic, 0, self.position)]
        consumer.commit(offsets=places, asynchronous=self.commit_seconds == 0 and self.batch == 1)

    def end(self) -> None:
        self.ended.set()
        self.join()


class Play:
    """One trace: its topic and group, its clock, and what it says is true."""

    def __init__(self, name: str, servers: str, admin: AdminClient, config: dict[str, str]) -> None:
        self.name, self.servers, self.admin, self.config = name, servers, admin, config
        self.topic = self.group = f"trace-{name}"
        self.make_topic()
        self.began = time.time()
        self.samples: list[list] = []
        self.probes: list[list] = []
        self.paused: list[list] = []
        self.stretches: list[list] = []
        self.done = False

    def at(self) -> float:
        return round(time.time() - self.began, 3)

    def true(self, word: str, why: str) -> None:
        """From now on this is the case."""
        if self.stretches:
            self.stretches[-1][1] = self.at()
        self.stretches.append([self.at(), None, word, why])

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def until(self, holds: Callable[[], bool], seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: what the play waits for has not come")
            time.sleep(0.02)

    def lag(self) -> int:
        _, committed, _, end, _ = self.samples[-1]
        return end - (committed or 0)

    def end_offset(self) -> int:
        return self.samples[-1][3]

    def write(self, n: int) -> None:
        producer = Producer({"bootstrap.servers": self.servers})
        for i in range(n):
            producer.produce(self.topic, b"x" * 40, key=str(i % 10).encode())
        producer.flush(10)

    def move(self, offset: int) -> None:
        """As an operator resets a group: refused while it has members, so asked until it has none."""
        request = [ConsumerGroupTopicPartitions(self.group, [TopicPartition(self.topic, 0, offset)])]
        for _ in range(100):
            answer = self.admin.alter_consumer_group_offsets(request)[self.group]
            with contextlib.suppress(KafkaException):
                if answer.result().topic_partitions[0].error is None:
                    return
            time.sleep(0.1)
        raise TimeoutError(f"{self.name}: the group's offset could not be moved")

    def make_topic(self) -> None:
        for _ in range(100):  # a deleted topic takes a moment to be gone
            try:
                self.admin.create_topics([NewTopic(self.topic, 1, config=self.config)])[self.topic].result()
                return
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
                time.sleep(0.1)
        raise TimeoutError(f"{self.name}: the topic could not be made")


# --- the plays --------------------------------------------------------------------------------------------------------


def steady(p: Play, seconds: float = 12, **reader: Any) -> tuple[Flow, Reader]:
    p.true("ok", "40 events/s, read as they come")
    flow, read = Flow(p), Reader(p, **reader)
    p.until(lambda: read.position > 0)
    p.wait(seconds)
    if p.lag() > 80:
        raise RuntimeError(f"{p.name}: {p.lag()} events behind, so this machine is too busy to record what is steady")
    return flow, read


def burst(p: Play) -> None:
    flow, read = steady(p, rate=150)
    p.true("ok", "1,000 events at once, which the group reads within ten seconds")
    p.write(1000)
    p.wait(18)
    flow.end(), read.end()


def outage(p: Play) -> None:
    flow, read = steady(p)
    read.end()
    p.true("stop", "the only consumer has left")
    p.wait(22)
    read = Reader(p, rate=200)
    p.until(lambda: read.position > 0)
    p.true("catching_up", "it is back, and reads 200 events/s")
    p.until(lambda: p.lag() < 40)
    p.true("ok", "it has caught up")
    p.wait(8)
    flow.end(), read.end()


def overload(p: Play) -> None:
    flow, read = steady(p, rate=60)
    flow.rate = 120
    p.true("warn", "120 events/s are written, 60/s can be read")
    p.wait(24)
    flow.rate = 10
    p.true("catching_up", "10 events/s are written, 60/s can be read")
    p.wait(20)
    flow.end(), read.end()


def rewind(p: Play) -> None:
    flow, read = steady(p)
    read.end()
    had = read.position
    p.move(100)
    p.true("rewind", "an operator has set the offset back to 100")
    read = Reader(p, rate=100)
    p.until(lambda: read.position >= had)
    p.true("catching_up", "it has regained what it had")
    p.until(lambda: p.lag() < 40)
    p.true("ok", "it has caught up")
    p.wait(8)
    flow.end(), read.end()


def reset_forward(p: Play) -> None:
    flow, read = steady(p)
    read.end()
    p.true("stop", "the only consumer has left")
    p.wait(16)
    p.move(p.end_offset())
    read = Reader(p)
    p.true("ok", "an operator has set the offset to the end, and the consumer is back")
    p.wait(12)
    flow.end(), read.end()


def idle(p: Play) -> None:
    flow, read = steady(p, 6)
    flow.end()
    p.true("ok", "nothing is written, everything is read")
    p.wait(14)
    read.end()
    p.true("ok", "the consumer has left; there is nothing it could read")
    p.wait(10)
    p.write(5)
    p.true("stop", "five events are written, and nobody reads them")
    p.wait(16)


def single_commit(p: Play) -> None:
    p.true("no_commit", "300 events wait; a batch of 100 takes eight seconds, and is committed at its end")
    p.write(300)
    read = Reader(p, rate=12.5, batch=100, commit_seconds=0.0)
    p.until(lambda: p.samples[-1][1] is not None)
    p.true("ok", "the first commit; the next two take eight seconds each")
    p.until(lambda: read.position >= 300, 60)
    p.wait(4)
    read.end()


def fast_commits(p: Play) -> None:
    flow, read = steady(p, 14, commit_seconds=0.0)
    for _ in range(2):
        p.true("ok", "a pause of a second, as a garbage collection makes")
        read.mode = "frozen"
        p.wait(1)
        read.mode = "read"
        p.wait(4)
    read.commit_seconds = 0.1
    read.mode = "stuck"
    p.true("stall", "the handler fails at one record; the offset is committed again and again")
    p.wait(18)
    read.mode, read.commit_seconds = "read", 0.0
    p.true("catching_up", "the handler can")
    p.until(lambda: p.lag() < 40)
    p.true("ok", "it has caught up")
    p.wait(5)
    flow.end(), read.end()


def transactional(p: Play) -> None:
    p.true("ok", "transactions of half a second, read under read_committed; commits end before the markers")
    flow = Flow(p, transaction_seconds=0.5)
    read = Reader(p)
    p.until(lambda: read.position > 0)
    p.wait(12)
    flow.end()
    p.true("ok", "nothing is written; the marker of the last transaction stays as lag 1 for ever")
    p.wait(14)
    hanging = Producer(
        {"bootstrap.servers": p.servers, "transactional.id": "hanging", "transaction.timeout.ms": 60_000}
    )
    hanging.init_transactions()
    hanging.begin_transaction()
    hanging.produce(p.topic, b"open")
    hanging.flush(10)
    p.true("ok", "another producer's transaction hangs: the end moves, the stable offset does not")
    flow = Flow(p)
    p.wait(16)
    hanging.abort_transaction()
    p.true("catching_up", "the transaction is aborted; the group reads what was behind it")
    p.wait(5)
    p.true("ok", "it has caught up")
    p.wait(6)
    flow.end(), read.end()


def compacted(p: Play) -> None:
    p.true("no_commit", "nobody reads yet, and the cleaner takes all but the last of each of ten keys")
    flow = Flow(p, rate=100)
    flow.keys = 10
    p.wait(35)
    flow.rate = 40
    p.true("ok", "a consumer starts; its offsets leap over what is gone")
    read = Reader(p, rate=100)
    p.wait(30)
    flow.end()
    p.true("ok", "nothing is written, everything is read")
    p.wait(6)
    read.end()


def deleted_records(p: Play) -> None:
    flow, read = steady(p)
    read.end()
    p.true("stop", "the only consumer has left")
    p.wait(14)
    keep = p.end_offset() - 200
    p.admin.delete_records([TopicPartition(p.topic, 0, keep)])[TopicPartition(p.topic, 0, keep)].result()
    p.true("data_loss", "retention deletes records that nobody has read")
    p.wait(8)
    read = Reader(p, rate=200)
    p.until(lambda: read.position > keep)
    p.true("catching_up", "it is back, and begins at the first record there is")
    p.until(lambda: p.lag() < 40)
    p.true("ok", "it has caught up")
    p.wait(6)
    flow.end(), read.end()


def recreated_topic(p: Play) -> None:
    flow, read = steady(p)
    flow.end()
    p.until(lambda: p.lag() == 0)
    read.mode = "frozen"
    p.wait(0.3)
    p.true("no_commit", "the topic is deleted and made anew; the broker forgets the group's offsets with the old one")
    p.admin.delete_topics([p.topic])[p.topic].result()
    p.make_topic()
    p.write(30)
    p.wait(5)
    read.end()
    p.true("ahead", "the consumer commits where it stood in the old topic, and leaves")
    p.wait(8)
    flow, read = Flow(p), Reader(p)
    p.until(lambda: read.position > 0 and read.position < 400)
    p.true("ok", "a new consumer finds its offset out of range, and begins at the first")
    p.wait(14)
    flow.end(), read.end()


def paused(p: Play) -> None:
    flow, read = steady(p)
    read.mode = "paused"
    since = p.at()
    p.true("ok", "the partition is paused on purpose, and events are written to it")
    p.wait(18)
    read.mode = "read"
    p.paused.append([since, p.at()])
    p.true("catching_up", "it goes on")
    p.until(lambda: p.lag() < 40)
    p.true("ok", "it has caught up")
    p.wait(6)
    flow.end(), read.end()


PLAYS: dict[str, tuple[Callable[[Play], None], dict[str, str]]] = {
    "burst": (burst, {}),
    "outage": (outage, {}),
    "overload": (overload, {}),
    "rewind": (rewind, {}),
    "reset_forward": (reset_forward, {}),
    "idle": (idle, {}),
    "single_commit": (single_commit, {}),
    "fast_commits": (fast_commits, {}),
    "transactional": (transactional, {}),
    "compacted": (
        compacted,
        {"cleanup.policy": "compact", "segment.ms": "2000", "min.cleanable.dirty.ratio": "0.01"},
    ),
    "deleted_records": (deleted_records, {}),
    "recreated_topic": (recreated_topic, {}),
    "paused": (paused, {}),
}

# --- what is written down ---------------------------------------------------------------------------------------------


def sample(p: Play) -> None:
    """Four samples a second; the committed offset first, so that a lag is never too small, and the end last.

    By consumers that join nothing: with AdminClient.list_offsets a recording has died of a segmentation fault in
    librdkafka 2.16.1's own thread, for a reason that was not found.
    """
    ours = {"bootstrap.servers": p.servers, "group.id": p.group, "enable.auto.commit": False}
    stable_asker = Consumer({**ours, "isolation.level": "read_committed"})
    end_asker = Consumer({**ours, "isolation.level": "read_uncommitted"})
    place = TopicPartition(p.topic, 0)
    while not p.done:
        began = time.monotonic()
        with contextlib.suppress(KafkaException):  # there is no topic at the moment
            committed = stable_asker.committed([place], timeout=5)[0].offset
            start, stable = stable_asker.get_watermark_offsets(place, timeout=5)
            _, end = end_asker.get_watermark_offsets(place, timeout=5)
            p.samples.append([p.at(), committed if committed >= 0 else None, start, end, stable])
        time.sleep(max(SAMPLE_SECONDS - (time.monotonic() - began), 0.0))
    stable_asker.close()
    end_asker.close()


def probe(p: Play) -> None:
    """Is there a record at the committed offset, or only the end? Asked as evkit's lag view asks, four times a second."""
    consumer = Consumer(
        {
            "bootstrap.servers": p.servers,
            "group.id": f"{p.group}-probe",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 20,
        }
    )
    while not p.done:
        time.sleep(SAMPLE_SECONDS)
        if not p.samples or p.samples[-1][1] is None:
            continue
        committed = p.samples[-1][1]
        consumer.assign([TopicPartition(p.topic, 0, committed)])
        message = consumer.poll(1.0)
        if message is not None and (message.error() is None or message.error().code() == KafkaError._PARTITION_EOF):
            p.probes.append([p.at(), committed, int(message.error() is None)])
    consumer.close()


def commits(p: Play) -> list[list]:
    """What the group has committed, from the coordinator's log; `[at, None]` where the offset was forgotten."""
    found: list[list] = []
    consumer = Consumer(
        {
            "bootstrap.servers": p.servers,
            "group.id": "trace-log",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    partitions = list(consumer.list_topics("__consumer_offsets").topics["__consumer_offsets"].partitions)
    consumer.assign([TopicPartition("__consumer_offsets", n, 0) for n in partitions])
    left = set(partitions)
    while left:
        message = consumer.poll(10)
        if message is None:
            raise TimeoutError("the coordinator's log could not be read")
        if message.error() is not None:
            left.discard(message.partition())
            continue
        key, value = message.key(), message.value()
        if struct.unpack_from(">h", key)[0] not in (0, 1):
            continue  # the state of a group
        names, at = [], 2
        for _ in range(2):
            length = struct.unpack_from(">h", key, at)[0]
            names.append(key[at + 2 : at + 2 + length].decode())
            at += 2 + length
        if names == [p.group, p.topic]:
            offset = None if value is None else struct.unpack_from(">q", value, 2)[0]
            found.append([round(message.timestamp()[1] / 1000 - p.began, 3), offset])
    consumer.close()
    return found


def record(name: str, servers: str) -> None:
    p = Play(name, servers, AdminClient({"bootstrap.servers": servers}), PLAYS[name][1])
    watchers = [threading.Thread(target=sample, args=(p,), daemon=True)]
    if name == "transactional":
        watchers.append(threading.Thread(target=probe, args=(p,), daemon=True))
    for watcher in watchers:
        watcher.start()
    p.until(lambda: bool(p.samples))
    PLAYS[name][0](p)
    p.true("end", "")
    p.stretches.pop()
    p.done = True
    for watcher in watchers:
        watcher.join()
    told = {"trace": name, "truth": p.stretches, "paused": p.paused}
    lists = {"commits": commits(p), "samples": p.samples, "probes": p.probes}
    rows = [f'"{key}": {json.dumps(value)}' for key, value in (told | lists).items()]
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
    print(f"{name}: {len(p.samples)} samples, {len(lists['commits'])} commits, {p.stretches[-1][1]} s")


def main() -> None:
    if sys.argv[1:2] == ["--play"]:
        record(*sys.argv[2:])
        return
    home = Path(tempfile.mkdtemp(prefix="evkit-traces-"))
    stack = Stack(home, owned=True)
    try:
        servers = stack.up().kafka_bootstrap_servers

        def play(name: str) -> None:
            # A process of its own: what a client library does in one play is not the others' business.
            done = subprocess.run([sys.executable, __file__, "--play", name, servers], check=False)
            if done.returncode:
                print(f"not recorded: {name} (exit code {done.returncode})", file=sys.stderr)

        with ThreadPoolExecutor(PLAYS_AT_ONCE) as pool:
            list(pool.map(play, sys.argv[1:] or PLAYS))
    finally:
        stack.delete()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
