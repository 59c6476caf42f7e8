"""selection → plan: freeze which letters a redrive runs, in which order, and which parked keys go on behind them.

Changes nothing. What dies later is in no plan that was made before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from evkit.errors import RedriveRefused
from evkit.letter_states import OPEN
from evkit.runtime.letters import DeadLetter, Selection, ids_of, letters, show
from evkit.runtime.release import ParkedKey, parked_keys
from evkit.system import System


@dataclass(frozen=True, slots=True)
class RedrivePlan:
    """A frozen selection of one group's open letters, in the order in which they will run.

    Attributes:
        keys  parked keys whose events wait behind these letters, or (`plan_release`) behind one that nobody wants handled
              any more; when the last open letter of a key is through, they run in their order
        held  letters that match and are on hold: they are left out, and what waits behind them goes on waiting
    """

    group: str
    letters: tuple[DeadLetter, ...]
    keys: tuple[ParkedKey, ...] = ()
    held: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(letter.letter_id for letter in self.letters)

    def summary(self) -> dict[str, Any]:
        """What the plan is about, for people and for the audit row."""
        by_fingerprint: dict[str, int] = {}
        for letter in self.letters:
            by_fingerprint[letter.fingerprint] = by_fingerprint.get(letter.fingerprint, 0) + 1
        return {
            "group": self.group,
            "letters": len(self.letters),
            "keys": len({letter.key for letter in self.letters}),
            "fingerprints": by_fingerprint,
            "ids": list(self.ids),
            "parked_keys": len(self.keys),
            "parked_events": sum(key.events for key in self.keys),
            "on_hold": list(self.held),
        }


def plan_redrive(system: System, selection: Selection) -> RedrivePlan:
    """Freeze the open letters of a selection as a plan; changes nothing.

    Letters run in the order of their topic, partition and offset, so that the events of a key keep theirs. Those on hold
    are left out, and `held` says which.

    Raises:
        UnknownLetter: an id that does not exist.
        UnknownGroup: nobody knows the group.
        RedriveRefused: the letters are of several groups (each has handlers of its own), none is open, or one that is asked
            for by its id is not, or is on hold.
    """
    if selection.held or (selection.states is not None and selection.states != ("open",)):
        raise RedriveRefused(
            "only open letters that are not on hold are redriven: restore others, or take them off hold"
        )
    selection = replace(selection, states=("open",), held=False)
    found = letters(system, selection, letters_max=None)
    held = tuple(ids_of(system, replace(selection, held=True))) if selection.ids is None else ()
    if selection.ids is not None:
        missing = sorted(set(selection.ids) - {letter.letter_id for letter in found})
        if missing:
            raise RedriveRefused(_why_not(show(system, missing[0])))  # raises UnknownLetter when there is none
    if not found and held:
        raise RedriveRefused(
            f"all {len(held):,} open letters that match are on hold, the first is {held[0]}: `evkit dlq unhold` first"
        )
    if not found:
        raise RedriveRefused("no open dead letter matches: nothing to redrive")
    owners = sorted({letter.consumer_group for letter in found})
    if len(owners) > 1:
        raise RedriveRefused(
            f"the letters are of {len(owners)} groups ({', '.join(owners)}): redrive one group at a time"
        )
    found.sort(key=lambda letter: (letter.topic, letter.partition, letter.offset))
    keys = parked_keys(system, owners[0], letters=[letter.letter_id for letter in found], keys_max=None)
    return RedrivePlan(owners[0], tuple(found), tuple(keys), held)


def _why_not(letter: DeadLetter) -> str:
    """Why this letter is not in the selection that names it."""
    which = f"dead letter {letter.letter_id}"
    if letter.state not in OPEN:
        return f"{which} of group '{letter.consumer_group}' is {letter.state}, only open ones are redriven" + (
            ": restore it first" if letter.state in ("archived", "purged") else ""
        )
    if letter.held_at is not None:
        return (
            f"{which} is on hold since {letter.held_at:%Y-%m-%d %H:%M} ({letter.hold_reason}): "
            f"`evkit dlq unhold {letter.letter_id}` first"
        )
    return f"{which} of group '{letter.consumer_group}' does not match the filters that are given beside its id"


def plan_release(system: System, group: str, *, key: str | None = None, topic: str | None = None) -> RedrivePlan:
    """Freeze what it takes to let the parked keys of a group go on: their open letters, then the events behind them.

    Letters that were archived, purged or resolved do not run again: what waits behind them does. Changes nothing.

    Raises:
        UnknownGroup; RedriveRefused: no key of this group is parked, or not this one.
    """
    keys = parked_keys(system, group, key=key, topic=topic, keys_max=None)
    if not keys:
        which = "no key" if key is None else f"key '{key}'"
        of = f"group '{group}'" + ("" if topic is None else f" and topic '{topic}'")
        raise RedriveRefused(f"{which} of {of} is {'' if key is None else 'not '}parked: nothing to release")
    found: list[DeadLetter] = []
    if ids := tuple(k.letter_id for k in keys if k.letter_state == "open"):
        found = letters(system, Selection(ids=ids), letters_max=None)
    held = tuple(letter.letter_id for letter in found if letter.held_at is not None)
    keys = [k for k in keys if k.letter_id not in held]
    if not keys:
        raise RedriveRefused(
            f"the letter that is waited for is on hold ({held[0]}): `evkit dlq unhold {held[0]}` first, nothing to release"
        )
    found = [letter for letter in found if letter.held_at is None]
    found.sort(key=lambda letter: (letter.topic, letter.partition, letter.offset))
    return RedrivePlan(group, tuple(found), tuple(keys), held)
