"""`evkit dlq archive | hold | note | edit | purge …`: what is done with dead letters other than running them again.

Each shows what it will do, asks, and leaves an audit row; what it was not so for, it says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evkit.cli.dlq_filters import WHICH, takes_filters
from evkit.cli.dlq_show import print_changes
from evkit.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    ReasonOption,
    YesOption,
    confirmed,
    print_json,
    print_text,
    say,
)
from evkit.errors import UsageError

if TYPE_CHECKING:
    from evkit.runtime.dead_letters import Selection


def _frozen(selection: Selection) -> list[int]:
    """The ids that an act is about; what comes later is not in it."""
    import evkit

    if selection.ids is not None and replace(selection, ids=None, states=None) == type(selection)(states=None):
        return list(selection.ids)
    return evkit.dead_letters.ids_of(evkit.connect(), selection)


def _act(
    selection: Selection,
    verb: str,
    done: str,
    act: Callable[[list[int]], list[int]],
    *,
    about: str,
    yes: bool,
    dry_run: bool,
) -> None:
    """Show what is chosen, ask, act, and say of how many it was so."""
    chosen = _frozen(selection)
    if not chosen:
        say(f"no letter matches: nothing to {verb}")
        raise typer.Exit(1)
    say(f"{verb} {len(chosen):,} letters" + about)
    if confirmed(f"{verb} them?", yes=yes, dry_run=dry_run):
        changed = act(chosen)
        rest = len(set(chosen)) - len(changed)
        print_text(
            f"{len(changed):,} {done}" + (f", {rest:,} were not in a state for it and stay as they are" if rest else "")
        )


@takes_filters(ids=True)
def archive(
    selection: Selection,
    note: Annotated[str, typer.Option("--note", help="Why these need no handling.")] = "",
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Decide that open letters need no handling; `restore` takes it back."""
    import evkit

    if not note:
        raise UsageError("an archived letter needs a --note: who will know in a month why it was not handled?")
    _act(
        selection, "archive", "archived", lambda ids: evkit.dead_letters.archive(evkit.connect(), ids, note=note),
        about=f" with the note: {note}", yes=yes, dry_run=dry_run,
    )  # fmt: skip


@takes_filters(ids=True)
def hold(
    selection: Selection,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Keep open letters from being redriven, whoever asks; `unhold` takes it back."""
    import evkit

    if not reason:
        raise UsageError("a hold needs a --reason: somebody will want to redrive these letters, and ask why not")
    _act(
        selection, "hold", "on hold", lambda ids: evkit.dead_letters.hold(evkit.connect(), ids, reason=reason),
        about=f": {reason}", yes=yes, dry_run=dry_run,
    )  # fmt: skip


@takes_filters(ids=True)
def unhold(
    selection: Selection,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Take letters off hold."""
    import evkit

    _act(
        replace(selection, held=True), "unhold", "on hold no more",
        lambda ids: evkit.dead_letters.unhold(evkit.connect(), ids, reason=reason), about="", yes=yes, dry_run=dry_run,
    )  # fmt: skip


@takes_filters(ids=True)
def note(
    selection: Selection,
    note: Annotated[
        str | None, typer.Option("--note", help="What is known of them; '' for none.", show_default=False)
    ] = None,
    ticket: Annotated[str | None, typer.Option("--ticket", help="Where it is followed up.", show_default=False)] = None,
    assignee: Annotated[str | None, typer.Option("--assignee", help="Who looks after it.", show_default=False)] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Write a note, a ticket or an assignee on letters."""
    import evkit

    if note is None and ticket is None and assignee is None:
        raise UsageError("write what on them? Give --note, --ticket or --assignee")
    given = {"note": note, "ticket": ticket, "assignee": assignee}
    _act(
        selection, "write on", "written on",
        lambda ids: evkit.dead_letters.annotate(evkit.connect(), ids, note=note, ticket=ticket, assignee=assignee),
        about=": " + ", ".join(f"{name} '{value}'" for name, value in given.items() if value is not None),
        yes=yes, dry_run=dry_run,
    )  # fmt: skip


@takes_filters(ids=True, states=("archived", "purged"))
def restore(
    selection: Selection,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Bring archived or purged letters back to the state they had; purged ones until `purge --expired` has deleted them."""
    import evkit

    _act(
        selection, "restore", "restored", lambda ids: evkit.dead_letters.restore(evkit.connect(), ids, reason=reason),
        about="", yes=yes, dry_run=dry_run,
    )  # fmt: skip


@takes_filters(ids=True, optional=True)
def purge(
    selection: Selection | None,
    expired: Annotated[
        bool, typer.Option("--expired", help="Delete for good what was purged long ago; for a job that runs daily.")
    ] = False,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="With --expired: since then.  [default: 7d]", show_default=False)
    ] = None,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Take letters out of sight, softly: `evkit dlq restore` brings them back. Open ones need a --reason.

    With --expired: delete for good those that were purged more than 7 days ago (--older-than), record and all.
    """
    import evkit

    if expired:
        if selection is not None:
            raise UsageError("--expired takes all letters that were purged long ago: give no ids and no filter with it")
        _delete_expired(older_than or "7d", reason, yes=yes, dry_run=dry_run)
        return
    if older_than is not None:
        raise UsageError("--older-than goes with --expired")
    if selection is None:
        raise UsageError(WHICH)
    _act(
        selection, "purge", "purged; `evkit dlq restore` brings them back",
        lambda ids: evkit.dead_letters.purge(evkit.connect(), ids, reason=reason),
        about=f": {reason}" if reason else "", yes=yes, dry_run=dry_run,
    )  # fmt: skip


def _delete_expired(older_than: str, reason: str | None, *, yes: bool, dry_run: bool) -> None:
    import evkit
    from evkit.window import duration

    plan = evkit.dead_letters.plan_expiry(evkit.connect(), duration(older_than, name="older-than"))
    say(f"delete {len(plan.ids):,} letters for good that were purged more than {older_than} ago")
    if plan.kept:
        say(
            f"{len(plan.kept):,} more are kept, the first is {plan.kept[0]}: their keys are still parked "
            "(`evkit dlq release` lets them go on)"
        )
    if plan.ids and confirmed("delete them? Nothing brings them back", yes=yes, dry_run=dry_run):
        done = evkit.dead_letters.delete_expired(evkit.connect(), plan, reason=reason)
        print_text(f"{done:,} deleted")


def edit(
    letter_id: Annotated[int, typer.Argument(metavar="LETTER_ID")],
    payload: Annotated[
        Path | None, typer.Option("--payload", help="File with the whole new payload; - for stdin.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=JSON", help="Or: a value to set; may repeat.")
    ] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Another event type.", show_default=False)] = None,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Put an event with another payload in the place of a letter's, for the failing group alone; redrive it then.

    The new event has an id of its own and says whose place it takes; the letter is resolved. A path is total, items.0.price
    or /items/0/price; a value is JSON, so text wants its quotes: --set 'currency="EUR"'.
    """
    import evkit

    if not reason and not dry_run:
        raise UsageError("an edit needs a --reason: the event will say what nobody wrote")
    system = evkit.connect()
    plan = evkit.dead_letters.plan_edit(
        system, letter_id, payload=_read(payload), settings=_settings(set_), event_type=type_
    )
    say(
        f"edit dead letter {letter_id} of group '{plan.letter.consumer_group}': event {plan.event_id} "
        f"('{plan.event_type}') takes the place of {plan.letter.event_id}"
    )
    if format is Format.table:
        print_changes(plan.seen, "changes")
    elif dry_run:
        print_json(plan.summary())
    if confirmed("edit it?", yes=yes, dry_run=dry_run):
        made = evkit.dead_letters.edit(system, plan, reason=reason or "")
        if format is Format.table:
            print_text(f"letter {letter_id} is resolved; the edited event is letter {made}")
            print_text(f"next: evkit dlq redrive {made} --app MODULE:CONSUMER")
        else:
            print_json(plan.summary() | {"new_letter_id": made})


def _read(payload: Path | None) -> bytes | None:
    import sys

    if payload is None:
        return None
    if str(payload) == "-":
        return sys.stdin.buffer.read()
    try:
        return payload.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the payload from {payload}: {error.strerror}") from None


def _settings(given: list[str] | None) -> dict[str, Any] | None:
    """path → value."""
    import json

    if not given:
        return None
    found = {}
    for setting in given:
        path, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set '{setting}' has no =: write PATH=JSON, as in total=12.5")
        try:
            found[path] = json.loads(text)
        except ValueError:
            raise UsageError(
                f"--set '{setting}': {text} is no JSON; text wants quotes, as in --set 'currency=\"EUR\"'"
            ) from None
    return found
