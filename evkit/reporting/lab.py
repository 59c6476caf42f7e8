"""JupyterLab on a copy of the notebooks: this machine only, with a token, and without news."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from evkit.errors import MissingExtra, UsageError
from evkit.reporting.catalogue import copy

# So many ports are tried, from the first one upwards.
_PORTS = 20
_START = "tutorial/00_start_here.ipynb"


@dataclass(frozen=True, slots=True)
class Session:
    """A JupyterLab to be: what to run, in which environment, and where it will answer."""

    command: list[str]
    environment: dict[str, str]
    url: str

    def become(self) -> NoReturn:
        """Run JupyterLab in the place of this process, so that signals and its end are its own."""
        os.execvpe(self.command[0], self.command, self.environment)  # noqa: S606 - our own interpreter


def prepare(folder: Path) -> tuple[list[Path], list[Path]]:
    """The user's own copy of the notebooks: what was copied, and what was there already and stays.

    Raises:
        MissingExtra: JupyterLab is not installed.
        UsageError: the folder cannot be written to.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingExtra("notebooks", "JupyterLab")
    return copy(folder)


def session(folder: Path, *, port: int = 8888, browser: bool = True, more: Sequence[str] = ()) -> Session:
    """A JupyterLab on this folder; starts nothing yet.

    Raises:
        UsageError: none of the ports can be had.
    """
    free = _free_port(port)
    token = secrets.token_hex(24)
    start = f"/lab/tree/{_START}" if (folder / _START).is_file() else "/lab"
    command = [
        sys.executable, "-m", "jupyterlab",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={free}", "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder.absolute()}", f"--LabApp.default_url={start}",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--ServerApp.log_level=WARN",
        # Its address is printed by us; root is who runs containers, and it still needs the token.
        *([] if browser else ["--no-browser"]), *(["--allow-root"] if os.geteuid() == 0 else []), *more,
    ]  # fmt: skip
    # The token travels by the environment: everybody on the machine can read a command line.
    environment = os.environ | {"JUPYTER_TOKEN": token, "JUPYTER_CONFIG_PATH": _config_path()}
    return Session(command, environment, f"http://127.0.0.1:{free}{start}?token={token}")


def _config_path() -> str:
    """Where Jupyter looks for settings: with ours, which ask no question about news; the user's own win."""
    ours = str(Path(__file__).parent / "jupyter")
    return os.pathsep.join([p for p in (os.environ.get("JUPYTER_CONFIG_PATH"), ours) if p])


def _free_port(first: int) -> int:
    for port in range(first, first + _PORTS):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise UsageError(f"none of the ports {first} to {first + _PORTS - 1} is free: give another one by --port")
