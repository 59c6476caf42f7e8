"""evkit.lag_sample → how far a group was behind at moments of the past, as it was measured then."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

from evkit.errors import BrokerUnreachable
from evkit.sql import named
from evkit.system import System
from evkit.views.broker import broker
from evkit.views.end_offsets import UNKNOWN, End
from evkit.views.lag_window import Ends
from evkit.views.offsets import Place
from evkit.views.track import Track
from evkit.window import Window

SOURCE = "sample"

_SQL = named("sample")
# Moments of so long are read in one transaction: no snapshot is held for long.
_AT_ONCE = timedelta(hours=6)


def cluster_of(system: System) -> str:
    """Kafka's id of the cluster; while it does not answer, that of the only one that was ever sampled into this database.

    Raises:
        BrokerUnreachable: it does not answer, and the tables do not tell.
        DatabaseUnreachable, NotMigrated: see `System.reading`; only when the broker does not answer.
    """
    try:
        return broker(system).cluster_id()
    except BrokerUnreachable:
        with system.reading() as connection:
            known = [row[0] for row in connection.execute(_SQL["clusters"]).fetchall()]
        if len(known) != 1:
            raise
        return str(known[0])


def sampled_groups(system: System, cluster: str) -> list[str]:
    """Groups that `evkit sample` has ever seen in this cluster.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    with system.reading() as connection:
        return [row[0] for row in connection.execute(_SQL["groups"], {"cluster_id": cluster}).fetchall()]


def sampled(
    system: System, cluster: str, group: str, topic: str | None, instants: list[datetime], step: timedelta
) -> dict[Place, Track]:
    """Of each partition that was sampled about then: what the sample nearest to each moment says. Moments without one, for
    none was taken within the sampler's distance, are not covered.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    asked = {"cluster_id": cluster, "group": group, "topic": topic, "start": instants[0], "step": step}
    at_once = max(_AT_ONCE // step, 1)
    rows: list[tuple[Any, ...]] = []
    with system.reading() as connection:
        for first in range(0, len(instants), at_once):
            last = min(first + at_once, len(instants)) - 1
            page = {"first_n": first, "last_n": last, "first": instants[first], "last": instants[last]}
            read = connection.execute(_SQL["nearest"], asked | page)
            connection.rollback()  # no snapshot is held while objects are made of rows
            rows += read.fetchall()
    found: dict[Place, Track] = {}
    for of_topic, partition, n, committed, end in rows:
        place = (of_topic, partition)
        if place not in found:
            nothing = len(instants)
            found[place] = Track(SOURCE, [None] * nothing, [UNKNOWN] * nothing, [False] * nothing)
        track = found[place]
        track.committed[n], track.ends[n], track.covered[n] = committed, End(end), True
    return found


def looks(system: System, cluster: str, groups: list[str], window: Window, step: timedelta) -> dict[Place, list[Ends]]:
    """Where the partitions of these groups began, were stable and ended, as it was sampled in the window: at most once in
    each `step`, in order of time.

    Raises:
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    asked = {"cluster_id": cluster, "groups": groups, "start": window.start, "until": window.end, "step": step}
    with system.reading() as connection:
        rows = connection.execute(_SQL["looks"], asked).fetchall()
    found: dict[Place, list[Ends]] = defaultdict(list)
    for topic, partition, at, start, end, stable in rows:
        found[topic, partition].append(Ends(at, start, end, stable))
    return found
