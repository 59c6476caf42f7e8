"""`evkit annotate`: write down deploys, incidents and notes, so that figures and timelines show them.

Writing one changes nothing that happens to events, and deploy hooks have no terminal: it is done without asking, and
`--dry-run` shows it. What takes away or changes words that somebody wrote asks first.
"""

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
    plain,
    print_facts,
    print_rows,
    say,
    shown,
)

if TYPE_CHECKING:
    from evkit.runtime.annotation import Annotation

_COLUMNS = (
    "annotation_id", "at", "until", "kind", "name", "version", "text", "group", "topic", "actor", "source", "created_at",
)  # fmt: skip
_TABLE_COLUMNS = ("annotation_id", "at", "until", "kind", "name", "version", "text", "group", "topic", "actor")

TextArgument = Annotated[str | None, typer.Argument(help="What there is to say.", show_default=False)]
AtOption = Annotated[str, typer.Option("--at", help="When: ISO time or now-5m.")]
UntilOption = Annotated[str | None, typer.Option("--until", help="Its end, where it took a while.", show_default=False)]
GroupOption = Annotated[
    str | None, typer.Option("--group", "-g", help="Consumer group that it is about.", show_default=False)
]
TopicOption = Annotated[str | None, typer.Option("--topic", help="Topic that it is about.", show_default=False)]
SourceOption = Annotated[str, typer.Option("--source", help="What writes it: the name of a pipeline.")]
IdArgument = Annotated[int, typer.Argument(help="Number of the annotation, as `evkit annotate list` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    annotate = typer.Typer(
        help="Write down deploys, incidents and notes for timelines and figures.", no_args_is_help=True
    )
    annotate.command("deploy")(deploy)
    annotate.command("note", help="Write down what you know of a time.")(_command("note"))
    annotate.command("config", help="Write down a change of settings, of a flag or of traffic.")(_command("config"))
    annotate.command("broker", help="Write down what was done to the brokers or the database.")(_command("broker"))
    annotate.command("incident")(incident)
    annotate.command("list")(list_annotations)
    annotate.command("edit")(edit)
    annotate.command("close")(close)
    annotate.command("remove")(remove)
    app.add_typer(annotate, name="annotate")


def deploy(
    text: TextArgument = None,
    version: Annotated[str | None, typer.Option("--version", help="What was deployed.", show_default=False)] = None,
    at: AtOption = "now",
    until: UntilOption = None,
    group: GroupOption = None,
    topic: TopicOption = None,
    source: SourceOption = "cli",
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Write down a deploy: the line for a deploy hook. It needs a version or a text.

    It ends with 3 when PostgreSQL does not answer; a deploy that should not stop for that adds `|| true`.
    """
    _write(dry_run, format, kind="deploy", text=text, version=version, at=at, until=until, group=group, topic=topic,
           source=source)  # fmt: skip


def _command(kind: str) -> Any:
    def write(
        text: Annotated[str, typer.Argument(help="What there is to say.")],
        at: AtOption = "now",
        until: UntilOption = None,
        group: GroupOption = None,
        topic: TopicOption = None,
        source: SourceOption = "cli",
        dry_run: DryRunOption = False,
        format: FormatOption = Format.table,
    ) -> None:
        _write(dry_run, format, kind=kind, text=text, at=at, until=until, group=group, topic=topic, source=source)

    return write


def incident(
    name: Annotated[str, typer.Argument(help="Its name; windows then take incident:NAME.")],
    text: TextArgument = None,
    since: Annotated[str, typer.Option("--since", help="When it began: ISO time or now-2h.")] = "now",
    until: Annotated[
        str | None, typer.Option("--until", help="When it ended; without, it is not over.", show_default=False)
    ] = None,
    group: GroupOption = None,
    topic: TopicOption = None,
    source: SourceOption = "cli",
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Give a stretch of time a name: `--window incident:NAME` then works everywhere. Open until `evkit annotate close`."""
    _write(dry_run, format, kind="incident", name=name, text=text, at=since, until=until, group=group, topic=topic,
           source=source)  # fmt: skip


def _write(dry_run: bool, format: Format, **given: Any) -> None:
    import evkit
    from evkit.runtime import annotation

    wanted = annotation.prepared(**given)
    if dry_run:
        say("dry run: nothing was written")
        _print(wanted, format)
        return
    _print(annotation.store(evkit.connect(), wanted), format)


def list_annotations(
    kind: Annotated[
        str | None, typer.Option("--kind", help="deploy, config, broker, note or incident.", show_default=False)
    ] = None,
    rows_max: Annotated[int, typer.Option("--rows-max", min=1, help="Most rows, the newest are kept.")] = 1000,
    format: FormatOption = Format.table,
) -> None:
    """What was written down, the newest first. `evkit view annotations` has what the tables tell of a window as well."""
    import evkit
    from evkit.errors import InvalidParameter, closest
    from evkit.runtime import annotation

    if kind is not None and kind not in annotation.KINDS:
        hint = " or ".join(closest(kind, annotation.KINDS)) or ", ".join(annotation.KINDS)
        raise InvalidParameter(f"kind '{kind}' is no kind of annotation: take {hint}", name="kind", value=kind)
    found = annotation.stored(evkit.connect(), kind, rows_max=rows_max + 1)
    if len(found) > rows_max:
        say(f"only the newest {rows_max:,} are shown: --rows-max shows more")
    columns = _TABLE_COLUMNS if format is Format.table else _COLUMNS
    print_rows([plain(a) for a in found[:rows_max]], columns, format, empty="nothing was written down yet")


def edit(
    annotation_id: IdArgument,
    text: Annotated[str | None, typer.Option("--text", help="What it is to say.", show_default=False)] = None,
    at: Annotated[str | None, typer.Option("--at", help="When it was.", show_default=False)] = None,
    until: Annotated[str | None, typer.Option("--until", help="When it ended.", show_default=False)] = None,
    version: Annotated[str | None, typer.Option("--version", help="What was deployed.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of an incident.", show_default=False)] = None,
    group: GroupOption = None,
    topic: TopicOption = None,
    reopen: Annotated[bool, typer.Option("--reopen", help="Take its end away: an incident is not over.")] = False,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Change what an annotation says. The audit table keeps what it said before."""
    import evkit
    from evkit.errors import UsageError
    from evkit.runtime import annotation

    given = {"text": text, "at": at, "until": until, "version": version, "name": name, "group": group, "topic": topic}
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if reopen:
        if until is not None:
            raise UsageError("give --until or --reopen, not both")
        changes["until"] = None
    if not changes:
        raise UsageError("say what to change: --text, --at, --until, --reopen, --version, --name, --group or --topic")
    system = evkit.connect()
    was = annotation.get(system, annotation_id)
    now = annotation.changed(was, **changes)
    for field in changes:
        say(f"{field}: {shown(getattr(was, field))} → {shown(getattr(now, field))}")
    if not confirmed("change it?", yes=yes, dry_run=dry_run):
        return
    _print(annotation.edit(system, annotation_id, reason=reason, **changes), format)


def close(
    name: Annotated[str, typer.Argument(help="Name of the incident.")],
    until: Annotated[str, typer.Option("--until", help="When it ended: ISO time or now-5m.")] = "now",
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Say when an incident ended. It does not ask: `evkit annotate edit ID --reopen` takes it back."""
    import evkit
    from evkit.runtime import annotation

    system = evkit.connect()
    if dry_run:
        say("dry run: nothing was changed")
        _print(annotation.changed(annotation.incident(system, name), until=until), format)
        return
    _print(annotation.close(system, name, until, reason=reason), format)


def remove(
    annotation_id: IdArgument,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Take an annotation away. The audit table keeps what it said."""
    import evkit
    from evkit.runtime import annotation

    system = evkit.connect()
    was = annotation.get(system, annotation_id)
    say(f"remove {was.kind} {was.name or was.annotation_id} of {shown(was.at)}: {was.text}")
    if not confirmed("remove it?", yes=yes, dry_run=dry_run):
        return
    _print(annotation.remove(system, annotation_id, reason=reason), format)


def _print(made: Annotation, format: Format) -> None:
    facts = {column: plain(made)[column] for column in _COLUMNS}
    if not made.annotation_id:  # a dry run: it has neither
        facts |= {"annotation_id": None, "created_at": None}
    print_facts(facts, format)
