"""`evkit notebooks`, `evkit lab`: the shipped notebooks, and a JupyterLab on a copy of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from evkit.cli.output import Format, FormatOption, print_rows, say

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder for your own copy.")]
_FOLDER = Path("evkit-notebooks")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    notebooks = typer.Typer(help="The shipped notebooks: one question each.", no_args_is_help=True)
    notebooks.command("list")(list_)
    notebooks.command("copy")(copy)
    app.add_typer(notebooks, name="notebooks")
    app.command("lab", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(lab)


def list_(format: FormatOption = Format.table) -> None:
    """List the notebooks, in the order in which one needs them."""
    from evkit import reporting

    rows = [
        {
            "notebook": spec.name,
            "group": spec.group,
            "question": spec.title,
            "parameters": ", ".join(p.name for p in spec.parameters),
            "writes": spec.writes,
        }
        for spec in reporting.notebooks()
    ]
    print_rows(rows, ("notebook", "group", "question", "parameters", "writes"), format)


def copy(folder: FolderArgument = _FOLDER) -> None:
    """Copy the notebooks into a folder; what is there already is never written over."""
    from evkit import reporting

    copied, kept = reporting.copy(folder)
    print(
        f"{len(copied)} notebooks copied to {folder}" + (f", {len(kept)} were there already and stay" if kept else "")
    )
    say(f"open them: evkit lab {folder}")


def lab(
    context: typer.Context,
    folder: FolderArgument = _FOLDER,
    port: Annotated[int, typer.Option(help="First port to try.")] = 8888,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
) -> None:
    """Open JupyterLab on 127.0.0.1 on your own copy of the notebooks; options after -- go to JupyterLab.

    The address that is printed has a token: whoever has it can run code as you.
    """
    from evkit.reporting import lab as jupyter

    copied, kept = jupyter.prepare(folder)
    if copied:
        say(f"{len(copied)} notebooks copied to {folder}" + (f", {len(kept)} were there already" if kept else ""))
    session = jupyter.session(folder, port=port, browser=browser, more=context.args)
    print(session.url)
    say("Ctrl-C ends it")
    sys.stdout.flush()
    session.become()
