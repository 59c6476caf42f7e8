"""Notebooks made for a test, and a system whose servers are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from evkit.settings import Settings
from evkit.system import System

SECRET = "ge'heim<1>"


@pytest.fixture
def away(monkeypatch, tmp_path) -> System:
    """A system at closed ports, with a secret in both addresses; the test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return System(
        Settings(
            profile="away",
            postgres_dsn="postgresql://evkit:ge%27heim%3C1%3E@127.0.0.1:1/evkit",
            kafka={"bootstrap.servers": "127.0.0.1:1", "sasl.password": SECRET},
            kafka_timeout_seconds=0.5,
            postgres_timeout_seconds=0.5,
        )
    )


@pytest.fixture
def a_notebook(tmp_path) -> Callable[..., str]:
    """Writes a notebook of these code cells after the usual beginning; returns its path."""

    def write(*cells: str, name: str = "probe", parameters: str = "n: int = 1  # a number", ending: bool = True) -> str:
        notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "nobody-has-this", "display_name": "x"}})
        code = nbformat.v4.new_code_cell
        notebook.cells = [
            nbformat.v4.new_markdown_cell("# Does it hold?\n\nRead it."),
            code("from evkit import reporting, views, figures"),
            code(parameters, metadata={"tags": ["parameters"]}),
            code("report = reporting.begin()"),
            *map(code, cells),
            *([code("report.finish()")] if ending else []),
        ]
        path = Path(tmp_path / f"{name}.ipynb")
        nbformat.write(notebook, path)
        return str(path)

    return write
