"""Kafka's `__consumer_offsets`, and what evkit's tables know beside it and have copied of it → the history of one group."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from evkit.errors import NotInFreeze, NotMigrated, OffsetsLogRefused, UnknownGroup, Unreachable
from evkit.offsets_log import Part
from evkit.system import System
from evkit.views.broker import broker
from evkit.views.commit_log import copied_part
from evkit.views.frame import groups_of
from evkit.views.lag_samples import cluster_of, sampled_groups
from evkit.window import Window, present

log = logging.getLogger(__name__)

# As the column `source` names them.
LOG, COPY = "offsets_log", "commit_log"


def history_of(system: System, group: str) -> Part | None:
    """The group's part of the offsets log; None when there is no such log yet.

    Raises:
        UnknownGroup: neither the cluster, nor the log, nor evkit's tables know the group.
        OffsetsLogRefused, BrokerUnreachable.
    """
    parts = broker(system).offsets_log(group)
    part = parts[0] if parts else None
    if part is None or not part.entries:
        require_known(system, group)
    return part


def require_known(system: System, group: str) -> None:
    """Raise UnknownGroup unless the cluster knows the group, or evkit's tables do."""
    known = set(broker(system).groups())
    if group not in known:
        known |= kept_groups(system)
    if group not in known:
        raise UnknownGroup(group, known, where=f"to the cluster at {system.settings.bootstrap_servers}")


def kept_groups(system: System) -> set[str]:
    """Groups that PostgreSQL knows, also when Kafka has forgotten them or does not answer: those of this cluster that were
    sampled or copied, and those of the inbox. None without a PostgreSQL, or without evkit in it.
    """
    reads: tuple[Callable[[], Iterable[str]], ...] = (
        lambda: sampled_groups(system, cluster_of(system)),
        lambda: _inbox_groups(system),
    )
    known: set[str] = set()
    for read in reads:
        try:
            known |= set(read())
        except (Unreachable, NotMigrated, NotInFreeze) as error:
            log.info("groups without evkit's tables: %s", error)
    return known


def copied_of(system: System, group: str, since: datetime) -> Part | None:
    """What `evkit sample` has copied of a group's log: its members, and its commits from a moment on. None when nothing was
    copied; without a PostgreSQL, or without evkit in it, too.
    """
    try:
        return copied_part(system, cluster_of(system), group, Window(since, present()))
    except (Unreachable, NotMigrated, NotInFreeze) as error:
        log.info("history of %s without evkit's tables: %s", group, error)
        return None


def history_or_copy(system: System, group: str, since: datetime, what: str) -> tuple[Part | None, str]:
    """`history_of`, or the copy where the log may not be read; a warning says that `what` is told by that. And which it is.

    Raises:
        OffsetsLogRefused: the log may not be read, and nobody has copied it. Others: see `history_of`.
    """
    try:
        return history_of(system, group), LOG
    except OffsetsLogRefused as error:
        copied = copied_of(system, group, since)
        if copied is None:
            raise
        if not copied.entries:
            require_known(system, group)
        warn_of_copies(what, [copied], error)
        return copied, COPY


def copies_of(system: System, groups: Iterable[str], since: datetime) -> dict[str, Part]:
    """What was copied of several groups; those of which nothing was are left out."""
    found = {group: copied_of(system, group, since) for group in groups}
    return {group: part for group, part in found.items() if part is not None}


def warn_of_copies(what: str, copies: Iterable[Part], error: Exception) -> None:
    """Say until when copies tell what the log does not."""
    until = min(part.read_at for part in copies)
    log.warning("%s: told by what was copied until %s: %s", what, until.isoformat(timespec="seconds"), error)


def _inbox_groups(system: System) -> list[str]:
    with system.reading() as connection:
        return groups_of(system, connection)
