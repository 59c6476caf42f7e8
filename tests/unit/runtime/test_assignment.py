"""What may be handled now, and what may be committed: the rules, under random interleavings, without a server."""

from __future__ import annotations

import weakref
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evkit.kafka import Record
from evkit.runtime.assignment import Assignment
from evkit.runtime.fetched import of_records

NOW = datetime(2013, 2, 8, tzinfo=UTC)


def record(offset, key, partition=0):
    return Record("t", partition, offset, key, b"{}", [], NOW, "append", None, NOW)


def offsets(batch):
    return [work.record.offset for work in batch]


def assigned(*records, high=100):
    assignment = Assignment(high)
    assignment.assign([("t", 0), ("t", 1)], epoch=1)
    assignment.add(of_records(records))
    return assignment


def test_a_log_that_goes_back_is_taken_from_there():
    """It was cut or its topic made anew: nothing of what comes now is taken for what was there before."""
    assignment = assigned(*[record(n, b"k%d" % n) for n in range(20, 26)])
    before = assignment.take(2, now=0)
    assignment.finish(done=[before[1]], again=[(before[0], 9.0)])

    anew = assignment.add(of_records([record(n, b"k%d" % n) for n in range(3)]))

    assert anew == [(("t", 0), 0, 5)]
    assignment.finish(done=before[:1])  # too late
    assert assignment.to_store() == {}
    batch = assignment.take(10, now=10)
    assert offsets(batch) == [0, 1, 2]
    assignment.finish(done=batch)
    assert assignment.to_store() == {("t", 0): 3}
    assert assignment.unfinished == assignment.waiting_keys() == 0


def test_a_record_that_comes_a_second_time_changes_nothing():
    assignment = assigned(*[record(n, b"a") for n in range(5, 9)])

    assert assignment.add(of_records([record(7, b"a")])) == []

    assert offsets(assignment.take(10, now=0)) == [5, 6, 7, 8]


class Large:
    """A value whose end can be seen."""

    def __len__(self):
        return 1_000_000


def test_what_is_done_is_held_by_nobody():
    """The last ones of what came together may wait for long: for a replay's rate, or while the group is paused."""
    values = [Large() for _ in range(3)]
    seen = [weakref.ref(value) for value in values]
    assignment = assigned(*[record(n, b"a")._replace(value=value) for n, value in enumerate(values)])
    del values

    assignment.finish(assignment.take(1, now=0))

    assert [value() is None for value in seen] == [True, False, False]
    assignment.finish(assignment.take(2, now=0))
    assert [value() is None for value in seen] == [True, True, True]


def test_failed_event_keeps_back_its_key_and_nobody_else():
    assignment = assigned(*[record(n, key) for n, key in enumerate([b"a", b"b", b"a", b"b", b"a"])])
    batch = assignment.take(2, now=0)
    assert offsets(batch) == [0, 1]

    assignment.finish(done=[batch[1]], again=[(batch[0], 5.0)])

    rest = assignment.take(10, now=1)
    assert offsets(rest) == [3], "b goes on, a waits"
    assignment.finish(done=rest)
    assert assignment.to_store() == {}, "offset 0 is not done, so nothing may be stored"
    assert assignment.next_at == 5.0
    last = assignment.take(10, now=5)
    assert offsets(last) == [0, 2, 4], "in order, the failed one first"
    assignment.finish(done=last)
    assert assignment.to_store() == {("t", 0): 5}
    assert assignment.to_store() == {}


def large(offset, size, partition=0):
    return record(offset, b"k%d" % offset, partition)._replace(value=b"x" * size)


def test_partition_is_full_by_its_share_of_the_bytes_until_half_of_them_are_done():
    assignment = Assignment(high=1000, high_bytes=2000)
    assignment.assign([("t", 0), ("t", 1)], epoch=1)
    assignment.add(of_records([large(n, 300) for n in range(4)] + [large(0, 300, partition=1)]))
    assert assignment.full() == {("t", 0)}

    batch = assignment.take(10, now=0)
    assignment.finish(done=[work for work in batch if work.record.offset == 3 and work.record.partition == 0])
    assert assignment.full({("t", 0)}) == {("t", 0)}, "more than half of its share is left"
    assignment.finish(done=[work for work in batch if work.record.offset in (1, 2)])

    assert assignment.full({("t", 0)}) == set()
    assert assignment.unfinished_bytes == 600 + 2 * len(b"k0")


def test_partition_of_many_small_records_is_full_by_what_they_take_in_memory():
    assignment = Assignment(high=100, high_bytes=1000, overhead=99)
    assignment.assign([("t", 0), ("t", 1)], epoch=1)

    assignment.add(of_records([record(n, b"") for n in range(4)]))
    assert assignment.full() == set()
    assignment.add(of_records([record(4, b"")]))

    assert assignment.full() == {("t", 0)}, "5 of 99 bytes and a value of 2 are more than half of 1,000"
    assert assignment.unfinished_bytes == 10


def test_end_behind_markers_is_stored_when_everything_before_it_is_done():
    assignment = assigned(record(0, b"a"), record(1, b"b"))
    assignment.pass_over(("t", 0), 4)
    batch = assignment.take(10, now=0)

    assignment.finish(done=[batch[1]])
    assert assignment.to_store() == {}
    assignment.finish(done=[batch[0]])

    assert assignment.to_store() == {("t", 0): 4}


def test_end_of_before_a_topic_was_made_anew_is_forgotten():
    assignment = assigned()
    assignment.pass_over(("t", 0), 40)
    assert assignment.to_store() == {("t", 0): 40}
    assignment.add(of_records([record(0, b"a")]))

    assignment.finish(done=assignment.take(10, now=0))

    assert assignment.to_store() == {("t", 0): 1}


def test_events_behind_a_failure_in_the_same_batch_come_back_untouched_and_in_order():
    assignment = assigned(*[record(n, b"a") for n in range(4)])
    batch = assignment.take(3, now=0)

    assignment.finish(done=[batch[0]], again=[(batch[1], 2.0)], untouched=[batch[2]])

    assert assignment.take(10, now=1) == []
    assert assignment.to_store() == {("t", 0): 1}
    assert offsets(assignment.take(10, now=2)) == [1, 2, 3]


def test_failure_that_comes_back_for_a_lost_partition_is_not_waited_for():
    assignment = assigned(record(0, b"a"))
    batch = assignment.take(1, now=0)
    assignment.give_up([("t", 0)])
    assignment.assign([("t", 0)], epoch=2)

    assignment.finish(done=[], again=[(batch[0], 5.0)])

    assert assignment.next_at is None
    assert assignment.in_hand([("t", 0)]) == 0


def test_untouched_events_of_other_keys_go_on_at_once():
    assignment = assigned(record(0, b"a"), record(1, b"b"))
    batch = assignment.take(2, now=0)

    assignment.finish(done=[], untouched=batch)

    assert offsets(assignment.take(2, now=0)) == [0, 1]


def test_records_without_a_key_have_no_order_among_them():
    assignment = assigned(record(0, None), record(1, None))
    first = assignment.take(1, now=0)

    assert offsets(first) == [0]
    assert offsets(assignment.take(1, now=0)) == [1]


def test_what_comes_back_after_the_partition_was_taken_away_is_dropped():
    assignment = assigned(record(7, b"a"), record(8, b"a"))
    late = assignment.take(1, now=0)
    assignment.give_up([("t", 0)])
    assignment.assign([("t", 0)], epoch=2)
    assignment.add(of_records([record(7, b"a")]))

    assignment.finish(done=late)

    assert assignment.to_store() == {}
    assert offsets(assignment.take(5, now=0)) == [7]


def test_partition_paused_for_being_full_takes_no_more_until_half_of_it_is_done():
    assignment = assigned(*[record(n, str(n).encode()) for n in range(10)], high=10)
    assert assignment.full() == {("t", 0)}
    assignment.finish(done=assignment.take(5, now=0))
    assert assignment.full({("t", 0)}) == {("t", 0)}
    assert assignment.full() == set(), "there is room, and nobody has paused it"
    assignment.finish(done=assignment.take(1, now=0))

    assert assignment.full({("t", 0)}) == set()


def test_partitions_take_turns():
    assignment = assigned(*[record(n, b"a%d" % n) for n in range(50)], *[record(n, b"b%d" % n, 1) for n in range(50)])

    first, second = assignment.take(10, now=0), assignment.take(10, now=0)

    assert {work.record.partition for work in first} != {work.record.partition for work in second}


def test_ready_keys_are_shared_among_those_who_wait_for_work():
    """The first one would else make every key busy, and the others would have nothing to do until it is through."""
    assignment = assigned(*[record(n, b"k%d" % (n % 8)) for n in range(64)])

    batches = [assignment.take(16, now=0, takers=takers) for takers in (4, 3, 2, 1)]

    keys = [{work.key for work in batch} for batch in batches]
    assert [len(k) for k in keys] == [2, 2, 2, 2]
    assert len(set.union(*keys)) == 8
    assert [len(batch) for batch in batches] == [16, 16, 16, 16]
    assert all(offsets(batch) == sorted(offsets(batch)) for batch in batches)


def test_what_is_left_to_others_keeps_its_order():
    assignment = assigned(*[record(n, key) for n, key in enumerate([b"a", b"b", b"a", b"b", b"c", b"b"])])

    mine = assignment.take(1, now=0, takers=3)

    assert offsets(mine) == [0]
    assert offsets(assignment.take(10, now=0)) == [1, 3, 4, 5], "a is busy, and its next waits behind it"
    assignment.finish(done=mine)
    assert offsets(assignment.take(10, now=0)) == [2]


def test_what_waited_behind_a_key_comes_before_what_another_taker_put_back():
    assignment = assigned(*[record(n, key) for n, key in enumerate([b"A", b"B", b"B", b"B", b"C", b"C", b"C", b"B"])])
    assert offsets(assignment.take(2, 0.0, 4)) == [0]
    batch = assignment.take(2, 0.0, 3)
    assert offsets(batch) == [1, 2], "3 is left behind them, and the rest is put back"

    assignment.finish(batch)
    later = [*assignment.take(2, 0.0, 3), *assignment.take(2, 0.0, 2), *assignment.take(9, 0.0, 1)]

    assert [n for n in offsets(later) if n in (3, 7)] == [3, 7], "both of B"


@pytest.mark.parametrize("seed", range(20))
def test_each_key_is_in_order_whoever_takes_and_finishes_when(seed):
    """Bursts of few keys for several takers, some of them late: what few random steps seldom come to."""
    random = Random(seed)
    assignment, takers = Assignment(10_000), random.choice([2, 4, 8])
    places = [("t", partition) for partition in range(random.choice([1, 3]))]
    assignment.assign(places, epoch=1)
    ends, in_hand, last, done, now = dict.fromkeys(places, 0), [], {}, 0, 0.0
    while done < 4_000:
        if assignment.unfinished < 500:
            for place in places:
                keys = random.choices([b"k%d" % n for n in range(5)], k=random.randrange(200))
                assignment.add(of_records([record(n, key, place[1]) for n, key in enumerate(keys, ends[place])]))
                ends[place] += len(keys)
        now += 0.1
        while len(in_hand) < takers and (batch := assignment.take(50, now, takers - len(in_hand))):
            in_hand.append(batch)
            if random.random() < 0.3:
                break  # the others come later
        if not in_hand:
            continue
        batch, again, untouched, failed = in_hand.pop(random.randrange(len(in_hand))), [], [], set()
        through = []
        for work in batch:
            key = (work.partition.place, work.key)
            if key in failed:
                untouched.append(work)
            elif random.random() < 0.02:
                failed.add(key)
                again.append((work, now + 0.3))
            else:
                assert last.get(key, -1) < work.offset, "a key's events are handled in order"
                last[key] = work.offset
                through.append(work)
        done += len(through)
        assignment.finish(through, again, untouched)


class Interleavings(RuleBasedStateMachine):
    """Several workers, failures, waits, rebalances; every record ends once, each key in order, the prefix is right."""

    def __init__(self):
        super().__init__()
        self.epoch, self.now = 1, 0.0
        self.assignment = Assignment(20)
        self.assignment.assign([("t", 0)], 1)
        self.log = []  # keys of the topic, by offset
        self.fetched = 0  # next offset the client would give us
        self.committed = 0
        self.in_hand = []
        self.handled = {}  # key → offsets in the order in which they were done (first time)
        self.ever = set()

    @rule(keys=st.lists(st.sampled_from([b"a", b"b", b"c", None]), min_size=1, max_size=8))
    def poll(self, keys):
        self.log += keys
        upto = min(len(self.log), self.fetched + 8)
        self.assignment.add(of_records([record(n, self.log[n]) for n in range(self.fetched, upto)]))
        self.fetched = upto

    @rule(most=st.integers(1, 6), takers=st.integers(1, 4))
    def take(self, most, takers):
        known = takers == 1 and not self.in_hand and not self.assignment.waiting_keys()
        upcoming = self.assignment.upcoming(most)
        batch = self.assignment.take(most, self.now, takers)
        assert len(batch) <= most
        assert not known or batch == upcoming, "what comes next is known where it can be"
        busy = {w.key for b in self.in_hand for w in b if w.epoch == self.epoch}
        assert not busy & {w.key for w in batch}, "a key is with one worker at a time"
        if batch:
            self.in_hand.append(batch)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def end(self, data):
        batch = self.in_hand.pop(data.draw(st.integers(0, len(self.in_hand) - 1)))
        done, again, untouched, failed = [], [], [], set()
        for work in batch:
            if work.key in failed:
                untouched.append(work)
            elif data.draw(st.integers(0, 4)) == 0:
                failed.add(work.key)
                again.append((work, self.now + data.draw(st.sampled_from([0.0, 1.0, 5.0]))))
            else:
                done.append(work)
                offset = work.record.offset
                if offset not in self.ever and work.record.key is not None:  # the inbox: the first time counts
                    order = self.handled.setdefault(work.record.key, [])
                    if work.epoch == self.epoch:
                        assert not order or order[-1] < offset, "a key's events are handled in order"
                    order.append(offset)
                self.ever.add(offset)
        self.assignment.finish(done, again, untouched)

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0]))
    def time_goes_by(self, seconds):
        self.now += seconds

    @rule()
    def store(self):
        for offset in self.assignment.to_store().values():
            assert offset > self.committed
            assert set(range(offset)) <= self.ever, "only what is done, without a gap, may be committed"
            self.committed = offset

    @rule()
    def rebalance(self):
        """Workers that are still at it finish first, as the drain sees to, or are dropped by their epoch."""
        self.in_hand = []
        self.assignment.give_up([("t", 0)])
        self.epoch += 1
        self.assignment.assign([("t", 0)], self.epoch)
        self.fetched = self.committed

    @invariant()
    def nothing_is_forgotten(self):
        assert self.assignment.unfinished <= self.fetched

    def teardown(self):
        """Without further failures everything ends."""
        for batch in self.in_hand:
            self.assignment.finish(batch)
            self.ever |= {w.record.offset for w in batch}
        self.now += 100
        while batch := self.assignment.take(5, self.now):
            self.assignment.finish(batch)
            self.ever |= {w.record.offset for w in batch}
        assert set(range(self.fetched)) <= self.ever
        for offset in self.assignment.to_store().values():
            assert offset == self.fetched


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
