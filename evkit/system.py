"""System: one PostgreSQL and one Kafka, as views and runtime are handed them. `evkit.connect()` makes one.

`evkit.connect("freeze:DIR")` makes one of a freeze (evkit/freeze): the same views look at what was copied, and now is the
moment of the freeze.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from typing import Any

from evkit import kafka, postgres
from evkit.settings import FREEZE_PREFIX, Settings, load, profile_asked
from evkit.window import present

# The view that this context is inside of: what it reads holds no snapshot for longer than `snapshot_seconds_max`.
_VIEW: ContextVar[str | None] = ContextVar("evkit_view", default=None)


@contextmanager
def viewing(name: str) -> Iterator[None]:
    """A block that is a view; of views inside views, the outer one is named."""
    token = _VIEW.set(_VIEW.get() or name)
    try:
        yield
    finally:
        _VIEW.reset(token)


class System:
    """A system to look at or to work on; opens nothing until it is asked something.

    Attributes:
        settings  where PostgreSQL and Kafka are
        admin     one Kafka admin client, shared by all views (it is thread-safe)
        recorded  of a freeze: what Kafka answered then, for views/broker.py; None for a system that can be asked
    """

    recorded: Any = None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __repr__(self) -> str:
        where = postgres.address(self.settings.postgres_dsn) if self.settings.postgres_dsn else "none"
        return f"<System '{self.settings.profile}': PostgreSQL {where}, Kafka {self.settings.bootstrap_servers}>"

    @cached_property
    def admin(self) -> kafka.AdminClient:
        return kafka.admin(self.settings)

    def now(self) -> datetime:
        """Now, in UTC; of a freeze its moment."""
        return present()

    def standing(self) -> AbstractContextManager[None]:
        """A block in which now is this system's: every view is one."""
        return nullcontext()

    @contextmanager
    def reading(self) -> Iterator[postgres.Connection]:
        """A read-only transaction with one snapshot: all queries of a view see the same moment, and nothing is changed.

        A view's is cut off when it has lasted `settings.snapshot_seconds_max`: a snapshot keeps vacuum from every table. On
        servers before PostgreSQL 17 that holds for each of its statements, and for its pauses between them.

        Raises:
            QueryTimeout: a view held a snapshot for too long, or a query took longer than `statement_timeout_seconds`.
            DatabaseUnreachable: PostgreSQL does not answer, before or in the middle of the work.
            NotMigrated: the database has no evkit tables, or older ones.
            NoPostgres: there is no database.
        """
        view = _VIEW.get()
        seconds = self.settings.statement_timeout_seconds if view is None else self.settings.snapshot_seconds_max
        with (
            postgres.translated_errors(self.settings.postgres_dsn, view, seconds),
            postgres.connect(
                self.settings.postgres_dsn,
                application_name="evkit views",
                read_only=True,
                timeout_seconds=self.settings.postgres_timeout_seconds,
                # A little earlier than the transaction's end: a statement that is cancelled leaves the session alive.
                statement_timeout_seconds=seconds if view is None else 0.9 * seconds,
            ) as connection,
        ):
            postgres.require_migrated(connection)
            connection.rollback()
            if view is not None:
                postgres.limit_transactions(connection, seconds)
            connection.isolation_level = postgres.IsolationLevel.REPEATABLE_READ
            yield connection

    def writing(self, application_name: str = "evkit", *, autocommit: bool = False) -> postgres.Connection:
        """A new connection that may write; the caller closes it.

        Raises:
            DatabaseUnreachable: PostgreSQL does not answer.
        """
        return postgres.connect(
            self.settings.postgres_dsn,
            application_name=application_name,
            autocommit=autocommit,
            timeout_seconds=self.settings.postgres_timeout_seconds,
        )


def connect(profile: str | None = None) -> System:
    """The system of a profile, or the one that environment, evkit.toml or the embedded stack name.

    Opens no connection yet. `freeze:DIR` is no profile of a file: it opens that freeze (a private PostgreSQL, which ends
    with this process).

    Raises:
        SettingsError: see `evkit.settings.load`.
        StackNotRunning: nothing is configured, and the embedded stack is not up.
        FreezeRefused: the folder is no freeze, or was changed since.
    """
    asked = profile_asked(profile)
    if asked is not None and asked.startswith(FREEZE_PREFIX):
        # By its name: a service that connects must not load what opens a freeze (Parquet, the embedded server).
        opened: System = importlib.import_module("evkit.freeze.opened").open_freeze(asked.removeprefix(FREEZE_PREFIX))
        return opened
    return System(load(profile))


def system_of(settings: Settings) -> System:
    """The system of settings that another process has handed over."""
    return connect(settings.profile) if settings.profile.startswith(FREEZE_PREFIX) else System(settings)
