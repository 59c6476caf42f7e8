"""Kafka's groups → evkit.lag_sample: write down how far every group is, at even distances, and copy the offsets log.

Nothing here is evkit's alone: any group of any cluster. PostgreSQL is needed, for that is where samples go; only the tables
of `evkit sample` are written, no group is joined and nothing is committed.

A round asks for the committed offsets first, then where the partitions begin and end: the other way round, a group that is
at work would seem to be ahead of its topic. Its rows are one COPY: killed in the middle, the round is not there, and the
moments around it are said to be not covered. Between two rounds the offsets log is followed (commit_log.py).

One sampler writes for a cluster, by a session lock on the connection that it writes on; a second one says so and waits.
When PostgreSQL or Kafka is away, that is said once, and sampling goes on when both are back.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from evkit import kafka, kafka_admin, postgres
from evkit.errors import BrokerRefused, InvalidParameter, Refused, Unreachable
from evkit.runtime.commit_log import CommitLog
from evkit.runtime.groups_wanted import wanted
from evkit.sql import named
from evkit.system import System

log = logging.getLogger(__name__)

_SQL = named("sample")

# 5,760 samples a day: what half of it leaves open is less than most groups take between two commits.
EVERY_SECONDS = 15.0
# A view looks for samples up to an hour around its window.
EVERY_SECONDS_MAX = 3600.0
# As long as Kafka keeps the offsets of a group without members, twice.
KEEP_DAYS = 14.0
# How often old rows are deleted, and how many in a transaction.
EXPIRE_SECONDS, EXPIRE_ROWS = 3600.0, 20_000
# Between two tries while a server is away.
RETRY_SECONDS = 2.0
# How long a stop has to wait at most, while nothing happens in the log.
_TURN_SECONDS = 0.25


class AnotherSampler(Refused):
    """Raised when another sampler writes for this cluster, and this one is not to wait."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round has written.

    Attributes:
        at      of its samples
        groups  how many were asked
        rows    samples: one for each group and partition
        seconds how long it took
        refused groups that may not be looked at, and why
    """

    at: datetime
    groups: int
    rows: int
    seconds: float
    refused: dict[str, str]


class Sampler:
    """Samples until `stop`; see the module.

    Args:
        every_seconds  between two rounds
        groups         names or patterns ("billing", "shop-*") of the groups to sample; none: all
        keep_days      older rows are deleted
        copy_log       whether the offsets log is copied, too

    Attributes:
        cluster_id  of Kafka; None before the first connection
        last        the last round

    Raises:
        InvalidParameter: a number that makes no sense.
    """

    def __init__(
        self,
        system: System,
        *,
        every_seconds: float = EVERY_SECONDS,
        groups: Sequence[str] = (),
        keep_days: float = KEEP_DAYS,
        copy_log: bool = True,
    ) -> None:
        if not 0.1 <= every_seconds <= EVERY_SECONDS_MAX:
            raise InvalidParameter(
                f"every {every_seconds:g} s cannot be sampled: take 0.1 to {EVERY_SECONDS_MAX:g}",
                name="every", value=every_seconds,
            )  # fmt: skip
        if keep_days <= 0:
            raise InvalidParameter("keep-days must be above zero", name="keep-days", value=keep_days)
        self.system = system
        self.every_seconds = every_seconds
        self.groups = sorted(set(groups))
        self.keep_days = keep_days
        self.cluster_id: str | None = None
        self.last: Round | None = None
        self._copy_log = copy_log
        self._connection: postgres.Connection | None = None
        self._log: CommitLog | None = None
        self._stopping = threading.Event()
        self._is_leader = False
        self._round_at = self._expire_at = 0.0
        self._said: set[str] = set()

    # --- running ------------------------------------------------------------------------------------------------------

    def once(self) -> Round:
        """One round, and what the offsets log has had until now.

        Raises:
            AnotherSampler: one is running for this cluster.
            DatabaseUnreachable, NotMigrated, BrokerUnreachable, BrokerRefused.
        """
        with postgres.translated_errors(self.system.settings.postgres_dsn):
            connection = self._open()
            if not self._leads(connection):
                raise AnotherSampler(
                    f"another sampler writes for the Kafka cluster {self.cluster_id}: its samples are the same, so there "
                    "is nothing to do"
                )
            made = self._round(connection)
            if self._log is not None:
                self._log.catch_up(connection)
            self._expire(connection)
            return made

    def run(self) -> None:
        """Sample until `stop()`. Servers that go away are waited for, except at the start.

        Raises:
            DatabaseUnreachable, NotMigrated, BrokerUnreachable, BrokerRefused: at the start.
        """
        with postgres.translated_errors(self.system.settings.postgres_dsn):
            self._open()
        while not self._stopping.is_set():
            try:
                with postgres.translated_errors(self.system.settings.postgres_dsn):
                    self._turn(self._open())
                self._recovered()
            except (Unreachable, BrokerRefused) as error:
                self._away(error)

    def stop(self) -> None:
        """End after what is in hand; from any thread or a signal handler."""
        self._stopping.set()

    def close(self) -> None:
        """Close connections; what was not written is not there, and is read again by the next one."""
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                # A server takes a moment to notice that a connection is closed; the next sampler need not wait for that.
                self._connection.execute(_SQL["give_up"])
            self._connection.close()
            self._connection = None

    def _turn(self, connection: postgres.Connection) -> None:
        """A round when it is due, and the log until the next one is; or a wait for the lead."""
        if not self._leads(connection):
            self._say(f"another sampler writes for the Kafka cluster {self.cluster_id}: this one waits until it ends")
            self._stopping.wait(min(self.every_seconds, RETRY_SECONDS))
            return
        now = time.monotonic()
        if now >= self._round_at:
            # Even distances, whatever a round takes; rounds that were missed are not made up for.
            due = self._round_at + self.every_seconds
            self._round_at = due if due > now else now + self.every_seconds
            self._round(connection)
            if self._log is not None:
                self._log.look(connection)
        elif now >= self._expire_at:
            self._expire(connection)
        # Also where rounds take longer than they are apart, the log has its turn.
        left = max(min(self._round_at - time.monotonic(), _TURN_SECONDS), 0.01)
        if self._log is None or not self._log.is_open:
            self._stopping.wait(left)
        else:
            self._log.follow(connection, left)

    # --- connections --------------------------------------------------------------------------------------------------

    def _open(self) -> postgres.Connection:
        if self.cluster_id is None:
            self.cluster_id = kafka.cluster_id(self.system.settings)
        if self._connection is None or self._connection.closed:
            self._connection = self.system.writing("evkit sample", autocommit=True)
            postgres.require_migrated(self._connection)
            self._is_leader = False
        return self._connection

    def _leads(self, connection: postgres.Connection) -> bool:
        if not self._is_leader:
            row = connection.execute(_SQL["lead"], (self.cluster_id,)).fetchone()
            self._is_leader = bool(row and row[0])
            if self._is_leader and self._copy_log:
                assert self.cluster_id is not None
                if self._log is not None:
                    self._log.close()
                self._log = CommitLog(self.system, self.cluster_id, self.groups)
        return self._is_leader

    def _away(self, error: Exception) -> None:
        """Say it once, and wait a little; what is written next is written on new connections."""
        words = str(error)
        if words not in self._said:
            log.warning("sampling waits: %s", words)
            self._said.add(words)
        if not isinstance(error, BrokerRefused) and self._connection is not None and self._is_broken(error):
            self.close()
        self._stopping.wait(RETRY_SECONDS)

    def _is_broken(self, error: Exception) -> bool:
        cause = error.__cause__
        assert self._connection is not None
        return isinstance(cause, psycopg.Error) or postgres.is_lost(self._connection)

    def _recovered(self) -> None:
        if self._said and self.last is not None:
            waited = [words for words in self._said if not words.startswith("another sampler")]
            if waited:
                log.warning("sampling goes on")
            self._said.clear()

    def _say(self, words: str) -> None:
        if words not in self._said:
            log.warning("%s", words)
            self._said.add(words)

    # --- a round ------------------------------------------------------------------------------------------------------

    def _round(self, connection: postgres.Connection) -> Round:
        began = time.monotonic()
        at, groups, rows, refused = self._measured()
        with connection.transaction(), connection.cursor() as cursor, cursor.copy(_SQL["samples"]) as copy:
            for row in rows:
                copy.write_row(row)
        self.last = Round(at, groups, len(rows), time.monotonic() - began, refused)
        for group, why in refused.items():
            self._say(f"group {group} is not sampled: {why}")
        log.info("sampled", extra={"groups": groups, "rows": len(rows), "seconds": round(self.last.seconds, 3)})
        return self.last

    def _measured(self) -> tuple[datetime, int, list[tuple[Any, ...]], dict[str, str]]:
        settings, admin = self.system.settings, self.system.admin
        states = {g: s for g, s in kafka.groups(settings, admin).items() if wanted(g, self.groups)}
        # First what members hold: only a coordinator that is ready may be asked for offsets.
        facts = kafka_admin.group_facts(settings, states, admin)
        committed, refused = kafka_admin.committed_of_groups(settings, facts, admin)
        at = datetime.now(UTC)
        places = {
            group: sorted(p for p in {*committed.get(group, ()), *of.assigned} if not p[0].startswith("__"))
            for group, of in facts.items()
        }
        topics = kafka.topics(settings, admin)
        every = sorted({p for of_group in places.values() for p in of_group if p[1] < topics.get(p[0], 0)})
        specs = (kafka.EARLIEST, None, kafka.LATEST)
        starts, stable, ends = (kafka_admin.told_offsets(settings, every, spec, admin) for spec in specs)
        rows: list[tuple[Any, ...]] = []
        for group, of_group in places.items():
            for place in of_group:
                told = [of[place].offset if place in of else None for of in (starts, stable, ends)]
                offset = committed.get(group, {}).get(place)
                state, members = facts[group].state or states[group], facts[group].members
                rows.append((self.cluster_id, group, *place, at, self.every_seconds, offset, *told, state, members))
        return at, len(facts), rows, {group: str(error) for group, error in refused.items()}

    # --- retention ----------------------------------------------------------------------------------------------------

    def _expire(self, connection: postgres.Connection) -> None:
        """Delete what is old, a little at a time: rounds that are due come first."""
        before = datetime.now(UTC) - timedelta(days=self.keep_days)
        asked = {"cluster_id": self.cluster_id, "before": before, "rows_max": EXPIRE_ROWS}
        deleted = connection.execute(_SQL["expire_samples"], asked).rowcount
        if self._log is not None:
            deleted = max(deleted, self._log.expire(connection, before, EXPIRE_ROWS))
        if deleted >= EXPIRE_ROWS:
            return  # the rest with the next turn
        self._expire_at = time.monotonic() + EXPIRE_SECONDS
        kept: dict[str, int] = dict(connection.execute(_SQL["rows_kept"]).fetchall())
        log.info("rows kept, by the planner's estimate", extra=kept)
