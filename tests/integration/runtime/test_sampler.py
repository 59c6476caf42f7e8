"""The sampler against servers that go away, a log that is compacted, a right that is lacking, and kill -9."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from evkit import kafka, offsets_log, postgres, views
from evkit.errors import InvalidParameter, OffsetsLogRefused
from evkit.kafka import TopicPartition
from evkit.offsets_log import OFFSETS_TOPIC
from evkit.runtime.sampler import AnotherSampler, Sampler
from evkit.settings import Settings
from evkit.system import System
from evkit.testing.faults import pause, resume
from evkit.testing.waiting import until
from evkit.views.offset_resets import moves
from evkit.window import Window
from tests.integration.test_offsets_log import clean_offsets_at_once, kept
from tests.integration.views.groups import commit, produce


@pytest.fixture
def system(own_stack):
    """A cluster whose offsets topic a test may set up as it likes, and whose servers it may stop."""
    postgres.migrate(own_stack.postgres_dsn)
    kafka_settings = {"bootstrap.servers": own_stack.kafka_bootstrap_servers}
    return System(
        Settings(profile="test", postgres_dsn=own_stack.postgres_dsn, kafka=kafka_settings, kafka_timeout_seconds=5)
    )


@pytest.fixture
def running(request):
    """Runs a sampler on a thread until the test ends."""
    made = []

    def run(system, **more):
        sampler = Sampler(system, **({"every_seconds": 0.5} | more))
        thread = threading.Thread(target=sampler.run, daemon=True)
        thread.start()
        made.append((sampler, thread))
        return sampler, thread

    yield run
    for sampler, thread in made:
        sampler.stop()
        thread.join(120)
        sampler.close()
        assert not thread.is_alive()


def ask(system, query, *values):
    with psycopg.connect(system.settings.postgres_dsn) as connection:
        return connection.execute(query, values).fetchall()


def copied(system, group):
    """Offsets in the order of the log, as they were copied."""
    return [
        row[0]
        for row in ask(
            system,
            "SELECT committed_offset FROM evkit.commit_log WHERE consumer_group = %s AND topic IS NOT NULL"
            " ORDER BY log_offset",
            group,
        )
    ]


def round_of(sampler):
    """A round; None while PostgreSQL has not ended the session of one that was killed."""
    with contextlib.suppress(AnotherSampler):
        return sampler.once()


def waits_said_again(log):
    """Sentences about a wait that came again although sampling had not gone on in between."""
    said, again = set(), []
    for message in log.messages:
        if message == "sampling goes on":
            said.clear()
        elif message.startswith("sampling waits"):
            again += [message] * (message in said)
            said.add(message)
    return again


def process(system, *options):
    environment = os.environ | {
        "EVKIT_POSTGRES_DSN": system.settings.postgres_dsn,
        "EVKIT_KAFKA_BOOTSTRAP_SERVERS": system.settings.bootstrap_servers,
    }
    return subprocess.Popen([sys.executable, "-m", "evkit", "sample", *options], env=environment)


def test_killed_at_any_moment_the_copy_has_every_record_once(evkit_system, evkit_topic, evkit_group):
    """The log has thousands of records when it begins, so that kills meet it in the middle of a batch, and more come."""
    topic, group = evkit_topic(), evkit_group()
    consumer = kafka.consumer(evkit_system.settings, group)
    consumer.assign([TopicPartition(topic, 0)])

    def commits(first, last):
        for n in range(first, last):
            consumer.commit(offsets=[TopicPartition(topic, 0, n)], asynchronous=True)
        consumer.commit(offsets=[TopicPartition(topic, 0, last)], asynchronous=False)

    commits(0, 4_000)
    for kill in range(3):
        sampler = process(evkit_system, "--every", "1s")
        before = len(copied(evkit_system, group))
        commits(4_000 + 500 * kill, 4_500 + 500 * kill)
        until(lambda before=before: len(copied(evkit_system, group)) > before)
        sampler.send_signal(signal.SIGKILL)
        sampler.wait()
    consumer.close()

    made = Sampler(evkit_system, every_seconds=1)
    until(lambda: round_of(made))
    made.close()

    truth = in_the_log(evkit_system, group)
    assert truth[-1] == 5_500
    assert copied(evkit_system, group) == truth
    assert len(ask(evkit_system, "SELECT FROM evkit.lag_sample WHERE consumer_group = %s", group)) >= 3


def test_sigterm_ends_it_after_what_is_in_hand(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group()
    commit(evkit_system, group, topic, 7)
    sampler = process(evkit_system, "--every", "1s", "--group", group)
    until(lambda: ask(evkit_system, "SELECT FROM evkit.lag_sample"))

    sampler.terminate()

    assert sampler.wait(120) == 0


def test_the_copy_has_what_kafka_has_compacted_away(system, running, caplog):
    """As tests/integration/test_offsets_log.py does it; the sampler runs from the beginning."""
    kafka.create_topics(system.settings, {"copied": 1, "moved": 1})
    started_at = datetime.now(UTC)
    running(system)
    moved = (50, 3, 60)
    commit(system, "copied", "moved", *moved)
    consumer = kafka.consumer(system.settings, "copied")
    consumer.assign([TopicPartition("copied", 0)])
    truth = []

    def commit_next():
        begun_at = datetime.now(UTC)
        consumer.commit(offsets=[TopicPartition("copied", 0, len(truth) + 1)], asynchronous=False)
        truth.append((begun_at.replace(microsecond=begun_at.microsecond // 1000 * 1000), datetime.now(UTC)))

    for _ in range(100):
        commit_next()
    until(lambda: len(copied(system, "copied")) == 100 + len(moved))
    clean_offsets_at_once(system)
    deadline = time.monotonic() + 180
    while kept(system, "copied") == len(truth) + len(moved):
        assert time.monotonic() < deadline, "the cleaner has not run"
        time.sleep(0.5)
        commit_next()
    consumer.close()
    ended_at = datetime.now(UTC)
    until(lambda: complete(system, "copied") > ended_at)

    window = Window(started_at, ended_at)
    of_log, of_copy = (
        views.lag_history(system, "copied", "copied", window, "50ms", source).to_dicts()
        for source in ("offsets_log", "commit_log")
    )
    chosen = views.lag_history(system, "copied", "copied", window, "50ms")

    assert not of_log[len(of_log) // 4]["covered"]
    assert all(row["covered"] for row in of_copy)
    for row in of_copy:
        done = sum(ended <= row["at"] for _, ended in truth)
        begun = sum(begun <= row["at"] for begun, _ in truth)
        assert done <= (row["committed_offset"] or 0) <= begun
    assert set(chosen["source"]) == {"commit_log"}
    assert views.rebalances(system, "copied", window).is_empty()
    assert moves(offsets_log.read(system.settings, system.admin, "copied")[0], "copied") == []
    resets = views.offset_resets(system, "copied", window).to_dicts()
    assert [(row["from_offset"], row["to_offset"], row["source"]) for row in resets] == [(50, 3, "commit_log")]
    assert resets[0]["regained_at"] is not None
    noted = {(row["text"], row["source"]) for row in views.annotations(system, window, group="copied").to_dicts()}
    assert ("offsets of copied went back by 47 (moved, 1 partition)", "commit_log") in noted
    assert "offset_resets of copied: what was before" not in caplog.text


def complete(system, group):
    """When the copy of this group's part of the log was last complete."""
    rows = ask(system, "SELECT log_partition, complete_at FROM evkit.commit_log_tail")
    return dict(rows)[offsets_log.partition_of(group, len(rows))]


def test_what_was_compacted_while_nobody_sampled_is_a_gap_until_the_next_commit(system):
    kafka.create_topics(system.settings, {"gap": 1})
    commit(system, "gap", "gap", 1, 2, 3)
    commit(system, "idle-in-gap", "gap", 1)
    first = Sampler(system)
    first.once()
    first.close()
    stopped_at = complete(system, "gap")
    clean_offsets_at_once(system)
    consumer = kafka.consumer(system.settings, "gap")
    consumer.assign([TopicPartition("gap", 0)])
    n, lost = 3, False
    deadline = time.monotonic() + 180
    while not lost:
        assert time.monotonic() < deadline, "the cleaner has not run"
        n += 1
        consumer.commit(offsets=[TopicPartition("gap", 0, n)], asynchronous=False)
        time.sleep(0.5)
        lost = 4 not in in_the_log(system, "gap")
    n += 1
    consumer.commit(offsets=[TopicPartition("gap", 0, n)], asynchronous=False)
    consumer.close()
    again = Sampler(system)
    again.once()
    again.close()

    window = Window(stopped_at - timedelta(seconds=2), datetime.now(UTC))
    rows = views.lag_history(system, "gap", window=window, step="50ms", source="commit_log").to_dicts()

    offsets = copied(system, "gap")
    assert len(offsets) < n
    covered = [row["covered"] for row in rows]
    before, gap = covered.index(True), covered.index(True) + covered[covered.index(True) :].index(False)
    assert all(covered[before:gap])
    assert rows[gap - 1]["committed_offset"] == 3
    assert {row["committed_offset"] for row in rows if not row["covered"]} == {None}
    # From the first commit after the gap on, all is known again.
    after = [row["committed_offset"] for row in rows[gap:] if row["covered"]]
    assert after[-1] == n
    assert after == sorted(after)
    assert after[0] == offsets[3]


def in_the_log(system, group):
    (part,) = offsets_log.read(system.settings, system.admin, group)
    return [entry.value.offset for entry in part.entries if entry.key.kind == "commit"]


def test_a_broker_that_goes_away_and_comes_back_is_waited_for(own_stack, system, running, caplog):
    kafka.create_topics(system.settings, {"away": 1})
    commit(system, "away", "away", 1)
    _, thread = running(system)
    until(lambda: copied(system, "away") == [1])

    pause(own_stack.kafka_pid)
    try:
        until(lambda: "sampling waits" in caplog.text)
    finally:
        resume(own_stack.kafka_pid)
    commit(system, "away", "away", 2)

    until(lambda: copied(system, "away") == [1, 2])
    assert thread.is_alive()
    assert waits_said_again(caplog) == []
    until(lambda: "sampling goes on" in caplog.text)


def test_a_session_that_postgresql_ends_is_opened_again(evkit_system, evkit_topic, evkit_group, running, caplog):
    topic, group = evkit_topic(), evkit_group()
    commit(evkit_system, group, topic, 1)
    running(evkit_system, every_seconds=0.2)
    until(lambda: copied(evkit_system, group) == [1])

    ask(evkit_system, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'evkit sample'"
                      " AND datname = current_database()")  # fmt: skip
    commit(evkit_system, group, topic, 2)

    until(lambda: copied(evkit_system, group) == [1, 2])
    assert "sampling waits" in caplog.text
    assert waits_said_again(caplog) == []
    until(lambda: "sampling goes on" in caplog.text)


def test_without_the_right_to_read_the_log_samples_go_on_and_it_is_said_once(evkit_secured_kafka, running, caplog):
    owner = System(evkit_secured_kafka.open_settings)
    kafka.create_topics(owner.settings, {"unread": 1})
    produce(owner, "unread", 5)
    commit(owner, "unread", "unread", 2)
    for kind in ("topic", "group"):
        evkit_secured_kafka.allow("sampler", ["DESCRIBE", "READ"], **{kind: "unread"})
    watched = System(evkit_secured_kafka.settings("sampler"))
    started_at = datetime.now(UTC) - timedelta(seconds=1)
    running(watched, every_seconds=0.2)
    until(lambda: len(ask(owner, "SELECT FROM evkit.lag_sample")) > 3)
    caplog.set_level("WARNING")
    caplog.clear()

    with pytest.raises(OffsetsLogRefused):
        views.lag_history(watched, "unread", source="offsets_log")
    rows = views.lag_history(watched, "unread", window=Window(started_at, datetime.now(UTC)), step="100ms").to_dicts()

    assert {(row["source"], row["lag_events"]) for row in rows if row["covered"]} == {("sample", 3)}
    assert "is told by sample" in caplog.text
    assert OFFSETS_TOPIC in caplog.text
    assert ask(owner, "SELECT FROM evkit.commit_log") == []


def test_the_refusal_is_said_once(evkit_secured_kafka, running, caplog):
    evkit_secured_kafka.allow("sampler", ["DESCRIBE"], group="*")
    watched = System(evkit_secured_kafka.settings("sampler"))
    sampler, _ = running(watched, every_seconds=0.1)
    until(lambda: sampler.last is not None)
    first = sampler.last.at

    until(lambda: (sampler.last.at - first).total_seconds() > 1)

    assert caplog.text.count("no copy of the offsets log") == 1


def test_old_rows_go_and_the_last_commit_of_each_partition_stays(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(partitions=2), evkit_group()
    produce(evkit_system, topic, 9)
    commit(evkit_system, group, topic, 1, 2, 3)
    commit(evkit_system, group, topic, 8, partition=1)
    sampler = Sampler(evkit_system)
    sampler.once()
    age = "UPDATE {} SET {} = {} - interval '20 days'"
    with psycopg.connect(evkit_system.settings.postgres_dsn) as connection:
        connection.execute(age.format("evkit.lag_sample", "sampled_at", "sampled_at"))
        connection.execute("UPDATE evkit.commit_log SET written_at = written_at - interval '20 days',"
                           " committed_at = committed_at - interval '20 days'")  # fmt: skip
    commit(evkit_system, group, topic, 4)
    started_at = datetime.now(UTC)
    time.sleep(0.05)

    sampler.once()

    assert copied(evkit_system, group) == [3, 8, 4]
    assert len(ask(evkit_system, "SELECT FROM evkit.lag_sample WHERE consumer_group = %s", group)) == 2
    window = Window(started_at, datetime.now(UTC))
    rows = views.lag_history(evkit_system, group, topic, window, "10ms", source="commit_log").to_dicts()
    assert {(row["partition"], row["committed_offset"]) for row in rows if row["covered"]} == {(0, 4), (1, 8)}
    long_ago = Window(started_at - timedelta(days=30), started_at - timedelta(days=21))
    earlier = views.lag_history(evkit_system, group, topic, long_ago, "1d", source="commit_log").to_dicts()
    assert not any(row["covered"] for row in earlier)
    sampler.close()


def test_other_groups_than_before_leave_a_gap_and_no_wrong_number(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group()
    commit(evkit_system, group, topic, 1)
    with_it, without = Sampler(evkit_system), Sampler(evkit_system, groups=["nobody"])
    started_at = datetime.now(UTC)
    with_it.once()
    with_it.close()
    commit(evkit_system, group, topic, 2)
    without.once()
    without.close()
    again = Sampler(evkit_system)
    time.sleep(0.05)
    window = Window(started_at, datetime.now(UTC))
    again.once()
    commit(evkit_system, group, topic, 3)
    again.once()
    again.close()

    rows = views.lag_history(evkit_system, group, topic, window, "5ms", source="commit_log").to_dicts()

    assert copied(evkit_system, group) == [1, 3]
    assert {row["committed_offset"] for row in rows} == {1, None}
    assert not rows[-1]["covered"]


def test_an_interval_that_makes_no_sense_is_refused(evkit_system):
    for more in ({"every_seconds": 0}, {"every_seconds": 7200}, {"keep_days": 0}):
        with pytest.raises(InvalidParameter):
            Sampler(evkit_system, **more)


def test_markers_are_no_gap_while_the_log_is_followed(evkit_system, evkit_topic, evkit_group, running):
    """A marker is an offset without a record, as what was compacted away is."""
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 9)
    running(evkit_system, every_seconds=0.2)
    consumer = kafka.consumer(evkit_system.settings, group)
    consumer.subscribe([topic])
    until(lambda: consumer.poll(0.1) is None and consumer.assignment())
    producer = kafka.producer(evkit_system.settings, **{"transactional.id": group, "transaction.timeout.ms": 400_000})
    producer.init_transactions(30)
    started_at = datetime.now(UTC)
    for offset in (3, 5):
        producer.begin_transaction()
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, offset)], consumer.consumer_group_metadata(), 30)
        producer.commit_transaction(30)
        until(lambda offset=offset: copied(evkit_system, group)[-1:] == [offset])
    consumer.close()
    ended_at = datetime.now(UTC)
    until(lambda: (complete(evkit_system, group) or started_at) > ended_at)

    window = Window(started_at, ended_at)
    rows = views.lag_history(evkit_system, group, topic, window, "5ms", source="commit_log").to_dicts()

    assert ask(evkit_system, "SELECT FROM evkit.commit_log_gap") == []
    assert list(dict.fromkeys(row["committed_offset"] for row in rows if row["covered"])) in ([None, 3, 5], [3, 5])
    assert rows[-1]["covered"]
