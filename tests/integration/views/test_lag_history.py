"""The lag of the past against what was sampled while it was the present."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from evkit import kafka, kafka_admin, views
from evkit.errors import InvalidParameter, UnknownGroup, UnknownTopic
from evkit.kafka import TopicPartition
from evkit.runtime.sampler import Sampler
from evkit.window import Window
from tests.integration.views.groups import commit, produce

MS = timedelta(milliseconds=1)


def spread(ordered):
    return f"p50 {ordered[len(ordered) // 2]}, p95 {ordered[len(ordered) * 95 // 100]}, max {ordered[-1]}"


def since(moment):
    return Window(moment, datetime.now(UTC))


class Burst:
    """A producer faster than its consumer, an outage of the consumer, the way back to zero, and quiet; 18 seconds, or as
    long as the way back takes."""

    SECONDS = 18.0

    def __init__(self, system, topic, group, protocol):
        self.system, self.topic, self.group, self.protocol = system, topic, group, protocol
        self.until = time.monotonic() + self.SECONDS
        self.produced = None
        self.threads = [threading.Thread(target=t) for t in (self.produce, self.consume)]
        for thread in self.threads:
            thread.start()

    def elapsed(self):
        return time.monotonic() - self.until + self.SECONDS

    def produce(self):
        """1,500 records a second for four seconds; all the while, one every 50 ms."""
        producer = kafka.producer(self.system.settings)
        n = 0
        while (elapsed := self.elapsed()) < self.SECONDS - 4:
            while n < 20 * elapsed + 1500 * min(max(elapsed - 2, 0), 4):
                producer.produce(self.topic, b"x", partition=n % 3)
                n += 1
            producer.poll(0)
            time.sleep(0.01 if 2 < elapsed < 6 else 0.05)
        assert producer.flush(60) == 0
        self.produced = n

    def consume(self):
        """At most 800 records a second, committed every 50 ms; away from the fifth second to the eighth."""
        reached = {}
        for begins, ends in ((0.0, 5.0), (8.0, self.SECONDS)):
            while self.elapsed() < begins:
                time.sleep(0.01)
            consumer = kafka.consumer(self.system.settings, self.group, **{"group.protocol": self.protocol})
            consumer.subscribe([self.topic])
            while self.elapsed() < ends or (ends == self.SECONDS and not self.is_all(reached)):
                done = {}
                for message in consumer.consume(40, 0.05):
                    done[message.partition()] = message.offset() + 1
                reached |= done
                if done:
                    offsets = [TopicPartition(self.topic, p, o) for p, o in done.items()]
                    consumer.commit(offsets=offsets, asynchronous=False)
                    time.sleep(0.05)
            consumer.close()

    def is_all(self, reached):
        """Whether these are the ends of the partitions; there was one record before."""
        return self.produced is not None and sum(reached.values()) == self.produced + 1

    def samples(self):
        """Every 250 ms: committed offsets, then end offsets, and the times around both questions."""
        settings, admin, found = self.system.settings, self.system.admin, []
        partitions = [TopicPartition(self.topic, p) for p in range(3)]
        while any(thread.is_alive() for thread in self.threads):
            times = [datetime.now(UTC)]
            committed = kafka_admin.committed_offsets(settings, self.group, admin)
            times.append(datetime.now(UTC))
            ends = kafka.offsets(settings, partitions, client=admin)
            times.append(datetime.now(UTC))
            found.append((times, committed, ends))
            time.sleep(0.25)
        for thread in self.threads:
            thread.join()
        return found


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_lag_of_a_burst_is_rebuilt_as_it_was_sampled_live(evkit_system, evkit_topic, evkit_group, protocol):
    topic, group = evkit_topic("order", partitions=3), evkit_group("billing")
    produce(evkit_system, topic, 1)
    commit(evkit_system, group, topic, 0)
    started_at = datetime.now(UTC)
    sampler = Sampler(evkit_system, every_seconds=0.25, groups=[group])
    sampling = threading.Thread(target=sampler.run)
    sampling.start()
    live = Burst(evkit_system, topic, group, protocol).samples()
    sampler.stop()
    sampling.join()
    sampler.close()

    began = time.perf_counter()
    rebuilt = views.lag_history(evkit_system, group, topic, since(started_at), step="10ms", source="offsets_log")
    took = time.perf_counter() - began

    assert rebuilt.filter(rebuilt["partition"] == 0)["covered"].all()
    errors, plain, highest = off(live, rebuilt, topic, timedelta(milliseconds=10))
    print(
        f"{protocol}: {len(live)} samples, {len(errors)} of partitions, lag up to {highest}; off beyond a sample's own "
        f"uncertainty: {spread(errors)}; off in all: {spread(plain)}; {len(rebuilt)} rows in {took:.2f} s"
    )
    assert len(live) > 20
    assert highest > 500
    assert errors[len(errors) * 95 // 100] <= 5
    assert rebuilt["lag_events"][-1] == 0

    window = Window(started_at, sampler.last.at)
    sampled = views.lag_history(evkit_system, group, topic, window, "10ms", source="sample")
    told = sampled.filter(sampled["covered"])
    assert len(told) > len(sampled) / 4
    # A moment has the nearest sample, which is half their distance away, and rounds may be late.
    errors, plain, highest = off(live, told, topic, timedelta(milliseconds=300))
    print(f"{protocol}: sampled, {len(errors)} of partitions: {spread(errors)}; off in all: {spread(plain)}")
    assert highest > 500
    assert errors[len(errors) * 95 // 100] <= 5

    kinds = views.rebalances(evkit_system, group, since(started_at))["kind"].to_list()
    # What came before in this partition of the log may have holes: then who was there before the first is unknown.
    assert [kind for kind in kinds if kind not in ("made", "changed")][-3:] == ["emptied", "joined", "emptied"]


def off(live, told, topic, step):
    """How far a frame is off the live samples beyond what these leave open themselves, and in all, both sorted; and the
    highest lag."""
    rows = {}
    for row in told.to_dicts():
        rows.setdefault(row["partition"], []).append(row)
    errors, plain, highest = [], [], 0
    for (asked_at, between_at, answered_at), committed, ends in live:
        for partition, of_partition in rows.items():
            offset = committed.get((topic, partition))
            if offset is None:
                continue
            lag = ends[topic, partition] - offset
            highest = max(highest, lag)
            # A sample is of a stretch of time: each answer may be of any moment of its question, give or take a step.
            at = [r["committed_offset"] or 0 for r in of_partition if asked_at - step <= r["at"] <= between_at + step]
            end = [r["end_offset"] for r in of_partition if between_at - step <= r["at"] <= answered_at + step]
            if not at or not end:
                continue
            errors.append(max(min(end) - max(at) - lag, lag - (max(end) - min(at)), 0))
            nearest = min(of_partition, key=lambda r: abs(r["at"] - between_at))
            plain.append(abs((nearest["lag_events"] or 0) - lag))
    return sorted(errors), sorted(plain), highest


def test_lag_seconds_tell_since_when_the_end_was_beyond_the_committed_offset(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group()
    started_at = datetime.now(UTC)
    time.sleep(0.2)
    begun_at = datetime.now(UTC)
    produce(evkit_system, topic, 3)
    produced_at = datetime.now(UTC)
    commit(evkit_system, group, topic, 2)
    committed_at = datetime.now(UTC)
    time.sleep(0.4)

    rows = views.lag_history(evkit_system, group, window=since(started_at), step="20ms").to_dicts()

    assert [(r["committed_offset"], r["end_offset"], r["lag_events"]) for r in (rows[0], rows[-1])] == [
        (None, 0, None), (2, 3, 1),
    ]  # fmt: skip
    for row in rows:
        if row["at"] > committed_at:
            least, most = ((row["at"] - moment).total_seconds() for moment in (produced_at, begun_at))
            assert least - 0.15 <= row["lag_seconds"] <= most + 0.15


def test_a_group_that_was_behind_before_the_window_has_a_lag_and_no_seconds(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 3)
    commit(evkit_system, group, topic, 1)
    time.sleep(0.05)
    moment = datetime.now(UTC)
    time.sleep(0.05)

    rows = views.lag_history(evkit_system, group, topic, since(moment), "10ms").to_dicts()

    assert {(r["lag_events"], r["lag_seconds"], r["source"]) for r in rows} == {(2, None, "offsets_log")}


def test_times_whose_records_were_deleted_are_truncated_and_have_no_number(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group()
    started_at = datetime.now(UTC)
    produce(evkit_system, topic, 5)
    commit(evkit_system, group, topic, 1)
    time.sleep(0.2)
    produce(evkit_system, topic, 5)
    for future in evkit_system.admin.delete_records([TopicPartition(topic, 0, 5)]).values():
        future.result()
    time.sleep(0.05)

    rows = views.lag_history(evkit_system, group, window=since(started_at), step="10ms").to_dicts()

    # A client that is slow sends its five records in more than one batch, each with a time of its own.
    assert {(True, None), (False, 10)} <= {(r["truncated"], r["end_offset"]) for r in rows}
    assert all(r["truncated"] == (r["end_offset"] is None) for r in rows)
    assert {r["lag_events"] for r in rows if r["truncated"]} == {None}
    assert rows[-1]["lag_events"] == 9


def test_a_record_stamped_ahead_leaves_no_wrong_number(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(**{"message.timestamp.type": "CreateTime"}), evkit_group()
    started_at = datetime.now(UTC)
    produce(evkit_system, topic, 4)
    time.sleep(0.05)
    produce(evkit_system, topic, 1, at=datetime.now(UTC) + timedelta(seconds=60))
    produce(evkit_system, topic, 3)
    commit(evkit_system, group, topic, 8)
    time.sleep(0.05)

    rows = views.lag_history(evkit_system, group, window=since(started_at), step="10ms").to_dicts()

    assert (rows[-1]["exact"], rows[-1]["end_offset"], rows[-1]["lag_events"]) == (False, None, None)
    assert {r["end_offset"] for r in rows if r["exact"]} <= {0, 1, 2, 3}


def test_one_batch_with_one_timestamp_is_exact(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 200)
    commit(evkit_system, group, topic, 150)
    time.sleep(0.05)

    rows = views.lag_history(evkit_system, group, window=since(datetime.now(UTC) - 20 * MS), step="10ms").to_dicts()

    assert {(r["exact"], r["lag_events"]) for r in rows} == {(True, 50)}


def test_commits_of_transactions_count_when_these_are_committed(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 9)
    consumer = kafka.consumer(evkit_system.settings, group)
    consumer.subscribe([topic])
    while not consumer.assignment():
        consumer.poll(0.1)
    producer = kafka.producer(evkit_system.settings, **{"transactional.id": group, "transaction.timeout.ms": 400_000})
    producer.init_transactions(30)
    started_at = datetime.now(UTC)
    for offset, end in (
        (3, producer.commit_transaction),
        (7, producer.abort_transaction),
        (5, producer.commit_transaction),
    ):
        producer.begin_transaction()
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, offset)], consumer.consumer_group_metadata(), 30)
        end(30)
        time.sleep(0.05)
    consumer.close()

    rows = views.lag_history(evkit_system, group, window=since(started_at), step="5ms").to_dicts()

    committed = [r["committed_offset"] for r in rows]
    assert list(dict.fromkeys(committed)) == [None, 3, 5]
    # Markers are holes, and they take nothing from who had committed before them.
    assert all(r["covered"] for r in rows[committed.index(3) :])


def test_rows_are_sorted_and_a_topic_can_be_chosen(evkit_system, evkit_topic, evkit_group):
    first, second, group = evkit_topic("b", partitions=2), evkit_topic("a"), evkit_group()
    started_at = datetime.now(UTC)
    for topic, partition in ((first, 1), (first, 0), (second, 0)):
        commit(evkit_system, group, topic, 0, partition=partition)

    rows = views.lag_history(evkit_system, group, window=since(started_at), step="50ms").to_dicts()

    keys = [(r["topic"], r["partition"], r["at"]) for r in rows]
    assert keys == sorted(keys)
    assert len({k[:2] for k in keys}) == 3
    of_one = views.lag_history(evkit_system, group, second, since(started_at), "50ms")
    assert set(of_one["topic"]) == {second}


def test_a_deleted_topic_still_has_its_commits_and_no_end(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group()
    commit(evkit_system, group, topic, 3)
    time.sleep(0.05)
    moment = datetime.now(UTC)
    time.sleep(0.05)
    window = since(moment)
    for future in evkit_system.admin.delete_topics([topic]).values():
        future.result()

    rows = views.lag_history(evkit_system, group, window=window, step="10ms").to_dicts()

    assert {(r["committed_offset"], r["end_offset"], r["lag_events"], r["covered"]) for r in rows} == {
        (3, None, None, True)
    }


def test_what_cannot_be_asked_is_refused(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group("billing")
    commit(evkit_system, group, topic, 0)
    now = datetime.now(UTC)

    with pytest.raises(UnknownGroup, match=f"did you mean '{group}'"):
        views.lag_history(evkit_system, group + "s")
    with pytest.raises(UnknownTopic):
        views.lag_history(evkit_system, group, topic + "-no")
    for view in (views.lag_history, views.rebalances):
        with pytest.raises(InvalidParameter, match="there is no history yet"):
            view(evkit_system, group, window=Window(now + timedelta(hours=1), now + timedelta(hours=2)))
    with pytest.raises(InvalidParameter, match="a step must be longer than zero"):
        views.lag_history(evkit_system, group, step="0s")


def test_a_group_that_never_committed_to_the_topic_has_an_empty_frame(evkit_system, evkit_topic, evkit_group):
    topic, other, group = evkit_topic("a"), evkit_topic("b"), evkit_group()
    commit(evkit_system, group, topic, 0)

    empty = views.lag_history(evkit_system, group, other)

    assert empty.is_empty()
    assert empty.columns == [c.name for c in views.COLUMNS["lag_history"]]
    assert views.lag_history(evkit_system, group, topic, "1h", frames="pandas")["covered"].dtype == "boolean"
