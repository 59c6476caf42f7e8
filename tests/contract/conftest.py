from __future__ import annotations

import pytest


@pytest.fixture(params=["polars", "pandas"])
def frame_backend(request: pytest.FixtureRequest) -> str:
    """What holds between views and their readers holds for both kinds of frames."""
    return request.param
