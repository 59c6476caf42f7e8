"""Kafka's `__consumer_offsets`, or what was kept of it and of the lag in PostgreSQL → how far any group was in the past."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal, TypeVar

from evkit import offsets_log
from evkit.errors import (
    BrokerUnreachable,
    EvkitError,
    InvalidParameter,
    NotInFreeze,
    NotMigrated,
    OffsetsLogRefused,
    UnknownTopic,
    Unreachable,
)
from evkit.offsets_log import Commits
from evkit.system import System
from evkit.views import commit_log, lag_processed, lag_samples
from evkit.views.broker import broker
from evkit.views.columns import COLUMNS
from evkit.views.end_offsets import UNKNOWN, End
from evkit.views.frame import Frame, Frames, WindowLike, bucket_of, frame_of_columns, view, window_of
from evkit.views.group_log import require_known
from evkit.views.offsets import Place
from evkit.views.track import Track
from evkit.window import Window, present

log = logging.getLogger(__name__)

T = TypeVar("T")

Source = Literal["auto", "offsets_log", "commit_log", "sample", "inbox"]
# Also the order in which they are preferred where several answer for as many moments: from what Kafka itself says, to the
# millisecond, to what means something else.
SOURCES = ("offsets_log", "commit_log", "sample", "inbox")


@view("lag_history")
def lag_history(
    system: System,
    group: str,
    topic: str | None = None,
    window: WindowLike = None,
    step: str | timedelta | None = None,
    source: Source = "auto",
    *,
    frames: Frames = "polars",
) -> Frame:
    """How far one group was behind at every step of a past window: a row for each partition and moment.

    Four sources, and a partition is always of one of them, which the column `source` names:

    offsets_log  what the group committed, from Kafka's `__consumer_offsets`, against the timestamps of the topic's records.
                 Nothing has to have been sampled. Kafka compacts it: days, or minutes for who commits every record.
    commit_log   the same, from the copy that `evkit sample` has made of it: as far back as that was kept.
    sample       what `evkit sample` has measured; each moment has the sample nearest to it: half the sampler's distance
                 off, at the end of a row of samples up to the whole. Knows ends of topics whose records are gone.
    inbox        evkit's own tables, for evkit's groups: the first event that the group had not *handled*, against what the
                 relay had *published*. So committed_offset is then the position handled, which the committed one follows.
                 An event that was dead, skipped or parked was dealt with. A group whose past is not there is taken to
                 have begun at the first event that it dealt with or tried, and one that has left an event behind for
                 longer than a day is not covered. The events of a batch have one time, when their
                 handlers were expected to be through: off by as much as a batch takes.

    Not one of them answers everywhere, and a row without lag says why: `covered` is false (the source does not know what
    the group had committed: compacted away, not copied, not sampled), `truncated` is true (the topic's records of that time
    were deleted), `exact` is false (timestamps that go back; of inbox: others write to this topic, too), or the group had
    committed nothing.

    With `auto`, each partition is told by the source that answers for the most moments of the window; of several that do,
    by the first in the order above. So it is the committed lag, as Kafka's tools show it, as long as anybody knows it. The
    copy is asked first, and Kafka's log, which has to be read whole, only for what the copy lacks. A log that may not be
    read, or a Kafka that does not answer, is passed over with a warning, where another source knows the group.

    Args:
        group   the consumer group; an empty or deleted one too, while its commits are there
        topic   one topic; default: all that the group has committed to
        window  a `Window`, "2h", "FROM/TO"; default: the last hour
        step    time between two moments ("10s"); default: a round one that makes at most 120
        source  one of the four, or auto

    Columns: see columns/

    Sorted by topic, partition, time; times are by the brokers' clocks, of samples by the sampler's, of inbox by the
    database's. The window's end is no moment of it, nor is what comes after now. Empty, with these columns, for a group
    that the source knows nothing of, and for a topic that it never committed to.

    Like that of `lag`, the number is an upper bound (offsets are not events), and may be below zero for a topic that was
    made anew. Commits of a transaction count from their own time, not from the transaction's end. Where producers stamp
    the records, those on their way to the broker are counted as there; a record stamped ahead is noticed while it is the
    newest by its stamp. Against live samples of a burst up to 1,200 events high, this was off by p95 0 and at most 4
    beyond what a sample leaves open itself (step 10 ms; tests/integration/views/test_lag_history.py).
    lag_seconds is the time since the first moment of this window at which the end was beyond the committed offset: up to
    one step too low, and null when that was before the window.

    Raises:
        UnknownGroup: neither the cluster nor evkit's tables know the group; the closest names are in `suggestions`.
        UnknownTopic: the cluster does not have this topic, and the group never committed to it.
        InvalidParameter: window, step or source cannot be read, or the window begins in the future.
        OffsetsLogRefused: we may not read `__consumer_offsets`, and no other source knows the group.
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`, and no other source knows the group.
        DatabaseUnreachable, NotMigrated: of the sources in PostgreSQL, where they were asked for by name.

    Source: OffsetCommitValue.commitTimestamp and ListOffsets by timestamp, both of Apache Kafka 4.3.1.
    """
    if source not in ("auto", *SOURCES):
        raise InvalidParameter(f"source '{source}' is none of auto, {', '.join(SOURCES)}", name="source", value=source)
    seen = past_window(window, system)
    tracks = Tracks(system, group, topic, seen, bucket_of(step, seen, name="step"))
    found = tracks.best() if source == "auto" else tracks.of(source)
    if topic is not None and not found:
        known = broker(system).topics()
        if topic not in known:
            raise UnknownTopic(topic, known, where=f"to the cluster at {system.settings.bootstrap_servers}")
    columns: dict[str, list[Any]] = {c.name: [] for c in COLUMNS["lag_history"]}
    for place, track in sorted(found.items()):
        track.add_to(columns, group, place, tracks.instants)
    return frame_of_columns("lag_history", columns, frames)


class Tracks:
    """What each source knows of a group in a window; nothing is asked twice."""

    def __init__(self, system: System, group: str, topic: str | None, window: Window, step: timedelta) -> None:
        self.system, self.group, self.topic, self.window, self.step = system, group, topic, window, step
        count = -((window.start - window.end) // step)
        self.instants = [window.start + n * step for n in range(count)]
        self._ends: dict[Place, list[End]] = {}

    def of(self, source: str) -> dict[Place, Track]:
        """What one source knows.

        Raises:
            UnknownGroup: neither it, nor the cluster, nor evkit's tables know the group. Others: see `lag_history`.
        """
        found = {
            "offsets_log": lambda: self._tracks("offsets_log", self._logged()),
            "commit_log": lambda: self._tracks("commit_log", self._copied()),
            "sample": self._sampled,
            "inbox": self._processed,
        }[source]()
        if not found:
            require_known(self.system, self.group)
        return found

    def best(self) -> dict[Place, Track]:
        """Of each partition, the source that answers for most moments; see `lag_history`."""
        found: dict[Place, Track] = {}
        failed: EvkitError | None = None
        copied = self._stored(self._copied) or {}
        is_whole = bool(copied) and all(c.covers(at) for c in copied.values() for at in self.instants)
        try:
            logged = {} if is_whole else self._logged()
            self._ask_ends({*copied, *logged})
        except (OffsetsLogRefused, BrokerUnreachable) as error:
            failed, logged = error, {}
        if not isinstance(failed, BrokerUnreachable):
            try:
                found = _better(self._tracks("offsets_log", logged), self._tracks("commit_log", copied))
            except BrokerUnreachable as error:
                failed = error
        count = len(self.instants)
        if not found or failed is not None or any(track.answered() < count for track in found.values()):
            for read in (self._sampled, self._processed):
                found = _better(found, self._stored(read) or {})
        if failed is not None:
            if not found:
                raise failed
            log.warning("lag_history of %s is told by %s: %s", self.group, _sources(found), failed)
        if not found:
            require_known(self.system, self.group)
        return found

    def _stored(self, read: Callable[[], T]) -> T | None:
        """What PostgreSQL has; None when there is no PostgreSQL, or no evkit in it: history is a matter of Kafka."""
        try:
            return read()
        except (Unreachable, NotMigrated, NotInFreeze) as error:
            log.info("lag_history without evkit's tables: %s", error)
            return None

    def _logged(self) -> dict[Place, Commits]:
        parts = broker(self.system).offsets_log(self.group)
        commits = offsets_log.commits_of(parts[0], self.group) if parts else {}
        return {place: found for place, found in commits.items() if self.topic in (None, place[0])}

    def _copied(self) -> dict[Place, Commits]:
        cluster = self._cluster
        return commit_log.copied_commits(self.system, cluster, self.group, self.topic, self.window, self.step)

    def _sampled(self) -> dict[Place, Track]:
        return lag_samples.sampled(self.system, self._cluster, self.group, self.topic, self.instants, self.step)

    def _processed(self) -> dict[Place, Track]:
        return lag_processed.processed(self.system, self.group, self.topic, self.instants, self.step)

    @cached_property
    def _cluster(self) -> str:
        return lag_samples.cluster_of(self.system)

    def _tracks(self, source: str, commits: dict[Place, Commits]) -> dict[Place, Track]:
        self._ask_ends(commits)
        unknown = [UNKNOWN] * len(self.instants)
        return {
            place: Track(
                source,
                [of_place.at(at) for at in self.instants],
                self._ends.get(place, unknown),
                [of_place.covers(at) for at in self.instants],
            )
            for place, of_place in commits.items()
        }

    def _ask_ends(self, places: Iterable[Place]) -> None:
        wanted = set(places) - set(self._ends)
        if wanted:
            asked = broker(self.system).ends(wanted, self.instants)
            self._ends |= {place: asked.get(place, [UNKNOWN] * len(self.instants)) for place in wanted}


def _better(first: dict[Place, Track], second: dict[Place, Track]) -> dict[Place, Track]:
    """Of each partition the one that answers for more moments, of equals the first."""
    return first | {
        place: track
        for place, track in second.items()
        if place not in first or track.answered() > first[place].answered()
    }


def _sources(found: dict[Place, Track]) -> str:
    return " and ".join(sorted({track.source for track in found.values()}))


def past_window(window: WindowLike, system: System) -> Window:
    """The window meant, its end not after now.

    Raises:
        InvalidParameter: it cannot be read, or begins in the future.
    """
    seen = window_of(window, system)
    return Window(seen.start, min(seen.end, present()))
