"""What the records of a group say of its members, and what they do not say any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from evkit.offsets_log import Entry, Part
from evkit.offsets_records import ClassicGroup, ClassicMember, GroupEpoch, Key, Member
from evkit.views.rebalances import changes

EPOCH = datetime(2013, 2, 8, 14, tzinfo=UTC)


def at(offset):
    return EPOCH + timedelta(seconds=offset)


def classic(offset, generation, *names):
    members = tuple(ClassicMember(name, None, "c", "/h", 1, 1, b"", b"") for name in names)
    value = ClassicGroup("consumer", generation, "range", None, None, members)
    return Entry(offset, at(offset), Key("classic_group", "g"), value)


def member(offset, name, *, left=False):
    value = None if left else Member(None, None, "c", "/h", ("order",), None, 1, None, False)
    return Entry(offset, at(offset), Key("member", "g", member_id=name), value)


def epoch(offset, number):
    return Entry(offset, at(offset), Key("group_epoch", "g"), None if number is None else GroupEpoch(number, 0))


def told(part):
    return [(r["epoch"], r["members_before"], r["members_after"], r["kind"]) for r in changes(part, "g")]


def test_members_of_a_classic_group_are_compared_from_generation_to_generation():
    part = Part(0, [
        classic(0, 1, "a"), classic(1, 2, "a", "b"), classic(2, 3, "a", "c"), classic(3, 4, "a", "c"), classic(4, 5, "c"),
        classic(5, 6),
    ])  # fmt: skip

    assert told(part) == [
        (1, 0, 1, "joined"), (2, 1, 2, "joined"), (3, 2, 2, "replaced"), (4, 2, 2, "changed"), (5, 2, 1, "left"),
        (6, 1, 0, "emptied"),
    ]  # fmt: skip


def test_members_of_a_kip_848_group_are_those_written_before_its_epoch():
    part = Part(0, [
        member(0, "a"), epoch(1, 1), member(2, "b"), epoch(3, 2), member(4, "a", left=True), epoch(5, 3),
        member(6, "b", left=True), epoch(7, 4), epoch(8, None),
    ])  # fmt: skip

    assert told(part) == [
        (1, 0, 1, "joined"), (2, 1, 2, "joined"), (3, 2, 1, "left"), (4, 1, 0, "emptied"), (None, 0, 0, "deleted"),
    ]  # fmt: skip


def test_who_was_there_before_what_compaction_took_is_unknown():
    of_classic = Part(0, [classic(9, 5, "a"), classic(10, 6, "a", "b")], first_hole=0, whole_from=9, whole_since=at(9))
    of_kip_848 = Part(
        0, [member(3, "a"), epoch(4, 7), epoch(9, 8), epoch(10, 9)], first_hole=0, whole_from=9, whole_since=at(9)
    )

    assert told(of_classic) == [(5, None, 1, "unknown"), (6, 1, 2, "joined")]
    assert told(of_kip_848) == [(7, None, None, "unknown"), (8, None, 1, "unknown"), (9, 1, 1, "changed")]


def test_a_group_that_had_only_committed_has_nothing_to_delete_when_its_first_member_joins():
    deletion = Entry(0, at(0), Key("classic_group", "g"), None)

    assert told(Part(0, [deletion, member(1, "a"), epoch(2, 1)])) == [(1, 0, 1, "joined")]
    compacted = Part(0, [deletion._replace(offset=5)], first_hole=0, whole_from=5, whole_since=at(5))
    assert told(compacted) == [(None, None, 0, "deleted")]
