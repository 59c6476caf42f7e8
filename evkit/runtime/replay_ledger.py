"""transaction of a replay's inbox → the replay's own row: count exactly, and refuse what is not to be committed.

What came to its end, and which offsets that were, is written by the last statement of the very transaction that handled it.
So a replay that is killed at any point, or loses its connection inside a commit, has counted what was committed and nothing
else, whatever the inbox of its group keeps. The same statement is the fence: it refuses a process whose replay another one
has taken over, one whose hold on the paused group has lapsed, and the failure that would go beyond the error budget.

A dry transaction is rolled back, and counted in one of its own. Until then it holds a row that makes every COMMIT fail, so
a handler that ends the transaction by itself leaves nothing behind either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from evkit import postgres
from evkit.runtime.assignment import Place
from evkit.runtime.delivery import Delivery
from evkit.runtime.emission import Emission, Emit, emitting
from evkit.runtime.failure import Failure
from evkit.runtime.ledger import Ledger
from evkit.runtime.outcome import Counts
from evkit.runtime.session import Stopped
from evkit.sql import named

_SQL = named("replay")

# So long after its last sign of life a replay must not rely on the group's being paused; consumers wait longer than that
# (group_pause.DEAD_SECONDS) before they go on, so a commit has the time in between to come to its end.
PAUSE_RELIED_ON_SECONDS = 10.0

# Offsets from the first up to, and without, the second.
Piece = tuple[int, int]


@dataclass(slots=True)
class Share:
    """What a record brings to its end with itself: its offset, those before it that have none to handle, and how many
    records among these were passed over."""

    pieces: list[Piece] = field(default_factory=list)
    filtered: int = 0


class Ended(Stopped):
    """The replay must not go on; its transaction is to be rolled back. The sentence says why."""


class Shares:
    """Which offsets each record that is on its way stands for, where it does not stand for its own alone. Written by the
    reader, read by the lanes."""

    def __init__(self) -> None:
        self._of: dict[tuple[Place, int], Share] = {}

    def put(self, place: Place, offset: int, share: Share) -> None:
        self._of[place, offset] = share

    def of(self, spots: Iterable[tuple[Place, int]]) -> tuple[dict[Place, list[Piece]], int]:
        """The offsets that these stand for, and how many records among them were passed over."""
        offsets: dict[Place, list[int]] = {}
        pieces: dict[Place, list[Piece]] = {}
        filtered = 0
        for place, offset in spots:
            if self._of and (share := self._of.get((place, offset))) is not None:
                pieces.setdefault(place, []).extend(share.pieces)
                filtered += share.filtered
            else:
                offsets.setdefault(place, []).append(offset)
        for place, alone in offsets.items():
            first, last = min(alone), max(alone)
            whole = last - first == len(alone) - 1  # as most batches are: no record of it comes twice
            pieces.setdefault(place, []).extend([(first, last + 1)] if whole else [(n, n + 1) for n in alone])
        return pieces, filtered

    def forget(self, spots: Sequence[tuple[Place, int]]) -> int:
        """They have come to their end; returns how many offsets that were."""
        if not self._of:  # as where nothing is passed over
            return len(spots)
        shares = [self._of.pop(spot, None) for spot in spots]
        return sum(1 if share is None else sum(last - first for first, last in share.pieces) for share in shares)


class ReplayLedger(Ledger):
    """Keeps count of a replay, for one of its lanes.

    Args:
        epoch   of the start that this process made
        ended   told why the replay must not go on
        paused  the replay relies on the group's being paused
    """

    def __init__(
        self,
        replay_id: str,
        epoch: int,
        shares: Shares,
        ended: Callable[[str], None],
        *,
        dry: bool = False,
        paused: bool = False,
        emit: Emit = "marked",
    ) -> None:
        self.dry = dry
        self._replay_id = replay_id
        self._epoch = epoch
        self._paused = paused
        self._shares = shares
        self._ended = ended
        self._emission = Emission(replay_id, emit)
        self._armed: int | None = None  # backend that knows the table which makes commits fail

    def transaction(
        self, connection: postgres.Connection, batch: Sequence[Delivery], failure: Failure | None = None
    ) -> AbstractContextManager[Counts]:
        """See `Ledger`.

        Raises:
            Ended: when what was done must not be committed; it is rolled back.
        """
        return self._dry(connection, batch, failure) if self.dry else self._counted(connection, batch, failure)

    @contextmanager
    def _counted(
        self, connection: postgres.Connection, batch: Sequence[Delivery], failure: Failure | None
    ) -> Iterator[Counts]:
        counts = Counts()
        with connection.transaction():
            with self._emitting(connection, failure):
                yield counts
            self._write(connection, batch, counts, failure)

    @contextmanager
    def _dry(
        self, connection: postgres.Connection, batch: Sequence[Delivery], failure: Failure | None
    ) -> Iterator[Counts]:
        counts = Counts()
        self._arm(connection)
        with connection.transaction(force_rollback=True):
            connection.execute(_SQL["dry_begin"])
            with self._emitting(connection, failure):
                yield counts
            # What would be checked at the commit is checked now: a deferred constraint is a failure of the handler too.
            connection.execute(_SQL["dry_end"])
            connection.execute(_SQL["dry_check"])
        with connection.transaction():
            self._write(connection, batch, counts, failure)

    def _emitting(self, connection: postgres.Connection, failure: Failure | None) -> AbstractContextManager[None]:
        """Around handlers; a transaction about a failure has none: what it writes (the letter's mirror) is no follow-up."""
        self._emission.events = 0
        return emitting(connection, self._emission) if failure is None else nullcontext()

    def _arm(self, connection: postgres.Connection) -> None:
        if self._armed != connection.info.backend_pid:
            connection.execute(_SQL["dry_arm"])
            self._armed = connection.info.backend_pid

    def _write(
        self, connection: postgres.Connection, batch: Sequence[Delivery], counts: Counts, failure: Failure | None
    ) -> None:
        if not counts.total:
            return  # it comes again
        by_place, filtered = self._shares.of((delivery.place, delivery.offset) for delivery in batch)
        try:
            counted = progress(
                connection,
                self._replay_id,
                self._epoch,
                by_place,
                counts,
                filtered=filtered,
                emitted=self._emission.events if counts.handled else 0,
                paused=self._paused,
            )
        except Ended as why:
            self._ended(str(why))
            raise
        if counted and counts.dead and failure is not None:
            (delivery,) = batch
            connection.execute(_SQL["failure"], self._failure_values(delivery, failure))

    def _failure_values(self, delivery: Delivery, failure: Failure) -> dict[str, object]:
        return {
            "replay_id": self._replay_id,
            "fingerprint": failure.fingerprint,
            "error_class": failure.error_class,
            "error_message": failure.error_message,
            "handler": delivery.handler.name if delivery.handler else None,
            "event_id": delivery.event_id,
            "topic": delivery.place[0],
            "partition": delivery.place[1],
            "offset": delivery.offset,
        }


def progress(
    connection: postgres.Connection,
    replay_id: str,
    epoch: int,
    pieces: dict[Place, list[Piece]],
    counts: Counts,
    *,
    filtered: int,
    emitted: int = 0,
    paused: bool = False,
) -> bool:
    """Write down what came to its end; False when it was counted before (the answer to a commit had been lost).

    Raises:
        Ended: another process has taken the replay over, the group is not paused any more, or the error budget is used up.
    """
    places = sorted(pieces)
    row = connection.execute(
        _SQL["progress"],
        {
            "replay_id": replay_id,
            "epoch": epoch,
            "topics": [topic for topic, _ in places],
            "partitions": [partition for _, partition in places],
            "done": [multirange(pieces[place]) for place in places],
            "places": len(places),
            "handled": counts.handled,
            "known": counts.duplicate,
            "skipped": counts.skipped,
            "failed": counts.dead,
            "parked": counts.parked,
            "filtered": filtered,
            "emitted": emitted,
            "relied_on_seconds": PAUSE_RELIED_ON_SECONDS,
        },
    ).fetchone()
    if row is None:
        raise Ended("another process has taken it over")
    counted, failed, errors_max, is_paused = row
    if counted not in (0, len(places)):
        raise Ended("a part of a batch is counted already: another process runs it too")
    if counted and counts.dead and errors_max is not None and failed > errors_max:
        raise Ended(f"its error budget is used up: {errors_max:,} events have failed, and one more would")
    if paused and not is_paused:
        raise Ended("its hold on the paused group has lapsed")
    return bool(counted)


def multirange(pieces: Sequence[Piece]) -> str:
    """Pieces, in any order, as PostgreSQL writes them; neighbours are joined."""
    joined: list[list[int]] = []
    for start, end in sorted(pieces):
        if joined and joined[-1][1] == start:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    return "{" + ",".join(f"[{start},{end})" for start, end in joined) + "}"


def without(start: int, end: int, done: Sequence[Piece]) -> list[Piece]:
    """What of start..end-1 is not in `done`, which is sorted and has no overlaps."""
    left = []
    for first, last in done:
        if last <= start or first >= end:
            continue
        if first > start:
            left.append((start, first))
        start = max(start, last)
    if start < end:
        left.append((start, end))
    return left
