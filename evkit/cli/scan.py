"""evkit scan: the records of a stretch of a topic, a plan first."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from evkit.cli.output import Format, FormatOption, YesOption, print_json, print_rows, safe, say
from evkit.cli.view import _NARROW, SinceOption, UntilOption, window_given

# More than this is asked about: a minute on a slow line, and a bill where the cloud counts what leaves it.
_ASK_BYTES = 500_000_000
_ROWS_MAX = 1_000


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("scan")
    def scan(
        topic: Annotated[str, typer.Argument(help="The topic.")],
        window: Annotated[
            str | None,
            typer.Option("--window", "-w", help="10m, 'last 2h', or FROM/TO.  [default: 1h]", show_default=False),
        ] = None,
        since: SinceOption = None,
        until: UntilOption = None,
        offsets: Annotated[
            str | None, typer.Option("--offsets", help="FROM:UNTIL in place of a window.", show_default=False)
        ] = None,
        partition: Annotated[
            list[int] | None, typer.Option("--partition", "-p", help="Only this; may be repeated.", show_default=False)
        ] = None,
        header: Annotated[
            list[str] | None, typer.Option("--header", help="A column for this header.", show_default=False)
        ] = None,
        field: Annotated[
            list[str] | None,
            typer.Option("--field", help="A column for this JSON field: items.0.price.", show_default=False),
        ] = None,
        where: Annotated[
            list[str] | None,
            typer.Option(
                help="key=k1, event_type!=x, header:tenant~acme, field:customer.id=7; all must hold.",
                show_default=False,
            ),
        ] = None,
        payload: Annotated[bool, typer.Option("--payload", help="Values and headers, too.")] = False,
        limit: Annotated[int, typer.Option("--limit", "-n", help="Most records to show.")] = _ROWS_MAX,
        seconds: Annotated[float, typer.Option("--seconds", help="Longest time to read.")] = 300.0,
        plan: Annotated[bool, typer.Option("--plan", help="Say what would be read, and read nothing.")] = False,
        yes: YesOption = False,
        wide: Annotated[bool, typer.Option("--wide", help="All columns in the table.")] = False,
        format: FormatOption = Format.table,
    ) -> None:
        """Print records of a topic, and say what was not read. Looking changes nothing: no group is joined.

        What it will read is said first, on stderr; from 500 MB on it asks. JSON is one document with `records` and
        `coverage`.
        """
        from evkit import connect, views
        from evkit.errors import UsageError
        from evkit.views.frame import rows_of

        system = connect()
        given: dict[str, Any] = {"partitions": partition or None}
        if offsets is not None:
            if window is not None or since is not None or until is not None:
                raise UsageError("give --offsets, or a window, not both")
            given["offsets"] = _offsets(offsets)
        else:
            given["window"] = window_given(window, since, until, "1h")
        planned = rows_of(views.scan_plan(system, topic, **given), "scan_plan")
        if plan:
            columns = tuple(c.name for c in views.COLUMNS["scan_plan"])
            print_rows(planned, columns if wide or format is not Format.table else _NARROW["scan_plan"], format)
            return
        total = sum(row["bytes"] or 0 for row in planned)
        sentence = _sentence(topic, planned, total)
        say(sentence)
        if total > _ASK_BYTES and not yes and not _agreed():
            return
        # Exactly what was planned: what has come since is not in it.
        given["offsets"] = {row["partition"]: (row["from_offset"], row["until_offset"]) for row in planned}
        frames = views.scan_with_coverage(
            system,
            topic,
            given.get("window"),
            offsets=given["offsets"],
            headers=header or (),
            fields=field or (),
            where=where or (),
            payload=payload,
            rows_max=limit,
            seconds_max=seconds,
        )
        rows, coverage = rows_of(frames.records), rows_of(frames.coverage, "scan_coverage")
        if format is Format.json:
            print_json({"records": rows, "coverage": coverage})
            return
        every = tuple(frames.records.columns)
        extra = every[len(views.COLUMNS["scan"]) :]
        columns = every if wide or format is Format.csv else (*_NARROW["scan"], *extra)
        print_rows(
            rows, columns, format, empty=f"no record of {topic} matched, among {_scanned(coverage)} that were read"
        )


def _offsets(text: str) -> tuple[int, int]:
    from evkit.errors import InvalidParameter

    first, colon, last = text.partition(":")
    if not colon or not first.strip().isdecimal() or not last.strip().isdecimal():
        raise InvalidParameter(f"offsets '{text}' are no range: write 100:200", name="offsets", value=text)
    return int(first), int(last)


def _scanned(coverage: list[dict[str, Any]]) -> str:
    return f"{sum(row['scanned'] for row in coverage):,}"


def _sentence(topic: str, planned: list[dict[str, Any]], total: int) -> str:
    records = sum(row["records"] for row in planned)
    seconds = sum(row["seconds"] or 0 for row in planned)
    return (
        f"{topic}: up to {records:,} records in {len(planned)} partitions, "
        f"about {total / 1e6:,.1f} MB and {seconds:,.1f} s to read"
    )


def _agreed() -> bool:
    from evkit.errors import UsageError

    if not sys.stdin.isatty():
        raise UsageError("this is a lot to read and there is no terminal to ask on: add --yes, or --plan to look")
    if typer.confirm(safe("Read it?"), err=True):
        return True
    say("nothing was read")
    return False
