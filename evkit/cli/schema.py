"""`evkit schema`: write down what event types look like, and refuse what the consumers of today would not survive."""

from __future__ import annotations

import difflib
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from evkit.cli.output import Format, FormatOption, print_rows, say
from evkit.errors import EvkitError, SchemaIncompatible, UsageError

_COLUMNS = ("event_type", "version", "field", "additive", "sentence")

ModuleArgument = Annotated[
    str, typer.Argument(metavar="MODULE", help="Module whose import declares the event types, e.g. orders.events.")
]
FileOption = Annotated[Path, typer.Option("--file", help="Lock file; belongs into version control.")]
_FILE = Path("evkit.schemas.json")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    schema = typer.Typer(help="Event types: lock their schemas, check changes.", no_args_is_help=True)
    for name, command in (("lock", lock), ("check", check), ("diff", diff)):
        schema.command(name)(command)
    app.add_typer(schema, name="schema")


def lock(
    module: ModuleArgument,
    file: FileOption = _FILE,
    reason: Annotated[
        str | None,
        typer.Option("--reason", help="Lock changes that are not additive; kept in the file.", show_default=False),
    ] = None,
) -> None:
    """Write the schemas of all event types into the lock file; refuses (exit 1) what is not additive.

    With --reason it is written all the same: the reason, the time and what it overrode stay in the file.
    """
    from evkit.runtime import schemas

    if reason is not None and not reason.strip():
        raise UsageError("an empty --reason explains nothing: who will know in a month why old consumers had to break?")
    _declared(module)
    locked = _read(file) if file.exists() else None
    # A first lock has nothing to compare with, except the versions with each other.
    changes = schemas.check(None, {**schemas.lock(), "event_types": {}} if locked is None else locked)
    bad = [change.sentence for change in changes if not change.additive]
    if bad and reason is None:
        raise SchemaIncompatible([*bad, "nothing was locked: change the code, or lock it with --reason"])
    document = schemas.lock()
    overrides = list((locked or {}).get("overrides", []))
    if bad:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        overrides.append({"locked_at": now, "reason": reason, "changes": bad})
    if overrides:
        document["overrides"] = overrides
    if document == locked:
        print(f"{file} is up to date: {_count(document)}")
        return
    _write(file, document)
    print(f"locked {_count(document)} in {file}")
    for sentence in bad:
        say(f"overridden: {sentence}")


def check(module: ModuleArgument, file: FileOption = _FILE, format: FormatOption = Format.table) -> None:
    """Compare the code with the lock: exit 0 when every change is additive, 1 when one is not. Changes nothing."""
    from evkit.runtime import schemas

    _declared(module)
    changes = schemas.check(None, _locked(module, file))
    if format is Format.table and changes:
        # Sentences of this length make no table.
        for change in changes:
            print(f"{'additive' if change.additive else 'BREAKING'}  {change.sentence}")
    else:
        rows = [{column: getattr(change, column) for column in _COLUMNS} for change in changes]
        print_rows(rows, _COLUMNS, format, empty=f"no difference to {file}")
    if not all(change.additive for change in changes):
        raise typer.Exit(1)
    if changes:
        say(f"additive, and not locked yet: evkit schema lock {module} --file {file}")


def diff(module: ModuleArgument, file: FileOption = _FILE) -> None:
    """Show what `lock` would change, as a text diff; a new version is shown against the one before it. Exit 0."""
    from evkit.runtime import schemas

    _declared(module)
    locked = _locked(module, file)
    schemas.check(None, locked)  # says in a sentence when the file is no lock
    lines = list(_differences(locked["event_types"], schemas.lock()["event_types"]))
    print("\n".join(lines) if lines else f"no difference to {file}")


def _differences(was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name in sorted(was.keys() | now.keys()):
        locked, code = (side.get(name, {"versions": {}, "upcasters": []}) for side in (was, now))
        for version in sorted(locked["versions"].keys() | code["versions"].keys(), key=int):
            base = version
            if version not in locked["versions"]:
                base = max((v for v in code["versions"] if int(v) < int(version)), key=int, default=version)
            before = locked["versions"].get(base) or (code["versions"].get(base) if base != version else None)
            yield from _text_diff(
                before, code["versions"].get(version), f"{name} version {base}", f"{name} version {version}"
            )
        yield from _text_diff(locked["upcasters"], code["upcasters"], f"{name} upcasters", f"{name} upcasters")


def _text_diff(before: Any, after: Any, old: str, new: str) -> Iterator[str]:
    left, right = ([] if part is None else _text(part).splitlines() for part in (before, after))
    old += "" if before is not None else " (none)"
    new += " (code)" if after is not None else " (gone)"
    yield from difflib.unified_diff(left, right, old, new, lineterm="")


def _declared(module: str) -> None:
    """Import the module, the working directory first; its event types are in the registry afterwards."""
    from evkit.event_types import registry

    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        importlib.import_module(module)
    except EvkitError:
        raise
    except (ImportError, ValueError, TypeError) as error:
        raise UsageError(f"module '{module}' cannot be imported from {Path.cwd()}: {error}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"module '{module}' fails while it is imported: {type(error).__name__}: {error}") from error
    if not registry.types:
        raise UsageError(
            f"module '{module}' declares no event types: name the module with the @evkit.event_type classes"
        )


def _locked(module: str, file: Path) -> dict[str, Any]:
    if not file.exists():
        raise UsageError(f"there is no lock file {file}: write it with `evkit schema lock {module} --file {file}`")
    return _read(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"lock file {file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"lock file {file} is not JSON ({error}): take it from version control again, or delete it and lock anew"
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("overrides", []), list):
        raise UsageError(
            f"lock file {file} is no schema lock: take it from version control again, or delete it and lock anew"
        )
    return document


def _write(file: Path, document: dict[str, Any]) -> None:
    """All of the file or none of it: a crash, a full disk or a reader at the same time never meets half a lock."""
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", text=True)
    except OSError as error:
        raise UsageError(f"lock file {file} cannot be written: {error.strerror}") from None
    fresh = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(_text(document) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        fresh.chmod(file.stat().st_mode & 0o777 if file.exists() else 0o644)
        fresh.replace(file)
    except OSError as error:
        raise UsageError(f"lock file {file} cannot be written: {error.strerror}") from None
    finally:
        fresh.unlink(missing_ok=True)


def _text(part: Any) -> str:
    return json.dumps(part, ensure_ascii=False, indent=2, sort_keys=True)


def _count(document: dict[str, Any]) -> str:
    types = document["event_types"].values()
    return f"{len(types)} event types, {sum(len(t['versions']) for t in types)} versions"
