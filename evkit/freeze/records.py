"""Records of topics → a file: where each is, its time, its key and, without payloads, of its headers what names its event.

Read is up to where each topic was stable when Kafka was asked for everything else, from a little before the window on; and
before that what some group had not read, as long as there is not too much of it. What a reader is never given (markers,
aborted records) is not in it either.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from evkit import decoding, kafka
from evkit.errors import BrokerRefused, Undecodable
from evkit.event import CONTENT_TYPE
from evkit.kafka import Message
from evkit.system import System
from evkit.views.audit.examine import SKEW
from evkit.views.end_offsets import after
from evkit.views.offsets import Place
from evkit.views.scan.reader import Reader

# How long before the window records are copied: an audit looks for a window's events so much before it, for clocks differ.
LOOKBACK = 2 * SKEW
# Of all topics together: some minutes of reading, and some hundred megabytes without payloads.
RECORDS_MAX = 5_000_000

# Rows of the file `records`.
Row = tuple[str, int, int, int, int, bytes | None, bytes | None, int | None, list[str], list[bytes | None]]


@dataclass(slots=True)
class Chosen:
    """What is read of each partition: from one offset up to another, which is not included; and why of some nothing is."""

    ranges: dict[Place, tuple[int, int]] = field(default_factory=dict)
    missing: dict[Place, str] = field(default_factory=dict)


def chosen(
    system: System,
    starts: Mapping[Place, int],
    ends: Mapping[Place, int],
    unread_from: Mapping[Place, int],
    since: datetime,
) -> Chosen:
    """What to read of the partitions that begin and end there: from `since` on, or from where a group had not read.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    asker = kafka.consumer(system.settings, "evkit-views")
    try:
        told = after(system, asker, ends, since - timedelta(milliseconds=1))
    finally:
        asker.close()
    found, left = Chosen(), RECORDS_MAX
    wanted: dict[Place, list[int]] = {}
    for place, end in ends.items():
        if place not in told or place not in starts:
            found.missing[place] = "the broker did not answer for it"
            continue
        begin = end if told[place] < 0 else min(max(told[place], starts[place]), end)
        wanted[place] = sorted({begin, max(starts[place], min(unread_from.get(place, begin), begin))})
    for place, begins in sorted(wanted.items(), key=lambda of: ends[of[0]] - of[1][-1]):
        fitting = [begin for begin in begins if ends[place] - begin <= left]
        if fitting:
            found.ranges[place] = (fitting[0], ends[place])
            left -= ends[place] - fitting[0]
        else:
            found.missing[place] = f"it has more records in the window than are copied ({RECORDS_MAX:,} in all)"
    return found


def rows(
    system: System,
    found: Chosen,
    *,
    payloads: bool,
    hidden: frozenset[str] = frozenset(),
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[Row]:
    """The records, topic by topic, each partition in order; what turns out not to be had goes to `found.missing`.

    Args:
        payloads  with values, and with all headers
        hidden    names of headers that a policy hides: without payloads they are left out whatever they name

    Raises:
        BrokerUnreachable: nothing came for `settings.kafka_timeout_seconds`.
    """
    of_topic: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
    for (topic, p), stretch in sorted(found.ranges.items()):
        if stretch[0] < stretch[1]:
            of_topic[topic][p] = stretch
    done, total = 0, sum(last - first for of in of_topic.values() for first, last in of.values())
    shown = decoding.NAMING_HEADERS - hidden
    for topic, ranges in of_topic.items():
        reader = Reader(system, topic, ranges, seconds_max=math.inf)
        try:
            for batch in reader:
                for message, p, offset in zip(batch.messages, batch.partitions, batch.offsets, strict=True):
                    yield _row(topic, p, offset, message, None if payloads else shown)
                done += len(batch.messages)
                progress("records of topics", done, total)
        except BrokerRefused as error:
            found.missing |= {(topic, p): str(error) for p in ranges}
        found.missing |= {(topic, p): f"it was {reason} while it was read" for p, reason in reader.reasons.items()}


def _row(topic: str, partition: int, offset: int, message: Message, shown: frozenset[str] | None) -> Row:
    kind, millis = message.timestamp()
    value: Any = message.value()
    headers: Any = message.headers() or ()
    names, values = [name for name, _ in headers], [raw for _, raw in headers]
    size = None if value is None else len(value)
    if shown is not None:
        value = _naming(message, headers) if CONTENT_TYPE in shown else None
        # A header that is not shown keeps its length, as a value does.
        values = [
            raw if name in shown or raw is None else bytes(len(raw)) for name, raw in zip(names, values, strict=True)
        ]
    return topic, partition, offset, kind, millis, message.key(), value, size, names, values


def _naming(message: Message, headers: Any) -> bytes | None:
    """Of an event whose id and type are in its value (CloudEvents, structured mode) a value as long that has no more."""
    if not decoding.is_structured(dict(headers).get(CONTENT_TYPE)):
        return None
    try:
        event = decoding.decode(kafka.record_of(message, datetime.now(UTC)))
    except Undecodable:
        return None
    document = {"specversion": "1.0", "id": event.id, "source": "evkit:freeze", "type": event.type, "data": {}}
    return json.dumps(document, ensure_ascii=False).encode().ljust(len(message.value() or b""))
