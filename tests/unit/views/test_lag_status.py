"""Each status by example, with its sentence; and what must hold whatever the input."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.views.lag_status import ALARMS, Commit, Ends, Rules, Status, lag_status

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = BEGIN + timedelta(seconds=600)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def commits(*places: tuple[float, int | None]) -> list[Commit]:
    return [Commit(at(t), offset) for t, offset in places]


def read(per_second: float, begin: int = 0, until: int = 600, every: int = 5, first: int = 0) -> list[Commit]:
    """A commit each five seconds, of a group that reads so much."""
    return commits(*((t, first + round(per_second * (t - begin))) for t in range(begin, until + 1, every)))


def written(per_second: float, first: int = 0, start: int = 0, stable: int | None = None) -> list[Ends]:
    """A sample each fifteen seconds."""
    return [Ends(at(t), start, first + round(per_second * t), stable) for t in range(0, 601, 15)]


# --- each status ------------------------------------------------------------------------------------------------------


def test_group_that_keeps_up_is_ok():
    found = lag_status(read(100), written(100, first=300), NOW)

    assert found.status == "ok"
    assert found.reason == "keeps up: reads 100/s where 100/s are written; 300 events wait"


def test_group_that_has_read_everything_is_ok():
    found = lag_status(read(100), written(100), NOW)

    assert (found.status, found.reason) == ("ok", "everything is read")
    assert found.evidence.drain.seconds == 0


def test_idle_topic_with_nothing_to_read_is_ok_however_old_the_last_commit_is():
    found = lag_status(commits((-86_400, 70)), written(0, first=70), NOW)

    assert (found.status, found.reason) == ("ok", "everything is read")


def test_idle_topic_with_something_to_read_is_not_ok():
    found = lag_status(commits((-60, 40), (-50, 50), (-40, 60), (-30, 70)), written(0, first=75), NOW)

    assert found.status == "stop"
    assert found.reason == "no commit for 10 min, 5 events wait; it used to commit within 10 s"


def test_group_that_reads_less_than_is_written_is_a_warning():
    found = lag_status(read(120), written(310), NOW)

    assert found.status == "warn"
    assert found.reason == "reads 120/s where 310/s are written, for 10 min; 114,000 events wait"
    assert found.evidence.velocity.per_second == pytest.approx(190)
    assert found.evidence.drain.seconds == math.inf


def test_a_lag_that_grows_names_when_retention_will_delete_unread_records():
    """The log keeps 62,000 that are read, and each second 310 are written and 120 read: it will be 190 fewer."""
    ends = [Ends(at(t), 10_000 if t > 300 else 0, 310 * t) for t in range(0, 601, 15)]

    found = lag_status(read(120), ends, NOW)

    assert found.evidence.retention_seconds == pytest.approx(62_000 / 190, rel=0.01)
    assert found.reason.endswith("114,000 events wait; as things go retention deletes unread records in about 5 min")


def test_of_a_group_that_stands_still_retention_comes_as_fast_as_is_written():
    found = lag_status(read(100, until=300), written(100, start=12_000), NOW)

    assert found.status == "stop"
    assert found.evidence.retention_seconds == pytest.approx((30_000 - 12_000) / 100, rel=0.01)
    assert "deletes unread records in about 3 min" in found.reason


def test_where_nothing_was_deleted_yet_or_the_log_is_compacted_nobody_knows_when_retention_comes():
    untouched = lag_status(read(120), written(310), NOW)
    compacted = lag_status(read(120), written(310, start=10_000), NOW, compacted=True)

    assert untouched.evidence.retention_seconds is compacted.evidence.retention_seconds is None
    assert "retention" not in untouched.reason + compacted.reason


def test_a_lag_that_shrinks_or_is_gone_is_never_reached_by_retention():
    ends = [Ends(at(t), 20_000, 100 * t + (30_000 if t >= 480 else 0)) for t in range(0, 601, 15)]
    catching_up = lag_status(read(100, until=480) + read(200, begin=485, first=48_500), ends, NOW)
    done = lag_status(read(100), written(100, start=10_000), NOW)

    assert (catching_up.status, catching_up.evidence.retention_seconds) == ("catching_up", math.inf)
    assert (done.status, done.evidence.retention_seconds) == ("ok", math.inf)
    assert "retention" not in catching_up.reason + done.reason


def test_a_single_decrease_does_not_hide_a_climb():
    """One batch that was read at once, among nine minutes of falling behind."""
    climb = read(120, until=300) + read(120, begin=305, first=120 * 305 + 5_000)

    assert lag_status(climb, written(310), NOW).status == "warn"


def test_a_burst_that_is_being_read_is_no_warning():
    ends = [Ends(at(t), 0, 100 * t + (30_000 if t >= 480 else 0)) for t in range(0, 601, 15)]

    found = lag_status(read(100, until=480) + read(200, begin=485, first=48_500), ends, NOW)

    assert found.status == "catching_up"
    assert found.reason.startswith("lag shrinks by 100/s, gone in about 3 min; ")


def test_commits_of_one_offset_are_a_stall():
    found = lag_status(read(100, until=300) + commits(*((t, 30_000) for t in range(305, 601, 5))), written(100), NOW)

    assert found.status == "stall"
    assert found.reason == "61 commits of the same offset in 5 min, 30,000 events wait; it used to commit within 5.0 s"


def test_group_that_goes_on_after_a_stall_is_not_too_slow():
    """What piled up while it stood is no trend: it has read on for twenty seconds, and the lag falls."""
    stood = commits(*((t, 10_000) for t in range(105, 581, 5)))

    found = lag_status(
        [*read(100, until=100), *stood, *commits((585, 12_000), (590, 14_000), (595, 16_000))], written(100), NOW
    )

    assert found.status == "catching_up"


def test_slow_batches_with_commits_in_between_are_no_stall():
    """A batch takes a minute; a timer commits where it stands each five seconds. Its own pace is the minute."""
    found = lag_status(commits(*((t, t // 60 * 6_000) for t in range(0, 596, 5))), written(100), NOW)

    assert found.status == "ok"
    assert found.evidence.allowed_seconds == 180


def test_commits_of_one_offset_with_nothing_to_read_are_ok():
    same = commits(*((t, 30_000) for t in range(305, 601, 5)))
    ends = [Ends(at(t), 0, min(100 * t, 30_000)) for t in range(0, 601, 15)]

    assert lag_status(read(100, until=300) + same, ends, NOW).status == "ok"


def test_stall_counts_from_when_there_was_something_to_read():
    """It has committed the same offset for ten minutes, and a record came five seconds ago."""
    ends = [*written(0, first=50)[:-1], Ends(at(595), 0, 51), Ends(at(600), 0, 52)]

    found = lag_status(commits((-20, 30), (-15, 40), *((t, 50) for t in range(-10, 601, 5))), ends, NOW)

    assert found.status not in ALARMS


def test_no_commits_any_more_is_a_stop():
    found = lag_status(read(100, until=300), written(100), NOW, group_state="empty")

    assert found.status == "stop"
    assert found.reason == (
        "no commit for 5 min, 30,000 events wait, and no consumer is running (the group is empty); "
        "it used to commit within 5.0 s"
    )


def test_slow_committer_is_given_its_own_time():
    """It commits each four minutes, and has for an hour: three minutes of silence are nothing."""
    slow = commits(*((t, round(100 * t) + 400_000) for t in range(-3_500, 421, 240)))

    assert lag_status(slow, written(100, first=400_000), NOW).status == "ok"


def test_hours_without_a_record_do_not_make_a_group_slow():
    """A record an hour, each committed within seconds: the hour in between was not the group's."""
    places = [(-7200.0, 1), (-3600.0, 2), (5.0, 3), (205.0, 4), (405.0, 5)]
    ends = [Ends(at(t), 0, 2 + (t >= 0) + (t >= 200) + (t >= 400) + (t >= 450)) for t in range(-7200, 601, 5)]

    found = lag_status(commits(*places), ends, NOW)

    assert found.status == "stop"
    assert found.evidence.allowed_seconds < 60


def test_one_commit_and_then_silence_is_unknown_and_after_five_minutes_a_stop():
    ends = written(0, first=100)

    assert lag_status(commits((400, 10)), ends, NOW).status == "unknown"
    assert lag_status(commits((200, 10)), ends, NOW).status == "stop"


def test_rewind_tells_from_where_to_where():
    found = lag_status(read(100, until=400) + read(100, begin=405, first=1_200), written(100), NOW)

    assert found.status == "rewind"
    assert found.reason == "offset went back from 40,000 to 1,200 3 min ago: 38,800 events are read again"
    assert (found.evidence.rewind_from, found.evidence.rewind_to) == (40_000, 1_200)
    assert found.evidence.rewind_at == at(405)


def test_rewind_that_is_regained_is_over():
    again = commits((405, 39_000), (410, 40_000), *((t, 100 * t) for t in range(415, 591, 5)))

    found = lag_status(read(100, until=400) + again, written(100), NOW)

    assert found.status == "ok"
    assert found.evidence.rewind_from is None


def test_group_that_stands_after_a_rewind_is_stopped_and_the_rewind_is_in_its_evidence():
    found = lag_status([*read(100, until=400), *commits((405, 1_200))], written(100), NOW)

    assert found.status == "stop"
    assert found.evidence.rewind_to == 1_200


def test_records_deleted_unread_are_a_loss():
    found = lag_status(read(100, until=300), written(100, start=30_600), NOW)

    assert found.status == "data_loss"
    assert found.reason == ("up to 600 events were deleted unread: committed is 30,000, the partition starts at 30,600")
    assert (found.evidence.lag_events, found.evidence.unread_events) == (30_000, 29_400)


def test_loss_that_is_passed_stays_in_the_evidence():
    ends = [Ends(at(t), 30_600 if t >= 450 else 0, 100 * t) for t in range(0, 601, 15)]

    found = lag_status(read(100, until=300) + read(195, begin=500, first=40_000), ends, NOW)

    assert found.status in ("ok", "catching_up")
    assert found.evidence.lost_events == 600
    assert found.reason.endswith("; up to 600 events were deleted unread before that")


def test_offset_beyond_the_end_is_ahead_and_never_clipped():
    found = lag_status(commits((0, 5_000)), written(0, first=1_000), NOW)

    assert found.status == "ahead"
    assert found.reason == (
        "committed offset 5,000 is beyond the end 1,000: the topic was made anew or cut, or the offset was set by hand"
    )
    assert found.evidence.lag_events == -4_000


def test_commit_that_is_younger_than_the_last_sample_is_not_ahead():
    ends = written(100)[:-1]

    assert lag_status(read(100), ends, NOW).status == "ok"


def test_low_offsets_in_a_topic_made_anew_are_no_rewind():
    ends = [Ends(at(t), 0, 100 * t if t < 300 else 100 * (t - 300)) for t in range(0, 601, 15)]

    found = lag_status(read(100, until=290) + read(100, begin=305, first=100), ends, NOW)

    assert found.status == "ok"


def test_group_that_never_committed_is_told_from_one_with_nothing_to_read():
    full, empty = lag_status([], written(0, first=40), NOW), lag_status([], written(0), NOW)

    assert (full.status, full.reason) == ("no_commit", "nothing is committed, where 40 events can be read")
    assert (empty.status, empty.reason) == ("ok", "nothing is committed, and there is nothing to read")


def test_forgotten_offset_is_no_commit():
    assert lag_status(commits((0, 10), (100, None)), written(0, first=40), NOW).status == "no_commit"


def test_what_was_not_measured_is_unknown():
    assert lag_status(read(100), [], NOW).status == "unknown"
    assert lag_status(read(100), written(100), NOW, known=False).status == "unknown"
    assert lag_status(read(100), written(100), NOW + timedelta(hours=1)).status == "unknown"


def test_markers_behind_the_last_record_are_no_lag():
    found = lag_status(read(100, until=300), written(0, first=30_007), NOW, readable_events=0)

    assert found.status == "ok"
    assert found.reason == (
        "nothing readable is left: a lag of 7 that is transaction markers, aborted or compacted records"
    )
    assert (found.evidence.lag_events, found.evidence.unread_events) == (7, 0)


def test_hanging_transaction_is_not_the_consumers():
    ends = [Ends(at(t), 0, 100 * t, min(100 * t, 30_000)) for t in range(0, 601, 15)]

    found = lag_status(read(100, until=300), ends, NOW)

    assert found.status == "ok"
    assert found.reason == (
        "everything up to the last stable offset is read; behind it 30,000 events wait for a transaction that has been "
        "open for at least 5 min: look at its producer, not at this group"
    )
    assert found.evidence.stuck_events == 30_000


def test_paused_partition_stands_still_on_purpose():
    found = lag_status(read(100, until=300), written(100), NOW, paused=True)

    assert (found.status, found.reason) == ("ok", "paused on purpose; 30,000 events wait")


def test_offsets_of_a_compacted_topic_are_not_called_events():
    assert "30,000 offsets wait" in lag_status(read(100, until=300), written(100), NOW, compacted=True).reason


# --- whatever the input -----------------------------------------------------------------------------------------------

times = st.lists(st.floats(0, 700, allow_nan=False), max_size=30).map(sorted)
offsets = st.integers(0, 10**6)


@st.composite
def anything(draw):
    made = [Commit(at(t), draw(st.none() | offsets)) for t in draw(times)]
    seen = []
    for t in draw(times):
        start, end = sorted((draw(offsets), draw(offsets)))
        seen.append(Ends(at(t), start, end, draw(st.none() | st.integers(start, end))))
    return made, seen


options = st.fixed_dictionaries(
    {
        "readable_events": st.none() | st.integers(0, 5),
        "group_state": st.sampled_from([None, "stable", "empty", "dead"]),
        "paused": st.booleans(),
        "compacted": st.booleans(),
        "known": st.booleans(),
        "rules": st.builds(Rules, window_seconds=st.floats(1, 900), commits_min=st.integers(1, 6)),
    }
)


@given(anything(), options)
def test_any_ordered_input_has_a_status_and_a_sentence(given_, options):
    found = lag_status(*given_, NOW, **options)

    assert found.status in Status
    assert found.reason
    assert "\n" not in found.reason


@given(anything(), options, st.integers(-(10**8), 10**8))
def test_the_clocks_zero_changes_nothing(given_, options, seconds):
    made, seen = given_
    shift = timedelta(seconds=seconds)

    there = lag_status(
        [Commit(c.at + shift, c.offset) for c in made],
        [Ends(e.at + shift, e.start, e.end, e.stable) for e in seen],
        NOW + shift,
        **options,
    )

    here = lag_status(made, seen, NOW, **options)
    assert (there.status, there.reason) == (here.status, here.reason)


@given(anything(), options, st.integers(1, 2**40))
def test_where_offsets_begin_changes_nothing(given_, options, more):
    """A partition whose records all have higher offsets, its first one too."""
    made, seen = given_

    there = lag_status(
        [Commit(c.at, None if c.offset is None else c.offset + more) for c in made],
        [Ends(e.at, e.start + more, e.end + more, None if e.stable is None else e.stable + more) for e in seen],
        NOW,
        **options,
    )

    here = lag_status(made, seen, NOW, **options)
    assert there.status == here.status
    assert there.evidence.lag_events == here.evidence.lag_events
    assert there.evidence.lost_events == here.evidence.lost_events


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 1_000)), min_size=1, max_size=60), st.integers(0, 599))
def test_partition_that_is_read_to_its_end_at_every_sample_is_never_an_alarm(steps, late):
    """Whatever comes, and however unevenly: it is committed before the next look, and the last look is at any time."""
    t, end, made, seen = 0.0, 0, [], []
    for seconds, events in steps:
        t, end = t + seconds, end + events
        made.append(Commit(at(t), end))
        seen.append(Ends(at(t), 0, end, end))

    assert not lag_status(made, seen, at(t + late)).alarm


@given(st.lists(st.integers(0, 2_000), min_size=3, max_size=120))
def test_group_that_is_silent_with_records_waiting_is_always_a_stop(events):
    """Whatever it did before, twenty minutes without a commit and a record behind it are one."""
    made = [Commit(at(5 * i), sum(events[: i + 1])) for i in range(len(events))]
    after = 5 * len(events)
    seen = [Ends(at(t), 0, sum(events) + 1) for t in range(after, after + 1201, 15)]

    assert lag_status(made, seen, at(after + 1200)).status == "stop"
