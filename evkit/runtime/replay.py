"""a stretch of topic → one group's handler: plan, show, run, and go on after a kill.

A replay reads the topics from a point in time up to an end that is frozen when it is planned, and hands every event to the
handlers of one group, through that group's inbox. It joins no Kafka group and commits no offset, so the live consumers and
every other group do not know of it (P6). What handlers see is marked with the replay's id, and so are inbox rows, attempts
and letters.

What the group has handled before is decided by a declared policy:

    honour   (default) the inbox counts: only what is missing is handled. Finds lost events, repeats nothing.
    again    everything is handled again, under a generation of its own: a new version of a handler wants its past.
             Within that generation each event is handled once, also when the replay is killed and goes on.
    dry      as `again`, and every transaction is rolled back: what would be handled, and what would fail. A handler sees
             nothing of what it wrote in an earlier batch. What it does outside PostgreSQL is done: `tx.dry` tells it.

It runs beside the live group, or with that group paused: its consumers finish what they have in hand, keep their
partitions, handle nothing until the replay is over, and go on. Only so no key is handled by both at one moment.

A failing event does not stop a replay: it becomes a dead letter, marked with the replay's id, up to an error budget. What
is done is counted in the transactions that do it (replay_ledger.py), so a replay that is killed at any point and goes on
has handled each event once and counted it once.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from evkit import kafka_admin, postgres
from evkit.error_texts import message_of
from evkit.errors import EvkitError, ReplayRefused, UnknownReplay, UsageError
from evkit.event import new_id
from evkit.runtime import audit, group_pause
from evkit.runtime.collector import at_ease
from evkit.runtime.consumer import Consumer
from evkit.runtime.emission import Emit
from evkit.runtime.outcome import Counts
from evkit.runtime.replay_heart import Heart
from evkit.runtime.replay_plan import DEAD_SECONDS, Dedupe, Range, ReplayPlan, plan, require_fitting
from evkit.runtime.replay_runner import Orders, Runner, Stretch, require_same_topics
from evkit.runtime.replay_survey import Wanted
from evkit.sql import named
from evkit.system import System

__all__ = [
    "Dedupe", "Emit", "Mode", "Range", "ReplayPlan", "ReplayResult", "plan", "prepare", "resume", "run", "runs", "status",
    "stop",
]  # fmt: skip

_SQL = named("replay")

Mode = Literal["beside", "paused"]

# So many events may fail before a replay stops: a handler that fails on everything is no matter for letters.
ERRORS_MAX = 100


@dataclass(slots=True)
class ReplayResult:
    """How far a replay came, over all its runs.

    Attributes:
        counts    events: handled, known to the inbox (duplicate), skipped, failed (dead), parked behind a letter
        filtered  records of other times, keys or types
        emitted   follow-up events of its handlers, written or withheld as `emit` says
        why       why it stopped; None when it is done
        dry       what was handled was rolled back
    """

    replay_id: str
    state: str
    counts: Counts = field(default_factory=Counts)
    filtered: int = 0
    emitted: int = 0
    why: str | None = None
    dry: bool = False

    def summary(self) -> dict[str, Any]:
        return {
            "replay_id": self.replay_id,
            "state": self.state,
            "handled": self.counts.handled,
            "known": self.counts.duplicate,
            "skipped": self.counts.skipped,
            "failed": self.counts.dead,
            "parked": self.counts.parked,
            "filtered": self.filtered,
            "emitted": self.emitted,
            "why": self.why,
        }


def run(
    system: System,
    plan: ReplayPlan,
    consumer: Consumer,
    *,
    mode: Mode = "beside",
    emit: Emit = "marked",
    errors_max: int | None = ERRORS_MAX,
    per_second_max: float | None = None,
    reason: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> ReplayResult:
    """Hand a plan's events to the handlers of `consumer`; returns when the frozen end is reached, or after `stop`.

    With as many lanes as the consumer has (`concurrency`), and its retry policy; breakers are not asked.

    Args:
        mode            "beside" the live group, or with it "paused"
        emit            what becomes of events that the handlers write: "none" are written, they are "marked" as replayed by
                        the header `evkit-replay-id`, or "normal"
        errors_max      so many events may fail, then it stops; None: any number
        per_second_max  throttle: most events a second
        progress        called with (offsets done, offsets planned)

    Side effects: the handlers' writes, inbox rows, dead letters for what fails (none of these when it is dry), rows in
    evkit.replay_run, replay_range and replay_failure (progress with every batch), and one in the audit table.

    Raises:
        ReplayRefused: the consumer does not fit, a topic was made anew, retention has cut the stretch meanwhile, or the
            live group cannot be paused.
        UsageError: an argument that cannot be, or a consumer without handlers.
        BrokerUnreachable, DatabaseUnreachable.
    """
    options = {"mode": mode, "emit": emit, "errors_max": errors_max, "per_second_max": per_second_max}
    replay_id = prepare(system, plan, consumer, reason=reason, **options)  # type: ignore[arg-type]
    return resume(system, replay_id, consumer, reason=reason, progress=progress, stop=stop)


def prepare(
    system: System,
    plan: ReplayPlan,
    consumer: Consumer,
    *,
    mode: Mode = "beside",
    emit: Emit = "marked",
    errors_max: int | None = ERRORS_MAX,
    per_second_max: float | None = None,
    reason: str | None = None,
) -> str:
    """Write a replay down without starting it, and return its id for `resume`; see `run`.

    Side effects: one row in evkit.replay_run, and one in evkit.replay_range for each partition.

    Raises: see `run`.
    """
    if mode not in ("beside", "paused") or emit not in ("none", "marked", "normal"):
        raise UsageError(
            f"a replay's mode is beside or paused, and emit is none, marked or normal, not {mode!r}, {emit!r}"
        )
    _require_limits(errors_max, per_second_max)
    require_fitting(plan.group, plan.dedupe, plan.types, consumer)
    ranges = [r for r in plan.ranges if r.offsets]
    planned = {r.topic: r.topic_id for r in ranges}
    require_same_topics(planned, kafka_admin.topic_ids(system.settings, planned, system.admin))
    replay_id = f"replay-{new_id()}"
    with system.writing("evkit replay") as connection:
        postgres.require_migrated(connection)
        generation = 0
        if plan.dedupe != "honour":
            connection.execute(_SQL["lock_generations"], (plan.group,))
            row = connection.execute(_SQL["next_generation"], {"group": plan.group}).fetchone()
            assert row is not None
            generation = row[0]
        connection.execute(
            _SQL["insert"],
            {
                "replay_id": replay_id,
                "group": plan.group,
                "topics": list(plan.topics),
                "from_time": plan.from_time,
                "until_time": plan.until_time,
                "dedupe": plan.dedupe,
                "generation": generation,
                "ranges": Jsonb(plan.by_partition()),
                "actor": audit.actor(),
                "reason": reason,
                "mode": mode,
                "emit": emit,
                "keys": None if plan.keys is None else list(plan.keys),
                "types": None if plan.types is None else list(plan.types),
                "errors_max": errors_max,
                "per_second_max": per_second_max,
                "allow_missing": plan.allow_missing,
            },
        )
        connection.execute(
            _SQL["insert_ranges"],
            {
                "replay_id": replay_id,
                "topics": [r.topic for r in ranges],
                "partitions": [r.partition for r in ranges],
                "topic_ids": [r.topic_id for r in ranges],
                "starts": [r.start for r in ranges],
                "ends": [r.end for r in ranges],
            },
        )
    return replay_id


_KEPT: Any = object()


def _require_limits(errors_max: int | None, per_second_max: float | None) -> None:
    if errors_max is not None and not 0 <= errors_max < 2**63:
        raise UsageError(f"errors_max is a number of events from 0 on, not {errors_max}")
    if per_second_max is not None and not 0 < per_second_max < math.inf:
        raise UsageError(f"a rate is a number of events per second above 0, not {per_second_max:g}")


def resume(
    system: System,
    replay_id: str,
    consumer: Consumer,
    *,
    errors_max: int | None = _KEPT,
    per_second_max: float | None = _KEPT,
    reason: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
    drain_seconds_max: float = group_pause.DRAIN_SECONDS_MAX,
) -> ReplayResult:
    """Start a replay that was prepared, or go on with one that was stopped or killed. See `run`.

    Args:
        errors_max, per_second_max  other ones than it had; the failures until now count too
        drain_seconds_max           how long a mode "paused" waits for the consumers to finish what they have in hand

    Raises:
        UnknownReplay: there is none with this id.
        UsageError: a limit that cannot be.
        ReplayRefused: it is done, another process is running it, or its error budget is used up.
    """
    _require_limits(None if errors_max is _KEPT else errors_max, None if per_second_max is _KEPT else per_second_max)
    stop = stop or threading.Event()
    connection = system.writing("evkit replay", autocommit=True)
    heart: Heart | None = None
    try:
        postgres.require_migrated(connection)
        row = _row(connection, replay_id)
        require_fitting(row["consumer_group"], row["dedupe"], row["types"], consumer)
        if row["state"] == "done":
            raise ReplayRefused(f"replay {replay_id} is done: plan a new one")
        budget = row["errors_max"] if errors_max is _KEPT else errors_max
        if row["state"] == "stopped" and budget is not None and row["failed"] and row["failed"] >= budget:
            raise ReplayRefused(
                f"replay {replay_id} has used up its error budget: {row['failed']:,} events have failed, and {budget:,} "
                "may; give it a larger one (--errors-max)"
            )
        stretches = _stretches(connection, replay_id)
        names = {s.place[0] for s in stretches}
        planned = {s.place[0]: s.topic_id for s in stretches}
        require_same_topics(planned, kafka_admin.topic_ids(system.settings, names, system.admin))
        if row["dedupe"] == "dry":
            _require_temporary_tables(connection)
        locked = connection.execute(_SQL["lock"], (replay_id,)).fetchone()
        if locked is None or not locked[0]:
            raise ReplayRefused(f"replay {replay_id} is being run by another process")
        started = connection.execute(
            _SQL["start"],
            {
                "replay_id": replay_id,
                "keep_errors_max": errors_max is _KEPT,
                "errors_max": None if errors_max is _KEPT else errors_max,
                "keep_per_second_max": per_second_max is _KEPT,
                "per_second_max": None if per_second_max is _KEPT else per_second_max,
            },
        ).fetchone()
        assert started is not None
        heart = Heart(system, connection, row["consumer_group"], replay_id, started[0])
        heart.start()
        row = _row_of(system, replay_id)
        return _run(system, row, stretches, consumer, heart, reason, progress, stop, drain_seconds_max)
    finally:
        if heart is not None:
            heart.close()
        connection.close()


def _run(
    system: System,
    row: dict[str, Any],
    stretches: list[Stretch],
    consumer: Consumer,
    heart: Heart,
    reason: str | None,
    progress: Callable[[int, int], None] | None,
    stop: threading.Event,
    drain_seconds_max: float,
) -> ReplayResult:
    """From the start of the heart on: pause the group, run, and write down how it ended."""
    group, replay_id, epoch = row["consumer_group"], row["replay_id"], row["epoch"]
    orders = Orders(
        replay_id=replay_id,
        epoch=epoch,
        generation=row["generation"],
        wanted=Wanted.of(row["from_time"], row["until_time"], row["keys"], row["types"]),
        dry=row["dedupe"] == "dry",
        paused=row["mode"] == "paused",
        emit=row["emit"],
        per_second_max=row["per_second_max"],
        allow_missing=row["allow_missing"],
    )
    runner = Runner(system, consumer, orders, stretches, _counts(row), stop)
    heart.tell(runner.end)
    why: str | None = "it broke off"
    with system.writing("evkit replay", autocommit=True) as connection:
        act = audit.begin(
            connection,
            "replay.run",
            replay_id,
            {
                "group": group, "topics": row["topics"], "from_time": row["from_time"].isoformat(),
                "until_time": None if row["until_time"] is None else row["until_time"].isoformat(), "keys": row["keys"],
                "types": row["types"], "dedupe": row["dedupe"], "mode": row["mode"], "emit": row["emit"],
                "offsets": sum(s.end - s.start for s in stretches) - (row["offsets_done"] or 0),
            },
            reason,
        )  # fmt: skip
    try:
        if orders.paused:
            why = _pause(system, heart, group, replay_id, stop, drain_seconds_max)
        if not orders.paused or why is None:
            with at_ease():
                why = runner.run(progress)
    except EvkitError as error:
        why = str(error)
        raise
    finally:
        result = _finish(system, row, "done" if why is None else "stopped", why, act)
    return result


def _pause(
    system: System, heart: Heart, group: str, replay_id: str, stop: threading.Event, drain_seconds_max: float
) -> str | None:
    """Have the group's consumers stand still; None when they do, else why not."""
    with system.writing("evkit replay", autocommit=True) as connection:
        group_pause.request(connection, group, replay_id)
        heart.pauses = True
        drained = group_pause.wait_drained(
            system,
            connection,
            group,
            replay_id,
            seconds_max=drain_seconds_max,
            stop=lambda: stop.is_set() or heart.why is not None,
        )
    return None if drained else heart.why or "it was told to stop"


def _finish(system: System, row: dict[str, Any], state: str, why: str | None, act: int) -> ReplayResult:
    """Write down how it ended, and let the group go on. If PostgreSQL is away then, the replay counts as killed."""
    replay_id, dry = row["replay_id"], row["dedupe"] == "dry"
    try:
        with (
            postgres.translated_errors(system.settings.postgres_dsn),
            system.writing("evkit replay", autocommit=True) as connection,
        ):
            values = {"replay_id": replay_id, "epoch": row["epoch"], "state": state, "why": why}
            connection.execute(_SQL["finish"], values)
            group_pause.release(connection, row["consumer_group"], replay_id)
            now = _row(connection, replay_id)
            result = ReplayResult(
                replay_id, now["state"], _counts(now), now["filtered"], now["emitted"], now["why"], dry
            )
            audit.end(connection, act, result.summary())
    except EvkitError:
        return ReplayResult(replay_id, "interrupted", _counts(row), row["filtered"], row["emitted"], why, dry)
    return result


def _require_temporary_tables(connection: postgres.Connection) -> None:
    try:
        connection.execute(_SQL["dry_arm"])
    except psycopg.errors.InsufficientPrivilege as error:
        raise ReplayRefused(
            f"a dry replay needs the right to make temporary tables, which user '{connection.info.user}' has not "
            f"({str(error).splitlines()[0]}): without it a handler that commits by itself could leave something behind"
        ) from None


def _stretches(connection: postgres.Connection, replay_id: str) -> list[Stretch]:
    rows = connection.execute(_SQL["ranges"], (replay_id,)).fetchall()
    return [
        Stretch((topic, partition), topic_id, start, end, done=list(zip(done_from, done_to, strict=True)))
        for topic, partition, topic_id, start, end, done_from, done_to in rows
    ]


def _counts(row: dict[str, Any]) -> Counts:
    return Counts(row["handled"], row["known"], row["skipped"], row["failed"], row["parked"])


# --- looking, and stopping it from elsewhere --------------------------------------------------------------------------


def runs(system: System) -> list[dict[str, Any]]:
    """All replays, the newest first: the columns of evkit.replay_run, with `offsets` and `offsets_done`. One whose process
    has gone without a word is in state "interrupted". Changes nothing."""
    with system.reading() as connection:
        return _rows(connection)


def status(system: System, replay_id: str) -> dict[str, Any]:
    """One replay as `runs` has it, and with it `ranges` (planned and done, by partition) and `failures` (equal ones
    together, the most frequent first). Changes nothing.

    Raises:
        UnknownReplay: there is none with this id.
    """
    with system.reading() as connection:
        row = _row(connection, replay_id)
        ranges = [
            {
                "topic": s.place[0],
                "partition": s.place[1],
                "start": s.start,
                "end": s.end,
                "done": sum(last - first for first, last in s.done),
            }
            for s in _stretches(connection, replay_id)
        ]
        failures = connection.cursor(row_factory=dict_row).execute(_SQL["failures"], (replay_id,)).fetchall()
    for each in failures:
        each["error_message"] = message_of(each["error_message"], system.settings.masking, each["topic"], None)
    return row | {"ranges": ranges, "failures": failures}


def stop(system: System, replay_id: str, *, reason: str | None = None) -> str:
    """Ask the process that runs a replay to stop, wherever it is; returns the replay's state before.

    It finishes the batches that it has in hand, which `status` tells of. One that was killed is put down as stopped. Either
    can be resumed.

    Side effects: the request in evkit.replay_run, and one audit row.

    Raises:
        UnknownReplay: there is none with this id.
        ReplayRefused: it is not running.
    """
    with system.writing("evkit replay", autocommit=True) as connection:
        postgres.require_migrated(connection)
        row = _row(connection, replay_id)
        state: str = row["state"]
        if state not in ("running", "interrupted", "planned"):
            raise ReplayRefused(f"replay {replay_id} is {state}: there is nothing to stop")
        act = audit.begin(connection, "replay.stop", replay_id, {"state": state}, reason)
        if state == "running":
            connection.execute(_SQL["request_stop"], {"replay_id": replay_id, "actor": audit.actor()})
        else:
            why = "its process was gone" if state == "interrupted" else f"{audit.actor()} did not want it"
            connection.execute(_SQL["put_down"], {"replay_id": replay_id, "why": why})
            group_pause.release(connection, row["consumer_group"], replay_id)
        audit.end(connection, act, {"requested": state == "running"})
    return state


def _rows(connection: postgres.Connection, replay_id: str | None = None) -> list[dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(_SQL["runs"], {"replay_id": replay_id, "dead_seconds": DEAD_SECONDS}).fetchall()


def _row(connection: postgres.Connection, replay_id: str) -> dict[str, Any]:
    found = _rows(connection, replay_id)
    if not found:
        raise UnknownReplay(replay_id, [row["replay_id"] for row in _rows(connection)])
    return found[0]


def _row_of(system: System, replay_id: str) -> dict[str, Any]:
    with system.reading() as connection:
        return _row(connection, replay_id)
