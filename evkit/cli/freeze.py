"""evkit freeze: copy the evidence of a window before it is gone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
    say,
)
from evkit.cli.view import SinceOption, UntilOption, window_given

if TYPE_CHECKING:
    from evkit.freeze.manifest import Manifest
    from evkit.freeze.take import Plan, Progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("freeze")(freeze)


def freeze(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make; it must not be there yet.")],
    window: Annotated[
        str | None,
        typer.Option("--window", "-w", help="How far back: 10m, 2h, 7d.  [default: 1h]", show_default=False),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    payloads: Annotated[
        bool, typer.Option("--payloads", help="Also payloads and headers of events; leaves an audit row.")
    ] = False,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Copy everything of a window into a folder of Parquet: views and notebooks run on it later, without the servers.

    `evkit --profile freeze:DIR view lag` and `evkit.connect("freeze:DIR")` look at it; there, now is the moment of the
    freeze. Kafka forgets what groups committed, and topics their records: copy early. A server that does not answer is left
    out, and the manifest says so.
    """
    import evkit
    from evkit.freeze import take

    seen = window_given(window, since, until, "1h")
    system = evkit.connect()
    plan = take.plan(system, seen, out, payloads=payloads)
    if format is Format.table:
        _print_plan(plan)
    for missing in plan.missing:
        say(f"not in it: {missing.what}: {missing.why}")
    if not confirmed(f"freeze this into {plan.out}?", yes=yes, dry_run=dry_run):
        if format is not Format.table:
            _print_plan(plan, format)
        return
    with _progress() as progress:
        manifest = take.run(system, plan, reason=reason, progress=progress)
    _print_made(manifest, plan.out, format)


def _print_plan(plan: Plan, format: Format = Format.table) -> None:
    rows = [{"what": p.what, "rows": p.rows, "bytes": p.bytes} for p in plan.parts]
    print_rows(rows, ("what", "rows", "bytes"), format, title=f"about {plan.rows:,} rows, {plan.bytes / 1e6:,.1f} MB")


def _print_made(manifest: Manifest, out: Path, format: Format) -> None:
    files = {**manifest.tables, **manifest.kafka_files}
    if format is Format.json:
        print_json({"folder": str(out)} | manifest.model_dump(mode="json"))
    elif format is Format.csv:
        rows: list[dict[str, Any]] = [{"file": name, "rows": f.rows, "bytes": f.bytes} for name, f in files.items()]
        print_rows(rows, ("file", "rows", "bytes"), format)
    rows_all, size = sum(f.rows for f in files.values()), sum(f.bytes for f in files.values())
    say(f"frozen at {manifest.frozen_at:%Y-%m-%d %H:%M:%S} UTC: {rows_all:,} rows, {size / 1e6:,.1f} MB in {out}")
    for missing in manifest.missing:
        say(f"not in it: {missing.what}: {missing.why}")
    say(f"may be about people: {'; '.join(manifest.personal)}")
    say(f"look at it: evkit --profile freeze:{out} view lag")


@contextmanager
def _progress() -> Iterator[Progress]:
    """A line on a terminal that says what is copied; elsewhere nothing."""
    from tqdm import tqdm

    shown = ""
    with tqdm(unit=" rows", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:

        def progress(what: str, done: int, total: int) -> None:
            nonlocal shown
            if shown != what:
                shown = what
                bar.reset()
                bar.set_description(what)
            bar.total = total or None
            bar.update(done - bar.n)

        yield progress
