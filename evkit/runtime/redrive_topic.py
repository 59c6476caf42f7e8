"""dead letter → outbox: send it to a topic by name, as a new event that is for the failing group alone.

For a group whose handlers cannot be run from here. An id is used once, and the group has marked the old one as dead: what
is sent is a new event with an id of its own, `causation_id` says which one it stands for, and header `evkit-target-group`
makes evkit's consumers of other groups skip it. Whoever else reads the topic handles it: no topic is chosen for you.

The outbox row, the letter's state (open → resolved), the old event's inbox row (dead → skipped) and the letter's place in
the run are one transaction, some hundred letters at once: killed at any point, a letter was sent or it is open, and a new
plan takes those that are. A letter that other events wait behind is left out: they could only go first.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from evkit import decoding, kafka, postgres
from evkit.errors import InvalidEvent, Undecodable
from evkit.event import REPLAY_ID, TARGET_GROUP, Event, new_id
from evkit.runtime import outbox, redrive_run
from evkit.runtime.handler import Handlers
from evkit.runtime.letter_record import delivery_of
from evkit.runtime.ramp import BATCH_LETTERS_MAX
from evkit.runtime.redrive import begin
from evkit.runtime.redrive_plan import RedrivePlan
from evkit.runtime.redrive_run import Progress, RedriveResult, Run, end_act, read_run
from evkit.sql import named
from evkit.system import System

_SQL = named("redrive")
_LETTERS = named("dead_letters")

_TAIL = "events of its key wait behind it, which would be handled first: redrive it by the group's handlers"


def send(
    system: System,
    plan: RedrivePlan,
    topic: str,
    *,
    reason: str | None = None,
    per_second_max: float | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> RedriveResult:
    """Write a plan's letters into the outbox as new events of `topic`, for their group; the relay publishes them.

    Side effects: see the module; one row in the audit table. A letter that is no event, or whose payload its type no longer
    takes, stays open and is `skipped`. No stages: no handler runs here, and what fails there is a letter of the new event.

    Raises:
        UnknownTopic: the cluster has no topic of this name. UsageError: the rate is none.
        BrokerUnreachable, DatabaseUnreachable, NotMigrated.
    """
    kafka.partitions_of(system.settings, [topic])
    stop = stop or threading.Event()
    with system.writing("evkit redrive", autocommit=True) as connection:
        redrive_id = begin(
            connection, plan, "topic",
            reason=reason, stop_at_failure=False, per_second_max=per_second_max, to_topic=topic,
        )  # fmt: skip
        of = {"redrive_id": redrive_id}
        redrive_run.lock(connection, redrive_id)
        with postgres.translated_errors(system.settings.postgres_dsn):
            run = read_run(connection, redrive_id)
            connection.execute(_SQL["start"], of)
            state, why, settled = "done", None, 0
            most = BATCH_LETTERS_MAX if not per_second_max else max(1, min(BATCH_LETTERS_MAX, int(per_second_max)))
            while settled < len(plan.ids):
                row = connection.execute(_SQL["is_cancelled"], of).fetchone()
                if stop.is_set() or row is None or row[0]:
                    state, why = ("stopped", "told to stop") if stop.is_set() else ("cancelled", "cancelled by hand")
                    break
                started = time.monotonic()
                # Those behind letters that nobody wants handled come first in a run; a plan to redrive has none.
                positions = range(1 + run.letters - len(plan.ids) + settled, 1 + run.letters)[:most]
                _batch(connection, run, list(positions))
                settled += len(positions)
                if progress is not None:
                    progress(settled, len(plan.ids))
                if per_second_max and settled < len(plan.ids):
                    stop.wait(max(0.0, len(positions) / per_second_max - (time.monotonic() - started)))
            connection.execute(_SQL["end"], of | {"state": state, "why": why})
            return end_act(connection, redrive_id)


def _batch(connection: postgres.Connection, run: Run, positions: list[int]) -> None:
    """Send these letters, in one transaction; those that cannot be sent are settled with the reason."""
    of = {"redrive_id": run.redrive_id}
    nobody = Handlers()
    with connection.transaction():
        rows = connection.execute(
            _SQL["lock_letters"], of | {"positions": positions, "group": run.consumer_group}
        ).fetchall()
        parks = [row[1] for row in rows if row[-1]]
        free: set[int] = set()
        if parks:
            keys = connection.execute(_SQL["lock_keys"], {"letter_ids": parks}).fetchall()
            free = {letter_id for letter_id, events in keys if not events}
        why_not = dict.fromkeys(positions, "it is not open meanwhile, or another redrive has it in hand")
        sent: list[int] = []
        letter_ids: list[int] = []
        for position, letter_id, event_id, generation, _, *rest, has_key in rows:
            if has_key and letter_id not in free:
                why_not[position] = _TAIL
                continue
            whose = {"group": run.consumer_group, "event_id": event_id, "generation": generation}
            outcome = connection.execute(_LETTERS["inbox_outcome"], whose).fetchone()
            if outcome is not None and outcome[0] == "handled":
                why_not[position] = "its event was handled meanwhile: a redrive by the group's handlers resolves it"
                continue
            try:
                old = decoding.decode(delivery_of(event_id, rest, nobody).record)
                outbox.write(connection, _anew(old, event_id, run))
            except (Undecodable, InvalidEvent) as problem:
                why_not[position] = f"it cannot be sent: {problem}"
                continue
            sent.append(position)
            letter_ids.append(letter_id)
            connection.execute(_LETTERS["settle_edited"], whose)
        if sent:
            connection.execute(
                _SQL["resolve"],
                of
                | {
                    "letter_ids": letter_ids,
                    "free_ids": [i for i in letter_ids if i in free],
                    "positions": sent,
                    "state": "sent",
                },
            )
        for position in positions:
            if position not in sent:
                connection.execute(
                    _SQL["settle"], of | {"position": position, "state": "skipped", "why": why_not[position]}
                )


def _anew(old: Event, event_id: str, run: Run) -> Event:
    """The event that stands for the old one."""
    marks = {TARGET_GROUP: run.consumer_group, REPLAY_ID: run.redrive_id}
    return replace(
        old,
        id=new_id(),
        topic=run.to_topic,
        headers={**old.headers, **marks},
        causation_id=event_id,
        correlation_id=old.correlation_id or event_id,
        created_at=None,
        due_at=None,
    )
