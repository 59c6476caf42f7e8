"""frozen selection → handler: run it in growing stages, settle each letter with its handling, and stop when the fix fails.

Stages of 1, 10 and 100 letters, then the rest. Inside a stage letters go in optimistic batches: one transaction locks the
letters, turns their inbox rows, calls the handlers in order, resolves the letters, frees the keys that nothing waits for,
and settles them in the run. A batch in which one fails is rolled back and taken again in parts, without the bad one between
them. A letter that other events wait behind goes by itself, and they follow it (release.py). In the last stage PostgreSQL
locks and settles the next letters while the handlers of these run (ahead.py).

Killed at any point, each letter is either settled with its handling or waits in the run as before: whoever takes the run up
again goes on exactly there, beginning its stages anew. The lock on the run is the session's, so nobody else has it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby, takewhile
from typing import Any

from psycopg.rows import class_row

from evkit import postgres
from evkit.errors import RedriveRefused
from evkit.postgres import integer_array
from evkit.runtime import release, together
from evkit.runtime.ahead import Ahead
from evkit.runtime.attempt import attempt_values
from evkit.runtime.delivery import Delivery
from evkit.runtime.failure import Failure
from evkit.runtime.handler import Handlers
from evkit.runtime.inbox import FailedAt, Inbox
from evkit.runtime.letter_record import delivery_of
from evkit.runtime.outcome import Counts
from evkit.runtime.redrive_run import Progress, Run
from evkit.runtime.release import BYTES_MAX, TRANSIENT_REPEATS_MAX, ParkedKey
from evkit.sql import named

log = logging.getLogger(__name__)

_SQL = named("redrive")
_INBOX = named("inbox")
_PARKING = named("parking")

# Letters of the first stages; after them comes the rest. What a fix breaks shows with few letters.
RAMP = (1, 10, 100)
# A transaction that is expected to take longer is waited for before the next one begins, for that keeps its letters locked.
AHEAD_SECONDS_MAX = 1.0
# Most letters in one transaction: as many events as a consumer's batch.
BATCH_LETTERS_MAX = 500


class _End(Exception):
    """The run ends before all of it was tried, in this state."""

    def __init__(self, state: str, why: str) -> None:
        super().__init__(why)
        self.state = state
        self.why = why


@dataclass(frozen=True, slots=True)
class _Item:
    """A letter's place in the run."""

    position: int
    letter_id: int
    state: str
    has_tail: bool
    begun: bool


@dataclass(frozen=True, slots=True)
class _Letter:
    """A letter on its way to its handler."""

    generation: int
    retry_count: int
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class _Locked:
    """A letter, locked in the open transaction; `row` is all that the statement has given."""

    position: int
    letter_id: int
    parks: bool
    row: Sequence[Any]

    def letter(self, handlers: Handlers) -> _Letter:
        """Its event, as if it had just been polled."""
        _, _, event_id, generation, retry_count, *rest, _ = self.row
        return _Letter(generation, retry_count, delivery_of(event_id, rest, handlers))


@dataclass(frozen=True, slots=True)
class _Settled:
    """Letters that are settled in an open transaction, their events as far as they are decoded, and what comes next in the
    run (nothing: ask again)."""

    letters: list[_Locked]
    ready: list[_Letter]
    upcoming: list[_Item]


class Execution:
    """Runs a redrive; for one thread, on a connection that has the run's lock.

    Args:
        connection  in autocommit mode
        inbox       of the failing group, with the run's id as `replay_id`
        stop        ends it between two transactions; its state is then `when_stopped`
        progress    called with (settled, all) after each transaction
        alone       entered around each transaction that calls a handler
        another     makes another connection, on which the next transaction begins while handlers run; None: none does
    """

    def __init__(
        self,
        connection: postgres.Connection,
        run: Run,
        inbox: Inbox,
        *,
        stop: threading.Event | None = None,
        when_stopped: str = "stopped",
        progress: Progress | None = None,
        alone: AbstractContextManager[Any] | None = None,
        another: Callable[[], postgres.Connection] | None = None,
    ) -> None:
        self._connection = connection
        # What waits for its turn must hold no lock that the others may want in theirs.
        self._ahead: Ahead[_Settled] = Ahead(connection, another if alone is None else None)
        self._run = run
        self._inbox = inbox
        self._stop = threading.Event() if stop is None else stop
        self._when_stopped = when_stopped
        self._progress = progress
        self._alone = nullcontext() if alone is None else alone
        self._of = {"redrive_id": run.redrive_id}
        self._settled = run.letters - run.not_tried
        # Halved by each failure and doubled by each success: where all fail, none is called twice.
        self._together_max = BATCH_LETTERS_MAX
        # Failures that were met in a batch, until what comes before them is done: letter → error, seconds.
        self._met: dict[int, tuple[Exception, float]] = {}
        self._stage_tried = self._stage_failed = 0
        self._goes_ahead = False  # the next transaction may begin before this one has ended
        self._first = 0  # of the positions before it nothing is left
        # What comes next, when it was asked together with the last batch.
        self._upcoming: list[_Item] = []

    def execute(self) -> None:
        """Run what waits, and write down how it ended.

        Raises:
            DatabaseUnreachable, MemoryError: the run stays as it is, for whoever takes it up again.
        """
        self._connection.execute(_SQL["start"], self._of)
        try:
            for size in (*RAMP, 0):
                self._stage(size)
            state, why = "done", None
        except _End as end:
            state, why = end.state if self._is_left() else "done", end.why
        finally:
            self._ahead.close()
        self._connection.execute(_SQL["end"], self._of | {"state": state, "why": why})

    def _stage(self, size: int) -> None:
        """Run so many letters (0: all that are left), and judge them.

        Raises:
            _End
        """
        self._stage_tried = self._stage_failed = 0
        self._goes_ahead = not size and self._run.per_second_max is None
        self._connection.execute(_SQL["stage"], self._of | {"stage": size})
        while not size or self._stage_tried < size:
            self._check()
            most = min(self._together_max, (size or BATCH_LETTERS_MAX) - (self._stage_tried if size else 0))
            if rate := self._run.per_second_max:
                most = max(1, min(most, int(rate)))
            started, before = time.monotonic(), self._stage_tried
            items, self._upcoming = self._upcoming[:most], []
            if not items and not (items := self._ask_next(self._connection, self._first, most)()):
                return
            self._first = items[0].position
            self._take(items)
            if self._progress is not None:
                self._progress(self._settled, self._run.letters)
            if rate and (tried := self._stage_tried - before):
                self._stop.wait(max(0.0, tried / rate - (time.monotonic() - started)))
        # Also when it is not the failure of the selection: a fix that breaks something else.
        if self._run.stop_at_failure and 2 * self._stage_failed > self._stage_tried and self._is_left():
            raise _End(
                "stopped", f"{self._stage_failed} of the {self._stage_tried} letters of a stage failed, in another way"
            )

    def _ask_next(self, connection: postgres.Connection, first: int, letters_max: int) -> Callable[[], list[_Item]]:
        """Ask what comes next, from a position on; what gives the answer."""
        values = self._of | {"first": first, "letters_max": letters_max, "bytes_max": BYTES_MAX}
        cursor = connection.execute(_SQL["next"], values)
        return lambda: [_Item(*row) for row in cursor.fetchall()]

    def _check(self) -> None:
        row = self._connection.execute(_SQL["is_cancelled"], self._of).fetchone()
        if row is None or row[0]:
            raise _End("cancelled", "cancelled by hand")
        if self._stop.is_set():
            raise _End(self._when_stopped, "told to stop")

    def _take(self, items: list[_Item]) -> None:
        """Try the first of these: together as far as that goes, or one."""
        batch = self._batch_of(items)
        if len(batch) > 1:
            try:
                done = self._repeated(self._batch, batch)
            except FailedAt as failed:
                error = failed.__cause__
                if not isinstance(error, Exception) or isinstance(error, MemoryError):
                    raise
                self._met[batch[failed.index].letter_id] = (error, failed.seconds)
                self._together_max = max(1, failed.index)
                return
            except Exception as error:
                if self._is_lost(error) or isinstance(error, MemoryError):
                    raise
                self._together_max = max(1, len(batch) // 2)
                return
            self._inbox.metrics.ended(Counts(handled=done), replay=True)
            self._count(done)
            self._together_max = min(2 * self._together_max, BATCH_LETTERS_MAX)
            if done:
                return
            self._together_max = 1
        self._ahead.discard()  # a tail is long, and what is ahead would stay locked
        self._one(items[0])
        self._together_max = min(2 * self._together_max, BATCH_LETTERS_MAX)

    def _batch_of(self, items: list[_Item]) -> list[_Item]:
        """Those at the beginning that may go together."""
        return list(
            takewhile(lambda x: x.state == "waiting" and not x.has_tail and x.letter_id not in self._met, items)
        )

    def _is_lost(self, error: BaseException) -> bool:
        return postgres.is_lost(self._connection, error) or postgres.is_lost(self._ahead.current, error)

    def _is_left(self) -> bool:
        row = self._connection.execute(_SQL["is_left"], self._of).fetchone()
        return row is not None and bool(row[0])

    def _count(self, letters: int) -> None:
        self._stage_tried += letters
        self._settled += letters

    def _repeated(self, work: Callable[[Any], int], what: Any) -> int:
        """What PostgreSQL asks to repeat is nobody's fault."""
        transient = 0
        while True:
            try:
                return work(what)
            except Exception as error:
                cause = error.__cause__ if isinstance(error, FailedAt) else error
                if cause is None or not postgres.is_transient(cause) or transient >= TRANSIENT_REPEATS_MAX:
                    if cause is not None and self._is_lost(cause):
                        raise cause from None
                    raise
                transient += 1
                time.sleep(0.01 * transient)

    # --- together -----------------------------------------------------------------------------------------------------

    def _batch(self, items: list[_Item]) -> int:
        """One transaction for all; returns how many were settled. Those that somebody else is at are left for later."""
        positions = [item.position for item in items]
        begin = partial(self._settle_first, items=items, decode=True)
        with self._alone, self._ahead.transaction(positions, begin) as (connection, settled):
            self._begin_ahead(settled.upcoming)
            ready = settled.ready or [x.letter(self._inbox.handlers) for x in settled.letters]
            done = 0
            for generation, stretch in groupby(ready, key=lambda x: x.generation):
                part = list(stretch)
                self._inbox.generation = generation
                try:
                    together.handle(
                        connection, self._inbox, [x.delivery for x in part], [x.retry_count + 2 for x in part]
                    )
                except FailedAt as failed:
                    failed.index += done
                    raise
                done += len(part)
        self._upcoming = settled.upcoming
        return len(ready)

    def _begin_ahead(self, upcoming: list[_Item]) -> None:
        """Let PostgreSQL begin the next transaction, unless there is a reason to wait for the end of this one."""
        batch = self._batch_of(upcoming)
        if (
            self._goes_ahead
            and len(batch) > 1
            and self._together_max == BATCH_LETTERS_MAX
            and self._inbox.event_seconds * len(batch) < AHEAD_SECONDS_MAX
        ):
            self._ahead.begin([x.position for x in batch], partial(self._settle_first, items=batch, decode=False))

    def _settle_first(self, connection: postgres.Connection, items: list[_Item], *, decode: bool) -> _Settled:
        """Lock the first of these and settle them before they are handled, for all of it is one transaction.

        With `decode` they are decoded while PostgreSQL settles them. That may run code of the service (filters, a decode
        function), which belongs to the thread of its handlers.
        """
        locked = self._locked(connection, [item.position for item in items])
        free: set[int] = set()
        if parks := [x.letter_id for x in locked if x.parks]:
            rows = connection.execute(_SQL["lock_keys"], {"letter_ids": integer_array(parks)}).fetchall()
            free = {letter_id for letter_id, events in rows if not events}
        locked = [x for x in locked if not x.parks or x.letter_id in free]
        # A letter that must go by itself is not overtaken by what comes behind it.
        in_line = takewhile(lambda pair: pair[0].position == pair[1].position, zip(items, locked, strict=False))
        if not (first := [x for _, x in in_line]):
            return _Settled([], [], [])
        with connection.pipeline():
            self._resolve(connection, first, [x.letter_id for x in first if x.parks], "resolved")
            upcoming = self._ask_next(connection, first[0].position, BATCH_LETTERS_MAX)
            ready = [x.letter(self._inbox.handlers) for x in first] if decode else []
        return _Settled(first, ready, upcoming() if len(first) == len(items) else [])

    def _locked(self, connection: postgres.Connection, positions: list[int]) -> list[_Locked]:
        rows = connection.execute(
            _SQL["lock_letters"], self._of | {"positions": integer_array(positions), "group": self._run.consumer_group}
        ).fetchall()
        return [_Locked(row[0], row[1], row[-1], row) for row in rows]

    def _resolve(self, connection: postgres.Connection, letters: list[_Locked], free: list[int], state: str) -> None:
        connection.execute(
            _SQL["resolve"],
            self._of
            | {
                "letter_ids": integer_array([x.letter_id for x in letters]),
                "free_ids": integer_array(free),
                "positions": integer_array([x.position for x in letters]),
                "state": state,
            },
        )

    # --- one by one ---------------------------------------------------------------------------------------------------

    def _one(self, item: _Item) -> None:
        """A letter by itself, and what waits behind it; or, of one that is through, only that."""
        key = self._key(item)
        if key is not None and not release.lock(self._connection, key):
            self._skip(item, "another redrive or release is at its key")
            return
        try:
            if item.state == "waiting" and not self._letter(item, key):
                return
            if key is not None or item.state == "tail":
                self._tail(item, key)
        finally:
            if key is not None and not self._connection.closed:
                release.unlock(self._connection, key)

    def _key(self, item: _Item) -> ParkedKey | None:
        cursor = self._connection.cursor(row_factory=class_row(ParkedKey))
        found = cursor.execute(_SQL["keys_behind"], {"letter_id": item.letter_id}).fetchone()
        if found is None and item.state == "tail":  # of a letter that is no more
            group = self._run.consumer_group
            found = cursor.execute(
                _PARKING["keys"],
                {"group": group, "key": None, "topic": None, "letters": [item.letter_id], "keys_max": 1},
            ).fetchone()
        return found

    def _letter(self, item: _Item, key: ParkedKey | None) -> bool:
        """Whether it is resolved now."""
        if item.letter_id in self._met:
            error, seconds = self._met.pop(item.letter_id)
        else:
            started = time.monotonic()
            try:
                settled = self._repeated(lambda x: self._handle(x, key), item)
            except Exception as raised:
                if postgres.is_lost(self._connection, raised) or isinstance(raised, MemoryError):
                    raise
                error, seconds = raised, time.monotonic() - started
            else:
                if not settled:
                    self._skip(item, self._why_not(item))
                else:
                    self._inbox.metrics.ended(Counts(handled=1), replay=True)
                    self._count(1)
                return bool(settled)
        self._failed(item, error, seconds)
        return False

    def _handle(self, item: _Item, key: ParkedKey | None) -> int:
        with self._alone, self._connection.transaction():
            locked = self._locked(self._connection, [item.position])
            for letter in (x.letter(self._inbox.handlers) for x in locked):
                self._inbox.generation = letter.generation
                together.handle_one(self._connection, self._inbox, letter.delivery, letter.retry_count + 2)
                self._resolve(self._connection, locked, [], "resolved" if key is None else "tail")
        return len(locked)

    def _tail(self, item: _Item, key: ParkedKey | None) -> None:
        """What waits behind a letter, in order, until its key is free or one of it fails."""
        released = release.Released(freed=True)
        cancelled = False

        def noted(connection: postgres.Connection, events: int, failed_behind: int | None) -> None:
            nonlocal cancelled
            values = self._of | {"position": item.position, "released": events, "failed_behind": failed_behind}
            row = connection.execute(_SQL["note_behind"], values).fetchone()
            cancelled = row is not None and bool(row[0])

        def ends() -> bool:
            return cancelled or self._stop.is_set()

        if key is not None:
            released = release.release(
                self._connection,
                key,
                self._inbox,
                ends=ends,
                per_second_max=self._run.per_second_max,
                noted=noted,
                alone=self._alone,
            )
        if released.freed or released.failed_id is not None or not ends():
            self._connection.execute(_SQL["settle_tail"], self._of | {"position": item.position})
            if item.state == "tail" and not item.begun:
                self._count(1)

    def _skip(self, item: _Item, why: str) -> None:
        state = "resolved" if item.begun else "skipped"
        self._connection.execute(_SQL["settle"], self._of | {"position": item.position, "state": state, "why": why})
        if not item.begun:
            self._count(1)

    def _why_not(self, item: _Item) -> str:
        row = self._connection.execute(_SQL["why_not"], {"letter_id": item.letter_id}).fetchone()
        if row is None:
            return "it is gone"
        state, on_hold = row
        if state == "open" and on_hold:
            return "it is on hold meanwhile"
        return "another redrive has it in hand" if state == "open" else f"it is {state} meanwhile"

    def _failed(self, item: _Item, error: Exception, seconds: float) -> None:
        """Write down the failed attempt: the same letter, with one attempt more.

        Raises:
            _End: the fix did not work, or what handlers need is away.
        """
        if isinstance(error, RedriveRefused):
            self._skip(item, str(error))
            return
        failure = Failure.of(error)
        held = self._inbox.retry.is_nobodys_fault(error)
        stops = self._run.stop_at_failure and (held or failure.fingerprint in self._run.fingerprints)
        with self._connection.transaction():
            for letter in (x.letter(self._inbox.handlers) for x in self._locked(self._connection, [item.position])):
                self._inbox.generation = letter.generation
                values = attempt_values(
                    self._inbox, letter.delivery, failure,
                    attempt=letter.retry_count + 2, seconds=seconds, disposition="held" if held else "dead",
                )  # fmt: skip
                self._connection.execute(_INBOX["attempt"], values)
                if not held:
                    self._connection.execute(_SQL["failed_again"], values | {"letter_id": item.letter_id})
            if not (held and stops):
                self._connection.execute(
                    _SQL["settle"], self._of | {"position": item.position, "state": "failed", "why": None}
                )
        self._inbox.metrics.failed("held" if held else "dead", replay=True)
        if not (held and stops):
            self._count(1)
            self._stage_failed += 1
        if stops:
            # Without its message, which may quote the payload: here no masking policy would find it.
            why = "failed through nobody's fault" if held else "failed again in the same way"
            more = f"{failure.error_class}; `evkit dlq show {item.letter_id}`"
            raise _End("stopped", f"letter {item.letter_id} {why} ({more})")
