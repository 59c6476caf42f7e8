"""Fixtures that are ours alone; those for everybody are in evkit.testing.plugin."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a chromium-like browser."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    pytest.skip("needs a browser: install chromium (Debian: apt-get install chromium)")
