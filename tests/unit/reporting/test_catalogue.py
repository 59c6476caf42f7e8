"""Notebooks and report definitions are found, described by themselves, and copied without harm."""

from __future__ import annotations

import json

import pytest

from evkit.errors import InvalidParameter, UnknownNotebook, UsageError
from evkit.reporting import catalogue


def a_notebook(path, *cells, **metadata):
    """Cells as (kind, source, tags)."""
    written = [
        {"cell_type": kind, "id": f"c{i}", "metadata": {"tags": tags}, "source": source}
        | ({"outputs": [], "execution_count": None} if kind == "code" else {})
        for i, (kind, source, tags) in enumerate(cells)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": written, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))
    return path


QUESTION = ("markdown", "# Why?\n\nBecause.", [])
PARAMETERS = ("code", "group: str = 'billing'  # whose", ["parameters"])


def test_every_shipped_notebook_asks_one_question():
    found = {spec.name: spec for spec in catalogue.notebooks()}

    assert list(found) == [
        "start_here",
        "what_is_wrong",
        "where_is_it_stuck",
        "what_happened_to_this_event",
        "why_did_these_die",
        "what_changed",
        "redrive_and_replay",
        "health_report",
    ]
    assert all(spec.title.endswith("?") for spec in found.values())
    assert [name for name, spec in found.items() if spec.writes] == ["redrive_and_replay"]


def test_notebook_that_writes_does_nothing_by_default():
    parameters = {p.name: p for p in catalogue.notebook("redrive_and_replay").parameters}

    assert (parameters["dry_run"].kind, parameters["dry_run"].default) == ("bool", True)
    assert parameters["confirm"].default is None


@pytest.mark.parametrize("name", ["where_is_it_stuck", "where-is-it-stuck", "10_where_is_it_stuck"])
def test_notebook_is_found_by_its_name(name):
    assert catalogue.notebook(name).group == "investigate"


def test_unknown_notebook_is_refused_with_near_matches():
    with pytest.raises(UnknownNotebook, match="did you mean 'where_is_it_stuck'"):
        catalogue.notebook("where_is_it_stuk")
    with pytest.raises(UnknownNotebook, match="there is no such file"):
        catalogue.notebook("mine/own.ipynb")


def test_notebook_of_ones_own_is_described_like_ours(tmp_path):
    path = a_notebook(tmp_path / "mine" / "05_why.ipynb", QUESTION, PARAMETERS, evkit={"writes": True})

    spec = catalogue.notebook(str(path))

    assert (spec.name, spec.title, spec.group, spec.writes) == ("why", "Why?", "mine", True)
    assert [p.name for p in spec.parameters] == ["group"]


@pytest.mark.parametrize(
    ("cells", "refused", "words"),
    [
        ([QUESTION], UsageError, "has 0 cells tagged 'parameters'"),
        ([PARAMETERS, PARAMETERS], UsageError, "has 2 cells tagged 'parameters'"),
        ([("code", "x: str = (", ["parameters"])], InvalidParameter, "is no Python"),
        ([("code", "x: str = open('a')", ["parameters"])], InvalidParameter, "is computed: write a value"),
        ([("code", "token: str = ''", ["parameters"])], InvalidParameter, "looks like a secret"),
    ],
)
def test_notebook_that_does_not_say_what_it_takes_is_refused(tmp_path, cells, refused, words):
    path = a_notebook(tmp_path / "n.ipynb", *cells)

    with pytest.raises(refused, match=words):
        catalogue.describe(path)


def test_file_that_is_no_notebook_is_refused(tmp_path):
    path = tmp_path / "n.ipynb"
    path.write_text("{}")

    with pytest.raises(UsageError, match="cannot be read as a notebook"):
        catalogue.describe(path)


def test_shipped_definitions_fit_their_notebooks():
    found = catalogue.definition("health")

    assert (found.notebook.name, found.parameters["since"]) == ("health_report", "now-1h")


def test_notebook_without_a_definition_is_a_report_too():
    assert catalogue.definition("why_did_these_die").path is None


def test_unknown_report_is_refused_with_near_matches():
    with pytest.raises(UnknownNotebook) as refused:
        catalogue.definition("healht")

    assert str(refused.value) == "notebook 'healht' is not known as a report or notebook; did you mean 'health'?"


def test_own_definition_comes_before_ours_and_may_name_an_own_notebook(tmp_path):
    a_notebook(tmp_path / "why.ipynb", QUESTION, PARAMETERS)
    (tmp_path / "health.toml").write_text('notebook = "why.ipynb"\n[parameters]\ngroup = "shipping"\n')

    found = catalogue.definition("health", [tmp_path])

    assert (found.title, found.parameters) == ("Why?", {"group": "shipping"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("notebook = ", "cannot be read as TOML"),
        ("title = 'x'", "names no notebook"),
        ("notebok = 'health_report'", "unknown entry 'notebok'; did you mean 'notebook'"),
        ("notebook = 'helth_report'", "did you mean 'health_report'"),
        ("notebook = 'health_report'\n[parameters]\nsinse = 'now'", "sets 'sinse'.*did you mean 'since'"),
        ("notebook = 'health_report'\n[parameters]\nsince = 'soon'", "'soon' is no time"),
    ],
)
def test_broken_definition_is_refused_with_a_sentence(tmp_path, content, words):
    (tmp_path / "mine.toml").write_text(content)

    with pytest.raises(UsageError, match=words):
        catalogue.definition("mine", [tmp_path])


def test_copy_writes_over_nothing(tmp_path):
    first, _ = catalogue.copy(tmp_path)
    first[0].write_text("my work")

    copied, kept = catalogue.copy(tmp_path)

    assert (copied, sorted(kept)) == ([], sorted(first))
    assert first[0].read_text() == "my work"


def test_copy_into_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(UsageError, match="cannot be copied to"):
        catalogue.copy(tmp_path / "file")
