"""`evkit migrate`: bring the database to this version's tables, say what differs, make roles of least privilege."""

from __future__ import annotations

from typing import Annotated

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
from evkit.errors import Refused, UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("migrate")(migrate)


def migrate(
    check: Annotated[
        bool,
        typer.Option("--check", help="Only say what differs, and the SQL that mends it; exit 1 when something does."),
    ] = False,
    roles: Annotated[
        bool, typer.Option("--roles", help="Make the group roles evkit_writer, _relay, _sampler and _reader.")
    ] = False,
    prefix: Annotated[
        str, typer.Option("--role-prefix", help="Of these roles: a server's roles belong to all its databases.")
    ] = "evkit",
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Create or upgrade evkit's tables in the database (schema `evkit`)."""
    from evkit import postgres
    from evkit.settings import load

    if check and roles:
        raise UsageError("--check only looks and --roles changes something: take one of them")
    settings = load()
    where = postgres.address(settings.postgres_dsn)
    if check:
        _check(settings.postgres_dsn, settings.postgres_timeout_seconds, prefix, format)
    elif roles:
        _roles(settings.postgres_dsn, prefix, reason, yes=yes, dry_run=dry_run)
    elif dry_run:
        with postgres.connect(settings.postgres_dsn, read_only=True) as connection:
            pending = postgres.pending_migrations(connection)
        say(f"{where}: would apply {', '.join(pending)}" if pending else f"{where} is up to date")
    else:
        applied = postgres.migrate(settings.postgres_dsn)
        print(f"{where}: applied {', '.join(applied)}" if applied else f"{where} is up to date")


def _check(dsn: str, timeout_seconds: float, prefix: str, format: Format) -> None:
    from evkit import drift

    found = drift.compare(dsn, prefix=prefix, timeout_seconds=timeout_seconds)
    if format is Format.json:
        print_json(
            {"equal": found.equal, "database": found.database, "differences": found.differences, "notes": found.notes}
        )
    elif format is Format.csv:
        rows = [{"object": d.object, "sentence": d.sentence, "sql": "; ".join(d.sql)} for d in found.differences]
        print_rows(rows, ("object", "sentence", "sql"), format)
    else:
        for difference in found.differences:
            print(f"-- {difference.sentence}")
            for statement in difference.sql:
                print(f"{statement};")
            print()
        for note in found.notes:
            say(f"note: {note}")
        if found.equal:
            print(f"{found.database} is up to date")
        else:
            say(f"{found.database} differs in {len(found.differences)} thing(s) from what evkit expects")
    raise typer.Exit(0 if found.equal else 1)


def _roles(dsn: str, prefix: str, reason: str | None, *, yes: bool, dry_run: bool) -> None:
    from evkit import postgres, roles
    from evkit.runtime import audit

    where = postgres.address(dsn)
    with (
        postgres.translated_errors(dsn),
        postgres.connect(dsn, application_name="evkit migrate --roles", autocommit=True) as connection,
    ):
        postgres.require_migrated(connection)
        acts = roles.plan(connection, prefix)
        if not acts:
            print(f"{where}: roles are as expected")
            return
        for sentence, statement in acts:
            print(f"{statement.as_string()};  -- {sentence}")
        if not confirmed(f"do this at {where}?", yes=yes, dry_run=dry_run):
            return
        plan = {"statements": [statement.as_string() for _, statement in acts]}
        audit_id = audit.begin(connection, "roles.grant", f"{prefix}_*", plan, reason)
        why = roles.apply(connection, prefix)
        audit.end(connection, audit_id, {"done": 0, "error": why} if why else {"done": len(acts)})
        if why:
            hint = "run this as a role that owns evkit's tables and may create roles"
            raise Refused(f"the roles at {where} stay as they are ({why}): {hint}")
        print(f"{where}: done; make a service's login role a member, as in GRANT {prefix}_writer TO orders")
