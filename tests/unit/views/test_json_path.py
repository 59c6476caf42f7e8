from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.errors import InvalidParameter
from evkit.views.json_path import json_path, path_and_value


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("$.customer.id", '$."customer"."id"'),
        ('$.customer."odd name"', '$."customer"."odd name"'),
        ("$.lines[0].sku-code", '$."lines"[0]."sku-code"'),
        (" $.größe ", '$."größe"'),
    ],
)
def test_a_path_of_names_and_places_is_written_in_one_spelling(given, path):
    assert json_path(given) == path


@pytest.mark.parametrize(
    "given",
    ["", "$", "customer.id", "$.", "$..id", "$.a[*]", "$.a ? (@ > 1)", '$.a."', "$.a[-1]", "$.a; DROP TABLE x", "$.*"],
)
def test_whatever_else_jsonpath_can_do_is_refused(given):
    with pytest.raises(InvalidParameter, match="is no path into a payload"):
        json_path(given)


@given(st.text(alphabet="$.\"'[]0a\\ ?(=;", max_size=12))
def test_what_passes_is_a_path_of_quoted_names_and_numbers_only(text):
    try:
        path = json_path(text)
    except InvalidParameter:
        return
    assert path.count('"') % 2 == 0
    assert "?" not in "".join(path.split('"')[::2])
    assert "\\" not in path


def test_the_value_begins_after_the_first_sign_behind_the_path():
    assert path_and_value('$.a."x=y"=z=1') == ('$."a"."x=y"', "z=1")
    with pytest.raises(InvalidParameter, match=r"write \$\.customer\.id=4711"):
        path_and_value("$.a=")
    with pytest.raises(InvalidParameter, match="no path"):
        path_and_value("$.a?=1")
