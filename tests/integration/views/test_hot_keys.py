from __future__ import annotations

import pytest

from evkit import views
from evkit.errors import InvalidParameter
from tests.integration.views.rows import deal, fail, write


def test_the_key_that_holds_most_of_what_is_unread_or_failed_comes_first(evkit_system, past):
    write(past, "first", 200, published=199)
    deal(past, "billing", "first", 198, created=200)
    for i in range(10):
        write(past, f"e{i}", 100 - i, key="whale" if i < 8 else f"small{i}", published=99 - i, partition=3)
    write(past, "unpublished", 50, key="whale")
    for attempt in (1, 2):
        fail(past, "billing", "first", 198, key="poison", attempt=attempt, partition=1)
    fail(past, "billing", "first", 198, key="nobody's fault", disposition="held")

    frame = views.hot_keys(evkit_system, past.window(600), keys_max=2)

    assert frame.select("of", "key", "partition", "n", "share_ratio", "of_n", "keys").rows() == [
        ("unread", "whale", 3, 8, 0.8, 10, 3), ("unread", "small8", 3, 1, 0.1, 10, 3),
        ("failed", "poison", 1, 1, 1.0, 1, 1),
    ]  # fmt: skip
    assert frame["oldest_at"][0] == past.at(100)
    assert views.hot_keys(evkit_system, past.window(600), of="failed")["key"].to_list() == ["poison"]
    with pytest.raises(InvalidParameter, match="take unread or failed"):
        views.hot_keys(evkit_system, of="late")
    with pytest.raises(InvalidParameter, match="did you mean 'unread'"):
        views.hot_keys(evkit_system, of="unraed")


def test_what_every_group_has_dealt_with_is_no_hot_key(evkit_system, past):
    write(past, "e1", 100, published=99)
    deal(past, "billing", "e1", 98, created=100)

    assert views.hot_keys(evkit_system, past.window(600)).is_empty()
