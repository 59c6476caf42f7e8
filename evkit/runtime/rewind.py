"""committed offsets of somebody else's group → an earlier time: plan, move, and put back.

For groups that are no evkit consumers: whoever handles their events has no inbox, so the offsets are all there is to turn
back, and everything from there on is handled again. Offsets only go back; forward would pass over events. A group that has
members is refused, here and by the broker. What the offsets were is written down before they are moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from evkit import kafka, kafka_admin, postgres
from evkit.errors import BrokerRefused, ReplayRefused, UnknownGroup, UnknownRewind, UsageError
from evkit.event import new_id
from evkit.kafka import TopicPartition
from evkit.runtime import audit
from evkit.sql import named
from evkit.system import System

_SQL = named("rewind")
_INBOX = named("inbox")


@dataclass(frozen=True, slots=True)
class Move:
    """A committed offset that is moved, or left where it is.

    Attributes:
        before  what is committed now
        after   what will be; equal to `before`: it is left
        first   oldest offset that the partition has
        cut     retention has taken what was before it, and some of that may have been of the time
        note    why it is left; None: it is moved
    """

    topic: str
    partition: int
    topic_id: str | None
    before: int
    after: int
    first: int = 0
    cut: bool = False
    note: str | None = None

    @property
    def offsets(self) -> int:
        """How far back."""
        return self.before - self.after


@dataclass(frozen=True, slots=True)
class RewindPlan:
    """Where a group's committed offsets would go. `undoes` is the rewind that it takes back, or None."""

    group: str
    to_time: datetime
    moves: tuple[Move, ...]
    undoes: str | None = None

    @property
    def moved(self) -> tuple[Move, ...]:
        return tuple(m for m in self.moves if m.after != m.before)

    def summary(self) -> dict[str, Any]:
        """The plan for people and for the audit row."""
        return {
            "group": self.group,
            "to_time": self.to_time.isoformat(),
            "undoes": self.undoes,
            "partitions": len(self.moved),
            "offsets": sum(m.offsets for m in self.moved),
            "moves": [[m.topic, m.partition, m.before, m.after] for m in self.moved],
        }


def plan(
    system: System,
    group: str,
    to_time: datetime,
    *,
    topics: Sequence[str] | None = None,
    allow_missing: bool = False,
) -> RewindPlan:
    """Where the committed offsets of a group would go back to; changes nothing.

    Args:
        topics         default: all in which it has committed offsets
        allow_missing  go back to the oldest record that is left where retention has taken what was before

    Raises:
        UnknownGroup: the cluster has no such group; near matches are in `suggestions`.
        ReplayRefused: the group has members, is an evkit group, has committed nothing of these topics, retention has taken
            a part of the stretch, or no offset would go back.
        BrokerUnreachable, DatabaseUnreachable, NotMigrated.
    """
    if to_time.tzinfo is None:
        raise UsageError(f"the time {to_time.isoformat()} has no zone: say which")
    _require_idle(system, group)
    with system.reading() as connection:
        if group in {row[0] for row in connection.execute(_INBOX["known_groups"]).fetchall()}:
            raise ReplayRefused(
                f"group '{group}' is an evkit group: its inbox knows what it has handled, and would pass over all of it; "
                "`evkit replay plan` hands it a stretch of the past again"
            )
    committed = kafka_admin.committed(system.settings, group, system.admin)
    if topics is not None:
        kafka.partitions_of(system.settings, topics, system.admin)  # raises for one that does not exist
        committed = {place: at for place, at in committed.items() if place[0] in topics}
    if not committed:
        raise ReplayRefused(
            f"group '{group}' has committed no offsets"
            + (f" of {', '.join(topics)}" if topics else "")
            + ": nothing to move"
        )
    moves = _moves(system, committed, to_time)
    if not allow_missing and (cut := [m for m in moves if m.cut and m.after < m.before]):
        raise ReplayRefused(
            f"retention has taken a part of it: {cut[0].topic}/{cut[0].partition} begins at offset {cut[0].first:,}, later "
            f"than {to_time.isoformat()}, and so do {len(cut)} of {len(moves)} partitions; take a later time, or go back "
            "to what is left with --allow-missing"
        )
    found = RewindPlan(group, to_time, tuple(moves))
    if not found.moved:
        raise ReplayRefused(
            f"nothing of group '{group}' would go back: all its offsets are at {to_time.isoformat()} or before"
        )
    return found


def plan_undo(system: System, rewind_id: str) -> RewindPlan:
    """Where a rewound group's offsets would be put back to; changes nothing.

    A partition in which the group has come to its old offset, or further, since then is left.

    Raises:
        UnknownRewind: there is no rewind with this id.
        ReplayRefused: it was undone, the group has members, or a topic was made anew.
    """
    with system.reading() as connection:
        row = connection.cursor(row_factory=dict_row).execute(_SQL["one"], (rewind_id,)).fetchone()
        if row is None:
            known = [r["rewind_id"] for r in _rows(connection)]
            raise UnknownRewind(rewind_id, known)
    if row["state"] == "undone":
        raise ReplayRefused(f"{rewind_id} was undone at {row['undone_at']:%Y-%m-%d %H:%M:%S} UTC: nothing to undo")
    _require_idle(system, row["consumer_group"])
    committed = kafka_admin.committed(system.settings, row["consumer_group"], system.admin)
    ids = kafka_admin.topic_ids(system.settings, {m["topic"] for m in row["offsets"]}, system.admin)
    moves = []
    for m in row["offsets"]:
        place = (m["topic"], m["partition"])
        now = committed.get(place)
        before, note = m["before"], None
        if m["topic"] not in ids:
            note = "the topic is gone"
        elif None not in (ids[m["topic"]], m["topic_id"]) and ids[m["topic"]] != m["topic_id"]:
            note = "the topic was deleted and made anew"
        elif now is not None and now >= before:
            note = "the group has come there again"
        at = -1 if now is None else now  # -1: nobody knows it any more
        moves.append(Move(*place, m["topic_id"], before=at, after=at if note else before, note=note))
    found = RewindPlan(row["consumer_group"], row["to_time"], tuple(moves), undoes=rewind_id)
    if not found.moved:
        raise ReplayRefused(
            f"there is nothing to put back of {rewind_id}: {moves[0].note if moves else 'it moved nothing'}"
        )
    return found


def carry_out(system: System, plan: RewindPlan, *, reason: str | None = None) -> str:
    """Move the offsets of a plan; returns the id by which it can be undone (of an undo: that of what it undoes).

    Side effects: a row in evkit.rewind with the old offsets, committed before anything is moved; the group's committed
    offsets; one audit row.

    Raises:
        ReplayRefused: the group has members, its offsets are not those of the plan any more, or the broker refuses some.
    """
    _require_idle(system, plan.group)
    committed = kafka_admin.committed(system.settings, plan.group, system.admin)
    for m in plan.moved:
        now = committed.get((m.topic, m.partition), m.before)
        if now != m.before:
            raise ReplayRefused(
                f"group '{plan.group}' is at offset {now:,} of {m.topic}/{m.partition}, and the plan was made when it was "
                f"at {m.before:,}: it has consumed meanwhile; make a new plan"
            )
    rewind_id = plan.undoes or f"rewind-{new_id()}"
    with system.writing("evkit rewind", autocommit=True) as connection:
        postgres.require_migrated(connection)
        act = audit.begin(
            connection, "rewind.undo" if plan.undoes else "rewind.move", rewind_id, plan.summary(), reason
        )
        if not plan.undoes:
            offsets = [
                {
                    "topic": m.topic,
                    "partition": m.partition,
                    "topic_id": m.topic_id,
                    "before": m.before,
                    "after": m.after,
                }
                for m in plan.moved
            ]
            values = {
                "rewind_id": rewind_id, "group": plan.group, "to_time": plan.to_time, "offsets": Jsonb(offsets),
                "actor": audit.actor(), "reason": reason,
            }  # fmt: skip
            connection.execute(_SQL["insert"], values)
        refused: dict[tuple[str, int], str] = {}
        try:
            refused = kafka_admin.move_offsets(
                system.settings, plan.group, {(m.topic, m.partition): m.after for m in plan.moved}, system.admin
            )
        except BrokerRefused as error:
            refused = {(m.topic, m.partition): str(error) for m in plan.moved}
        moved = len(plan.moved) - len(refused)
        if moved:
            connection.execute(_SQL["undone" if plan.undoes else "done"], (rewind_id,))
        audit.end(connection, act, {"moved": moved, "refused": {f"{t}/{p}": why for (t, p), why in refused.items()}})
    if refused:
        (topic, partition), why = next(iter(refused.items()))
        raise ReplayRefused(
            f"the broker refused {len(refused)} of {len(plan.moved)} offsets of group '{plan.group}', the first is "
            f"{topic}/{partition}: {why}"
            + (f"; the others were moved, `--undo {rewind_id}` puts them back" if moved else "")
        )
    return rewind_id


def rewinds(system: System) -> list[dict[str, Any]]:
    """All rewinds, the newest first: the columns of evkit.rewind. Changes nothing."""
    with system.reading() as connection:
        return _rows(connection)


def _rows(connection: postgres.Connection) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(_SQL["all"]).fetchall()


def _require_idle(system: System, group: str) -> None:
    state, members = kafka_admin.members(system.settings, group, system.admin)
    if state == "dead":
        known = kafka.groups(system.settings, system.admin)
        if group not in known:
            raise UnknownGroup(group, known, where=f"to the cluster at {system.settings.bootstrap_servers}")
    if members or state not in ("empty", "dead"):
        first = f", the first is {members[0].client_id} at {members[0].host.lstrip('/')}" if members else ""
        raise ReplayRefused(
            f"group '{group}' is alive ({state}, {len(members)} members{first}): stop its consumers before its offsets are "
            "moved, they would commit their own again"
        )


def _moves(system: System, committed: dict[tuple[str, int], int], to_time: datetime) -> list[Move]:
    settings, client = system.settings, system.admin
    ids = kafka_admin.topic_ids(settings, {topic for topic, _ in committed}, client)
    partitions = [TopicPartition(*place) for place in sorted(committed) if place[0] in ids]
    targets = kafka.offsets_at(settings, partitions, to_time, client)
    firsts = kafka.start_offsets(settings, partitions, client)
    moves = []
    for place in sorted(committed):
        before, topic_id = committed[place], ids.get(place[0])
        if place not in targets:
            moves.append(Move(*place, topic_id, before, before, note="the topic is gone"))
            continue
        target, first = targets[place], firsts[place]
        cut = 0 < first == target
        if target < 0:
            moves.append(Move(*place, topic_id, before, before, first, note="it has no record of this time or later"))
        elif target >= before:
            moves.append(Move(*place, topic_id, before, before, first, note="it is there already, or before"))
        else:
            moves.append(Move(*place, topic_id, before, target, first, cut))
    return moves
