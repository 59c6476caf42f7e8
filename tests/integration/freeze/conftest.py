"""A system with a past of every kind, what it shows at the moment of a freeze, and the freeze opened."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest
from psycopg import sql as compose

from evkit.freeze import loading, take
from evkit.freeze.opened import open_freeze
from evkit.system import System
from evkit.window import Standing, Window, standing_at
from tests.integration.views.conftest import past  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def _freezes_home():
    """Loaded freezes of these tests, in a folder that PostgreSQL's account can reach."""
    with pytest.MonkeyPatch.context() as patch:
        home = Path(tempfile.mkdtemp(prefix="evkit-freezes-"))
        home.chmod(0o755)
        patch.setenv("EVKIT_FREEZES_HOME", str(home))
        yield home
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def frozen(evkit_system, tmp_path):
    """Freezes a window of the test's system and opens it: `frozen(window)`; closed at the end."""
    opened = []

    def freeze(window, *, system=None, name="evidence", **how):
        system = system or evkit_system
        take.run(system, take.plan(system, window, tmp_path / name, **how))
        opened.append(open_freeze(tmp_path / name))
        return opened[-1]

    yield freeze
    for system in opened:
        system.close()


_CLOCK = "CREATE FUNCTION {}() RETURNS timestamptz LANGUAGE sql STABLE RETURN {}::timestamptz"


class Still(System):
    """The live system at another moment: its SQL and its Python tell that time, so that ages are the same to the digit."""

    def __init__(self, system, at):
        with psycopg.connect(system.settings.postgres_dsn, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA frozen")
            for name in loading._CLOCKS:
                connection.execute(
                    compose.SQL(_CLOCK).format(compose.Identifier("frozen", name), compose.Literal(at.isoformat()))
                )
        dsn = f"{system.settings.postgres_dsn}?options=-csearch_path%3Dfrozen%2Cpg_catalog"
        super().__init__(system.settings.model_copy(update={"postgres_dsn": dsn}))
        self.at = at

    def now(self):
        return self.at

    def standing(self):
        return standing_at(Standing(self.at, Window(self.at.replace(year=2000), self.at)))


@pytest.fixture
def still():
    return Still
