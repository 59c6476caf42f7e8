"""Kafka's side of the groups: what each reads, where it stands, and where it went past events that it had not handled."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from evkit import offsets_log
from evkit.errors import EvkitError
from evkit.offsets_log import Commits
from evkit.sql import named
from evkit.system import System
from evkit.views.broker import Broker, broker
from evkit.views.frame import groups_of
from evkit.views.offsets import Place

log = logging.getLogger(__name__)

Jump = tuple[int, int, datetime | None, str]


@dataclass(frozen=True, slots=True)
class Reader:
    """A group that reads some of the topics.

    Attributes:
        topics     of those asked about, sorted
        committed  next offset that it will read, wherever it committed one in them
    """

    group: str
    topics: list[str]
    committed: dict[Place, int]


def readers(system: System, topics: Iterable[str], group: str | None) -> list[Reader]:
    """The groups of evkit's that read these topics, sorted: by what they committed, and by their newest inbox rows.

    Raises:
        UnknownGroup: evkit's tables know no such group.
        BrokerUnreachable, DatabaseUnreachable, NotMigrated.
    """
    wanted = set(topics)
    with system.reading() as connection:
        known = groups_of(system, connection, group)
        kept = connection.execute(named("audit_events")["keeps_inbox"], {"groups": known}).fetchall()
        rows = connection.execute(named("lag")["inbox_partitions"], {"groups": known}).fetchall()
    keeping = {row[0] for row in kept}
    for name in sorted(set(known) - keeping):
        log.warning("audit: group '%s' has no inbox, so nothing says what it has handled: it is left out", name)
    ask = broker(system)
    places = _places(ask, wanted)
    found = []
    for name in sorted(keeping):
        committed = ask.committed_in(name, places) if places else {}
        reads = {topic for topic, _ in committed} | {topic for of, topic, _ in rows if of == name}
        if reads & wanted:
            found.append(Reader(name, sorted(reads & wanted), committed))
    return found


class Marks:
    """Which offsets of one partition a group has dealt with itself, not by a replay; two bits an offset."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._n = first, last - first + 1
        self._dealt = np.zeros(self._n // 64 + 1, dtype=np.uint64)
        self._before: Any = None

    def add(self, offsets: Any) -> None:
        inside = np.unique(offsets[(offsets >= self._first) & (offsets < self._first + self._n)] - self._first)
        if len(inside):
            words, begins = np.unique(inside >> 6, return_index=True)
            bits = np.uint64(1) << (inside & 63).astype(np.uint64)
            self._dealt[words] |= np.bitwise_or.reduceat(bits, begins)
            self._before = None

    def below(self, offsets: Any) -> Any:
        """How many of the offsets below each of these are dealt with."""
        if self._before is None:
            self._before = np.concatenate([[0], np.cumsum(_ones(self._dealt))])
        at = np.clip(np.asarray(offsets, dtype=np.int64) - self._first, 0, self._n)
        word = at >> 6
        below = (np.uint64(1) << (at & 63).astype(np.uint64)) - np.uint64(1)
        return self._before[word] + _ones(self._dealt[word] & below)


# How many bits are set, of every byte.
_ONES = np.array([n.bit_count() for n in range(256)], dtype=np.uint8)


def _ones(words: Any) -> Any:
    return _ONES[words.view(np.uint8)].reshape(-1, 8).sum(axis=1, dtype=np.int64)


def history(system: System, group: str) -> tuple[Mapping[Place, Commits], str | None]:
    """What the group committed, by place; or why that is not known."""
    try:
        parts = broker(system).offsets_log(group)
    except EvkitError as error:
        log.info("audit: no history of group %s: %s", group, error)
        return {}, "Kafka's record of commits may not be read"
    return (offsets_log.commits_of(parts[0], group) if parts else {}), None


def jumps(unhandled: Any, marks: Marks, commits: Commits | None, why_unknown: str | None) -> list[Jump | None]:
    """For each offset that a group went past without handling it: the jump that took it past, or None.

    A jump is one commit that moved the group over at least two events of which it had handled none: what a reset to another
    offset leaves, and no work does. Where commits are not known, events in a row of which none was handled are taken for
    one. An event that was passed over alone is no jump: a reset by one event leaves no other trace than a lost one.

    Args:
        unhandled    offsets, sorted
        marks        what the group has dealt with around them
        commits      what it committed; None when that is not known
        why_unknown  why not, in words
    """
    offsets = np.asarray(unhandled, dtype=np.int64)
    found: list[Jump | None] = [None] * len(offsets)
    known_from = None
    if commits is not None:
        moves, known_from = _moves(commits)
        for start, end, at in _empty(moves, marks):
            low, high = np.searchsorted(offsets, (start, end))
            if high - low >= 2:
                found[low:high] = [(start, end, at, "by Kafka's record of its commits")] * (high - low)
    why = why_unknown or "Kafka's record of its commits does not reach back so far"
    runs = marks.below(offsets)
    for low, high in _runs(runs):
        if high - low >= 2 and (known_from is None or offsets[high - 1] < known_from):
            run = (
                int(offsets[low]), int(offsets[high - 1]) + 1, None,
                f"inferred from {high - low} unhandled events in a row: {why}",
            )  # fmt: skip
            found[low:high] = [jump or run for jump in found[low:high]]
    return found


def _moves(commits: Commits) -> tuple[list[tuple[int, int, datetime]], int | None]:
    """Commits that went forward, as (from, to, when); and the offset from which on all of them are known."""
    moves = []
    previous = 0 if commits.since is None else None
    known_from = previous
    for at, offset in zip(commits.times, commits.offsets, strict=True):
        if offset is None:
            continue
        if known_from is None:
            known_from = offset
        if previous is not None and offset > previous:
            moves.append((previous, offset, at))
        previous = offset
    return moves, known_from


def _empty(moves: list[tuple[int, int, datetime]], marks: Marks) -> Iterable[tuple[int, int, datetime]]:
    """Those of the moves in which nothing was dealt with."""
    if not moves:
        return []
    is_empty = marks.below([m[0] for m in moves]) == marks.below([m[1] for m in moves])
    return [moves[n] for n in np.flatnonzero(is_empty)]


def _runs(values: Any) -> Iterable[tuple[int, int]]:
    """Stretches of equal values, as (from, up to and without)."""
    if not len(values):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return list(pairwise(cuts))


def standing(system: System, topics: Iterable[str]) -> tuple[dict[Place, int], dict[Place, int], set[str]]:
    """Start and stable end of every partition of those topics that there are, and which of them are compacted."""
    ask = broker(system)
    places = _places(ask, topics)
    if not places:
        return {}, {}, set()
    first = ask.start_offsets(places)
    ends = ask.stable_ends(places)
    facts = ask.topic_facts({topic for topic, _ in places})
    # Where the broker does not say it may be, and then a record that is not there is no lost one.
    return first, ends, {topic for topic, fact in facts.items() if fact.compacted is not False}


def starts(system: System, places: Iterable[Place]) -> dict[Place, int]:
    """First offset that each of these partitions has by now."""
    return broker(system).start_offsets(places)


def _places(ask: Broker, topics: Iterable[str]) -> list[Place]:
    """The partitions of those topics that there are."""
    known = ask.topics()
    return [(topic, p) for topic in sorted(set(topics) & known.keys()) for p in range(known[topic])]
