"""evkit audit: do the numbers add up, and if not, which events are it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from evkit.cli.output import Format, FormatOption, print_json, print_rows, print_text, say
from evkit.cli.view import GroupOption, SinceOption, UntilOption, window_given

if TYPE_CHECKING:
    from evkit.views.audit.events import Examined

# As many as a person looks through; the view has all.
_SHOWN_MAX = 20
_ROWS_MAX = 100_000

_TOPIC_COLUMNS = ("topic", "written", "published", "waiting", "unpublishable", "held", "withdrawn", "unaccounted")
_GROUP_COLUMNS = (
    "topic", "group", "published", "handled", "lagging", "dead", "skipped", "parked", "unaccounted_group",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("audit")
    def audit(
        window: Annotated[
            str | None,
            typer.Option("--window", "-w", help="How far back: 10m, 2h, 7d.  [default: 1h]", show_default=False),
        ] = None,
        since: SinceOption = None,
        until: UntilOption = None,
        group: GroupOption = None,
        topic: Annotated[str | None, typer.Option("--topic", help="One topic.", show_default=False)] = None,
        settle: Annotated[
            str, typer.Option("--settle", help="How long an event may be on its way before it counts as lost.")
        ] = "30s",
        copies_within: Annotated[
            str | None,
            typer.Option(
                "--copies-within",
                help='How long after the window copies are looked for: 2h, or "end".  [default: end where that is at most '
                "1,000,000 records more, else 10m]",
                show_default=False,
            ),
        ] = None,
        format: FormatOption = Format.table,
    ) -> None:
        """Compare outbox, topics and inboxes event by event: what was lost, doubled or handled out of order.

        Ends with 0 when every event of the window is accounted for, 1 when something was found, 3 when a server cannot be
        reached. CSV has the events; JSON has the sentence, the counts and the events.
        """
        from evkit import connect
        from evkit.views.audit import FINDINGS, counted, examined, unread
        from evkit.views.audit.verdict import VERDICTS
        from evkit.views.columns import COLUMNS

        seen = window_given(window, since, until, "1h")
        found = examined(
            connect(), seen, topic=topic, group=group, settle=settle, copies_within=copies_within, wanted=FINDINGS,
            rows_max=_ROWS_MAX,
        )  # fmt: skip
        columns = tuple(c.name for c in COLUMNS["audit"])
        worst = sorted(found.rows, key=lambda row: VERDICTS.index(row["verdict"]))
        sentence = sentence_of(found)
        total = len(worst) + found.left_out
        if found.left_out:
            say(
                f"only the worst {len(worst):,} of {total:,} findings are listed: --topic, --group or a shorter --window"
            )
        if format is Format.json:
            print_json(
                {
                    "sentence": sentence,
                    "window": seen,
                    "read_records": found.records,
                    "unread_records": found.unread,
                    "counts": counted(found),
                    "events": [{c: row.get(c) for c in columns} for row in worst],
                    "events_left_out": found.left_out,
                }
            )
        elif format is Format.csv:
            print_rows(worst, columns, format)
        else:
            if found.unread:
                print_text(f"{unread(found)}: --copies-within end reads them")
            _print(counted(found), worst, total, sentence)
        raise typer.Exit(1 if found.rows else 0)


def sentence_of(found: Examined) -> str:
    """The whole audit in one sentence: what is lost first, then what is wrong, then what waits."""
    from evkit.views.audit.verdict import HARMLESS, LOST, VERDICTS

    totals = {v: sum(of[v] for of in found.verdicts.values()) for v in VERDICTS}
    written = sum(of["written"] for of in found.counts.values())
    if not written:
        return "no event was written in this window"
    said = f"{written:,} event{'s' if written != 1 else ''} written: "
    lost = [f"{totals[v]:,} {v}" for v in LOST if totals[v]]
    other = [f"{totals[v]:,} {v}" for v in VERDICTS if totals[v] and v not in (*LOST, *HARMLESS)]
    pending = f"; {totals['pending']:,} on their way" if totals["pending"] else ""
    if lost:
        return f"{said}LOST: {', '.join(lost)}{'; also ' + ', '.join(other) if other else ''}{pending}"
    if other:
        return f"{said}nothing is lost; found {', '.join(other)}{pending}"
    return f"{said}nothing is lost, doubled or out of order{pending}"


def _print(counts: list[dict[str, Any]], worst: list[dict[str, Any]], total: int, sentence: str) -> None:
    if counts:
        print_rows([row for row in counts if row["group"] is None], _TOPIC_COLUMNS)
        groups = [row for row in counts if row["group"] is not None]
        print_rows(groups, _GROUP_COLUMNS, empty="no group of evkit's reads these topics")
    if worst:
        columns = ("verdict", "event_id", "key", "topic", "group", "evidence")
        print_rows(worst[:_SHOWN_MAX], columns)
        if len(worst) > _SHOWN_MAX:
            print_text(
                f"the worst {_SHOWN_MAX} of {total:,} findings; the others: evkit audit --format csv, "
                "or views.audit in a notebook"
            )
        print_text(f"next: evkit journey {worst[0]['event_id']}")
    print_text(sentence)
