"""The window that options mean together."""

from __future__ import annotations

import pytest

from evkit.cli.view import window_given
from evkit.errors import InvalidParameter


def test_an_empty_window_is_refused_and_not_taken_for_none():
    """As a script writes it whose variable is not set: an hour that nobody asked for would be looked at."""
    with pytest.raises(InvalidParameter, match="window '' is no window"):
        window_given("", None, None, "1h")
    assert window_given(None, None, None, "1h").seconds == 3600
