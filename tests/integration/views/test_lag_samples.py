"""What `evkit sample` has measured, and what a view makes of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from evkit import kafka, views
from evkit.errors import UnknownGroup
from evkit.runtime.sampler import AnotherSampler, Sampler
from evkit.views import lag_processed
from evkit.window import Window
from tests.integration.views.groups import commit, produce
from tests.integration.views.rows import deal, write


@pytest.fixture
def sampler(evkit_system):
    """Makes samplers, and closes them."""
    made = []

    def make(**more):
        made.append(Sampler(evkit_system, **({"every_seconds": 0.2} | more)))
        return made[-1]

    yield make
    for each in made:
        each.stop()
        each.close()


def rows(system, query="SELECT * FROM evkit.lag_sample", *values):
    with psycopg.connect(system.settings.postgres_dsn) as connection:
        return connection.execute(query, values).fetchall()


def test_a_round_writes_what_lag_says(evkit_system, evkit_topic, evkit_group, sampler):
    topic, group = evkit_topic(partitions=2), evkit_group()
    produce(evkit_system, topic, 5)
    commit(evkit_system, group, topic, 2)

    done = sampler(groups=[group]).once()

    (row,) = rows(
        evkit_system,
        "SELECT cluster_id, consumer_group, topic, partition, committed_offset, start_offset, stable_offset, end_offset,"
        " group_state, members FROM evkit.lag_sample",
    )
    assert row == (kafka.cluster_id(evkit_system.settings), group, topic, 0, 2, 0, 5, 5, "empty", 0)
    assert (done.groups, done.rows, done.refused) == (1, 1, {})


def test_lag_of_the_past_is_that_of_the_nearest_sample_and_nothing_where_there_was_none(
    evkit_system, evkit_topic, evkit_group, sampler
):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 5)
    commit(evkit_system, group, topic, 2)
    started_at = datetime.now(UTC) - timedelta(seconds=1)
    of_group = sampler(groups=[group])
    of_group.once()
    produce(evkit_system, topic, 1)
    time.sleep(0.5)
    of_group.once()
    time.sleep(0.3)

    found = views.lag_history(
        evkit_system, group, topic, Window(started_at, datetime.now(UTC)), "50ms", source="sample"
    ).to_dicts()

    assert {row["source"] for row in found} == {"sample"}
    told = [(row["covered"], row["lag_events"]) for row in found]
    assert list(dict.fromkeys(told)) == [(False, None), (True, 3), (True, 4)]
    assert told[-1] == (False, None)
    # A sample speaks for 0.2 s after it, and half of that before.
    assert 5 <= told.count((True, 3)) <= 7


def test_a_second_sampler_of_the_cluster_is_refused_or_waits(evkit_system, evkit_topic, evkit_group, sampler):
    topic, group = evkit_topic(), evkit_group()
    commit(evkit_system, group, topic, 1)
    first, second = sampler(groups=[group]), sampler(groups=[group])
    first.once()

    with pytest.raises(AnotherSampler, match="another sampler"):
        second.once()
    assert len(rows(evkit_system)) == 1

    first.close()
    second.once()
    assert len(rows(evkit_system)) == 2


def test_a_group_that_was_never_sampled_is_unknown(evkit_system, evkit_topic, evkit_group, sampler):
    topic, group = evkit_topic(), evkit_group("billing")
    commit(evkit_system, group, topic, 1)
    sampler(groups=[group]).once()

    with pytest.raises(UnknownGroup, match=f"did you mean '{group}'"):
        views.lag_history(evkit_system, group + "s", source="sample")


def test_a_group_that_was_deleted_has_its_lag_until_then_and_none_after(
    evkit_system, evkit_topic, evkit_group, sampler
):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 5)
    commit(evkit_system, group, topic, 2)
    committed_at = datetime.now(UTC)
    sampler().once()
    time.sleep(0.1)
    deleting_at = datetime.now(UTC)
    for future in evkit_system.admin.delete_consumer_groups([group]).values():
        future.result()
    deleted_at = datetime.now(UTC)
    time.sleep(0.1)
    window = Window(committed_at, datetime.now(UTC))

    told = {
        source: views.lag_history(evkit_system, group, topic, window, "10ms", source) for source in ("auto", "sample")
    }

    lags = {source: frame.select("at", "lag_events", "covered").rows() for source, frame in told.items()}
    assert group not in kafka.groups(evkit_system.settings)
    assert {lag for at, lag, _ in lags["auto"] if at < deleting_at} == {3}
    assert {(lag, covered) for at, lag, covered in lags["auto"] if at > deleted_at} == {(None, True)}
    assert 3 in {lag for _, lag, covered in lags["sample"] if covered}


def test_the_copy_of_the_log_tells_what_the_log_tells(evkit_system, evkit_topic, evkit_group, sampler):
    topic, group = evkit_topic(partitions=2), evkit_group()
    produce(evkit_system, topic, 9)
    # From its first commit on a group is covered, whatever transactions of others have left holes in the log before.
    commit(evkit_system, group, topic, 2)
    commit(evkit_system, group, topic, 0, partition=1)
    started_at = datetime.now(UTC)
    commit(evkit_system, group, topic, 5, 4)
    time.sleep(0.1)
    window = Window(started_at, datetime.now(UTC))
    sampler().once()

    told = {
        source: views.lag_history(evkit_system, group, topic, window, "5ms", source=source).drop("source")
        for source in ("offsets_log", "commit_log")
    }

    assert told["commit_log"].to_dicts() == told["offsets_log"].to_dicts()
    assert told["commit_log"]["covered"].all()
    assert set(told["commit_log"]["committed_offset"]) >= {0, 4}
    # What is whole in PostgreSQL need not be read from Kafka.
    assert set(views.lag_history(evkit_system, group, topic, window, "5ms")["source"]) == {"commit_log"}


def test_evkits_tables_tell_what_was_handled_of_what_was_published(evkit_system, past):
    """Front of partition 0: e2 and e3 wait for e1, whatever the group did with them."""
    for n, ago in ((0, 100), (1, 80), (2, 60), (3, 40)):
        past.write(f"e{n}", ago + 1, published=ago)
    for event, ago in (("e0", 90), ("e2", 50), ("e1", 30), ("e3", 20)):
        past.handle("billing", event, ago)

    found = views.lag_history(evkit_system, "billing", window=past.window(110), step="10s", source="inbox").to_dicts()

    told = [
        (round((past.now - r["at"]).total_seconds()), r["committed_offset"], r["end_offset"], r["lag_events"])
        for r in found
        if r["covered"]
    ]
    assert told == [
        (90, 2, 2, 0), (80, 2, 3, 1), (70, 2, 3, 1), (60, 2, 4, 2), (50, 2, 4, 2), (40, 2, 5, 3), (30, 4, 5, 1),
        (20, 5, 5, 0), (10, 5, 5, 0),
    ]  # fmt: skip
    assert {(r["source"], r["exact"]) for r in found} == {("inbox", True)}
    # Nobody knows whether the group was there before it handled its first event.
    assert [r["covered"] for r in found[:2]] == [False, False]


def test_what_was_dead_was_dealt_with_when_it_died_and_not_when_it_was_redriven(evkit_system, past):
    for n, ago in ((0, 100), (1, 80)):
        past.write(f"e{n}", ago + 1, published=ago)
    past.handle("billing", "e0", 90)
    past.fail("billing", "e1", 70, dead=True)
    past.handle("billing", "e1", 10, replay_id="r")

    found = views.lag_history(evkit_system, "billing", window=past.window(90), step="10s", source="inbox").to_dicts()

    assert [r["lag_events"] for r in found] == [0, 1, 0, 0, 0, 0, 0, 0, 0]


def test_a_topic_with_another_producer_has_no_number_from_evkits_tables(evkit_system, past):
    past.write("e0", 101, published=100)
    past.handle("billing", "e0", 90)
    past.handle("billing", "somebody-elses", 50)

    found = views.lag_history(evkit_system, "billing", window=past.window(80), step="10s", source="inbox").to_dicts()

    assert {(r["exact"], r["lag_events"], r["end_offset"]) for r in found} == {(False, None, None)}


def test_a_group_that_stood_still_for_longer_than_is_looked_back_is_not_covered(evkit_system, past):
    day = 86_400
    for n, ago in ((0, 3 * day), (1, 2 * day), (2, 100)):
        past.write(f"e{n}", ago + 1, published=ago)
    past.handle("billing", "e0", 3 * day - 10)

    found = views.lag_history(evkit_system, "billing", window=past.window(90), step="10s", source="inbox").to_dicts()

    assert not [r for r in found if r["lag_events"] is not None]


@pytest.mark.parametrize("apart", [True, False])
def test_what_was_dealt_with_before_begins_each_partition(evkit_system, past, monkeypatch, apart):
    """Partition 0: all of before is done. 1: the group has left an event behind there. 2: there is nothing before."""
    day = 86_400
    monkeypatch.setattr(lag_processed, "BEFORE_POSITIONS", 4 if apart else 100_000)
    for partition in (0, 1, 2):
        for offset in (0, 1) if partition < 2 else ():
            event = f"old-{partition}-{offset}"
            write(past, event, 2 * day + 1, published=2 * day, partition=partition, offset=offset)
            if (partition, offset) != (1, 1):
                deal(past, "billing", event, 2 * day - 10, partition=partition, offset=offset)
        for n in (0, 1):  # so that the partitions' first ones are further apart than is looked through at once
            write(past, f"other-{partition}-{n}", 2 * day, topic="other")
        write(past, f"new-{partition}", 101, published=100, partition=partition, offset=2)
        deal(past, "billing", f"new-{partition}", 50, partition=partition, offset=2)

    found = views.lag_history(evkit_system, "billing", window=past.window(90), step="10s", source="inbox")

    told = {of[0]: rows["committed_offset"].to_list() for of, rows in found.group_by("partition", maintain_order=True)}
    assert told == {0: [2] * 4 + [3] * 5, 2: [None] * 4 + [3] * 5}
