"""plan of a replay → sentences: what somebody should know before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evkit import postgres
from evkit.kafka_admin import TopicFacts
from evkit.sql import named

if TYPE_CHECKING:
    from evkit.runtime.replay_plan import ReplayPlan

_SQL = named("replay_plan")
_REPLAY = named("replay")


def of(
    connection: postgres.Connection, plan: ReplayPlan, facts: dict[str, TopicFacts], dead_seconds: float
) -> tuple[str, ...]:
    """The notes of a plan; none where there is nothing to say."""
    return (
        *_of_letters(plan),
        *_of_order(plan),
        *_of_the_group_itself(connection, plan, dead_seconds),
        *_of_the_topic(plan, facts),
    )


def _of_letters(plan: ReplayPlan) -> list[str]:
    found, again = plan.contents, plan.dedupe == "again"
    notes = []
    if found.letters:
        became = (
            "they are handled again, and their letters stay open"
            if again
            else "they are left to `evkit dlq redrive`"
            if plan.dedupe == "honour"
            else "a dry replay tries them"
        )
        notes.append(f"{found.letters:,} of the events are open dead letters of the group: {became}")
    if found.put_away and plan.dedupe == "honour":
        notes.append(
            f"{found.put_away:,} are dead letters that were archived, purged or resolved by hand: they are left alone"
        )
    if found.parked:
        became = "handled again, before what they wait for" if again else "they go on waiting"
        if plan.dedupe == "dry":
            became = "a dry replay tries them"
        notes.append(f"{found.parked:,} wait behind a dead letter of their key (`evkit dlq parked`): {became}")
    if found.parked_keys and plan.dedupe == "honour":
        notes.append(
            f"{found.parked_keys:,} of the keys are parked behind a dead letter: what is missing of them is parked too, in "
            "its order, and not handled before the letter is redriven or put away"
        )
    return notes


def _of_order(plan: ReplayPlan) -> list[str]:
    if plan.dedupe == "honour" and plan.contents.late_keys:
        return [
            f"on {plan.contents.late_keys:,} keys an event is missing that is older than one the group has handled: it is "
            "handled late, and only a handler that asks tx.stale (Consumer(version=...)) knows"
        ]
    if plan.dedupe == "again":
        return [
            "what is handled again is older than what the group has handled since, and a live consumer may be at the same "
            "key at the same moment: --mode paused keeps it away. A key whose event fails is not held: its later events "
            "are handled"
        ]
    return []


def _of_the_group_itself(connection: postgres.Connection, plan: ReplayPlan, dead_seconds: float) -> list[str]:
    notes = []
    if ahead := sum(r.ahead for r in plan.ranges):
        notes.append(
            f"{ahead:,} offsets of the stretch are later than what the group has committed: they are its lag and not a "
            "gap, and are left to its consumers"
        )
    held = [row[0] for row in connection.execute(_SQL["held_handlers"], {"group": plan.group}).fetchall()]
    if held:
        notes.append(
            f"the group's consumers hold {', '.join(held)} at this moment, because their events all fail "
            "(`evkit breaker list`): a replay holds nothing, and ends at its error budget"
        )
    rows = connection.execute(_REPLAY["interrupted"], {"group": plan.group, "dead_seconds": dead_seconds}).fetchall()
    notes += [
        f"replay {replay_id} of this group is not done: `evkit replay resume {replay_id}` goes on with it"
        for replay_id, *_ in rows
    ]
    return notes


def _of_the_topic(plan: ReplayPlan, facts: dict[str, TopicFacts]) -> list[str]:
    notes = []
    if compacted := [t for t in plan.topics if facts[t].compacted]:
        notes.append(
            f"{', '.join(compacted)} is compacted: of each key only the last record is certain to be there, and events "
            "that were compacted away cannot be replayed"
        )
    by_producer = [t for t in plan.topics if facts[t].timestamp_type == "create"]
    if by_producer or plan.contents.by_producer:
        notes.append(
            f"the times of {', '.join(by_producer) or 'some records'} are the producers' (CreateTime), not the broker's: "
            "records come in another order than their times, so every record is asked for its own"
        )
    if plan.counted:
        empty = plan.offsets - plan.contents.records - plan.contents.filtered
        if empty:
            notes.append(
                f"{empty:,} of the {plan.offsets:,} offsets have no record (transaction markers, aborted transactions, "
                "compaction): offsets are not events"
            )
    else:
        notes.append(
            f"{plan.offsets:,} offsets are too many to read for a plan, so nothing is counted but what the inbox knows of "
            "these places: offsets are not events (transaction markers, compaction), and --scan-max reads more"
        )
    if cut := [r for r in plan.ranges if r.cut]:
        known = sum(r.gone or 0 for r in cut)
        notes.append(
            f"retention has taken what came before the oldest record that is left in {len(cut)} of {len(plan.ranges)} "
            "partitions"
            + (f", of this time {known:,} events by evkit's outbox" if known else "")
            + ": what is gone cannot be replayed"
        )
    if plan.contents.undecodable:
        notes.append(
            f"{plan.contents.undecodable:,} records are no events that can be read"
            + ("" if plan.dedupe == "dry" else ": those that the inbox does not know become dead letters")
        )
    return notes
