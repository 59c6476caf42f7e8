"""The consumer with one bug planted in it: `python planted.py BUG consume …`. The fault test must find each of them.

What these consumers do has been done by others in earnest, or is one forgotten line away from evkit's own.
"""

from __future__ import annotations

import sys

from evkit.cli import main
from evkit.runtime import claims, release
from evkit.runtime.assignment import Assignment
from evkit.runtime.membership import Membership
from evkit.runtime.parking import Parking
from evkit.runtime.retry import Retry
from evkit.runtime.session import Session


def commit_before_handling() -> None:
    """An offset is stored when its record has come, as a client does by default."""
    original = Assignment.add

    def add(self, stretches):
        anew = original(self, stretches)
        for partition in self._partitions.values():
            if partition.received:
                partition.stored = partition.received[-1] + 1
        return anew

    Assignment.add = add


def store_out_of_order() -> None:
    """What is stored is the offset behind the last event that is done, whatever before it is not."""

    def advance(partition):
        partition.stored = max(partition.stored or 0, max(partition.done, default=-1) + 1)
        while partition.received and partition.received[0] in partition.done:
            partition.done.discard(partition.received.popleft())

    Assignment._advance = staticmethod(advance)


def epoch_before_the_drain() -> None:
    """Partitions that are taken away are forgotten first, so what is finished of them afterwards is not committed."""
    original = Membership.on_revoke

    def on_revoke(self, client, partitions):
        self._forget([(place.topic, place.partition) for place in partitions])
        original(self, client, partitions)

    Membership.on_revoke = on_revoke


def inbox_outside_the_transaction() -> None:
    """An event's inbox row is committed before its handler runs."""
    original = claims.claim

    def claim(_connection, who, batch, **more):
        with who.system.writing(autocommit=True) as own:
            return original(own, who, batch, **more)

    claims.claim = claim


def blame_the_event() -> None:
    """That PostgreSQL ended the session under an event is taken for the event's fault."""
    Session.lost = lambda self, error: False
    Retry.is_nobodys_fault = lambda self, error: False


def forget_the_key() -> None:
    """Lanes take events as they come: two of one key at once."""
    original = Assignment.add

    def add(self, stretches):
        anew = original(self, stretches)
        for partition in self._partitions.values():
            for work in partition.line_up(1_000_000):
                work.key = work.offset
        return anew

    Assignment.add = add


def overtake_the_dead() -> None:
    """Events whose key is parked are handled."""
    Parking.take = lambda self, connection, new: list(new)


def free_too_early() -> None:
    """A release lets the consumer have the key again while events of it still wait."""
    original = release.release

    def early(connection, key, inbox, **more):
        connection.execute(
            "DELETE FROM evkit.parked_key WHERE consumer_group = %s AND topic = %s AND raw_key = %s",
            (key.consumer_group, key.topic, key.raw_key),
        )
        return original(connection, key, inbox, **more)

    release.release = early


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    del sys.argv[1]
    sys.exit(main())
