"""event of a key whose letter is open → parked table: let it wait there in order, and let its offset go on.

After a dead letter no later event of its key may overtake it (P3), and the partition must not stand still for one key. So
the transaction that writes the letter also parks the key, and whatever comes of it later is written into evkit.parked
instead of being handled, in the order in which it came. `dead_letters.redrive` and `dead_letters.release` run the letter
and then what is behind it (release.py).

What the inbox asks (`gates`) costs one small query a batch while nothing is parked. It is asked after the batch's inbox
rows are written: who parks a key has written the inbox row of its event first, so that a zombie that parks it at this very
moment has either let us wait for its commit, or finds our row and parks nothing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from evkit import postgres
from evkit.kafka import Record
from evkit.runtime.delivery import Delivery
from evkit.runtime.failure import storable
from evkit.sql import named

_SQL = named("parking")

log = logging.getLogger(__name__)

# Beyond these, where a consumer says nothing else, events stay in Kafka and their partitions pause (overflow.py).
KEY_EVENTS_MAX = 10_000
GROUP_EVENTS_MAX = 100_000
# A longer key fits into no index of PostgreSQL, whose entries have up to 2,704 bytes, names of group and topic included: it
# is not parked, and no version of it is kept.
KEY_BYTES_MAX = 2_000
# How long a key whose events cannot be parked waits before it is tried again.
FULL_SECONDS = 5.0
# How often at most the log says why.
_TOLD_SECONDS = 60.0


class ParkingFull(Exception):
    """No more events of these keys may be parked; the transaction is to be rolled back."""

    def __init__(self, keys: set[bytes | None], sentence: str) -> None:
        super().__init__(sentence)
        self.keys = keys


class Parking:
    """The parked keys of one group, as an inbox sees them; for one thread.

    Args:
        key_events_max    most events that wait behind one letter
        group_events_max  most events that wait in the whole group
        by_default        whether events park their key, and wait behind it, where their handler does not say
    """

    def __init__(
        self,
        group: str,
        key_events_max: int = KEY_EVENTS_MAX,
        group_events_max: int = GROUP_EVENTS_MAX,
        *,
        by_default: bool = True,
    ) -> None:
        self._group = group
        self._by_default = by_default
        self._key_events_max = key_events_max
        self._group_events_max = group_events_max
        self._told_at = float("-inf")
        self._has_told_of_long_keys = False

    def take(self, connection: postgres.Connection, new: Sequence[Delivery]) -> list[Delivery]:
        """Park those of newly claimed events whose key is parked; returns the others, which are to be handled.

        In the open transaction that has claimed them, before any of their handlers has run. Costs a query: who knows that
        the group has no parked key (`gates` of sql/inbox.sql) need not ask.

        Raises:
            ParkingFull: too many wait already.
        """
        keyed = [d for d in new if self.parks(d)]
        if not keyed:
            return list(new)
        keys = list({d.record.key for d in keyed})
        rows = connection.execute(_SQL["parked_keys"], {"group": self._group, "keys": keys}).fetchall()
        parked = {(topic, raw_key): (letter_id, events) for topic, raw_key, letter_id, events in rows}
        waiting = [d for d in keyed if (d.record.topic, d.record.key) in parked]
        if waiting:
            self._require_room(connection, waiting, parked)
            self._park(connection, waiting)
        gone = {id(d) for d in waiting}
        return [d for d in new if id(d) not in gone]

    def parks(self, delivery: Delivery) -> bool:
        """Whether there is an order that this event's death could break; what is no event has no place in it."""
        if delivery.record.key is None or delivery.event is None:
            return False
        said = None if delivery.handler is None else delivery.handler.park_key
        if not (self._by_default if said is None else said):
            return False
        if len(delivery.record.key) <= KEY_BYTES_MAX:
            return True
        if not self._has_told_of_long_keys:
            self._has_told_of_long_keys = True
            log.warning(
                "group %s: a key of topic '%s' has %s bytes, more than the %s that can be parked: events of such keys do "
                "not wait behind a dead letter of theirs", self._group, delivery.record.topic, len(delivery.record.key),
                KEY_BYTES_MAX,
            )  # fmt: skip
        return False

    def _require_room(
        self, connection: postgres.Connection, waiting: list[Delivery], parked: dict[Any, tuple[int, int]]
    ) -> None:
        come = Counter((d.record.topic, d.record.key) for d in waiting)
        most = self._key_events_max
        full = {place: parked[place] for place, n in come.items() if parked[place][1] + n > most}
        if full:
            (topic, raw_key), (letter_id, events) = next(iter(full.items()))
            sentence = (
                f"{events:,} events of key {readable(raw_key)} of topic '{topic}' wait behind dead letter {letter_id} of "
                f"group '{self._group}' and {come[topic, raw_key]:,} more came, but at most {most:,} may wait: "
                f"`evkit dlq redrive {letter_id}`, or archive it and `evkit dlq release`"
            )
        else:
            row = connection.execute(_SQL["waiting"], {"group": self._group}).fetchone()
            events, most = 0 if row is None else row[0], self._group_events_max
            if events + len(waiting) <= most:
                return
            full = {place: parked[place] for place in come}
            sentence = (
                f"{events:,} events of group '{self._group}' wait behind dead letters of their keys and {len(waiting):,} "
                f"more came, but at most {most:,} may wait: `evkit dlq parked`, then redrive or release them"
            )
        if time.monotonic() - self._told_at > _TOLD_SECONDS:
            log.error("group %s: %s", self._group, sentence)
            self._told_at = time.monotonic()
        raise ParkingFull({raw_key for _, raw_key in full}, sentence)

    def _park(self, connection: postgres.Connection, waiting: list[Delivery]) -> None:
        connection.execute(_SQL["mark"], {"group": self._group, "event_ids": [d.event_id for d in waiting]})
        with connection.cursor() as cursor:
            cursor.executemany(_SQL["add"], [_values(self._group, d) for d in waiting])
            come = Counter((d.record.topic, d.record.key) for d in waiting)
            cursor.executemany(
                _SQL["grow"],
                [{"group": self._group, "topic": t, "raw_key": k, "events": n} for (t, k), n in sorted(come.items())],
            )

    def park(self, connection: postgres.Connection, delivery: Delivery, letter_id: int) -> None:
        """Later events of this dead event's key wait from now on; in the transaction that writes its letter."""
        connection.execute(
            _SQL["park"],
            {
                "group": self._group,
                "topic": delivery.record.topic,
                "raw_key": delivery.record.key,
                "key": delivery.key,
                "letter_id": letter_id,
            },
        )


def readable(raw_key: bytes | None) -> str:
    """A key in a sentence."""
    return f"'{storable((raw_key or b'').decode('utf-8', errors='backslashreplace'))[:100]}'"


def _values(group: str, delivery: Delivery) -> dict[str, Any]:
    record: Record = delivery.record
    return {
        "group": group,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "leader_epoch": record.leader_epoch,
        "appended_at": record.timestamp,
        "timestamp_type": record.timestamp_type,
        "raw_key": record.key,
        "raw_value": record.value,
        "header_names": [storable(name) for name, _ in record.headers],
        "header_values": [value for _, value in record.headers],
        "created_at": delivery.event.created_at if delivery.event else None,
        "received_at": record.received_at,
    }
