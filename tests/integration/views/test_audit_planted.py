"""Losses, doubles and reorderings of every kind, planted in 200,000 events: the audit names each, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module

import pytest
from confluent_kafka import TopicPartition

from evkit.views.audit import VERDICTS, counted, examined
from evkit.views.audit.spill import Spill
from tests.integration.views.planted import Planted

EVENTS = 200_000


@pytest.fixture
def planted(evkit_system, evkit_topic, evkit_group):
    return Planted(
        evkit_system, evkit_topic("order", partitions=4), evkit_group("billing"), evkit_group("shipping"), events=EVENTS
    )


def damage(p):
    """Plant everything there is a word for; returns what the audit has to say: {(id, group): verdict}."""
    expected, at = {}, {event_id: n for n, (event_id, _) in enumerate(p.log)}
    group, id_ = p.group, p.id

    def never_in_the_log(*numbers):
        for i in numbers:
            p.log[at[id_(i)]] = None

    # Not published: done with by the relay, and nowhere; and the last ten wait in front of it.
    never_in_the_log(50_001, 120_000, 120_001)
    expected |= {(id_(i), None): "not_published" for i in (50_001, 120_000, 120_001)}
    p.settled = EVENTS - 10
    never_in_the_log(*range(EVENTS - 10, EVENTS))
    expected |= {(id_(i), None): "pending" for i in range(EVENTS - 10, EVENTS)}
    # Not publishable, one behind it, one that somebody took back.
    never_in_the_log(60_000, 65_000, 66_000)
    p.unpublishable = {id_(60_000): ("parked", None), id_(65_000): ("held", 60_001), id_(66_000): ("skipped", None)}
    expected |= {
        (id_(60_000), None): "unpublishable",
        (id_(65_000), None): "unpublishable",
        (id_(66_000), None): "skipped",
    }
    # Confirmed, and the log has something else there: one that a group handled before, one that it did not.
    for i in (70_000, 70_001):
        p.log[at[id_(i)]] = (f"gone:{id_(i)}", p.partition(i))
        expected[id_(i), None] = "missing"
    p.lost.add(id_(70_001))
    expected[id_(70_001), group] = "missing"
    # Two of one key the other way round in the log; the group handled them as they were written.
    for i in (30_000, 199_000 - 5000):
        a, b = at[id_(i)], at[id_(i + p.keys)]
        p.log[a], p.log[b] = p.log[b], p.log[a]
        expected[id_(i + p.keys), None] = "out_of_order"
    # Handled the other way round by the group alone.
    p.late[id_(80_000)] = timedelta(minutes=3)
    expected |= {(id_(80_000 + k * p.keys), group): "out_of_order" for k in range(1, 8) if k * p.keys * 0.005 < 180}
    # In the log twice: a later copy, and an earlier one that was never marked.
    later = [(id_(i), p.partition(i)) for i in (90_000, 90_001)]
    p.marked_last = {id_(90_001)}
    expected |= {(event_id, None): "published_twice" for event_id, _ in later}
    # Handled twice: nobody asked for it; and once by a replay that was to do so, which is well.
    p.again = {id_(100_000): None, id_(100_001): "again-1"}
    expected[id_(100_000), group] = "processed_twice"
    for name, i in (("dead", 110_000), ("parked", 115_000), ("skipped", 111_000)):
        getattr(p, name).add(id_(i))
        expected[id_(i), group] = name
    p.log = [entry for entry in p.log if entry is not None]
    p.log[-10:-10] = later

    # Partition 0 lost its oldest records before the group had handled three of them, and a fourth long after it had.
    # Partition 1 was reset over 500 records. Of partition 2 single events, and three in a row, were passed over.
    # Partition 3 has some to go.
    of = [[event_id for event_id, partition in p.log if partition == n] for n in range(4)]
    p.retained = 1000
    for offset in (10, 11, 999):
        p.lost.add(of[0][offset])
        expected[of[0][offset], group] = "lost_to_retention"
    for offset in range(20_000, 20_500):
        p.lost.add(of[1][offset])
        expected[of[1][offset], group] = "skipped_by_reset"
    for offset in (5_000, 17_000, 17_001, 17_002, 39_999):
        p.lost.add(of[2][offset])
        expected[of[2][offset], group] = "not_consumed"
    for offset in range(p.end(3) - 40, p.end(3)):
        p.lost.add(of[3][offset])
        expected[of[3][offset], group] = "pending"
    p.commits = [(1, 10_000), (1, 20_000), (1, 20_500), (2, 16_000), (2, 20_000)]
    p.commits += [(0, p.end(0)), (1, p.end(1)), (2, p.end(2)), (3, p.end(3) - 40)]
    return expected


@pytest.mark.timeout(900)
def test_every_planted_loss_double_and_reordering_is_found_and_nothing_else(planted, monkeypatch):
    expected = damage(planted)
    planted.make()
    planted.system.admin.delete_records([TopicPartition(planted.topic, 0, planted.retained)])[
        TopicPartition(planted.topic, 0)
    ].result()

    look = look_at(planted)

    assert {(row["event_id"], row["group"]): row["verdict"] for row in look.rows} == expected
    assert sum(sum(of.values()) for of in look.verdicts.values()) == EVENTS + 2 * (EVENTS - 16)
    counts = {row["group"]: row for row in counted(look)}
    lost = [v for v in expected.values() if v in ("skipped_by_reset", "not_consumed", "lost_to_retention")]
    assert counts[None]["unaccounted"] == counts[None]["not_published_n"] == 3
    assert counts[planted.group]["unaccounted_group"] == len(lost) + 1
    assert counts[planted.other]["unaccounted_group"] == 0
    assert counts[planted.other]["handled"] == counts[None]["published"]

    # The same when next to nothing fits into memory: nine pages, heaps of 3,000 records, all of them in files.
    examine, log, order, rows = (
        import_module(f"evkit.views.audit.{name}") for name in ("examine", "log", "order", "rows")
    )
    monkeypatch.setattr(examine, "Spill", lambda: Spill(bytes_max=1_000_000))
    monkeypatch.setattr(rows, "POSITIONS", 44_000)
    monkeypatch.setattr(order, "EVENTS", 3_000)
    monkeypatch.setattr(log, "RECORDS", 3_000)
    again = look_at(planted)
    assert [strip(row) for row in again.rows] == [strip(row) for row in look.rows]
    assert (again.verdicts, again.counts) == (look.verdicts, look.counts)


def look_at(planted):
    return examined(
        planted.system, planted.window(), topic=None, group=None, settle="10s",
        wanted=[v for v in VERDICTS if v != "ok"], rows_max=10_000,
    )  # fmt: skip


def strip(row):
    """Without the sentence where it has an age."""
    return {name: value for name, value in row.items() if name != "evidence" or " ago" not in value}
