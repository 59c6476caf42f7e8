"""What a notebook takes is read from its parameters cell, and what people type is checked against it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from evkit.errors import InvalidParameter
from evkit.reporting.parameters import Parameter, parse, read, resolve

NOW = datetime(2026, 2, 8, 14, tzinfo=UTC)
CELL = """
# a line of words
group: str | None = None      # consumer group; None: all of them
limit: int = 50               # letters to list
ratio: float = 0.5            # 0..1
dry_run: bool = True          # False does it
topics: list[str] = ["a = b", "#c"]   # topics to read
since: Instant = "now-1h"     # start of the window
bucket: Duration = "1m"       # length of a bucket
"""


def parameter(kind, *, optional=False, default=None):
    return Parameter("p", kind, optional, default, "")


def test_cell_is_read_as_python_with_types_defaults_and_comments():
    found = read(CELL)

    assert [(p.name, p.kind, p.optional, p.default) for p in found] == [
        ("group", "str", True, None),
        ("limit", "int", False, 50),
        ("ratio", "float", False, 0.5),
        ("dry_run", "bool", False, True),
        ("topics", "list[str]", False, ["a = b", "#c"]),
        ("since", "Instant", False, "now-1h"),
        ("bucket", "Duration", False, "1m"),
    ]
    assert found[0].meaning == "consumer group; None: all of them"
    assert found[4].meaning == "topics to read"


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("group = 'billing'", "may only hold lines like"),
        ("import os", "may only hold lines like"),
        ("when: datetime = None", "has the type datetime"),
        ("p: str | int = 1", "has the type str | int"),
        ("group: str", "may only hold lines like"),
    ],
)
def test_cell_with_anything_else_is_refused(cell, words):
    with pytest.raises(InvalidParameter, match=words.replace("|", r"\|")):
        read(cell)


@pytest.mark.parametrize(
    "name", ["password", "db_password", "api_token", "kafka_secret", "postgres_dsn", "db_pass", "apikey", "PRIVATE_KEY"]
)
def test_parameter_cannot_be_named_like_a_secret(name):
    with pytest.raises(InvalidParameter, match="looks like a secret"):
        read(f"{name}: str = ''")


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        ("bool", "true", True),
        ("bool", "False", False),
        ("bool", "no", False),
        ("bool", "1", True),
        ("bool", False, False),
        ("int", "20", 20),
        ("int", 20, 20),
        ("float", "1e-3", 0.001),
        ("float", 2, 2.0),
        ("str", "a=b", "a=b"),
        ("str", 7, "7"),
        ("list[str]", "a, b,,c", ["a", "b", "c"]),
        ("list[str]", ("a",), ["a"]),
        ("Duration", " 2h ", "2h"),
        ("Instant", "now-2h", "2026-02-08T12:00:00Z"),
        ("Instant", "2026-02-08T15:00+02:00", "2026-02-08T13:00:00Z"),
        ("Instant", NOW, "2026-02-08T14:00:00Z"),
    ],
)
def test_value_is_read_as_its_type(kind, given, value):
    parsed = parse(parameter(kind), given, now=NOW)

    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("bool", "flase"),
        ("bool", "2"),
        ("bool", ""),
        ("int", "1.5"),
        ("int", 1.5),
        ("int", True),
        ("int", "abc"),
        ("float", "nan"),
        ("float", "inf"),
        ("float", "abc"),
        ("str", ["a"]),
        ("list[str]", 3),
        ("list[str]", [1]),
        ("Duration", "soon"),
        ("Duration", 5),
        ("Instant", "yesterday"),
        ("str", None),
    ],
)
def test_value_of_another_type_is_refused_with_a_sentence(kind, given):
    with pytest.raises(InvalidParameter, match="p.* is ") as refused:
        parse(parameter(kind), given, now=NOW)

    assert refused.value.name == "p"


def test_none_is_a_value_only_of_optional_parameters():
    assert parse(parameter("int", optional=True), "none") is None
    assert parse(parameter("Instant", optional=True), None) is None
    assert parse(parameter("str"), "none") == "none"


def test_false_as_text_is_not_true():
    """papermill hands the text "false" to a notebook, which takes it for true."""
    assert resolve(read("dry_run: bool = True"), {"dry_run": "false"}, notebook="redrive")["dry_run"] is False


def test_unknown_parameter_is_refused_with_near_matches():
    with pytest.raises(InvalidParameter) as refused:
        resolve(read(CELL), {"gruop": "billing"}, notebook="where_is_it_stuck")

    assert str(refused.value) == ("notebook 'where_is_it_stuck' has no parameter 'gruop'; did you mean 'group'?")


def test_wrong_value_is_told_with_its_meaning():
    with pytest.raises(InvalidParameter) as refused:
        resolve(read(CELL), {"dry_run": "maybe"}, notebook="n")

    assert str(refused.value) == "parameter 'dry_run' (False does it) is true or false, not 'maybe'"


def test_all_parameters_get_values_and_times_of_one_moment():
    values = resolve(read(CELL), {"since": "now-2h"}, notebook="n", now=NOW)

    assert values["since"] == "2026-02-08T12:00:00Z"
    assert list(values) == ["group", "limit", "ratio", "dry_run", "topics", "since", "bucket"]
