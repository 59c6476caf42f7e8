"""Which commits of a group are moves that reading on does not explain, and who made them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from evkit.offsets_log import Entry, Part
from evkit.offsets_records import Commit, Key, Member
from evkit.views.offset_resets import moves

EPOCH = datetime(2013, 2, 8, 14, tzinfo=UTC)


def at(offset):
    return EPOCH + timedelta(seconds=offset)


def member(offset, name="a", *, left=False):
    value = None if left else Member(None, None, "c", "/h", ("order",), None, 1, None, False)
    return Entry(offset, at(offset), Key("member", "g", member_id=name), value)


def commit(offset, committed, *, partition=0, group="g"):
    value = None if committed is None else Commit(committed, None, "", at(offset), None, None)
    return Entry(offset, at(offset), Key("commit", group, "order", partition), value)


def told(*entries, **more):
    part = Part(0, list(entries), **more)
    return [(m["from_offset"], m["to_offset"], m["direction"], m["moved_by"]) for m in moves(part, "g")]


def test_a_commit_that_goes_back_is_a_move_whoever_made_it():
    assert told(member(0), commit(1, 10), commit(2, 4)) == [(10, 4, "back", "member")]
    assert told(member(0), commit(1, 10), member(2, left=True), commit(3, 4)) == [(10, 4, "back", "outside")]


def test_a_commit_that_goes_forward_is_a_move_when_nobody_is_there_to_have_read():
    read_on = [member(0), commit(1, 10), commit(2, 20)]

    assert told(*read_on) == []
    assert told(*read_on, member(3, left=True), commit(4, 90)) == [(20, 90, "forward", "outside")]
    assert told(*read_on, member(3, left=True), member(4, "b"), commit(5, 90)) == []


def test_a_group_that_never_had_members_reads_on_by_itself():
    assert told(commit(0, 10), commit(1, 20), commit(2, 5)) == [(20, 5, "back", "unknown")]


def test_the_same_offset_again_the_first_one_and_what_comes_after_it_was_forgotten_are_no_moves():
    assert told(member(0), member(1, left=True), commit(2, 10), commit(3, 10), commit(4, None), commit(5, 50)) == []


def test_partitions_and_groups_are_apart():
    assert told(member(0), commit(1, 10), commit(2, 4, partition=1), commit(3, 2, group="other"), commit(4, 11)) == []


def test_where_members_may_be_gone_from_the_log_nobody_is_accused():
    entries = [member(0), commit(1, 10), member(2, left=True), commit(3, 90)]

    assert told(*entries, first_hole=4, whole_from=9) == []


def test_a_group_that_has_regained_its_old_offset_says_when():
    part = Part(0, [member(0), commit(1, 10), commit(2, 4), commit(3, 9), commit(4, 10), commit(5, 3)])

    first, second = moves(part, "g")

    assert first["regained_at"] == at(4)
    assert second["regained_at"] is None
    assert (first["at"], first["moved_events"]) == (at(2), -6)


@given(st.lists(st.integers(0, 50), max_size=30))
def test_the_moves_of_one_member_are_exactly_its_falls(offsets):
    part = Part(0, [member(0), *(commit(n, offset) for n, offset in enumerate(offsets, 1))])

    falls = [(a, b) for a, b in pairwise(offsets) if b < a]

    assert [(m["from_offset"], m["to_offset"]) for m in moves(part, "g")] == falls
