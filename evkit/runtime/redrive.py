"""dead letter → handler: run it again through the handler of the group that failed, and what waits behind it.

A redrive never publishes to the source topic, which would reach every group: it runs the handler of the group that failed,
with the record as it was, in one transaction with the letter's new state. Its selection is frozen as ids (redrive_plan.py)
and written down before anything runs; ramp.py runs it, in this process or in a running consumer of the group
(redriver.py), and whoever finds it stopped or killed goes on where it was.
"""

from __future__ import annotations

import math
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from psycopg.rows import dict_row

from evkit import postgres
from evkit.error_texts import message_of
from evkit.errors import RedriveRefused, UsageError
from evkit.event import new_id
from evkit.runtime import audit, redrive_run
from evkit.runtime.letters import require_group
from evkit.runtime.ramp import Execution
from evkit.runtime.redrive_plan import RedrivePlan
from evkit.runtime.redrive_run import Progress, RedriveResult, Run, end_act, read_result, read_run
from evkit.sql import named
from evkit.system import System

if TYPE_CHECKING:
    from evkit.runtime.consumer import Consumer

_SQL = named("redrive")


def redrive(
    system: System,
    plan: RedrivePlan,
    consumer: Consumer,
    *,
    reason: str | None = None,
    stop_at_failure: bool = True,
    per_second_max: float | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> RedriveResult:
    """Run a plan's letters through the handlers of `consumer` in growing stages (1, 10, 100, the rest).

    Side effects: the plan is written down first (evkit.redrive_run, evkit.redrive_letter), with a row in the audit table.
    Then the handler's writes, the inbox mark (dead → handled), the letter's state (open → resolved) and its place in the
    run are one transaction, for one letter or for some hundred; a failure is one more attempt of the same letter. Events
    that wait behind a letter (`plan.keys`) run after it, in order, and then their key is free; the first that fails is a
    new letter, and the rest goes on waiting. Killed at any point, `resume` goes on where it was.

    With `stop_at_failure` it ends at the first letter that fails with a fingerprint of the plan (the fix did not work),
    after a stage of which most letters failed otherwise, and when what a handler needs is away. `progress` is called with
    (settled, all); `stop` ends it between two transactions.

    Raises:
        RedriveRefused: the consumer is of another group than the letters, or has no handler for some of them; nothing was
            changed.
        UsageError: the rate is none.
        DatabaseUnreachable.
    """
    require_group_of(plan.group, consumer)
    _require_handlers(plan, consumer)
    with system.writing("evkit redrive", autocommit=True) as connection:
        redrive_id = begin(
            connection, plan, "process", reason=reason, stop_at_failure=stop_at_failure, per_second_max=per_second_max
        )
        redrive_run.lock(connection, redrive_id)
        return _executed(system, connection, redrive_id, consumer, progress, stop)


def queue(
    system: System,
    plan: RedrivePlan,
    *,
    reason: str | None = None,
    stop_at_failure: bool = True,
    per_second_max: float | None = None,
) -> str:
    """Leave a plan to the running consumers of its group, which run it with their own handlers; returns the run's id.

    Side effects: rows of evkit.redrive_run and evkit.redrive_letter, one row in the audit table whose result comes at the
    end. A consumer that runs (`Consumer.run`) takes it up within two seconds; `run` tells how far it is.

    Raises:
        UsageError: the rate is none.
        DatabaseUnreachable, NotMigrated.
    """
    with system.writing("evkit redrive", autocommit=True) as connection:
        return begin(
            connection, plan, "consumers", reason=reason, stop_at_failure=stop_at_failure, per_second_max=per_second_max
        )


def resume(
    system: System,
    redrive_id: str,
    consumer: Consumer | None = None,
    *,
    failed_too: bool = False,
    reason: str | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> RedriveResult | None:
    """Go on with a redrive that was stopped, cancelled or killed; what is settled stays so, the stages begin anew.

    Args:
        consumer    whose handlers to run in this process; None: leave it to the running consumers, and return None
        failed_too  also the letters that failed in it before

    Raises:
        UnknownRedrive.
        RedriveRefused: it is done, another process has it in hand, or the consumer does not fit; nothing was changed.
        DatabaseUnreachable.
    """
    with system.writing("evkit redrive", autocommit=True) as connection:
        postgres.require_migrated(connection)
        found = read_run(connection, redrive_id)
        if consumer is not None:
            require_group_of(found.consumer_group, consumer)
        if found.to_topic is not None:
            raise RedriveRefused(
                f"{redrive_id} sends letters to topic '{found.to_topic}' and is not gone on with: redrive those that are "
                "still open anew"
            )
        if not redrive_run.lock(connection, redrive_id):
            raise RedriveRefused(f"{redrive_id} is in another process's hands: it is running")
        try:
            found = read_run(connection, redrive_id)
            left = found.not_tried or found.tails_left or (failed_too and found.failed)
            if not left and found.state != "interrupted":
                raise RedriveRefused(f"{redrive_id} is {found.state}, nothing of it is left to run")
            if consumer is not None:
                redrive_run.require_handlers(connection, redrive_id, consumer.inbox(system, replay_id=redrive_id))
            run_by = "consumers" if consumer is None else "process"
            with connection.transaction():
                if failed_too:
                    connection.execute(_SQL["try_failed_again"], {"redrive_id": redrive_id})
                act = audit.begin(
                    connection, "dead_letters.redrive.resume", found.consumer_group,
                    {"redrive_id": redrive_id, "was": found.state, "left": found.not_tried, "by": run_by}, reason,
                )  # fmt: skip
                state = "queued" if consumer is None else "planned"
                values = {"redrive_id": redrive_id, "state": state, "run_by": run_by, "audit_id": act}
                connection.execute(_SQL["go_on"], values)
            if consumer is None:
                return None
            return _executed(system, connection, redrive_id, consumer, progress, stop)
        finally:
            if not connection.closed:
                redrive_run.unlock(connection, redrive_id)


def cancel(system: System, redrive_id: str, *, reason: str | None = None) -> Run:
    """End a redrive between two of its transactions; letters that it has not tried stay open. Returns it as it is then.

    Side effects: its state or, while a process has it in hand, its wish to end; one row in the audit table.

    Raises:
        UnknownRedrive; RedriveRefused: it has ended. DatabaseUnreachable, NotMigrated.
    """
    with system.writing("evkit redrive", autocommit=True) as connection:
        postgres.require_migrated(connection)
        found = read_run(connection, redrive_id)
        if found.state in ("done", "cancelled"):
            raise RedriveRefused(f"{redrive_id} is {found.state}: there is nothing to cancel")
        free = redrive_run.lock(connection, redrive_id)
        try:
            with connection.transaction():
                plan = {"redrive_id": redrive_id, "was": found.state, "left": found.not_tried}
                act = audit.begin(connection, "dead_letters.redrive.cancel", found.consumer_group, plan, reason)
                connection.execute(_SQL["cancel"], {"redrive_id": redrive_id, "at_once": free})
                audit.end(connection, act, {"at_once": free})
            return read_run(connection, redrive_id)
        finally:
            if free:
                redrive_run.unlock(connection, redrive_id)


def runs(system: System, group: str | None = None, *, runs_max: int = 50) -> list[Run]:
    """Redrives with their states and counts, the newest first. Changes nothing.

    Raises:
        UnknownGroup: evkit's tables do not know the group; near matches are in `suggestions`.
    """
    with system.reading() as connection:
        if group is not None:
            require_group(connection, group)
        return redrive_run.read_runs(connection, group=group, runs_max=runs_max)


def run(system: System, redrive_id: str) -> Run:
    """One redrive as it is now. Changes nothing.

    Raises:
        UnknownRedrive.
    """
    with system.reading() as connection:
        return read_run(connection, redrive_id)


def result(system: System, redrive_id: str) -> RedriveResult:
    """How far a redrive has come, letter by letter. Changes nothing.

    Raises:
        UnknownRedrive.
    """
    with system.reading() as connection:
        return read_result(connection, redrive_id)


def run_letters(system: System, redrive_id: str) -> list[dict[str, Any]]:
    """What became of each letter of a redrive, in its order. Changes nothing.

    The keys: letter_id; state (waiting, resolved, released: only what was behind it, sent, failed, skipped); released,
    how many events behind it were handled; failed_behind, the letter of the one that was not; why it was skipped;
    error_class and error_message of its last failure, as the letter has them now and masking policies let them be seen;
    tail_left, whether it is through and what waits behind it is still to run.

    Raises:
        UnknownRedrive.
    """
    with system.reading() as connection:
        read_run(connection, redrive_id)
        cursor = connection.cursor(row_factory=dict_row)
        found = cursor.execute(_SQL["run_letters"], {"redrive_id": redrive_id}).fetchall()
    for row in found:
        of = row.pop("topic"), row.pop("event_type")
        row["error_message"] = message_of(row["error_message"], system.settings.masking, *of)
    return found


# --- what these are made of -------------------------------------------------------------------------------------------


def begin(
    connection: postgres.Connection,
    plan: RedrivePlan,
    run_by: Literal["process", "consumers", "topic"],
    *,
    reason: str | None,
    stop_at_failure: bool,
    per_second_max: float | None,
    to_topic: str | None = None,
) -> str:
    """Write a plan down, with its audit row, in one transaction; returns the run's id."""
    if per_second_max is not None and not 0 < per_second_max < math.inf:
        raise UsageError(f"a rate is a number of letters per second above 0, not {per_second_max:g}")
    postgres.require_migrated(connection)
    redrive_id = f"redrive-{new_id()}"
    # What waits behind letters that nobody wants handled any more comes first.
    ids = dict.fromkeys(plan.ids)
    behind = [key.letter_id for key in plan.keys if key.letter_id not in ids]
    more = {} if to_topic is None else {"to_topic": to_topic}
    with connection.transaction():
        act = audit.begin(
            connection, "dead_letters.redrive", plan.group, plan.summary() | {"by": run_by} | more, reason
        )
        connection.execute(
            _SQL["add_run"],
            {
                "redrive_id": redrive_id,
                "group": plan.group,
                "state": "queued" if run_by == "consumers" else "planned",
                "run_by": run_by,
                "to_topic": to_topic,
                "stop_at_failure": stop_at_failure,
                "per_second_max": per_second_max,
                "fingerprints": sorted({letter.fingerprint for letter in plan.letters}),
                "actor": audit.actor(),
                "reason": reason,
                "audit_id": act,
            },
        )
        connection.execute(
            _SQL["add_letters"],
            {
                "redrive_id": redrive_id,
                "letter_ids": postgres.integer_array([*behind, *ids]),
                "states": postgres.text_array(["tail"] * len(behind) + ["waiting"] * len(ids)),
            },
        )
    return redrive_id


def _executed(
    system: System,
    connection: postgres.Connection,
    redrive_id: str,
    consumer: Consumer,
    progress: Progress | None,
    stop: threading.Event | None,
) -> RedriveResult:
    inbox = consumer.inbox(system, replay_id=redrive_id)
    with postgres.translated_errors(system.settings.postgres_dsn):
        run = read_run(connection, redrive_id)
        another = partial(system.writing, "evkit redrive", autocommit=True)
        Execution(connection, run, inbox, stop=stop, progress=progress, another=another).execute()
        return end_act(connection, redrive_id)


def require_group_of(group: str, consumer: Consumer) -> None:
    """Raise RedriveRefused unless the consumer is of the group that failed."""
    if consumer.group != group:
        raise RedriveRefused(
            f"the letters are of group '{group}', the given consumer is of '{consumer.group}': a redrive runs the "
            "handlers of the group that failed"
        )


def _require_handlers(plan: RedrivePlan, consumer: Consumer) -> None:
    types: dict[str, list[int]] = {}
    for letter in plan.letters:
        types.setdefault(letter.event_type, []).append(letter.letter_id)
    for event_type, ids in sorted(types.items()):
        redrive_run.require_handler(consumer.handlers, consumer.group, event_type, len(ids), min(ids))
