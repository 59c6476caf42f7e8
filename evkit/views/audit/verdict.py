"""Facts about one event → what became of it, in a word and a sentence. Pure: no frame, no connection.

An event has one verdict of its own (did it come to its topic, once and in order?) and one for each group that reads the
topic. Where several are true the one that does most harm is said, and the sentence has the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from evkit.views.columns.audit import AUDIT_VERDICTS

# In order of the harm they do, the worst first; the last three are no findings.
VERDICTS = AUDIT_VERDICTS
HARMLESS = ("skipped", "pending", "ok")
LOST = ("not_published", "missing", "lost_to_retention", "skipped_by_reset", "not_consumed")

# Where the record is that the broker has confirmed. log: at its place. below, above: before the start of the log, or after
# the end that was frozen. absent: its place is in the log, and has no such record. gone: the topic does not have such a
# partition. unread: the topic may not be read, or its place is not known.
Where = Literal["log", "below", "above", "absent", "gone", "unread"]
Place = tuple[int, int]  # partition, offset


@dataclass(frozen=True, slots=True)
class EventFacts:
    """What is known of an event before any group.

    Attributes:
        position          of its outbox row
        age_seconds       since the row was written
        settle_seconds    how long an event may be on its way before it counts as lost
        settled_position  what the relay says it is done with, asked before all else; None: no relay of evkit's publishes
        unpublishable     parked, held, retry or skipped; None for an event that the broker took, or was not asked to
        blocked_by        of a held one: position of the parked one
        error             of a parked one
        marked            where the broker confirmed it, (-1, …) where that was not found; None: it did not
        where             what is at that place
        copies            where records with its id are in the log
        handled_by        a group whose inbox has it; None: none has
        compacted         the topic keeps only the last record of each key
        overtaken         in the log: (position, offset) of an earlier event of its key that comes after it
    """

    position: int
    age_seconds: float
    settle_seconds: float
    settled_position: int | None = None
    unpublishable: str | None = None
    blocked_by: int | None = None
    error: str | None = None
    marked: Place | None = None
    where: Where | None = None
    copies: tuple[Place, ...] = ()
    handled_by: str | None = None
    compacted: bool = False
    overtaken: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What is known of an event that came to its topic, and of one group that reads it.

    Attributes:
        place             where the group reads it, as far as that is known
        where             what is there
        start_offset      first offset that its partition still has
        committed_offset  next offset that the group will read there, asked before the inbox; None: it never committed
        age_seconds       since it was published, or else written
        settle_seconds    how long an event may be on its way before it counts as lost
        outcome           of its inbox row: handled, dead, skipped or parked; None: the inbox does not have it
        handled_n         how often the inbox says that it was handled, replays included
        wanted_n          how many of them somebody asked for: replays that handle again
        ran_again         failed attempts that began after it was handled
        letter            its dead letter, as (number, state)
        elsewise          under what other id the group has dealt with its record, and how: (id, outcome)
        overtaken         (position, when handled) of an earlier event of its key that was handled after it
        handled_at        when it was handled
        compacted         the topic keeps only the last record of each key
        jump              (from, to, when, how it is known) of the group's passing over it and all records around it
    """

    place: Place | None
    where: Where
    age_seconds: float
    settle_seconds: float
    start_offset: int | None = None
    committed_offset: int | None = None
    outcome: str | None = None
    handled_n: int = 0
    wanted_n: int = 0
    ran_again: int = 0
    letter: tuple[int, str] | None = None
    elsewise: tuple[str, str] | None = None
    overtaken: tuple[int, datetime] | None = None
    handled_at: datetime | None = None
    compacted: bool = False
    jump: tuple[int, int, datetime | None, str] | None = None


Found = tuple[str, str]  # verdict, evidence


def of_event(facts: EventFacts) -> Found:
    """What became of an event on its way to its topic."""
    if facts.unpublishable == "skipped":
        return "skipped", "somebody decided that it is not published (`evkit outbox skip`)"
    if facts.unpublishable is not None:
        return "unpublishable", _unpublishable(facts)
    if facts.marked is None and not facts.copies:
        return _unpublished(facts)
    found: list[Found] = []
    places = set(facts.copies)
    if facts.marked is not None and facts.where == "below":
        places.add(facts.marked)
    if facts.where == "absent" and not facts.copies and not facts.compacted:
        found.append(("missing", f"the broker confirmed it at {_at(facts.marked)}, and the log does not have it there"))
    if facts.overtaken is not None:
        position, offset = facts.overtaken
        found.append(("out_of_order", f"it stands before offset {offset}, where position {position}, an earlier event of "
                      "its key, is"))  # fmt: skip
    if len(places) > 1:
        listed = ", ".join(_at(place) for place in sorted(places)[:5])
        more = f" and {len(places) - 5} more" if len(places) > 5 else ""
        found.append(("published_twice", f"{len(places)} records have its id: at {listed}{more}"))
    return _worst(found) or ("ok", _where_it_is(facts))


def of_group(facts: GroupFacts) -> Found:
    """What a group has made of an event that came to its topic."""
    if facts.outcome == "handled" or facts.handled_n:
        return _handled(facts)
    if facts.outcome == "dead" or (facts.outcome is None and facts.letter is not None):
        return "dead", _letter(facts)
    if facts.outcome == "parked":
        return "parked", "it waits behind a dead letter of its key (`evkit dlq parked`)"
    if facts.outcome == "skipped":
        return "skipped", "the group has no handler for it"
    if facts.elsewise is not None:
        event_id, outcome = facts.elsewise
        verdict = {"dead": "dead", "parked": "parked", "skipped": "skipped"}.get(outcome, "ok")
        return verdict, f"its record was dealt with under the id '{event_id:.80}': {outcome}"
    return _unhandled(facts)


def _unpublished(facts: EventFacts) -> Found:
    if facts.handled_by is not None:
        return "ok", f"not marked as published, but group '{facts.handled_by}' has dealt with it"
    old = f"written {_seconds(facts.age_seconds)} ago"
    if facts.settled_position is None:
        if facts.age_seconds < facts.settle_seconds:
            return "pending", f"{old}, no record in the topic yet"
        return (
            "not_published",
            f"{old}, no relay of evkit's has ever published here, and no record in the topic has its id",
        )
    if facts.position <= facts.settled_position:
        return "not_published", (
            f"{old}, the relay is done with everything up to position {facts.settled_position}, and neither a mark nor a "
            "record in the topic says that it was published"
        )
    return "pending", f"{old}, it waits for the relay, which is done up to position {facts.settled_position}"


def _unpublishable(facts: EventFacts) -> str:
    if facts.unpublishable == "held":
        return f"it waits behind position {facts.blocked_by}, an earlier event of its key that could not be published"
    why = f": {facts.error:.200}" if facts.error else ""
    tried = "; somebody asked for another try" if facts.unpublishable == "retry" else ""
    return f"the broker did not take it{why}{tried}"


def _where_it_is(facts: EventFacts) -> str:
    if facts.marked is None:
        return f"in the topic at {_at(facts.copies[0])}, and not marked as published"
    if facts.marked[0] < 0:
        return f"in the topic at {_at(facts.copies[0])}" if facts.copies else "published; its place was not found"
    said = {
        "below": "no longer in the topic: the log starts after it",
        "above": "appended after the audit began",
        "gone": "the topic is not there any more, or we may not see it",
        "unread": "the topic was not read",
        "absent": "compacted away" if not facts.copies else f"in the topic at {_at(facts.copies[0])} instead",
    }.get(facts.where or "log", "in the topic, once")
    return f"published at {_at(facts.marked)}; {said}"


def _handled(facts: GroupFacts) -> Found:
    found: list[Found] = []
    if facts.handled_n - facts.wanted_n > 1:
        found.append(("processed_twice", f"the inbox has it as handled {facts.handled_n} times, and replays that were to "
                      f"handle it again account for {facts.wanted_n}"))  # fmt: skip
    if facts.ran_again:
        found.append(("processed_twice", f"its handler was called {facts.ran_again} more times after it was handled, and "
                      "failed: what it does outside PostgreSQL may have happened again"))  # fmt: skip
    if facts.overtaken is not None:
        position, at = facts.overtaken
        before = f" at {facts.handled_at:%H:%M:%S.%f}" if facts.handled_at else ""
        found.append(("out_of_order", f"handled{before}, before position {position}, an earlier event of its key, which "
                      f"was handled at {at:%H:%M:%S.%f}"))  # fmt: skip
    return _worst(found) or ("ok", "handled")


def _letter(facts: GroupFacts) -> str:
    if facts.letter is None:
        return "the inbox says that it died; its letter is gone"
    number, state = facts.letter
    return f"dead letter {number}, {state} (`evkit dlq show {number}`)"


def _unhandled(facts: GroupFacts) -> Found:
    passed = facts.place is not None and facts.committed_offset is not None and facts.place[1] < facts.committed_offset
    at = _at(facts.place)
    if facts.where == "below":
        gone = f"retention took {at} (the log starts at {facts.start_offset}) before the group handled it"
        return "lost_to_retention", f"{gone}; it {_stands(facts)}"
    if facts.where in ("absent", "gone"):
        if facts.compacted:
            return "lost_to_retention", f"compaction took the record at {at} before the group handled it"
        what = (
            "there is no such record any more"
            if facts.where == "absent"
            else "the topic is not there any more, or we may not see it"
        )
        return "missing", f"the group has not handled {at}, and {what}"
    if facts.place is None:
        return "pending", "where its record is was not found"
    if not passed:
        return "pending", f"{at} is still in front of the group, which {_stands(facts)}"
    if facts.age_seconds < facts.settle_seconds:
        return "pending", f"published {_seconds(facts.age_seconds)} ago"
    if facts.jump is not None:
        first, until, when, known_by = facts.jump
        on = f" at {when:%Y-%m-%d %H:%M:%S}" if when else ""
        return "skipped_by_reset", (
            f"the group went from offset {first} to {until} of partition {facts.place[0]}{on} and handled nothing between "
            f"({known_by}); the record is still there"
        )
    return "not_consumed", f"the group {_stands(facts)}, past {at}, and its inbox does not have the event"


def _stands(facts: GroupFacts) -> str:
    return "never committed there" if facts.committed_offset is None else f"stands at offset {facts.committed_offset}"


def _worst(found: list[Found]) -> Found | None:
    if not found:
        return None
    ordered = sorted(found, key=lambda one: VERDICTS.index(one[0]))
    return ordered[0][0], "; ".join(evidence for _, evidence in ordered)


def _at(place: Place | None) -> str:
    return "an unknown place" if place is None or place[0] < 0 else f"partition {place[0]} offset {place[1]}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
