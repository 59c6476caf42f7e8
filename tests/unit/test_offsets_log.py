"""How far back commits are known, against a model of Kafka's log cleaner: what is said to be covered must be true."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.kafka import Record
from evkit.offsets_log import Part, _Reader, commits_of, partition_of
from evkit.offsets_records import key_prefix

EPOCH = datetime(2013, 2, 8, 14, tzinfo=UTC)


def at(second):
    return EPOCH + timedelta(seconds=second)


def commit(offset, group, committed):
    """A commit at second `offset` of this committed offset; None deletes it."""
    key = key_prefix(1, group) + struct.pack(">h", 5) + b"order" + struct.pack(">i", 0)
    millis = int(at(offset).timestamp() * 1000)
    value = None if committed is None else struct.pack(">hqihq", 3, committed, -1, 0, millis)
    return Record("__consumer_offsets", 0, offset, key, value, [], at(offset), "create", None, at(offset))


def read(records, end, *, start=0, group="a"):
    reader = _Reader(Part(0, read_at=at(end)), start, group)
    for record in records:
        reader.take(record)
    reader.close(end, is_open=False)
    return reader.part


def commits(part, group="a"):
    return commits_of(part, group).get(("order", 0))


@pytest.mark.parametrize(
    ("group", "partition"),
    # Java: Math.abs(group.hashCode()) % 50; "polygenelubricants" is the string whose hash is Integer.MIN_VALUE.
    [("", 0), ("a", 47), ("billing", 9), ("grün", 49), ("😀", 49), ("polygenelubricants", 0)],
)
def test_a_group_is_in_the_partition_that_java_says(group, partition):
    assert partition_of(group, 50) == partition


def test_without_a_hole_all_is_known_from_the_beginning():
    found = commits(read([commit(0, "b", 1), commit(1, "a", 5), commit(2, "a", None)], 3))

    assert [found.at(at(s)) for s in (0, 1, 1.5, 2)] == [None, 5, 5, None]
    assert all(found.covers(at(s)) for s in (-100, 0, 1, 2, 3))


def test_before_a_partitions_first_commit_that_is_left_nothing_is_known():
    found = commits(read([commit(2, "b", 1), commit(5, "a", 5), commit(6, "a", 6)], 7))

    assert [found.covers(at(s)) for s in (1, 4, 5, 6)] == [False, False, True, True]
    assert [found.at(at(s)) for s in (1, 4, 5, 6)] == [None, None, 5, 6]


def test_holes_of_others_after_a_partitions_first_commit_take_nothing_from_it():
    found = commits(read([commit(0, "a", 5), commit(7, "b", 1), commit(8, "a", 6)], 9))

    assert [(found.covers(at(s)), found.at(at(s))) for s in (-1, 0, 7, 8)] == [
        (True, None), (True, 5), (True, 5), (True, 6),
    ]  # fmt: skip


def test_a_log_whose_beginning_was_deleted_has_a_hole_there():
    part = read([commit(4, "a", 5)], 5, start=4)

    assert (part.first_hole, part.whole_from, part.whole_since) == (0, 4, at(4))
    assert commits(part).since == at(4)


def test_a_marker_at_the_end_is_a_hole_that_leaves_commits_covered():
    part = read([commit(0, "a", 5)], 2)

    assert (part.first_hole, part.whole_from, part.whole_since) == (1, 2, at(2))
    assert commits(part).since is None


def test_what_cannot_be_read_is_counted_and_passed_over():
    broken = commit(1, "a", 5)._replace(value=b"\x00\x03\x00")
    later = commit(2, "a", 5)._replace(value=b"\x00\x63\x00")

    part = read([commit(0, "a", 4), broken, later], 3)

    assert [e.offset for e in part.entries] == [0]
    assert part.passed_over == {"the value ends within a field, at byte 3": 1, "kind 1, version 99": 1}


OPERATIONS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 9) | st.none()), min_size=1, max_size=30
)  # group, committed offset or deletion
PASSES = st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=4)


@given(OPERATIONS, PASSES, st.sets(st.integers(0, 29)))
def test_what_is_covered_is_what_was_committed_however_the_log_was_cleaned(operations, passes, markers):
    """The cleaner as Kafka has it: of the part below a point, a key's records go that have a later one there; on some
    passes deletions go too, for their time is over. Markers take offsets that no consumer is shown."""
    log = [commit(n, *operation) for n, operation in enumerate(operations) if n not in markers]
    for until, drops_deletions in passes:
        newest = {r.key: r.offset for r in log if r.offset < until}
        log = [
            r for r in log
            if r.offset >= until or (newest[r.key] == r.offset and not (r.value is None and drops_deletions))
        ]  # fmt: skip

    for group in "abc":
        found = commits(read(log, len(operations), group=group), group)
        truth, said = None, 0
        for n, (of, committed) in enumerate(operations):
            truth = committed if of == group and n not in markers else truth
            if found is not None and found.covers(at(n)):
                said += 1
                assert found.at(at(n)) == truth
        if found is not None:
            assert said


def test_behind_an_open_transaction_nothing_is_covered():
    reader = _Reader(Part(0, read_at=at(9)), 0, "a")
    reader.take(commit(0, "a", 5))
    reader.take(commit(1, "b", 5))
    reader.close(2, is_open=True)

    found = commits(reader.part)

    assert [(found.covers(at(s)), found.at(at(s))) for s in (0, 1, 2)] == [(True, 5), (True, 5), (False, None)]
