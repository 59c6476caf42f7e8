"""What psycopg is spared on the hot path arrives in PostgreSQL as it would by psycopg."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evkit.postgres import integer_array, text_array

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")) | st.sampled_from(
    ['"', "\\", '\\"', "NULL", "null", "{a,b}", "{}", "", " a ", "a,b", "'", "\n", "%s", "é\U0001f600"]
)


@pytest.fixture
def arrived(evkit_system):
    """`arrived(parameter, "text[]")` → the list that PostgreSQL takes it for."""
    with evkit_system.writing() as connection:
        yield lambda parameter, kind: connection.execute(f"SELECT %s::{kind}", [parameter]).fetchone()[0]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.none() | TEXT))
def test_a_text_array_arrives_as_it_was(arrived, values):
    assert arrived(text_array(values), "text[]") == values


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_an_integer_array_arrives_as_it_was(arrived, values):
    assert arrived(integer_array(values), "bigint[]") == values


@pytest.mark.parametrize("values", [["a\x00b"], ["a\x00b", "c"], ["a\x00b", None], ["\x00"]])
def test_a_nul_does_not_become_the_border_of_two_texts(values):
    with pytest.raises(ValueError, match="NUL"):
        text_array(values)
