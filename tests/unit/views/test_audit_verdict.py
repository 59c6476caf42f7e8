"""The rules by which an event gets its verdict."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.offsets_log import Commits, Entry, Part
from evkit.offsets_records import Commit, Key
from evkit.views.audit.groups import Marks, jumps
from evkit.views.audit.verdict import HARMLESS, LOST, VERDICTS, EventFacts, GroupFacts, of_event, of_group

AT = datetime(2013, 2, 8, 14, tzinfo=UTC)
numbers = st.integers(0, 1000)
seconds = st.floats(0, 10_000)
places = st.tuples(st.integers(0, 3), numbers)
events = st.builds(
    EventFacts,
    position=st.integers(1, 1000),
    age_seconds=seconds,
    settle_seconds=seconds,
    settled_position=st.none() | numbers,
    unpublishable=st.sampled_from([None, "parked", "held", "retry", "skipped"]),
    blocked_by=st.none() | numbers,
    error=st.none() | st.text(),
    marked=st.none() | places | st.just((-1, 0)),
    where=st.sampled_from(["log", "below", "above", "absent", "gone", "unread"]),
    copies=st.lists(places, max_size=4).map(tuple),
    handled_by=st.none() | st.just("billing"),
    compacted=st.booleans(),
    overtaken=st.none() | st.tuples(numbers, numbers),
)
groups = st.builds(
    GroupFacts,
    place=st.none() | places,
    where=st.sampled_from(["log", "below", "above", "absent", "gone", "unread"]),
    start_offset=st.none() | numbers,
    committed_offset=st.none() | numbers,
    age_seconds=seconds,
    settle_seconds=seconds,
    outcome=st.sampled_from([None, "handled", "dead", "parked", "skipped"]),
    handled_n=st.integers(0, 3),
    wanted_n=st.integers(0, 3),
    ran_again=st.integers(0, 2),
    letter=st.none() | st.tuples(numbers, st.just("open")),
    elsewise=st.none() | st.tuples(st.text(), st.sampled_from(["handled", "dead", "parked", "skipped"])),
    overtaken=st.none() | st.tuples(numbers, st.just(AT)),
    handled_at=st.none() | st.just(AT),
    compacted=st.booleans(),
    jump=st.none() | st.just((1, 5, None, "guess")),
)


@given(events)
def test_every_event_has_one_known_verdict_and_a_sentence(facts):
    verdict, evidence = of_event(facts)

    assert verdict in VERDICTS
    assert evidence


@given(groups)
def test_every_event_of_a_group_has_one_known_verdict_and_a_sentence(facts):
    verdict, evidence = of_group(facts)

    assert verdict in VERDICTS
    assert evidence


@given(events)
def test_what_is_in_the_log_was_published(facts):
    if facts.copies and facts.unpublishable is None:
        assert of_event(facts)[0] not in ("not_published", "pending", "missing")


@given(events)
def test_what_the_relay_has_not_come_to_is_not_lost(facts):
    if facts.settled_position is not None and facts.position > facts.settled_position and facts.marked is None:
        assert of_event(facts)[0] != "not_published"


@given(groups)
def test_what_the_inbox_has_is_not_lost(facts):
    if facts.outcome is not None or facts.handled_n:
        assert of_group(facts)[0] not in LOST


@given(groups)
def test_what_is_still_in_front_of_the_group_is_not_lost(facts):
    in_front = facts.place and (facts.committed_offset is None or facts.place[1] >= facts.committed_offset)
    if in_front and facts.where in ("log", "above", "unread"):
        assert of_group(facts)[0] not in LOST


@given(groups)
def test_what_the_group_went_past_is_accounted_for_or_lost(facts):
    went_past = facts.place and facts.committed_offset is not None and facts.place[1] < facts.committed_offset
    nothing_known = facts.outcome is None and not facts.handled_n and facts.letter is None and facts.elsewise is None
    if went_past and nothing_known and facts.age_seconds >= facts.settle_seconds:
        assert of_group(facts)[0] in LOST


@given(groups)
def test_a_verdict_that_counts_as_handled_belongs_to_what_was_handled(facts):
    handled = facts.outcome == "handled" or facts.handled_n
    assert (of_group(facts)[0] in ("ok", "processed_twice", "out_of_order")) == bool(
        handled
        or (facts.outcome is None and facts.letter is None and facts.elsewise and facts.elsewise[1] == "handled")
    )


def test_the_worst_is_said_first_and_the_rest_is_not_kept_back():
    facts = EventFacts(
        5, 100, 30, settled_position=9, marked=(0, 7), where="log", copies=((0, 7), (0, 9)), overtaken=(4, 8)
    )

    verdict, evidence = of_event(facts)

    assert verdict == "out_of_order"
    assert evidence == (
        "it stands before offset 8, where position 4, an earlier event of its key, is; "
        "2 records have its id: at partition 0 offset 7, partition 0 offset 9"
    )


def test_findings_are_whatever_is_not_harmless():
    assert set(LOST).isdisjoint(HARMLESS)
    assert VERDICTS[-len(HARMLESS) :] == HARMLESS


# --- jumps ------------------------------------------------------------------------------------------------------------


def commits(*offsets, compacted=False):
    """The history of a group that committed these; `compacted`: what was before them is gone."""
    entries = [
        Entry(n, AT, Key("commit", 1, "billing", "order", 0), Commit(offset, None, "", AT, None, None))
        for n, offset in enumerate(offsets, start=10)
    ]
    return Commits.of(Part(0, first_hole=3 if compacted else None), entries)


def marks(last, *handled):
    made = Marks(0, last)
    made.add(np.array([o for of in handled for o in of], dtype=np.int64))
    return made


def test_one_commit_over_events_of_which_none_was_handled_is_a_jump():
    found = jumps([40, 41, 42], marks(100, range(40), range(43, 100)), commits(20, 40, 43, 100), None)

    assert [(j[0], j[1]) for j in found] == [(40, 43)] * 3


def test_events_in_a_row_that_were_passed_over_in_the_middle_of_work_are_no_jump():
    found = jumps([40, 41, 42], marks(100, range(40), range(43, 100)), commits(20, 100), None)

    assert found == [None] * 3


def test_an_event_that_was_passed_over_alone_is_no_jump():
    assert jumps([40], marks(100, range(40), range(41, 100)), commits(40, 41, 100), None) == [None]
    assert jumps([40], marks(100, range(40), range(41, 100)), None, "refused") == [None]


def test_without_a_history_events_in_a_row_are_taken_for_a_jump_and_the_evidence_says_so():
    found = jumps([7, 40, 41], marks(100, range(7), range(8, 40), range(42, 100)), None, "the log may not be read")

    assert found[0] is None
    assert found[1] == found[2] == (40, 42, None, "inferred from 2 unhandled events in a row: the log may not be read")


def test_a_history_that_begins_later_says_nothing_about_what_was_before():
    found = jumps(
        [7, 8, 60, 61], marks(100, range(7), range(9, 60), range(62, 100)), commits(50, 100, compacted=True), None
    )

    assert "inferred from 2" in found[0][3]
    assert found[2:] == [None, None]


def test_a_group_that_began_behind_events_it_never_handled_jumped_over_them():
    found = jumps([0, 1, 2], marks(10, range(3, 10)), commits(3, 10), None)

    assert found[0][:2] == (0, 3)


def test_going_back_is_no_jump_and_what_was_handled_then_is_none():
    found = jumps([40], marks(100, range(40), range(41, 100)), commits(30, 60, 30, 60, 100), None)

    assert found == [None]


@given(st.sets(st.integers(0, 60)), st.lists(st.integers(0, 61), max_size=8))
def test_a_jump_contains_nothing_that_was_handled(handled, offsets):
    unhandled = sorted(set(range(60)) - handled)

    for offset, jump in zip(unhandled, jumps(unhandled, marks(60, handled), commits(*offsets), None), strict=True):
        if jump is not None:
            assert jump[0] <= offset < jump[1]
            assert not handled & set(range(jump[0], jump[1]))


@pytest.mark.parametrize("state", ["parked", "held", "retry"])
def test_what_the_broker_does_not_take_is_unpublishable_whoever_waits(state):
    assert of_event(EventFacts(5, 1000, 30, 9, unpublishable=state, blocked_by=4))[0] == "unpublishable"
