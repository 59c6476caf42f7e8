"""History from samples and from evkit's tables against the same said naively: no moment claims more than was read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from evkit.views.lag_processed import processed
from evkit.views.lag_samples import sampled

SLOWLY = settings(
    max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
DAY = 86_400.0


# --- samples: sparse, of a sampler that was restarted with another distance, of a group that came late -----------------

samples = st.lists(
    st.tuples(
        st.integers(-40, 240).map(lambda tenths: tenths / 2),  # seconds after the window's start
        st.sampled_from([1.0, 5.0, 30.0]),  # the sampler's distance
        st.one_of(st.none(), st.integers(0, 50)),  # committed
    ),
    max_size=12, unique_by=lambda sample: sample[0],
)  # fmt: skip


@SLOWLY
@given(samples, st.sampled_from([1.0, 3.0, 7.0, 60.0]))
def test_a_moment_has_the_nearest_sample_that_speaks_for_it_and_else_nothing(evkit_system, past, taken, step):
    past.sql("DELETE FROM evkit.lag_sample")
    start = past.at(1000)
    for second, every, committed in taken:
        past.sql(
            "INSERT INTO evkit.lag_sample (cluster_id, consumer_group, topic, partition, sampled_at, every_seconds,"
            " committed_offset, start_offset, stable_offset, end_offset, group_state, members)"
            " VALUES ('c', 'billing', 'order', 0, %s, %s, %s, 0, 100, %s, 'stable', 1)",
            start + timedelta(seconds=second), every, committed, 100 + round(second),
        )  # fmt: skip
    instants = [start + timedelta(seconds=step * n) for n in range(int(100 / step) + 1)]

    found = sampled(evkit_system, "c", "billing", None, instants, timedelta(seconds=step)).get(("order", 0))

    for n in range(len(instants)):
        at = n * step
        speaking = [s for s in taken if s[0] - s[1] / 2 <= at <= s[0] + s[1]]
        nearest = min((abs(s[0] - at) for s in speaking), default=None)
        allowed = {(s[2], 100 + round(s[0])) for s in speaking if abs(s[0] - at) == nearest}
        if found is None or not found.covered[n]:
            assert not allowed, (at, allowed)
        else:
            assert (found.committed[n], found.ends[n].offset) in allowed, (at, allowed)
        if found is not None and not found.covered[n]:
            assert (found.committed[n], found.ends[n].offset) == (None, None)


# --- evkit's tables ----------------------------------------------------------------------------------------------------


@dataclass
class Life:
    """One event of a partition, in seconds before now. None: never."""

    published: float
    dealt: float | None
    tried: float | None


@st.composite
def lives(draw):
    """Events published one after the other, some of them days ago; each dealt with at once, late, or never."""
    ages = draw(st.lists(st.sampled_from([20, 40, 60, 80, 100, 3600, DAY - 50, DAY + 50, DAY + 150, 2 * DAY]), min_size=1,
                         max_size=9))  # fmt: skip
    began = draw(st.integers(0, 3))  # so many first events are from before the group
    found = []
    for n, age in enumerate(sorted(ages, reverse=True)):
        published = age - n * 0.01  # in order, a hundredth apart
        fate = draw(st.sampled_from(["at once", "at once", "late", "retried", "never"]))
        if n < began:
            fate = "before"
        late = published * draw(st.sampled_from([0.3, 0.6]))
        dealt = {"at once": published - 0.001, "late": late, "retried": late}.get(fate)
        tried = published - 0.001 if fate in ("retried", "never") else None
        found.append(Life(published, dealt, tried))
    return began, found


@SLOWLY
@given(lives())
def test_what_evkits_tables_say_is_what_was_dealt_with_and_published_or_nothing(evkit_system, past, life):
    began, events = life
    past.sql("TRUNCATE evkit.outbox, evkit.publication, evkit.inbox, evkit.attempt")
    past._offset = 0
    for n, event in enumerate(events):
        past.write(f"e{n}", event.published + 0.001, published=event.published)
        if event.dealt is not None:
            past.handle("billing", f"e{n}", event.dealt)
        if event.tried is not None:
            past.fail("billing", f"e{n}", event.tried)
    if not any(event.dealt is not None for event in events):
        return
    past.handle("billing", "elsewhere", 3 * DAY, topic="payment")
    instants = [past.at(ago) for ago in range(110, 0, -10)]

    found = processed(evkit_system, "billing", "order", instants, timedelta(seconds=10)).get(("order", 0))

    covered = [] if found is None else [n for n, is_covered in enumerate(found.covered) if is_covered]
    for n in range(len(instants)) if found is not None else ():
        ago = 110 - 10 * n
        ended = 1 + sum(event.published >= ago for event in events)
        left = (m for m, e in enumerate(events) if m >= began and (e.dealt is None or e.dealt < ago))
        truth = (min(1 + next(left, len(events)), ended), ended) if n in covered else (None, None)
        assert (found.committed[n], found.ends[n].offset) == truth, (ago, events)
    # Of a group that has left nothing behind, in a partition with events of the last day, every moment is known since its
    # first event.
    mine = events[began:]
    if mine and mine[-1].published < DAY and all(e.dealt is not None and e.published - e.dealt < 1 for e in mine):
        first = mine[0].dealt
        assert len(covered) == sum(1 for ago in range(110, 0, -10) if ago <= first)
