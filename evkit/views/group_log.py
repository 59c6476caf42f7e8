"""Kafka's `__consumer_offsets`, and the groups that evkit's tables know beside it → the history of one group."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from evkit.errors import NotInFreeze, NotMigrated, UnknownGroup, Unreachable
from evkit.offsets_log import Part
from evkit.system import System
from evkit.views.broker import broker
from evkit.views.frame import groups_of
from evkit.views.lag_samples import cluster_of, sampled_groups

log = logging.getLogger(__name__)


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


def _inbox_groups(system: System) -> list[str]:
    with system.reading() as connection:
        return groups_of(system, connection)
