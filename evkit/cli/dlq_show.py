"""`evkit dlq show`: the whole story of one letter on a terminal. Its texts are somebody else's: all go through `safe`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evkit.cli.output import Format, plain, print_rows, print_text, safe, shown
from evkit.masking import WITHHELD

if TYPE_CHECKING:
    from evkit.runtime.dead_letters import FullLetter, LetterStory
    from evkit.runtime.payload import Change

# Of one value in a difference, and of a payload that is text.
_VALUE_CHARACTERS_MAX = 120
_TEXT_CHARACTERS_MAX = 10_000
_CHANGES_MAX = 50


def document(story: LetterStory) -> Any:
    """The story as one JSON document: the letter's own facts at the top, what is around it beside them."""
    from evkit.runtime.payload import hexdump, text_of

    letter = story.letter
    raw = letter.raw_value
    about = plain(letter)
    about["value"] = {
        "text": text_of(raw),
        "hexdump": None if raw is None or text_of(raw) is not None else hexdump(raw),
    }
    return about | {
        "masking": story.masking,
        "problem": story.problem,
        "last_good": plain(story.good),
        "events_behind": story.behind,
        "first_behind": plain(story.first_behind),
        "next_steps": list(story.next_steps),
    }


def print_story(story: LetterStory) -> None:
    """The story as facts, payload, comparison, attempts, stack, and what to type next."""
    letter = story.letter
    for name, value in _facts(letter):
        print_text(f"{name:12} {safe(value)}")
    print_text("headers")
    for header, content in letter.headers:
        print_text(f"  {safe(header)}: {shown(content)}")
    _print_payload(story)
    _print_good(story)
    if story.behind:
        print_text(f"\n{story.behind:,} events of its key wait behind it")
        print_rows(story.first_behind, ("event_id", "event_type", "offset", "parked_at"))
    print_rows(
        letter.attempts,
        ("attempt", "failed_at", "duration_seconds", "error_class", "error_message", "disposition", "replay_id"),
        Format.table,
        title="attempts",
        empty="no attempts are kept",
    )
    print_text(letter.stack_trace)
    for step in story.next_steps:
        print_text(f"next: {step}")


def _facts(letter: FullLetter) -> list[tuple[str, str]]:
    facts = [
        ("letter", f"{letter.letter_id} ({letter.state} since {shown(letter.state_changed_at)})"),
        ("group", letter.consumer_group),
        ("event", f"{letter.event_type} {letter.event_id} (schema version {shown(letter.schema_version)})"),
        ("written", shown(letter.created_at)),
        (
            "where",
            f"{letter.topic}/{letter.partition} offset {letter.offset}, leader epoch {shown(letter.leader_epoch)}",
        ),
        ("appended", f"{shown(letter.appended_at)} ({letter.timestamp_type} time)"),
        (
            "failed",
            f"first {shown(letter.first_failed_at)}, last {shown(letter.failed_at)}, {letter.retry_count} retries",
        ),
        ("handler", f"{shown(letter.handler)}, code version {shown(letter.code_version)}"),
        ("error", f"{letter.error_class}: {letter.error_message}"),
        ("fingerprint", letter.fingerprint),
        ("note", shown(letter.note)),
        ("ticket", f"{shown(letter.ticket)}, assigned to {shown(letter.assignee)}"),
    ]
    if letter.held_at is not None:
        facts.append(("on hold", f"since {shown(letter.held_at)}: {letter.hold_reason}"))
    if letter.replaced_by is not None:
        facts.append(("edited", f"the event of letter {letter.replaced_by} took its event's place"))
    if letter.edited_from is not None:
        edit = letter.edit or {}
        facts.append(("edited from", f"letter {letter.edited_from} by {edit.get('actor')}: {edit.get('reason')}"))
    if letter.source_dialect is not None:
        where = f"{letter.source_topic}/{letter.source_partition} offset {letter.source_offset}"
        facts.append(("imported", f"from {where}, in the words of {letter.source_dialect}"))
        facts += [
            (f"  {name}", _said(value)) for name, value in (letter.source_facts or {}).items() if name != "fingerprint"
        ]
    return [*facts, ("key", shown(letter.raw_key))]


def _said(value: Any) -> str:
    """What a framework has said of a letter: text as it is, several sentences in one line."""
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _print_payload(story: LetterStory) -> None:
    from evkit.runtime.payload import hexdump, text_of

    raw = story.letter.raw_value
    if story.masking is not None:
        print_text(f"masking      {story.masking}")
    if raw is None:
        why = (
            "withheld: policies apply to it, and it is no JSON" if story.masking == WITHHELD else "the record has none"
        )
        print_text(f"value        – ({why})")
        return
    text = text_of(raw)
    print_text(f"value        {len(raw):,} bytes" + (f", unreadable: {safe(story.problem)}" if story.problem else ""))
    if text is None:
        print_text(hexdump(raw))
    elif (pretty := _pretty(text)) is not None:
        print_text(pretty)
    else:
        print_text(text[:_TEXT_CHARACTERS_MAX])
        print_text(hexdump(raw))


def _pretty(text: str) -> str | None:
    """JSON with its lines; None when it is none, or too much for a terminal."""
    if len(text) > _TEXT_CHARACTERS_MAX:
        return None
    try:
        # Escaped strings stay in one line each, so that a payload cannot draw lines of its own.
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return None


def _print_good(story: LetterStory) -> None:
    good = story.good
    if good is None:
        print_text("\nno event of this type that went well is among the newest rows of the inbox")
        return
    name = f"the last good {safe(good.event_type)}, {safe(good.event_id)} of {shown(good.processed_at)}"
    if good.payload is None:
        print_text(f"\n{name}, cannot be compared: {safe(good.reason or '')}")
    elif good.difference is None:
        print_text(f"\n{name}, has a payload to compare with; this letter's cannot be read")
    else:
        print_changes(good.difference, f"\nagainst {name}")


def print_changes(changes: Sequence[Change], title: str) -> None:
    """A difference of payloads, a line for each place."""
    print_text(f"{title}: " + ("no difference" if not changes else ""))
    for change in changes[:_CHANGES_MAX]:
        path = safe(change.path) or "(all of it)"
        before, after = _value(change.before), _value(change.after)
        if change.kind == "added":
            print_text(f"  + {path}: {after}")
        elif change.kind == "removed":
            print_text(f"  - {path}: {before}")
        else:
            print_text(f"  ~ {path}: {before} → {after}" + (" (another type)" if change.kind == "type" else ""))
    if len(changes) > _CHANGES_MAX:
        print_text(f"  … {len(changes):,} places in all")


def _value(value: Any) -> str:
    text = safe(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= _VALUE_CHARACTERS_MAX else f"{text[:_VALUE_CHARACTERS_MAX]}…"
