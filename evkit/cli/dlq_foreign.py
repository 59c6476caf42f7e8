"""`evkit dlq foreign` and `evkit dlq import`: dead-letter topics of other frameworks, looked at and taken over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from evkit.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    ReasonOption,
    YesOption,
    confirmed,
    print_json,
    print_rows,
    print_text,
    safe,
    say,
)

if TYPE_CHECKING:
    from evkit.foreign import ForeignLetter
    from evkit.runtime.dead_letters import RedrivePlan
    from evkit.runtime.foreign import ImportPlan

_COLUMNS = (
    "found_topic", "found_partition", "found_offset", "dialect", "group", "topic", "partition", "offset", "timestamp",
    "key", "error_class", "error_message", "root_cause", "handler", "attempts", "failed_at", "fingerprint", "facts",
    "problems", "value", "stack_trace",
)  # fmt: skip
_TABLE_COLUMNS = (
    "at", "dialect", "group", "from", "key", "error_class", "error_message", "failed_at", "problems",
)  # fmt: skip

TopicOption = Annotated[str, typer.Option("--topic", help="The dead-letter topic.")]
DialectOption = Annotated[
    str | None,
    typer.Option(
        "--dialect",
        help="spring, connect, streams, karafka, watermill or arroyo; default: what each record's headers say.",
        show_default=False,
    ),
]
OriginalTopicOption = Annotated[
    str | None,
    typer.Option(
        "--original-topic", help="Where the records were, for arroyo, which does not say.", show_default=False
    ),
]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="ISO time, or now-2h.", show_default=False)
]


def foreign(
    topic: TopicOption,
    dialect: DialectOption = None,
    group: Annotated[
        str | None, typer.Option("--group", "-g", help="Only those that name this group.", show_default=False)
    ] = None,
    original_topic: OriginalTopicOption = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Most letters to list.")] = 100,
    format: FormatOption = Format.table,
) -> None:
    """List what another framework has put into its dead-letter topic; changes nothing, and needs Kafka alone."""
    import evkit
    from evkit.window import instant

    found = evkit.dead_letters.foreign(
        evkit.connect(), topic, dialect=dialect, group=group, original_topic=original_topic,
        since=instant(since, name="--since") if since else None, letters_max=limit,
    )  # fmt: skip
    if format is Format.table:
        print_rows([_short(letter) for letter in found], _TABLE_COLUMNS, empty="no records")
    else:
        print_rows([_row(letter) for letter in found], _COLUMNS, format)
    if len(found) == limit:
        say(f"the first {limit}; there may be more (--limit)")


def _row(letter: ForeignLetter) -> dict[str, Any]:
    place = {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset}
    named = {name: getattr(letter, name, None) for name in _COLUMNS}
    found = letter.found
    return named | place | {
        "found_topic": found.topic, "found_partition": found.partition, "found_offset": found.offset, "value": found.value,
    }  # fmt: skip


def _short(letter: ForeignLetter) -> dict[str, Any]:
    row = _row(letter)
    place = [row[name] for name in ("topic", "partition", "offset")]
    return row | {
        "at": f"{letter.found.partition}/{letter.found.offset}",
        "from": None if place == [None] * 3 else "/".join("?" if part is None else str(part) for part in place),
        "problems": "; ".join(letter.problems) or None,
    }


def import_(
    topic: TopicOption,
    dialect: DialectOption = None,
    group: Annotated[
        str | None,
        typer.Option("--group", "-g", help="Only records that name this group, or none.", show_default=False),
    ] = None,
    as_group: Annotated[
        str | None,
        typer.Option("--as-group", help="Whose letters they become, in place of the group named.", show_default=False),
    ] = None,
    original_topic: OriginalTopicOption = None,
    app: Annotated[
        str | None,
        typer.Option(
            "--app", metavar="MODULE:CONSUMER", help="Consumer whose decode function reads them.", show_default=False
        ),
    ] = None,
    since: SinceOption = None,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Make letters of what another framework has put into its dead-letter topic; importing again adds nothing.

    The topic stays as it is. A redrive of such a letter runs its group's handler, like that of any other.
    """
    import evkit
    from evkit.runtime.application import consumer_at
    from evkit.window import instant

    system = evkit.connect()
    decode = consumer_at(app).handlers.decode if app is not None else None
    plan = evkit.dead_letters.plan_import(
        system, topic, dialect=dialect, group=group, as_group=as_group, original_topic=original_topic,
        since=instant(since, name="--since") if since else None, decode=decode,
    )  # fmt: skip
    _say_plan(plan)
    if dry_run and format is Format.json:
        print_json(plan.summary())
    if not plan.counts.imported:
        if not dry_run and format is not Format.table:
            print_json(plan.summary())
        # Something is there that nobody can take: that is no success.
        raise typer.Exit(1 if plan.counts.no_group or plan.counts.no_dialect else 0)
    if not confirmed("import them?", yes=yes, dry_run=dry_run):
        return
    done = evkit.dead_letters.import_foreign(system, plan, reason=reason)
    if format is Format.table:
        print_text(f"{done.imported:,} imported, {done.known:,} known")
    else:
        print_json(done.summary())


def if_imported(plan: RedrivePlan) -> str:
    """What else to say to somebody who has no consumer for the letters of a redrive: it may be that there is none."""
    dialects = sorted({letter.source_dialect for letter in plan.letters if letter.source_dialect})
    if not dialects:
        return ""
    return (
        f"; the letters were imported ({', '.join(dialects)}), and without an evkit consumer of group '{plan.group}' they "
        "cannot be redriven here: `evkit dlq export --dialect` gives them back, `evkit dlq archive` puts them away"
    )


def _say_plan(plan: ImportPlan) -> None:
    counts = plan.counts
    of = ", ".join(f"{n:,} of group '{group}'" for group, n in sorted(counts.groups.items()))
    words = ", ".join(sorted(counts.dialects))
    say(
        f"import {counts.imported:,} letters from the {counts.records:,} records of topic '{plan.topic}'"
        + (f": {of} (in the words of {words})" if of else "")
    )
    for n, sentence in (
        (counts.known, "are letters already"),
        (counts.deleted, "were imported, and their letters were purged for good: not imported again"),
        (counts.same_event, "are of events that are, or were, letters of their group already"),
        (counts.other_group, f"name another group than '{plan.group}': {_most(plan)}"),
        (counts.no_group, "name no consumer group: --group says whose they are"),
        (counts.no_dialect, "say in no header who has given them up: --dialect reads them all the same"),
        (counts.unreadable, "of those to import are no events: a redrive fails unless the handler's code reads them"),
        (counts.incomplete, "of those to import lack something: `evkit dlq foreign` says what"),
    ):
        if n:
            say(f"  {n:,} {sentence}")
    for example in counts.examples:
        say(f"  at {safe(example)}")


def _most(plan: ImportPlan) -> str:
    others = [group for group, _ in plan.counts.named.most_common(6) if group != plan.group]
    return ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
