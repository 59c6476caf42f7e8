"""The house: imports go one way, `import evkit` is light, and the words about the layout are true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import evkit
from evkit import sql

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "evkit"


def test_import_contracts_are_kept():
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter], check=False, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_importing_evkit_loads_no_client_and_no_dataframe():
    heavy = (
        "['pandas', 'polars', 'plotly', 'narwhals', 'confluent_kafka', 'psycopg', 'papermill', 'IPython', 'pydantic', "
        "'opentelemetry', 'prometheus_client']"
    )
    script = f"import sys, evkit; print([m for m in {heavy} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_importing_the_runtime_loads_no_dataframe_and_nothing_to_export_metrics_with():
    script = (
        "import sys; from evkit import Consumer, Relay, outbox, dead_letters, replay, schemas, connect;"
        "import evkit.runtime.health, evkit.runtime.metrics, evkit.runtime.tracing;"
        "print([m for m in ['pandas', 'polars', 'plotly', 'narwhals', 'papermill', 'IPython', 'opentelemetry', "
        "'prometheus_client'] if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in evkit.__all__:
        assert getattr(evkit, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'relays'"):
        evkit.relays  # noqa: B018


def test_runtime_modules_open_with_from_to_and_verb():
    for module in (PACKAGE / "runtime").glob("*.py"):
        first = module.read_text().splitlines()[0]
        if module.name != "__init__.py":
            assert re.match(r'^""".+ → .+: .+', first), f"{module.name}: {first}"


def test_map_names_every_folder_and_module_of_the_top():
    text = (PACKAGE / "README.md").read_text()
    for path in PACKAGE.iterdir():
        if path.suffix == ".py" and not path.stem.startswith("__"):
            assert f"`{path.name}`" in text, path.name
        elif path.is_dir() and (path / "__init__.py").exists():
            assert f"`{path.name}/`" in text, path.name


def test_map_names_every_module_of_the_runtime():
    text = (PACKAGE / "README.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| `runtime/`"))
    for module in (PACKAGE / "runtime").glob("*.py"):
        if module.stem != "__init__":
            assert module.stem in row, module.stem


def test_no_module_outgrows_its_room():
    for module in PACKAGE.rglob("*.py"):
        lines = len(module.read_text().splitlines())
        assert lines <= 500, f"{module.relative_to(ROOT)} has {lines} lines: which second concept moved in?"


def test_no_grab_bags():
    names = {path.stem for path in PACKAGE.rglob("*")}

    assert not names & {"utils", "common", "helpers", "misc"}


def test_every_query_has_a_name_of_its_own_and_is_used():
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for noun in sql.nouns():
        assert sql.named(noun), noun
        for name in sql.named(noun):
            assert re.search(rf'["\']{name}["\']', source), f"{noun}.sql: {name} is used nowhere"


def test_sql_is_composed_nowhere_by_string_formatting():
    for module in PACKAGE.rglob("*.py"):
        for line in module.read_text().splitlines():
            assert not re.search(r'execute\(\s*f["\']', line), f"{module.name}: {line.strip()}"


def test_top_level_is_what_it_was_agreed_to_be():
    tracked = subprocess.run(["git", "ls-files"], check=False, cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("this is no git checkout: clone the repository to check its top level")
    assert {line.split("/")[0] for line in tracked.stdout.splitlines()} <= {
        ".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "environment.yml", "evkit",
        "notebooks", "pyproject.toml", "reports", "tests", "uv.lock",
    }  # fmt: skip


def test_readme_shows_every_command():
    from evkit.cli import app

    readme = (ROOT / "README.md").read_text()
    names = [c.name for c in app.registered_commands] + [g.name for g in app.registered_groups]
    for name in names:
        assert f"evkit {name}" in readme, name
