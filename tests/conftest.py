"""Fixtures that are ours alone; those for everybody are in evkit.testing.plugin."""

from __future__ import annotations

import shutil

import hypothesis
import pytest

# How long an example takes says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile("evkit", deadline=None)
hypothesis.settings.load_profile("evkit")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Size and seed of the fault run (tests/acceptance/test_relay_faults.py)."""
    options = parser.getgroup("evkit fault run")
    options.addoption(
        "--faults",
        action="store_true",
        help="also the consumer's fault run, which takes ten minutes on a quiet machine",
    )
    options.addoption("--events", type=int, help="events that the writers commit, at least; default: 20000")
    options.addoption("--seconds", type=float, help="how long they take for it; default: one for 500 events")
    options.addoption(
        "--letters", type=int, help="dead letters of tests/integration/runtime/test_letters_speed.py; times too"
    )
    options.addoption("--seed", type=int, help="draws what the writers do and which fault comes when; default: any")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a chromium-like browser."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    pytest.skip("needs a browser: install chromium (Debian: apt-get install chromium)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The consumer's fault run only when it is asked for."""
    if config.getoption("--faults"):
        return
    left_out = [item for item in items if item.path.name == "test_consumer_faults.py"]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
