"""topics → client: join a consumer group, so that only what was stored is ever committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evkit import kafka
from evkit.settings import Settings


def joined(
    settings: Settings, group: str, topics: Sequence[str], protocol: str, **told: Callable[[Any, list[Any]], None]
) -> Any:
    """A client that is about to be a member of the group.

    Args:
        protocol  "consumer" (KIP-848) or "classic"
        told      on_assign, on_revoke, on_lost: called by the client's poll
    """
    client = kafka.consumer(
        settings,
        group,
        **{
            "group.protocol": protocol,
            # Only stored offsets are ever committed, once a second and at every rebalance and close.
            "enable.auto.commit": True,
            "auto.commit.interval.ms": 1000,
            # At the end of a transactional topic there is no record to store an offset after.
            "enable.partition.eof": True,
        },
        **({} if protocol == "consumer" else {"partition.assignment.strategy": "cooperative-sticky"}),
    )
    client.subscribe(list(topics), **told)
    return client
