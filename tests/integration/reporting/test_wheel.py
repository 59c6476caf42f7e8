"""What is installed from a wheel finds its notebooks and definitions inside itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from evkit.reporting import catalogue

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A wheel built from this checkout, unpacked as an installation would."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv to build a wheel: pip install uv")
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [uv, "build", "--wheel", "--out-dir", folder, ROOT], capture_output=True, text=True, check=False, cwd=folder
    )
    if built.returncode and "hatchling" in built.stderr and "etch" in built.stderr:
        pytest.skip("needs hatchling to build a wheel, and no package index answers: run it once with a network")
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_wheel_carries_every_notebook_and_definition(installed):
    shipped = installed / "evkit" / "reporting" / "shipped"

    carried = {p.relative_to(shipped).as_posix() for p in shipped.rglob("*") if p.is_file()}

    expected = {
        f"notebooks/{s.path.relative_to(catalogue.notebooks_folder()).as_posix()}" for s in catalogue.notebooks()
    }
    assert expected <= carried
    assert {p for p in carried if p.startswith("reports/")} == {"reports/health.toml"}
    assert not [p for p in carried if "checkpoints" in p]


def test_installed_evkit_finds_them_inside_itself(installed, tmp_path):
    script = (
        "from evkit import reporting; import evkit;"
        "print(evkit.__file__);"
        "print([s.path.as_posix() for s in reporting.notebooks()]);"
        "print(reporting.definition('health').path);"
        "from evkit.reporting import html; print(len(html.page.__doc__), html._PARTS.joinpath('page.css').is_file())"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )  # fmt: skip

    module, notebooks, definition, page = done.stdout.splitlines()
    assert module == str(installed / "evkit" / "__init__.py")
    assert notebooks.count(f"{installed}/evkit/reporting/shipped/notebooks/") == len(catalogue.notebooks())
    assert definition == str(installed / "evkit/reporting/shipped/reports/health.toml")
    assert page.endswith("True")
