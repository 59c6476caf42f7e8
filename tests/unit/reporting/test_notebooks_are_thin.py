"""Shipped notebooks are words, parameters and calls: what has logic is in the package, where it has tests."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evkit.reporting import catalogue
from evkit.reporting.parameters import parse

NOTEBOOKS = catalogue.notebooks()
LINES_MAX = 10


@pytest.fixture(params=NOTEBOOKS, ids=lambda spec: spec.name)
def spec(request):
    return request.param


@pytest.fixture
def cells(spec):
    return json.loads(spec.path.read_text())["cells"]


def sources(cells, kind):
    return ["".join(c["source"]) for c in cells if c["cell_type"] == kind]


def test_first_cell_is_a_question_and_how_to_read_the_answer(cells):
    first = "".join(cells[0]["source"])

    assert cells[0]["cell_type"] == "markdown"
    assert re.match(r"# [^\n]+\?\n\n\S", first)
    assert sum(line.startswith("# ") for s in sources(cells, "markdown") for line in s.splitlines()) == 1


def test_every_parameter_has_a_type_a_default_and_words(spec):
    assert all(p.meaning for p in spec.parameters)
    for p in spec.parameters:
        parse(p, p.default)


def test_no_cell_defines_queries_or_computes(cells):
    forbidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.If, ast.Try,
                 ast.BinOp, ast.ListComp, ast.DictComp, ast.GeneratorExp)  # fmt: skip
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        assert source.count("\n") < LINES_MAX, source
        assert not re.search(r"\b(SELECT|INSERT|UPDATE|DELETE)\b", source)
        if "parameters" not in cell["metadata"].get("tags", []):
            assert not [n for n in ast.walk(ast.parse(source)) if isinstance(n, forbidden)], source


def test_a_cell_has_one_view_and_one_figure_at_most(cells):
    for source in sources(cells, "code"):
        assert len(re.findall(r"\bviews\.\w+", source)) <= 1, source
        assert len(re.findall(r"\bfigures\.\w+", source)) <= 1, source


def test_it_says_what_to_do_next_and_ends_with_its_summary(cells):
    assert any("What to do next" in s for s in sources(cells, "markdown"))
    assert sources(cells, "code")[-1] == "report.finish()"


def test_nothing_of_a_run_is_stored(spec, cells):
    document = json.loads(spec.path.read_text())

    assert document["metadata"]["kernelspec"]["name"] == "python3"
    assert "papermill" not in document["metadata"]
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells if c["cell_type"] == "code")


def test_nbstripout_finds_nothing_to_strip():
    stripper = Path(sys.executable).parent / "nbstripout"

    done = subprocess.run(
        [stripper, "--verify", *(s.path for s in NOTEBOOKS)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_links_between_notebooks_lead_somewhere(spec, cells):
    for source in sources(cells, "markdown"):
        for target in re.findall(r"\]\(([^)]+\.ipynb)\)", source):
            assert (spec.path.parent / target).is_file(), target
