"""`evkit migrate`: bring the database to this version's tables, or say what is missing."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("migrate")(migrate)


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Only say what is missing; exit 1 when something is.")] = False,
) -> None:
    """Create or upgrade evkit's tables in the database (schema `evkit`)."""
    from evkit import postgres
    from evkit.settings import load

    settings = load()
    where = postgres.address(settings.postgres_dsn)
    if check:
        with postgres.connect(settings.postgres_dsn, read_only=True) as connection:
            pending = postgres.pending_migrations(connection)
        print(f"{where} lacks {', '.join(pending)}: run `evkit migrate`" if pending else f"{where} is up to date")
        raise typer.Exit(1 if pending else 0)
    applied = postgres.migrate(settings.postgres_dsn)
    print(f"{where}: applied {', '.join(applied)}" if applied else f"{where} is up to date")
