"""event → key_version table: know how far each key has come, and tell a handler that an event is older than that.

The inbox keeps an event from being handled twice; it does not keep an old one from overwriting what a newer one of its key
has written: after a redrive behind letters that were archived, in a group that parks nothing, in a replay, or when a
producer writes out of order. Where the consumer says what a version is, such an event is flagged `stale`; what to do
about it the handler knows best.

The consumer has to say it, because a record carries nothing that could be it by default. The outbox position stays in the
database (the relay publishes no header of it, which every event would pay for), and the order of ids or of `created_at` is
that of the writers' clocks, not of their locks. What to say:

- "offset" for what the relay publishes, when writers hold a lock on the key (`ordered=True`): the relay keeps the order of
  a key, so a later offset is a newer event. It compares within one partition. After a topic was made anew its events count
  as old until they pass the last offset of before: empty evkit.key_version for the group then.
- "sequence" or a function where the order of records is not that of events: several writers without a lock, another
  producer, a mirror of a topic. The function needs a number that the writer takes under its lock, like a row's version
  column that it puts into the payload.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from evkit import postgres
from evkit.event import Event
from evkit.runtime.delivery import Delivery
from evkit.runtime.parking import KEY_BYTES_MAX
from evkit.sql import named

_SQL = named("key_version")

Version = Callable[[Event], int | None] | Literal["offset", "sequence"]


class KeyVersions:
    """How far the keys of one group have come.

    Args:
        version  "offset": the place in the partition; "sequence": the CloudEvents extension of that name, where it is a
                 number; or a function of the event. An event for which it gives None is neither flagged nor remembered
    """

    def __init__(self, group: str, version: Version) -> None:
        self._group = group
        self._version = version
        self._by_offset = version == "offset"

    def apply(self, connection: postgres.Connection, deliveries: Sequence[Delivery]) -> frozenset[str]:
        """Remember the versions of events that are about to be handled; returns the ids of those that come too late.

        In the transaction of their handlers: what fails is not remembered, nor is a key of more than KEY_BYTES_MAX bytes.
        """
        known = [(d, v) for d in deliveries if _has_place(d.record.key) and (v := self._of(d)) is not None]
        if not known:
            return frozenset()
        keys = list({d.record.key for d, _ in known})
        rows = connection.execute(_SQL["applied"], {"group": self._group, "keys": keys}).fetchall()
        applied = {(topic, raw_key): (partition, version) for topic, raw_key, partition, version in rows}
        stale = set()
        newest: dict[tuple[str, bytes | None], tuple[Delivery, int]] = {}
        for delivery, version in known:
            place = (delivery.record.topic, delivery.record.key)
            last = applied.get(place)
            # A key that has moved to another partition begins anew there: offsets of two partitions cannot be compared.
            if (
                last is not None
                and version < last[1]
                and not (self._by_offset and last[0] != delivery.record.partition)
            ):
                stale.add(delivery.event_id)
            else:
                applied[place] = (delivery.record.partition, version)
                newest[place] = (delivery, version)
        if newest:
            connection.execute(
                _SQL["apply"],
                {
                    "group": self._group,
                    "by_offset": self._by_offset,
                    "topics": [topic for topic, _ in newest],
                    "keys": [key for _, key in newest],
                    "partitions": [d.record.partition for d, _ in newest.values()],
                    "versions": [v for _, v in newest.values()],
                    "event_ids": [d.event_id for d, _ in newest.values()],
                },
            )
        return frozenset(stale)

    def _of(self, delivery: Delivery) -> int | None:
        if delivery.event is None:
            return None
        if self._version == "offset":
            return delivery.record.offset
        if self._version == "sequence":
            text = delivery.event.headers.get("ce_sequence", "")
            # Digits alone, and not too many for a bigint: a header is whatever somebody wrote.
            return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
        return self._version(delivery.event)


def _has_place(raw_key: bytes | None) -> bool:
    return raw_key is not None and len(raw_key) <= KEY_BYTES_MAX
