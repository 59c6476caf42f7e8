"""The relay with one bug planted in it: `python planted.py BUG relay run …`. The fault test must find each of them.

What these relays do has been published as a design, or is one forgotten line away from evkit's own.
"""

from __future__ import annotations

import sys
import time

from evkit.cli import main
from evkit.runtime.marker import Marker
from evkit.runtime.outbox_cursor import GapAwareCursor
from evkit.runtime.publisher import Publisher
from evkit.runtime.transactional_publisher import TransactionalPublisher


def skip_a_hole() -> None:
    """A position that is not there at the next look is taken for rolled back."""
    GapAwareCursor._own_xid = lambda self: 0


def settle_over_a_hole() -> None:
    """What is written down as settled is the highest position seen: after a crash nobody looks below it."""
    GapAwareCursor.settled = property(lambda self: self.high)


def mark_before_confirmation() -> None:
    """An event counts as published once it is handed to the client."""

    def poll(self, seconds):
        done = list(self._under_way)
        self._under_way.clear()
        for batch in done:
            self._end(batch)
            batch.answers = [(row[0], -1, -1, time.monotonic_ns() // 1000) for row in batch.rows]
        original(self, seconds)
        self._producer.poll(seconds)
        return done

    original = Publisher.poll
    Publisher.poll = poll


def publish_after_a_failed_event() -> None:
    """An event that the broker refuses is put aside, and its key goes on."""
    original = Publisher._park

    def park(self, *arguments):
        original(self, *arguments)
        self.held.clear()

    Publisher._park = park


def order_by_txid() -> None:
    """Rows are published in the order in which their transactions began to write, anywhere."""
    original = GapAwareCursor.read

    def read(self, *arguments, **more):
        reading = original(self, *arguments, **more)
        positions = [row[0] for row in reading.rows]
        txid = dict(
            self._connection.execute(
                "SELECT position, txid::text::bigint FROM evkit.outbox WHERE position = ANY(%s)", (positions,)
            )
        )
        reading.rows.sort(key=lambda row: (txid[row[0]], row[0]))
        return reading

    GapAwareCursor.read = read


def forget_the_claim() -> None:
    """A batch that is committed on Kafka, but not marked, is sent again after a crash. The mark is slow, so that a kill
    meets such a batch."""
    committed_claim, mark = TransactionalPublisher.committed_claim, Marker.mark

    def forgotten(self, *arguments):
        committed_claim(self, *arguments)
        return -1

    def mark_slowly(self, batches):
        if any(batch.answers for batch in batches):
            time.sleep(0.3)
        return mark(self, batches)

    TransactionalPublisher.committed_claim = forgotten
    Marker.mark = mark_slowly


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    del sys.argv[1]
    sys.exit(main())
