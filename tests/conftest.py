"""Fixtures that are ours alone; those for everybody are in evkit.testing.plugin."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import platformdirs
import pytest
import typer.testing

if TYPE_CHECKING:
    from evkit.local import StackInfo

# Where Python is told to keep no bytecode, as in many a container, each of the processes that the tests start would compile
# anew all that it imports: seconds for a command, a kernel, JupyterLab. So it is kept, in a cache, not beside the sources.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(platformdirs.user_cache_path("evkit", appauthor=False) / "tests-bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

# A command in this process is not to make the tree of all commands again, 0.1 s each time.
typer.testing._get_command = functools.cache(typer.testing._get_command)

# How long an example takes says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile("evkit", deadline=None)
hypothesis.settings.load_profile("evkit")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Size and seed of the fault runs (tests/acceptance/test_relay_faults.py and test_consumer_faults.py)."""
    options = parser.getgroup("evkit fault run")
    options.addoption(
        "--events", type=int, help="events that the writers commit, at least; default: 20000 (relay), 4000 (consumer)"
    )
    options.addoption(
        "--seconds", type=float, help="how long they take for it; default: one for 500 (relay), 250 (consumer) events"
    )
    options.addoption(
        "--letters", type=int, help="dead letters of tests/integration/runtime/test_letters_speed.py; times too"
    )
    options.addoption(
        "--kills",
        type=int,
        help="kills of each redrive and replay (test_redrive_kills.py, test_replay_kill9.py); default: 2",
    )
    options.addoption("--seed", type=int, help="draws what the writers do and which fault comes when; default: any")


# Whole systems that are started, loaded and broken, and given a time to recover in. They run one after the other, beside
# the small tests: two that come back side by side, on two cores, test the machine.
ONE_AT_A_TIME = "tests/acceptance/"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `--dist loadfile`: in the order of the folders, long files first and the unit tests last, so that no worker waits
    minutes for the other at the end; by number of tests, as is pytest-xdist's way, the long ones would be the last."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return ONE_AT_A_TIME if file.startswith(ONE_AT_A_TIME) else file

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a chromium-like browser."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    pytest.skip("needs a browser: install chromium (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def own_stack() -> Iterator[StackInfo]:
    """A stack of the module's own: its servers may be restarted, killed, or hang."""
    from evkit.local import Stack

    home = Path(tempfile.mkdtemp(prefix="evkit-own-"))  # PostgreSQL's socket wants a short path
    stack = Stack(home, owned=True)
    try:
        yield stack.up()
    finally:
        stack.delete()
