"""The notebooks that evkit ships, each one question, and the reports made of them.

A notebook says everything about itself: its H1 is the question, the cell tagged `parameters` what it takes, its metadata
(`evkit`) whether it changes anything. A report definition names a notebook, the parameters to run it with and when. In a
checkout both are read from `notebooks/` and `reports/definitions/`, in an installed evkit from inside the package.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evkit.errors import UnknownNotebook, UsageError, closest
from evkit.reporting.parameters import Parameter, parse, read

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent.parent
_ORDER = re.compile(r"^\d+_")
# The order in which somebody who is new, or who was paged, needs them.
GROUPS = ("tutorial", "investigate", "replay", "health")


@dataclass(frozen=True, slots=True)
class NotebookSpec:
    """A notebook.

    Attributes:
        name        file name without number and suffix: `where_is_it_stuck`
        group       its folder: tutorial, investigate, replay or health
        title       its H1, a question
        parameters  what it takes
        writes      it can change something; then a plan and a confirmation come first
        path        of the file
    """

    name: str
    group: str
    title: str
    parameters: tuple[Parameter, ...]
    writes: bool
    path: Path


@dataclass(frozen=True, slots=True)
class Definition:
    """A report: a notebook, run with these parameters.

    Attributes:
        name        what `evkit report run` takes, and the folder of its runs
        title       what it answers
        notebook    which notebook
        parameters  values that differ from the notebook's defaults
        schedule    when it should run, as a line of crontab; empty for by hand
        path        of the TOML file; None for a notebook that is run as it is
    """

    name: str
    title: str
    notebook: NotebookSpec
    parameters: dict[str, Any] = field(default_factory=dict)
    schedule: str = ""
    path: Path | None = None


def notebooks_folder() -> Path:
    """Where the notebooks are: the checkout's `notebooks/`, or the copy inside the installed package."""
    return _found("notebooks", "notebooks")


def definitions_folder() -> Path:
    """Where evkit's report definitions are: the checkout's `reports/definitions/`, or the copy inside the package."""
    return _found("reports/definitions", "reports")


def _found(in_checkout: str, in_package: str) -> Path:
    # The copy comes first: an installed evkit must not take a folder of that name which lies beside site-packages.
    shipped = _PACKAGE / "shipped" / in_package
    if shipped.is_dir():
        return shipped
    folder = _CHECKOUT / in_checkout
    if folder.is_dir() and (_CHECKOUT / "pyproject.toml").is_file():
        return folder
    raise UsageError(
        f"this installation of evkit has no {in_package}: neither {shipped} nor {folder} exists; install it anew"
    )


# --- notebooks --------------------------------------------------------------------------------------------------------


def notebooks() -> list[NotebookSpec]:
    """All shipped notebooks, in the order of their groups and numbers."""
    paths = sorted(p for p in notebooks_folder().rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    order = {group: place for place, group in enumerate(GROUPS)}
    return sorted((describe(p) for p in paths), key=lambda s: (order.get(s.group, len(order)), s.path.name))


def notebook(name: str) -> NotebookSpec:
    """The shipped notebook of this name, or the notebook at this path (`my/own.ipynb`).

    Raises:
        UnknownNotebook: there is none; near matches are in `suggestions`.
        UsageError, InvalidParameter: see `describe`.
    """
    if name.endswith(".ipynb"):
        path = Path(name)
        if not path.is_file():
            raise UnknownNotebook(name, [], where=f"in {path.parent.absolute()}: there is no such file")
        return describe(path)
    by_name = {spec.name: spec for spec in notebooks()}
    plain = _ORDER.sub("", name.replace("-", "_"))
    if plain not in by_name:
        raise UnknownNotebook(name, by_name)
    return by_name[plain]


def describe(path: Path) -> NotebookSpec:
    """What a notebook says about itself.

    Raises:
        UsageError: it cannot be read as a notebook, or has no cell tagged `parameters`.
        InvalidParameter: its parameters cell holds something else than parameters.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        cells = [(c["cell_type"], _source(c), c.get("metadata", {})) for c in document["cells"]]
        own = document.get("metadata", {}).get("evkit", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} cannot be read as a notebook: {error}") from None
    tagged = [source for kind, source, meta in cells if kind == "code" and "parameters" in meta.get("tags", [])]
    if len(tagged) != 1:
        raise UsageError(
            f"{path} has {len(tagged)} cells tagged 'parameters', and exactly one says what a notebook takes: "
            "tag it in JupyterLab (property inspector, Cell Tags)"
        )
    heading = next((s for kind, s, _ in cells if kind == "markdown" and s.startswith("# ")), f"# {path.stem}")
    parameters = read(tagged[0], f"the parameters cell of {path}")
    return NotebookSpec(
        name=_ORDER.sub("", path.stem),
        group=path.parent.name,
        title=heading.splitlines()[0].removeprefix("# ").strip(),
        parameters=parameters,
        writes=bool(own.get("writes", False)),
        path=path,
    )


def _source(cell: dict[str, Any]) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


# --- report definitions -----------------------------------------------------------------------------------------------


def definitions(folders: Iterable[Path] = ()) -> list[Definition]:
    """All report definitions: those in the given folders (the first of a name wins), then evkit's own; sorted by name."""
    found: dict[str, Definition] = {}
    for folder in (*folders, definitions_folder()):
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else []:
            found.setdefault(path.stem, _read_definition(path))
    return [found[name] for name in sorted(found)]


def definition(name: str, folders: Iterable[Path] = ()) -> Definition:
    """The report of this name; or, where there is none, the notebook of this name run as it is.

    Raises:
        UnknownNotebook: neither has this name; near matches of both are in `suggestions`.
        UsageError: its file cannot be read, or names what does not exist.
    """
    by_name = {d.name: d for d in definitions(folders)}
    if name in by_name:
        return by_name[name]
    try:
        spec = notebook(name)
    except UnknownNotebook as error:
        raise UnknownNotebook(name, [*by_name, *error.known], where="as a report or notebook") from None
    return Definition(spec.name, spec.title, spec)


def _read_definition(path: Path) -> Definition:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the report definition {path} cannot be read as TOML: {error}") from None
    names = ("title", "notebook", "schedule", "parameters")
    for name in content:
        if name not in names:
            near = closest(name, names)
            hint = f"; did you mean '{near[0]}'?" if near else f"; it may have {', '.join(names)}"
            raise UsageError(f"the report definition {path} has an unknown entry '{name}'{hint}")
    if not isinstance(content.get("notebook"), str):
        raise UsageError(f'the report definition {path} names no notebook: add notebook = "health_report"')
    named = content["notebook"]
    spec = notebook(str(path.parent / named) if named.endswith(".ipynb") else named)
    values = dict(content.get("parameters", {}))
    known = {p.name: p for p in spec.parameters}
    for name, value in values.items():
        if name not in known:
            near = closest(name, known)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UsageError(
                f"the report definition {path} sets '{name}', which notebook '{spec.name}' does not take{hint}"
            )
        parse(known[name], value)
    return Definition(
        path.stem, str(content.get("title", spec.title)), spec, values, str(content.get("schedule", "")), path
    )


# --- a copy of one's own ----------------------------------------------------------------------------------------------


def copy(folder: Path | str) -> tuple[list[Path], list[Path]]:
    """Copy the shipped notebooks into a folder of one's own: what was copied, and what was there already and stays.

    Side effects: makes the folder and the notebooks' groups in it. A file that exists is never written over, whatever is in
    it: it may hold somebody's work.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    target, source = Path(folder).expanduser(), notebooks_folder()
    copied, kept = [], []
    try:
        for spec in notebooks():
            path = target / spec.path.relative_to(source)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                kept.append(path)
            else:
                path.write_bytes(spec.path.read_bytes())
                copied.append(path)
    except OSError as error:
        raise UsageError(f"the notebooks cannot be copied to {target}: {error.strerror or error}") from None
    return copied, kept
