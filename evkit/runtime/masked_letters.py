"""letters → letters as policies let them be seen (`evkit.masking`): what is printed or written to a file.

Hidden are fields and headers that policies name, in the record, in differences and in what errors say
(`evkit.error_texts`). Redrives, edits and imports take the letters themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from evkit.error_texts import quoted
from evkit.foreign import ForeignLetter
from evkit.masking import (
    MASK,
    MASKED,
    Policy,
    applying,
    hidden_headers,
    masked_at,
    masked_headers,
    masked_text,
    masked_value,
)
from evkit.runtime.letters import FullLetter
from evkit.runtime.payload import Change


def as_seen(letter: FullLetter, policies: Iterable[Policy]) -> tuple[FullLetter, str | None]:
    """A letter as it may be seen, and whether its value is `masked` or `withheld`; itself and None: no policy applies."""
    under = applying(policies, letter.topic, letter.event_type or None)
    if not under:
        return letter, None
    hidden = hidden_headers(letter.headers, under)
    value, state = masked_value(letter.raw_value, under, hidden)
    headers = masked_headers(letter.headers, under)
    # An edited letter has the error of the payload before the edit.
    said = quoted(letter.raw_value, letter.headers, under, is_own=letter.edited_from is None)
    seen = replace(
        letter,
        raw_value=value,
        header_names=[name for name, _ in headers],
        header_values=[content for _, content in headers],
        error_message=said.message(letter.error_message) or "",
        stack_trace=said.stack(letter.stack_trace) or "",
        attempts=[
            _without(attempt, hidden) | {"error_message": said.message(attempt["error_message"])}
            for attempt in letter.attempts
        ],
        source_facts=_without(said.facts(letter.source_facts), hidden),
        edit=_edit_as_seen(letter.edit, hidden),
    )
    return seen, state or MASKED


def foreign_as_seen(letter: ForeignLetter, policies: Sequence[Policy]) -> ForeignLetter:
    """The same of a record in another framework's dead-letter topic.

    Its event type is not known, so it is under every policy of the topic that it was in, and of the one that it is in now;
    where the former is not told, under all.
    """
    original = policies if letter.topic is None else applying(policies, letter.topic, None)
    under = tuple(dict.fromkeys((*original, *applying(policies, letter.found.topic, None))))
    if not under:
        return letter
    hidden = hidden_headers(letter.headers, under)
    value, _ = masked_value(letter.found.value, under, hidden)
    said = quoted(letter.found.value, letter.headers, under)
    found = letter.found._replace(value=value, headers=masked_headers(letter.found.headers, under))
    return replace(
        letter,
        found=found,
        headers=masked_headers(letter.headers, under),
        error_message=said.message(letter.error_message),
        stack_trace=said.stack(letter.stack_trace),
        root_cause=said.titled(letter.root_cause),
        facts=_without(said.facts(letter.facts), hidden),
        problems=tuple(_without(list(letter.problems), hidden)),
        known_fingerprint=letter.fingerprint,
    )


def changes_as_seen(changes: Iterable[Change], policies: Sequence[Policy]) -> tuple[Change, ...]:
    """Differences of payloads: that a hidden value is another one is told, not what it was or is."""
    return tuple(
        change
        if not (change.steps or change.path == "")
        else replace(
            change,
            before=masked_at(change.before, change.steps, policies) if change.kind != "added" else None,
            after=masked_at(change.after, change.steps, policies) if change.kind != "removed" else None,
        )
        for change in changes
    )


def _without(found: Any, hidden: Sequence[str]) -> Any:
    """Facts of any form, their texts without what is hidden."""
    if isinstance(found, str):
        return masked_text(found, hidden)
    if isinstance(found, dict):
        return {name: _without(value, hidden) for name, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_without(value, hidden) for value in found]
    return MASK if isinstance(found, (int, float)) and not isinstance(found, bool) and str(found) in hidden else found


def rows_as_seen(rows: Iterable[dict[str, Any]], hidden: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of any table, without what was hidden of a payload that they may have been made of."""
    return [_without(row, hidden) for row in rows]


def _edit_as_seen(edit: dict[str, Any] | None, hidden: Sequence[str]) -> dict[str, Any] | None:
    if edit is None:
        return None
    # Only paths are kept of an edit, and no payload to look at: every value may be one that is hidden.
    changes = [
        change | {side: MASK for side in ("before", "after") if change.get(side) is not None}
        for change in edit.get("difference") or ()
    ]
    return _without(edit | {"difference": changes}, hidden)  # type: ignore[no-any-return]
